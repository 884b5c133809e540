//! Snapshots: a checkpoint of the state database here, a stream of rows on the way, a fresh database there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rocksdb::WriteBatch;
use rocksdb::checkpoint::Checkpoint;

use crate::db::to_io;
use crate::layout::{Layout, replace_file, sync_dir};
use crate::state_db::{StateDb, position_name, put_digest, put_identity, put_membership};
use crate::state_store::{Image, StateStore};
use crate::sync_point;
use crate::types::SnapshotMeta;

/// Names exports of one process apart.
static EXPORTS: AtomicU64 = AtomicU64::new(0);

/// A finished directory with a database that nobody writes to.
#[derive(Debug)]
pub(crate) struct SnapshotDir {
    path: PathBuf,
    superseded: AtomicBool,
}

impl SnapshotDir {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, superseded: AtomicBool::new(false) }
    }

    /// A received one: it goes as soon as its rows are installed.
    pub(crate) fn temporary(path: PathBuf) -> Self {
        Self { path, superseded: AtomicBool::new(true) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SnapshotDir {
    fn drop(&mut self) {
        // Removed only when the last sender is done with it.
        if self.superseded.load(Ordering::Relaxed)
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "an old snapshot was not removed");
        }
    }
}

/// Finds the newest finished snapshot and removes everything else from the directory.
pub(crate) fn newest_snapshot(layout: &Layout) -> io::Result<Option<(SnapshotMeta, Arc<SnapshotDir>)>> {
    fs::create_dir_all(layout.snapshots())?;
    let mut newest: Option<(SnapshotMeta, PathBuf)> = None;
    let mut others = Vec::new();
    for file in fs::read_dir(layout.snapshots())? {
        let path = file?.path();
        let finished = path.extension().is_none();
        match finished.then(|| read_meta(&path)) {
            Some(Ok(meta)) if newest.as_ref().is_none_or(|(best, _)| meta.last_log_id > best.last_log_id) => {
                others.extend(newest.replace((meta, path)).map(|(_, path)| path));
            }
            Some(Err(error)) => {
                tracing::warn!(path = %path.display(), %error, "an unreadable snapshot is ignored and kept");
            }
            Some(Ok(_)) | None => others.push(path),
        }
    }
    for path in others {
        fs::remove_dir_all(&path)?;
    }
    Ok(newest.map(|(meta, path)| (meta, Arc::new(SnapshotDir::new(path)))))
}

pub(crate) fn read_meta(path: &Path) -> io::Result<SnapshotMeta> {
    let db = StateDb::open_snapshot(path)?;
    Ok(SnapshotMeta { last_log_id: db.applied()?, last_membership: db.membership()? })
}

/// Makes a checkpoint durable and makes it the current snapshot. The checkpoint flushes the state database,
/// so the log behind it may be purged (P19).
pub(crate) fn build(store: &StateStore) -> io::Result<(SnapshotMeta, Arc<SnapshotDir>)> {
    let snapshots = store.layout().snapshots();
    let temporary = snapshots.join("building.tmp");
    remove_if_present(&temporary)?;
    {
        let db = store.db();
        Checkpoint::new(db.db()?)
            .and_then(|checkpoint| checkpoint.create_checkpoint(&temporary))
            .map_err(to_io)?;
    }
    sync_point::reached();
    let meta = read_meta(&temporary)?;
    let finished = finish(&snapshots, &temporary, &meta)?;
    Ok((meta.clone(), set_current(store, meta, finished)))
}

/// Renames a complete directory to its final name.
fn finish(snapshots: &Path, temporary: &Path, meta: &SnapshotMeta) -> io::Result<PathBuf> {
    let path = snapshots.join(position_name(meta.last_log_id.as_ref()));
    if path.exists() {
        // The same position was built before: the same rows.
        fs::remove_dir_all(temporary)?;
        return Ok(path);
    }
    sync_point::reached();
    sync_tree(temporary)?;
    sync_point::reached();
    fs::rename(temporary, &path)?;
    sync_point::reached();
    sync_dir(snapshots)?;
    Ok(path)
}

fn set_current(store: &StateStore, meta: SnapshotMeta, path: PathBuf) -> Arc<SnapshotDir> {
    let mut current = store.snapshot();
    if let Some((_, dir)) = current.as_ref()
        && dir.path() == path
    {
        return dir.clone();
    }
    let dir = Arc::new(SnapshotDir::new(path));
    if let Some((_, old)) = current.replace((meta, dir.clone())) {
        old.superseded.store(true, Ordering::Relaxed);
    }
    dir
}

/// A database made from a snapshot, not in use yet.
pub(crate) struct Prepared {
    pub(crate) db: StateDb,
    pub(crate) image: Image,
    /// Where the snapshot itself is kept.
    pub(crate) kept: PathBuf,
}

/// Installs a received or stored snapshot: a side directory is filled, checked and loaded, then the pointer
/// switches. A crash before the switch leaves the old state, one after it the new (DESIGN 4).
pub(crate) fn install(store: &StateStore, meta: &SnapshotMeta, source: &SnapshotDir) -> io::Result<()> {
    let Prepared { db, image, kept } = prepare(store, meta, source)?;
    let _writing = store.writing();
    activate(store, meta, db, image, kept)
}

/// Fills and loads the side directory.
pub(crate) fn prepare(store: &StateStore, meta: &SnapshotMeta, source: &SnapshotDir) -> io::Result<Prepared> {
    let snapshots = store.layout().snapshots();
    let kept = snapshots.join(position_name(meta.last_log_id.as_ref()));
    if source.path() != kept {
        let temporary = snapshots.join("installing.tmp");
        remove_if_present(&temporary)?;
        clone_database(source.path(), &temporary)?;
        remove_if_present(&kept)?;
        finish(&snapshots, &temporary, meta)?;
    }

    let path = store.next_database();
    remove_if_present(&path)?;
    clone_database(&kept, &path)?;
    let db = StateDb::open(&path, false).map_err(io::Error::other)?;
    if db.applied()? != meta.last_log_id {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the snapshot is not at the position it was offered for",
        ));
    }
    let state = db.load()?;
    let raw = db.db()?;
    let mut batch = WriteBatch::default();
    put_membership(raw, &mut batch, &meta.last_membership)?;
    put_identity(raw, &mut batch, store.identity())?;
    put_digest(raw, &mut batch, &state.digest())?;
    raw.write(batch).map_err(to_io)?;
    raw.flush_wal(true).map_err(to_io)?;
    let image = Image { state, applied: meta.last_log_id, membership: meta.last_membership.clone() };
    Ok(Prepared { db, image, kept })
}

/// Switches to a prepared database. The caller holds [`StateStore::writing`].
pub(crate) fn activate(
    store: &StateStore,
    meta: &SnapshotMeta,
    db: StateDb,
    image: Image,
    kept: PathBuf,
) -> io::Result<()> {
    // What was replayed into it counts as applied before the log behind the snapshot may go.
    db.db()?.flush_wal(true).map_err(to_io)?;
    sync_point::reached();
    sync_tree(db.path())?;
    let name = db.path().file_name().unwrap_or_default();
    replace_file(&store.layout().active(), name.as_encoded_bytes())?;
    sync_point::reached();
    store.switch(db, image);
    sync_point::reached();
    set_current(store, meta.clone(), kept);
    Ok(())
}

/// A checkpoint of the state as it is now, outside the node's own snapshots: for a peer or a backup. It goes with the
/// last reader.
pub(crate) fn export(store: &StateStore) -> io::Result<(SnapshotMeta, Arc<SnapshotDir>)> {
    let number = EXPORTS.fetch_add(1, Ordering::Relaxed);
    let path = store.layout().state().join(format!("incoming-export-{number}"));
    remove_if_present(&path)?;
    let db = store.db();
    Checkpoint::new(db.db()?).and_then(|checkpoint| checkpoint.create_checkpoint(&path)).map_err(to_io)?;
    let exported = Arc::new(SnapshotDir::temporary(path));
    Ok((read_meta(exported.path())?, exported))
}

/// Copies a database that nobody writes to: table files are immutable, so they are linked where possible.
pub(crate) fn clone_database(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for file in fs::read_dir(from)? {
        let source = file?.path();
        let Some(name) = source.file_name() else { continue };
        let target = to.join(name);
        if name == "LOCK" || name == "LOG" {
            continue;
        }
        let immutable = source.extension().is_some_and(|extension| extension == "sst");
        if !(immutable && fs::hard_link(&source, &target).is_ok()) {
            fs::copy(&source, &target)?;
        }
    }
    Ok(())
}

/// Syncs every file of a flat directory and the directory itself.
pub(crate) fn sync_tree(dir: &Path) -> io::Result<()> {
    for file in fs::read_dir(dir)? {
        let path = file?.path();
        if path.is_file() {
            fs::File::open(path)?.sync_all()?;
        }
    }
    sync_dir(dir)
}

fn remove_if_present(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
