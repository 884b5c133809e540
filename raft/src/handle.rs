//! The one way in: propose, read, watch. Cheap to clone; no openraft type shows.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::{EventId, NodeId, RecordedEvent, Reply, RunnerId};
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use stratavore_model as model;
use tokio::sync::{Semaphore, broadcast, watch};
use tokio::task::{AbortHandle, JoinHandle};

use crate::core::Core;
use crate::error::EventError;
use crate::events;
use crate::forward::Forwarder;
use crate::leadership::watch_core;
use crate::linearize::{Confirmed, keep_fresh};
use crate::log_bound;
use crate::log_store::LogStore;
use crate::metrics::{Counters, RaftMetrics, Role};
use crate::network::client::Network;
use crate::open::Stores;
use crate::reserve;
use crate::state_machine::StateMachine;
use crate::state_store::{AppliedBatch, StateStore, applied_of};
use crate::timings::RaftTimings;
use crate::types::{LogId, TypeConfig};

/// P23: bytes of one encoded entry.
pub const ENTRY_BYTES_MAX: usize = 1 << 20;

/// Proposals waiting for their commit on one node; more wait here. Above what one sync batches, below what
/// would hold gigabytes in flight.
const PROPOSALS_MAX: usize = 4096;

/// Dropping the last references takes a few milliseconds after the core has ended.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) type Raft = openraft::Raft<TypeConfig, StateMachine>;

/// A committed, applied proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    pub index: u64,
    pub term: u64,
    /// The command's answer; a refusal is one too.
    pub reply: Reply,
}

/// Who leads, as far as this node knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leadership {
    pub leader: Option<NodeId>,
    pub term: u64,
    /// This node leads.
    pub me: bool,
}

/// A running node.
#[derive(Clone)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) core: Core,
    pub(crate) log: LogStore,
    pub(crate) state: StateStore,
    pub(crate) counters: Arc<Counters>,
    pub(crate) in_flight: Semaphore,
    pub(crate) forwarder: Forwarder,
    pub(crate) confirmed: Confirmed,
    pub(crate) removed: watch::Sender<bool>,
    tasks: [AbortHandle; 2],
    /// Holds a handle while it asks, so it must have ended before the databases can close.
    fresh: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("leadership", &self.shared.core.now()).finish_non_exhaustive()
    }
}

impl Handle {
    pub(crate) fn start(raft: Raft, stores: Stores, network: Network, timings: RaftTimings) -> Self {
        let Stores { log, state, counters, fatal } = stores;
        let (sender, leadership) = watch::channel(Leadership::default());
        let removed = watch::Sender::new(false);
        let watcher = watch_core(raft.clone(), sender, removed.clone(), fatal.clone());
        let bound = log_bound::run(raft.clone(), log.clone());
        let tasks = [tokio::spawn(watcher).abort_handle(), tokio::spawn(bound).abort_handle()];
        let shared = Arc::new(Shared {
            forwarder: Forwarder::new(network, NodeId(*raft.node_id())),
            core: Core::new(raft, leadership, fatal),
            log,
            state,
            counters,
            in_flight: Semaphore::new(PROPOSALS_MAX),
            confirmed: Confirmed::new(Duration::from_millis(timings.election_max_ms)),
            removed,
            tasks,
            fresh: Mutex::default(),
        });
        let fresh = tokio::spawn(keep_fresh(Arc::downgrade(&shared)));
        *shared.fresh.lock().unwrap_or_else(PoisonError::into_inner) = Some(fresh);
        Self { shared }
    }

    pub(crate) fn of(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    pub(crate) fn core(&self) -> &Core {
        &self.shared.core
    }

    pub(crate) fn raft(&self) -> &Raft {
        &self.shared.core.raft
    }

    pub(crate) fn fatal_reason(&self) -> Option<String> {
        self.shared.core.fatal.get()
    }

    /// Reads the state applied on this node. The state is locked meanwhile: keep `f` short.
    pub fn read<R>(&self, f: impl FnOnce(&model::State) -> R) -> R {
        f(&self.shared.state.image().state)
    }

    /// As [`Self::read`], with the index the state is at.
    pub fn read_at<R>(&self, f: impl FnOnce(&model::State) -> R) -> (u64, R) {
        let image = self.shared.state.image();
        (applied_of(&image), f(&image.state))
    }

    /// The applied index, as it moves.
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.shared.state.applied()
    }

    /// What each applied batch touched. A receiver that lags must start again from [`Self::read`].
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Arc<AppliedBatch>> {
        self.shared.state.changes()
    }

    /// Events behind `after` (from the oldest kept one for none), oldest first, at most `limit` and
    /// [`crate::EVENTS_READ_MAX`].
    ///
    /// # Errors
    /// [`EventError::Trimmed`] when retention deleted events behind `after`.
    pub fn events_after(
        &self,
        after: Option<EventId>,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, EventError> {
        events::read_after(&self.shared.state.db(), after, limit)
    }

    /// The oldest kept event.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn oldest_event(&self) -> Result<Option<EventId>, EventError> {
        Ok(events::oldest(&self.shared.state.db())?)
    }

    /// The newest event.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn newest_event(&self) -> Result<Option<EventId>, EventError> {
        Ok(events::newest(&self.shared.state.db())?)
    }

    /// A runner's newest events, newest first, at most `limit` and [`crate::EVENTS_READ_MAX`].
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn runner_events(&self, runner: RunnerId, limit: usize) -> Result<Vec<RecordedEvent>, EventError> {
        events::of_runner(&self.shared.state.db(), runner, limit)
    }

    /// One look at the node's raft figures.
    #[must_use]
    pub fn metrics(&self) -> RaftMetrics {
        let core = self.raft().metrics();
        let core = core.borrow_watched();
        let counters = &self.shared.counters;
        let (commit_latency, sync_latency) = counters.latencies();
        let index = |id: &Option<LogId>| id.as_ref().map_or(0, LogId::index);
        RaftMetrics {
            role: role(core.running_state.is_ok(), core.state),
            term: core.current_term,
            leader: core.current_leader.map(NodeId),
            last_log: core.last_log_index.unwrap_or(0),
            committed: index(&core.local_committed),
            last_applied: index(&core.last_applied),
            snapshot: index(&core.snapshot),
            purged: index(&core.purged),
            commit_latency,
            sync_latency,
            synced_writes: Counters::read(&counters.synced_jobs),
            applied_entries: Counters::read(&counters.applied_entries),
            apply_batches: Counters::read(&counters.apply_batches),
            apply_panics: Counters::read(&counters.apply_panics),
            snapshots_installed: Counters::read(&counters.snapshots_installed),
            reserve_present: reserve::present(&self.shared.state.layout().reserve()),
        }
    }

    /// The digest of the state and the index it belongs to (P24).
    #[must_use]
    pub fn digest(&self) -> (u64, [u8; 32]) {
        self.read_at(model::State::digest)
    }

    /// Waits for a storage failure or the end of the core: the process must exit then, and be restarted.
    pub async fn fatal(&self) -> String {
        self.shared.core.fatal.wait().await
    }

    /// Stops cleanly: the core ends, the log is synced, the mark written, and, when this was the last
    /// handle, the databases closed.
    pub async fn shutdown(self) {
        self.shared.in_flight.close();
        let fresh = self.shared.fresh.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(fresh) = fresh {
            fresh.abort();
            // It was told to end; how it ended does not matter.
            drop(fresh.await);
        }
        if let Err(error) = self.raft().shutdown().await {
            tracing::warn!(%error, "the raft core did not end cleanly");
        }
        if let Err(error) = self.shared.log.close().await {
            tracing::warn!(%error, "the log was not synced at the stop");
        }
        let closed = [self.shared.log.closed(), self.shared.state.closed()];
        if Arc::strong_count(&self.shared) > 1 {
            tracing::debug!("another raft handle is held; the databases close when it goes");
            return;
        }
        drop(self);
        let all = async {
            for mut closed in closed {
                // The sender goes when the database is closed; it never sends.
                while closed.changed().await.is_ok() {}
            }
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, all).await.is_err() {
            tracing::warn!("the databases are still in use by a reader; they close when it ends");
        }
    }
}

fn role(running: bool, state: ServerState) -> Role {
    if !running {
        return Role::Stopped;
    }
    match state {
        ServerState::Leader => Role::Leader,
        ServerState::Follower => Role::Follower,
        ServerState::Candidate => Role::Candidate,
        ServerState::Learner => Role::Learner,
        ServerState::Shutdown => Role::Stopped,
    }
}
