//! Replicated state: in memory for reads, in RocksDB for restarts, one write batch per applied batch.

mod apply;
mod rebuild;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use model::{Changes, HostId, LogPosition, RecordedEvent, RunnerId};
use rocksdb::WriteBatch;
use stratavore_model as model;
use tokio::sync::{broadcast, watch};

use crate::db::to_io;
use crate::digests::Digests;
use crate::error::OpenError;
use crate::fatal::Fatal;
use crate::layout::{Layout, replace_file, sync_dir};
use crate::metrics::Counters;
use crate::replies::Replies;
use crate::snapshot::{SnapshotDir, newest_snapshot};
use crate::state_db::{Identity, StateDb, applied_index, put_identity};
use crate::types::{LogId, SnapshotMeta, StoredMembership};

/// Applied batches a slow watcher may be behind before it has to start from a full read. One batch is
/// usually one proposal, so this is a second of a busy cluster.
const CHANGES_MAX: usize = 4096;

/// What one applied batch touched.
#[derive(Debug, Clone, Default)]
pub struct AppliedBatch {
    /// State is at least here when the batch is seen.
    pub index: u64,
    pub runners: Vec<RunnerId>,
    pub hosts: Vec<HostId>,
    pub events: Vec<RecordedEvent>,
    /// The state was replaced by a snapshot: the lists say nothing, read everything (P16).
    pub jumped: bool,
}

/// State and the position it belongs to.
#[derive(Default)]
pub(crate) struct Image {
    pub(crate) state: model::State,
    pub(crate) applied: Option<LogId>,
    pub(crate) membership: StoredMembership,
}

/// What applies one entry: [`model::apply`].
pub(crate) type Apply = fn(&mut model::State, &mut Changes, LogPosition, &model::Entry) -> model::Outcome;

/// Cheap to clone; the state machine, the handle and the network share one.
#[derive(Clone)]
pub(crate) struct StateStore {
    inner: Arc<Inner>,
}

/// Does not keep the database open.
#[derive(Clone)]
pub(crate) struct WeakStateStore {
    inner: Weak<Inner>,
}

impl WeakStateStore {
    pub(crate) fn upgrade(&self) -> Option<StateStore> {
        self.inner.upgrade().map(|inner| StateStore { inner })
    }
}

struct Inner {
    layout: Layout,
    identity: Identity,
    apply: Apply,
    image: RwLock<Image>,
    db: RwLock<Arc<StateDb>>,
    snapshot: Mutex<Option<(SnapshotMeta, Arc<SnapshotDir>)>>,
    applied: watch::Sender<u64>,
    changes: broadcast::Sender<Arc<AppliedBatch>>,
    replies: Replies,
    digests: Digests,
    /// Why the rows cannot be what was applied (P24); none while they can.
    damage: Mutex<Option<String>>,
    /// Held by whoever moves image and database: apply, install, rebuild.
    writing: Mutex<()>,
    counters: Arc<Counters>,
    fatal: Fatal,
    /// Dropped last: tells [`StateStore::closed`] that the database is closed.
    closed: watch::Sender<()>,
}

/// Creates an empty state database and points to it.
pub(crate) fn create(layout: &Layout, identity: &Identity) -> Result<(), OpenError> {
    create_numbered(layout, identity, 1)
}

fn create_numbered(layout: &Layout, identity: &Identity, number: u64) -> Result<(), OpenError> {
    let state = layout.state();
    fs::create_dir_all(layout.snapshots()).map_err(OpenError::io(&state))?;
    let path = state.join(database_name(number));
    let store = StateDb::open(&path, true)?;
    let write = || -> io::Result<()> {
        let db = store.db()?;
        let mut batch = WriteBatch::default();
        put_identity(db, &mut batch, identity)?;
        db.write(batch).map_err(to_io)?;
        db.flush_wal(true).map_err(to_io)?;
        replace_file(&layout.active(), database_name(number).as_bytes())?;
        sync_dir(layout.root())
    };
    write().map_err(OpenError::io(&path))
}

/// Creates an empty database under a free name and points to it, whatever else lies there.
pub(crate) fn create_beside(layout: &Layout, identity: &Identity) -> Result<(), OpenError> {
    let free = (1..).find(|number| !layout.state().join(database_name(*number)).exists());
    create_numbered(layout, identity, free.unwrap_or(1))
}

pub(crate) fn database_name(number: u64) -> String {
    format!("db-{number}")
}

/// The number in a database's directory name.
fn database_number(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("db-")?.parse().ok()
}

/// The directory that the pointer names.
pub(crate) fn active_database(layout: &Layout) -> Result<PathBuf, OpenError> {
    let pointer = layout.active();
    let name = match fs::read_to_string(&pointer) {
        Ok(name) => name,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(crate::db::corrupt(pointer, "the pointer to the state database is missing"));
        }
        Err(error) => return Err(OpenError::Io { path: pointer, source: error }),
    };
    let path = layout.state().join(name.trim());
    if database_number(&path).is_none() {
        return Err(crate::db::corrupt(pointer, "it does not name a state database"));
    }
    Ok(path)
}

impl StateStore {
    /// Opens the database in use and loads it.
    pub(crate) fn open(
        layout: Layout,
        identity: Identity,
        apply: Apply,
        counters: Arc<Counters>,
        fatal: Fatal,
    ) -> Result<Self, OpenError> {
        let path = active_database(&layout)?;
        let db = StateDb::open(&path, false)?;
        let damaged = |error: io::Error| crate::db::corrupt(path.clone(), error.to_string());
        identity.check(&path, db.identity().map_err(damaged)?)?;
        let image = Image {
            state: db.load().map_err(damaged)?,
            applied: db.applied().map_err(damaged)?,
            membership: db.membership().map_err(damaged)?,
        };
        let damage = db.damage(&image.state).map_err(damaged)?;
        if let Some(damage) = &damage {
            tracing::error!(%damage, "the stored state is not what was applied");
        }
        let snapshot = newest_snapshot(&layout).map_err(OpenError::io(layout.snapshots()))?;
        remove_leftovers(&layout, &path);
        let inner = Inner {
            applied: watch::Sender::new(applied_index(image.applied.as_ref())),
            changes: broadcast::Sender::new(CHANGES_MAX),
            image: RwLock::new(image),
            db: RwLock::new(Arc::new(db)),
            replies: Replies::default(),
            digests: Digests::default(),
            damage: Mutex::new(damage),
            writing: Mutex::default(),
            snapshot: Mutex::new(snapshot),
            layout,
            identity,
            apply,
            counters,
            fatal,
            closed: watch::Sender::new(()),
        };
        inner.replies.applied(*inner.applied.borrow(), []);
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(crate) fn downgrade(&self) -> WeakStateStore {
        WeakStateStore { inner: Arc::downgrade(&self.inner) }
    }

    /// Ends when the database is closed.
    pub(crate) fn closed(&self) -> watch::Receiver<()> {
        self.inner.closed.subscribe()
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.inner.layout
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    pub(crate) fn fatal(&self) -> &Fatal {
        &self.inner.fatal
    }

    pub(crate) fn image(&self) -> RwLockReadGuard<'_, Image> {
        self.inner.image.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn image_mut(&self) -> RwLockWriteGuard<'_, Image> {
        self.inner.image.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn db(&self) -> Arc<StateDb> {
        self.inner.db.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn snapshot(&self) -> MutexGuard<'_, Option<(SnapshotMeta, Arc<SnapshotDir>)>> {
        self.inner.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn applied(&self) -> watch::Receiver<u64> {
        self.inner.applied.subscribe()
    }

    pub(crate) fn changes(&self) -> broadcast::Receiver<Arc<AppliedBatch>> {
        self.inner.changes.subscribe()
    }

    /// Answers of applied entries, for those who wait here for what the leader wrote.
    pub(crate) fn replies(&self) -> &Replies {
        &self.inner.replies
    }

    /// Digests of the last positions that every node records (P24).
    pub(crate) fn digests(&self) -> &Digests {
        &self.inner.digests
    }

    fn damage_cell(&self) -> MutexGuard<'_, Option<String>> {
        self.inner.damage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the stored rows cannot be what was applied.
    pub(crate) fn damage(&self) -> Option<String> {
        self.damage_cell().clone()
    }

    pub(crate) fn report_damage(&self, damage: String) {
        tracing::error!(%damage, "the stored state is not what was applied");
        self.damage_cell().get_or_insert(damage);
    }

    /// Keeps image and database still.
    pub(crate) fn writing(&self) -> MutexGuard<'_, ()> {
        self.inner.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a loaded database in place of the one in use. The pointer on disk was switched before; the caller holds
    /// [`Self::writing`].
    pub(crate) fn switch(&self, db: StateDb, image: Image) {
        let index = applied_index(image.applied.as_ref());
        self.inner.digests.clear();
        *self.damage_cell() = None;
        {
            let mut current = self.image_mut();
            let mut active = self.inner.db.write().unwrap_or_else(PoisonError::into_inner);
            active.supersede();
            *active = Arc::new(db);
            *current = image;
        }
        self.inner.applied.send_replace(index);
        self.inner.replies.applied(index, []);
        drop(self.inner.changes.send(Arc::new(AppliedBatch {
            index,
            jumped: true,
            ..AppliedBatch::default()
        })));
    }

    /// A directory for the next state database.
    pub(crate) fn next_database(&self) -> PathBuf {
        let number = database_number(self.db().path()).unwrap_or(0) + 1;
        self.inner.layout.state().join(database_name(number))
    }
}

/// The applied index of an image: 0 while there is none.
pub(crate) fn applied_of(image: &Image) -> u64 {
    applied_index(image.applied.as_ref())
}

/// Removes databases and half-made directories that a crash left behind.
fn remove_leftovers(layout: &Layout, active: &Path) {
    let Ok(files) = fs::read_dir(layout.state()) else { return };
    for path in files.filter_map(|file| Some(file.ok()?.path())) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let ours = name.starts_with("db-") || name.starts_with("incoming-");
        if ours && path != active {
            tracing::info!(path = %path.display(), "removing a left-over state directory");
            if let Err(error) = fs::remove_dir_all(&path) {
                tracing::warn!(path = %path.display(), %error, "it could not be removed");
            }
        }
    }
}
