//! One state database on disk: its cells, keys and rows, and the directory's life.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use openraft::LogIdOptionExt;
use prost::Message;
use rocksdb::{DB, IteratorMode, WriteBatch};
use stratavore_model as model;
use stratavore_proto::raft as pb;

use crate::codec;
use crate::db::{self, FORMAT, META, ROWS, family, to_io};
use crate::error::OpenError;
use crate::record::position::{
    decode, log_id_from_pb, log_id_to_pb, stored_membership_from_pb, stored_membership_to_pb,
};
use crate::record::{Stored, decode_row};
use crate::types::{LogId, StoredMembership};

/// Meta cells of a state database. Stored numbers, never reused.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cell {
    Applied = 1,
    Membership = 2,
    Identity = 3,
    TrimmedUpto = 4,
    Digest = 5,
}

/// Whose database it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) node_id: model::NodeId,
    pub(crate) cluster_id: model::ClusterId,
}

impl Identity {
    pub(crate) fn to_pb(&self) -> pb::StoreIdentity {
        pb::StoreIdentity { node_id: self.node_id.0, cluster_id: self.cluster_id.to_string(), format: FORMAT }
    }

    /// Compares with what a database in `dir` says.
    pub(crate) fn check(&self, dir: &Path, found: Option<pb::StoreIdentity>) -> Result<(), OpenError> {
        let found =
            found.ok_or_else(|| db::corrupt(dir.to_path_buf(), "the database does not say whose it is"))?;
        if found.format > FORMAT {
            return Err(OpenError::UnknownFormat {
                dir: dir.to_path_buf(),
                found: found.format,
                known: FORMAT,
            });
        }
        let describe = |node: u64, cluster: &str| format!("node {node} of cluster {cluster}");
        if (found.node_id, found.cluster_id.as_str()) != (self.node_id.0, self.cluster_id.as_str()) {
            return Err(OpenError::Foreign {
                dir: dir.to_path_buf(),
                expected: describe(self.node_id.0, self.cluster_id.as_str()),
                found: describe(found.node_id, &found.cluster_id),
            });
        }
        Ok(())
    }
}

/// An open database and its directory, which goes with it once it is superseded.
#[derive(Debug)]
pub(crate) struct StateDb {
    db: Option<DB>,
    path: PathBuf,
    superseded: AtomicBool,
}

impl Drop for StateDb {
    fn drop(&mut self) {
        // Closed first: RocksDB still writes its own log while it closes.
        drop(self.db.take());
        if self.superseded.load(Ordering::Relaxed)
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "an old state database was not removed");
        }
    }
}

impl StateDb {
    pub(crate) fn open(path: &Path, create: bool) -> Result<Self, OpenError> {
        let db = db::open_state(path, create)?;
        Ok(Self { db: Some(db), path: path.to_path_buf(), superseded: AtomicBool::new(false) })
    }

    /// A finished snapshot, read only.
    pub(crate) fn open_snapshot(path: &Path) -> io::Result<Self> {
        let db = db::open_snapshot(path)?;
        Ok(Self { db: Some(db), path: path.to_path_buf(), superseded: AtomicBool::new(false) })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory is removed when the last user is gone.
    pub(crate) fn supersede(&self) {
        self.superseded.store(true, Ordering::Relaxed);
    }

    pub(crate) fn db(&self) -> io::Result<&DB> {
        self.db.as_ref().ok_or_else(|| io::Error::other("the state database is closed"))
    }

    fn read_cell<M: Message + Default>(&self, cell: Cell) -> io::Result<Option<M>> {
        let db = self.db()?;
        let Some(value) = db.get_cf(family(db, META)?, [cell as u8]).map_err(to_io)? else {
            return Ok(None);
        };
        let record =
            codec::open(cell as u64, &value).map_err(|error| invalid(format!("cell {cell:?}: {error}")))?;
        Ok(Some(decode(record.body)?))
    }

    pub(crate) fn identity(&self) -> io::Result<Option<pb::StoreIdentity>> {
        self.read_cell(Cell::Identity)
    }

    pub(crate) fn applied(&self) -> io::Result<Option<LogId>> {
        Ok(self.read_cell::<pb::LogId>(Cell::Applied)?.map(log_id_from_pb))
    }

    pub(crate) fn membership(&self) -> io::Result<StoredMembership> {
        match self.read_cell::<pb::StoredMembership>(Cell::Membership)? {
            Some(stored) => Ok(stored_membership_from_pb(stored)?),
            None => Ok(StoredMembership::default()),
        }
    }

    /// The newest event that retention deleted.
    pub(crate) fn trimmed_upto(&self) -> io::Result<Option<model::EventId>> {
        let stored = self.read_cell::<pb::EventId>(Cell::TrimmedUpto)?;
        Ok(stored.map(model::EventId::load).transpose()?)
    }

    /// The digest that was written with the rows; none in a database of the first release.
    pub(crate) fn digest(&self) -> io::Result<Option<[u8; 32]>> {
        let db = self.db()?;
        let value = db.get_cf(family(db, META)?, [Cell::Digest as u8]).map_err(to_io)?;
        value.map(|value| open_digest(&value)).transpose()
    }

    /// Why `loaded` cannot be what was written (P24): its rows were changed behind the program's back.
    pub(crate) fn damage(&self, loaded: &model::State) -> io::Result<Option<String>> {
        let written = self.digest()?;
        Ok(written.filter(|written| *written != loaded.digest()).map(|_| altered(&self.path)))
    }

    /// Reads every row again, at one moment, and compares with the digest written with them: the slow scrub of P24.
    /// Returns what is wrong.
    pub(crate) fn scrub(&self) -> io::Result<Option<String>> {
        let db = self.db()?;
        let moment = db.snapshot();
        let Some(written) = moment.get_cf(family(db, META)?, [Cell::Digest as u8]).map_err(to_io)? else {
            return Ok(None);
        };
        let written = open_digest(&written)?;
        let rows = moment.iterator_cf(family(db, ROWS)?, IteratorMode::Start);
        Ok((read_rows(rows)?.digest() != written).then(|| altered(&self.path)))
    }

    /// Every row, decoded; each must lie under its own key.
    pub(crate) fn load(&self) -> io::Result<model::State> {
        let db = self.db()?;
        read_rows(db.iterator_cf(family(db, ROWS)?, IteratorMode::Start))
    }
}

fn read_rows(
    items: impl Iterator<Item = Result<(Box<[u8]>, Box<[u8]>), rocksdb::Error>>,
) -> io::Result<model::State> {
    let mut rows = Vec::new();
    for item in items {
        let (key, value) = item.map_err(to_io)?;
        let row = decode_row(&value)?;
        if row_key(&row.key()) != *key {
            return Err(invalid(format!("a row of {:?} lies under another key", row.table())));
        }
        rows.push(row);
    }
    Ok(model::State::from_rows(rows))
}

fn open_digest(value: &[u8]) -> io::Result<[u8; 32]> {
    let record = codec::open(Cell::Digest as u64, value)
        .map_err(|error| invalid(format!("cell {:?}: {error}", Cell::Digest)))?;
    record.body.try_into().map_err(|_| invalid("a digest has 32 bytes".into()))
}

fn altered(path: &Path) -> String {
    format!(
        "the rows in {} are not those that were written: their digest differs; the disk or a program changed them",
        path.display()
    )
}

fn invalid(detail: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, detail)
}

/// Table number, then what names the row in it.
pub(crate) fn row_key(key: &model::RowKey) -> Vec<u8> {
    let mut bytes = vec![key.table().number()];
    bytes.extend_from_slice(&key.to_bytes());
    bytes
}

fn put_cell(db: &DB, batch: &mut WriteBatch, cell: Cell, body: &[u8]) -> io::Result<()> {
    batch.put_cf(family(db, META)?, [cell as u8], codec::seal(cell as u64, 0, body).0);
    Ok(())
}

pub(crate) fn put_applied(db: &DB, batch: &mut WriteBatch, applied: &LogId) -> io::Result<()> {
    put_cell(db, batch, Cell::Applied, &log_id_to_pb(applied).encode_to_vec())
}

pub(crate) fn put_membership(
    db: &DB,
    batch: &mut WriteBatch,
    membership: &StoredMembership,
) -> io::Result<()> {
    put_cell(db, batch, Cell::Membership, &stored_membership_to_pb(membership).encode_to_vec())
}

pub(crate) fn put_identity(db: &DB, batch: &mut WriteBatch, identity: &Identity) -> io::Result<()> {
    put_cell(db, batch, Cell::Identity, &identity.to_pb().encode_to_vec())
}

pub(crate) fn put_digest(db: &DB, batch: &mut WriteBatch, digest: &[u8; 32]) -> io::Result<()> {
    put_cell(db, batch, Cell::Digest, digest)
}

pub(crate) fn put_trimmed(db: &DB, batch: &mut WriteBatch, upto: &model::EventId) -> io::Result<()> {
    put_cell(db, batch, Cell::TrimmedUpto, &upto.store().encode_to_vec())
}

/// "term-index", the name of a snapshot's directory; "empty" before anything is applied.
pub(crate) fn position_name(id: Option<&LogId>) -> String {
    id.map_or_else(|| "empty".into(), |id| format!("{}-{}", id.committed_leader_id().term, id.index()))
}

/// The applied index as watchers see it: 0 while there is none.
pub(crate) fn applied_index(applied: Option<&LogId>) -> u64 {
    applied.copied().next_index().saturating_sub(1)
}
