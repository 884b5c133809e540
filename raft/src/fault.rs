//! Faults for tests from outside: no program of the product calls any of this.

use std::io;
use std::path::Path;

use rocksdb::{IteratorMode, WriteBatch};
use stratavore_model as model;

use crate::db::{ROWS, family, to_io};
use crate::error::OpenError;
use crate::layout::Layout;
use crate::record::{decode_row, encode_row};
use crate::state_db::{StateDb, put_digest};
use crate::state_store::active_database;

/// What becomes of the digest that lies beside the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlteredDigest {
    /// It stays, so that the node finds the damage by itself when it starts: a broken disk.
    Kept,
    /// It is made to fit, so that only a comparison with other nodes finds it (P24): a defect in apply.
    Fitted,
}

/// What was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Altered {
    /// Names of the projects whose paths were changed; empty when the cluster has none.
    pub projects: Vec<String>,
}

/// Appended to the path of every project.
const MARK: &str = "/altered";

/// Changes the path of every project in a stopped node's state database, behind the program's back.
///
/// # Errors
/// [`OpenError::Locked`] while the node runs; when the directory is no node's.
pub fn alter_rows(data_dir: &Path, digest: AlteredDigest) -> Result<Altered, OpenError> {
    let layout = Layout::new(data_dir);
    if !layout.active().exists() {
        return Err(OpenError::NotInitialized { dir: data_dir.to_path_buf() });
    }
    let path = active_database(&layout)?;
    let store = StateDb::open(&path, false)?;
    Ok(Altered { projects: rewrite(&store, digest).map_err(OpenError::io(&path))? })
}

fn rewrite(store: &StateDb, digest: AlteredDigest) -> io::Result<Vec<String>> {
    let raw = store.db()?;
    let rows = family(raw, ROWS)?;
    let mut batch = WriteBatch::default();
    let mut names = Vec::new();
    for item in raw.iterator_cf(rows, IteratorMode::Start) {
        let (key, value) = item.map_err(to_io)?;
        if let model::Row::Project(mut project) = decode_row(&value)? {
            project.path.push_str(MARK);
            names.push(project.name.to_string());
            batch.put_cf(rows, key, encode_row(&model::Row::Project(project)));
        }
    }
    raw.write(batch).map_err(to_io)?;
    if digest == AlteredDigest::Fitted {
        let mut batch = WriteBatch::default();
        put_digest(raw, &mut batch, &store.load()?.digest())?;
        raw.write(batch).map_err(to_io)?;
    }
    raw.flush_wal(true).map_err(to_io)?;
    Ok(names)
}
