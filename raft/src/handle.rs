//! The one way in: propose, read, watch. Cheap to clone; no openraft type shows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use model::{Entry, EventId, NodeId, RecordedEvent, Reply, RunnerId};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{
    ClientWriteError, Fatal as CoreFatal, ForwardReason, ForwardToLeader, LinearizableReadError, RaftError,
};
use openraft::{ReadPolicy, ServerState};
use stratavore_model as model;
use tokio::sync::{Semaphore, SemaphorePermit, broadcast, watch};
use tokio::task::AbortHandle;

use crate::error::{EventError, ProposeError, ReadError};
use crate::events;
use crate::fatal::Fatal;
use crate::log_bound;
use crate::log_store::LogStore;
use crate::metrics::{Counters, RaftMetrics, Role};
use crate::open::Stores;
use crate::record::encode_entry;
use crate::reserve;
use crate::state_machine::StateMachine;
use crate::state_store::{AppliedBatch, StateStore, applied_of};
use crate::types::{Command, LogId, TypeConfig};

/// P23: bytes of one encoded entry.
pub const ENTRY_BYTES_MAX: usize = 1 << 20;

/// Proposals waiting for their commit on one node; more wait here. Above what one sync batches, below what
/// would hold gigabytes in flight.
const PROPOSALS_MAX: usize = 4096;

/// How long a proposal may take before its outcome is called unknown.
pub(crate) const PROPOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// A new leader accepts nothing before its first quorum answer; that takes one round trip, not seconds.
const LEASE_PATIENCE: Duration = Duration::from_secs(2);
const LEASE_RETRY: Duration = Duration::from_millis(10);

/// How long a read waits for a quorum.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

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
    shared: Arc<Shared>,
}

struct Shared {
    raft: Raft,
    log: LogStore,
    state: StateStore,
    counters: Arc<Counters>,
    fatal: Fatal,
    leadership: watch::Receiver<Leadership>,
    in_flight: Semaphore,
    tasks: [AbortHandle; 2],
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
        f.debug_struct("Handle")
            .field("leadership", &*self.shared.leadership.borrow())
            .finish_non_exhaustive()
    }
}

impl Handle {
    pub(crate) fn start(raft: Raft, stores: Stores) -> Self {
        let (sender, leadership) = watch::channel(Leadership::default());
        let watcher = tokio::spawn(watch_core(raft.clone(), sender, stores.fatal.clone())).abort_handle();
        let bound = tokio::spawn(log_bound::run(raft.clone(), stores.log.clone())).abort_handle();
        let tasks = [watcher, bound];
        let Stores { log, state, counters, fatal } = stores;
        let in_flight = Semaphore::new(PROPOSALS_MAX);
        Self { shared: Arc::new(Shared { raft, log, state, counters, fatal, leadership, in_flight, tasks }) }
    }

    pub(crate) fn raft(&self) -> &Raft {
        &self.shared.raft
    }

    pub(crate) fn fatal_reason(&self) -> Option<String> {
        self.shared.fatal.get()
    }

    /// Replicates `entry` and returns its answer once it is committed and applied here. Concurrent proposals
    /// share syncs. Cancelling the future does not withdraw the proposal.
    ///
    /// # Errors
    /// [`ProposeError::NotLeader`] and [`ProposeError::TooLarge`] mean that nothing was written;
    /// [`ProposeError::Unknown`] that it may have been.
    pub async fn propose(&self, entry: Entry) -> Result<Applied, ProposeError> {
        let started = Instant::now();
        let bytes = encode_entry(&entry);
        if bytes.len() > ENTRY_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes: bytes.len(), max: ENTRY_BYTES_MAX });
        }
        let _permit = self.permit().await?;
        let command = Command { bytes, decoded: Some(Arc::new(entry)) };
        let outcome = tokio::time::timeout(PROPOSE_TIMEOUT, self.write(command)).await;
        let applied = outcome.unwrap_or_else(|_| {
            Err(ProposeError::Unknown(format!("no commit within {} s", PROPOSE_TIMEOUT.as_secs())))
        })?;
        self.observe_commit(started);
        Ok(applied)
    }

    /// A place among the proposals in flight.
    pub(crate) async fn permit(&self) -> Result<SemaphorePermit<'_>, ProposeError> {
        self.shared.in_flight.acquire().await.map_err(|_| ProposeError::Stopped("shutting down".into()))
    }

    pub(crate) fn observe_commit(&self, started: Instant) {
        self.shared.counters.commit.observe(started.elapsed());
    }

    async fn write(&self, command: Command) -> Result<Applied, ProposeError> {
        let give_up = Instant::now() + LEASE_PATIENCE;
        loop {
            let error = match self.shared.raft.client_write(command.clone()).await {
                Ok(response) => return applied_reply(&response.log_id, response.data.reply),
                Err(error) => error,
            };
            match error {
                RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
                    // Refused before it was written, so trying again is safe.
                    if !self.lease_pending(&forward) || Instant::now() >= give_up {
                        return Err(ProposeError::NotLeader { leader: forward.leader_id.map(NodeId) });
                    }
                    self.lease_settles().await;
                }
                RaftError::APIError(error) => return Err(ProposeError::Unknown(error.to_string())),
                RaftError::Fatal(fatal) => return Err(ProposeError::Stopped(self.stop_reason(&fatal))),
            }
        }
    }

    pub(crate) fn stop_reason(&self, fatal: &CoreFatal<TypeConfig>) -> String {
        self.fatal_reason().unwrap_or_else(|| fatal.to_string())
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

    /// Confirms with a quorum that this node leads, then waits until everything committed before is applied
    /// here: a [`Self::read`] after it is linearizable. Returns the index that was waited for.
    ///
    /// # Errors
    /// When this node does not lead, or no quorum answers within seconds.
    pub async fn linearize(&self) -> Result<u64, ReadError> {
        match tokio::time::timeout(READ_TIMEOUT, self.confirm()).await {
            Ok(result) => result,
            Err(_) => Err(ReadError::Unavailable(format!("no answer within {} s", READ_TIMEOUT.as_secs()))),
        }
    }

    async fn confirm(&self) -> Result<u64, ReadError> {
        let give_up = Instant::now() + LEASE_PATIENCE;
        loop {
            match self.shared.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
                Ok(position) => return Ok(position.index()),
                Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                    if !self.lease_pending(&forward) || Instant::now() >= give_up {
                        return Err(ReadError::NotLeader { leader: forward.leader_id.map(NodeId) });
                    }
                    self.lease_settles().await;
                }
                Err(RaftError::APIError(error)) => return Err(ReadError::Unavailable(error.to_string())),
                Err(RaftError::Fatal(fatal)) => return Err(ReadError::Stopped(self.stop_reason(&fatal))),
            }
        }
    }

    /// Refused although this node leads: it waits for the first answer of its quorum.
    fn lease_pending(&self, forward: &ForwardToLeader<TypeConfig>) -> bool {
        let me = *self.shared.raft.node_id();
        forward.reason == ForwardReason::LeaseExpired
            || (forward.leader_id.is_none_or(|leader| leader == me) && self.shared.leadership.borrow().me)
    }

    /// Waits for the core to report something new, at most [`LEASE_RETRY`].
    async fn lease_settles(&self) {
        let mut metrics = self.shared.raft.metrics();
        // Both outcomes mean the same: try again.
        drop(tokio::time::timeout(LEASE_RETRY, metrics.changed()).await);
    }

    /// Who leads, as it changes.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.shared.leadership.clone()
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
        let core = self.shared.raft.metrics();
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
        self.shared.fatal.wait().await
    }

    /// Stops cleanly: the core ends, the log is synced, the mark written, and, when this was the last
    /// handle, the databases closed.
    pub async fn shutdown(self) {
        self.shared.in_flight.close();
        if let Err(error) = self.shared.raft.shutdown().await {
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

pub(crate) fn applied_reply(id: &LogId, reply: Option<Reply>) -> Result<Applied, ProposeError> {
    let reply = reply.ok_or_else(|| ProposeError::Unknown("the entry was applied without a reply".into()))?;
    Ok(Applied { index: id.index(), term: id.committed_leader_id().term, reply })
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

/// Whether this node leads a cluster of nobody else: no heartbeat is due to anyone, and no election to hold.
fn leads_alone(core: &openraft::RaftMetrics<TypeConfig>) -> bool {
    core.state == ServerState::Leader && core.membership_config.membership().nodes().count() == 1
}

/// Turns the core's metrics into leadership, and its end into a fatal report. The core's clock rests while this node
/// leads alone: an idle cluster of one would wake up fifty times a second for nothing.
async fn watch_core(raft: Raft, leadership: watch::Sender<Leadership>, fatal: Fatal) {
    let mut metrics = raft.metrics();
    loop {
        raft.runtime_config().tick(!leads_alone(&metrics.borrow_watched()));
        let (now, failure) = {
            let core = metrics.borrow_watched();
            let me = core.state == ServerState::Leader && core.running_state.is_ok();
            let leader = core.current_leader.map(NodeId);
            let now = Leadership { leader, term: core.current_term, me };
            (now, core.running_state.as_ref().err().cloned())
        };
        leadership.send_if_modified(|before| std::mem::replace(before, now) != now);
        match failure {
            None => {}
            // A clean shutdown ends the core too.
            Some(CoreFatal::Stopped) => return,
            Some(failure) => return fatal.report(format!("the raft core has ended: {failure}")),
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}
