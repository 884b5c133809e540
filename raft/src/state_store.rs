//! Replicated state: in memory for reads, in RocksDB for restarts, one write batch per applied batch.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use model::{Changes, HostId, LogPosition, RecordedEvent, RowKey, RunnerId};
use openraft::EntryPayload;
use rocksdb::WriteBatch;
use stratavore_model as model;
use tokio::sync::{broadcast, watch};

use crate::db::{ROWS, family, to_io};
use crate::error::OpenError;
use crate::events;
use crate::fatal::Fatal;
use crate::layout::{Layout, replace_file, sync_dir};
use crate::metrics::Counters;
use crate::record::{decode_entry, encode_row};
use crate::snapshot::{SnapshotDir, newest_snapshot};
use crate::state_db::{Identity, StateDb, applied_index, put_applied, put_identity, put_membership, row_key};
use crate::types::{Command, LogEntry, LogId, Response, SnapshotMeta, StoredMembership};

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
        let snapshot = newest_snapshot(&layout).map_err(OpenError::io(layout.snapshots()))?;
        remove_leftovers(&layout, &path);
        let inner = Inner {
            applied: watch::Sender::new(applied_index(image.applied.as_ref())),
            changes: broadcast::Sender::new(CHANGES_MAX),
            image: RwLock::new(image),
            db: RwLock::new(Arc::new(db)),
            snapshot: Mutex::new(snapshot),
            layout,
            identity,
            apply,
            counters,
            fatal,
            closed: watch::Sender::new(()),
        };
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

    /// Applies entries in order and persists what they did in one batch. Any error ends the node: an
    /// entry is never skipped.
    pub(crate) fn apply<'a>(&self, entries: impl Iterator<Item = &'a LogEntry>) -> io::Result<Vec<Response>> {
        let mut changes = Changes::new();
        let mut responses = Vec::new();
        let (applied, membership) = {
            let mut image = self.image_mut();
            let mut membership = false;
            for entry in entries {
                responses.push(match &entry.payload {
                    EntryPayload::Blank => Response::default(),
                    EntryPayload::Normal(command) => {
                        self.apply_command(&mut image.state, &mut changes, &entry.log_id, command)?
                    }
                    EntryPayload::Membership(new) => {
                        image.membership = StoredMembership::new(Some(entry.log_id), new.clone());
                        membership = true;
                        Response::default()
                    }
                });
                image.applied = Some(entry.log_id);
            }
            (image.applied, membership.then(|| image.membership.clone()))
        };
        if let Some(applied) = applied {
            self.persist(&applied, membership.as_ref(), &changes)
                .inspect_err(|error| self.inner.fatal.storage("writing applied state", error))?;
            self.announce(&applied, changes);
        }
        Counters::add(&self.inner.counters.applied_entries, responses.len() as u64);
        Counters::add(&self.inner.counters.apply_batches, 1);
        Ok(responses)
    }

    fn apply_command(
        &self,
        state: &mut model::State,
        changes: &mut Changes,
        id: &LogId,
        command: &Command,
    ) -> io::Result<Response> {
        let decoded;
        let entry = match &command.decoded {
            Some(entry) => entry.as_ref(),
            None => {
                // An unknown command stops the node: skipping it would make nodes differ (P22).
                decoded = decode_entry(command.bytes.clone()).inspect_err(|error| {
                    self.inner.fatal.report(format!("log entry {} cannot be applied: {error}", id.index()));
                })?;
                &decoded
            }
        };
        let at = LogPosition { index: id.index(), term: id.committed_leader_id().term };
        // A panic inside is discarded by the model's overlay and comes back as a refusal (P23). One that gets
        // past that may have left half a change in memory: the process must go, what is on disk is whole.
        let attempt = catch_unwind(AssertUnwindSafe(|| (self.inner.apply)(state, changes, at, entry)));
        let outcome = attempt.map_err(|_| {
            let message =
                format!("{} at log entry {} panicked past its guard", entry.command.name(), at.index);
            self.inner.fatal.report(message.clone());
            io::Error::other(message)
        })?;
        if outcome.reply.rejected().is_some_and(|refusal| refusal.code == model::Code::InternalError) {
            Counters::add(&self.inner.counters.apply_panics, 1);
            tracing::error!(
                index = id.index(),
                command = entry.command.name(),
                "a command panicked in apply"
            );
        }
        Ok(Response { reply: Some(outcome.reply) })
    }

    /// Rows, events and position in one batch: state may be behind after a crash, never torn.
    fn persist(
        &self,
        applied: &LogId,
        membership: Option<&StoredMembership>,
        changes: &Changes,
    ) -> io::Result<()> {
        let store = self.db();
        let db = store.db()?;
        let rows = family(db, ROWS)?;
        let mut batch = WriteBatch::default();
        for (key, row) in changes.row_refs() {
            match row {
                Some(row) => batch.put_cf(rows, row_key(key), encode_row(row)),
                None => batch.delete_cf(rows, row_key(key)),
            }
        }
        events::write(db, &mut batch, changes)?;
        put_applied(db, &mut batch, applied)?;
        if let Some(membership) = membership {
            put_membership(db, &mut batch, membership)?;
        }
        // In the write-ahead log, not synced: what a power loss takes is applied again from the raft log.
        db.write(batch).map_err(to_io)
    }

    fn announce(&self, applied: &LogId, changes: Changes) {
        let (rows, events, _) = changes.into_parts();
        let mut batch = AppliedBatch { index: applied.index(), events, ..AppliedBatch::default() };
        for key in rows.into_keys() {
            match key {
                RowKey::Runner(id) => batch.runners.push(id),
                RowKey::Host(id) => batch.hosts.push(id),
                _ => {}
            }
        }
        self.inner.applied.send_replace(applied.index());
        // Nobody listening is fine: watchers read the whole state when they start.
        drop(self.inner.changes.send(Arc::new(batch)));
    }

    /// Puts a loaded database in place of the one in use. The pointer on disk was switched before.
    pub(crate) fn switch(&self, db: StateDb, image: Image) {
        let index = applied_index(image.applied.as_ref());
        {
            let mut current = self.image_mut();
            let mut active = self.inner.db.write().unwrap_or_else(PoisonError::into_inner);
            active.supersede();
            *active = Arc::new(db);
            *current = image;
        }
        self.inner.applied.send_replace(index);
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
