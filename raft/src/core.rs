//! The consensus core as this crate uses it: writing and confirming on the node that leads. Holds no store, so that
//! a peer's open stream does not keep the databases open.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use model::{Millis, NodeId};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{
    ClientWriteError, Fatal as CoreFatal, ForwardReason, ForwardToLeader, LinearizableReadError, RaftError,
};
use openraft::{LogIdOptionExt, ReadPolicy};
use stratavore_model as model;
use tokio::sync::watch;

use crate::error::{ProposeError, ReadError};
use crate::fatal::Fatal;
use crate::handle::{Leadership, Raft};
use crate::types::{Command, LogId, TypeConfig};

/// A new leader accepts nothing before its first quorum answer; that takes one round trip, not seconds.
const LEASE_PATIENCE: Duration = Duration::from_secs(2);
const LEASE_RETRY: Duration = Duration::from_millis(10);

/// What the leader calls "now" (P4).
pub type Stamp = Arc<dyn Fn() -> Millis + Send + Sync>;

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Core {
    pub(crate) raft: Raft,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) fatal: Fatal,
    may_lead: Arc<AtomicBool>,
    stamp: Arc<RwLock<Option<Stamp>>>,
}

/// A committed entry and, on the node that applied it, its answer.
pub(crate) struct Written {
    pub(crate) id: LogId,
    pub(crate) reply: Option<model::Reply>,
}

impl Core {
    pub(crate) fn new(raft: Raft, leadership: watch::Receiver<Leadership>, fatal: Fatal) -> Self {
        Self { raft, leadership, fatal, may_lead: Arc::new(AtomicBool::new(true)), stamp: Arc::default() }
    }

    pub(crate) fn now(&self) -> Leadership {
        *self.leadership.borrow()
    }

    pub(crate) fn id(&self) -> NodeId {
        NodeId(*self.raft.node_id())
    }

    pub(crate) fn may_lead(&self) -> bool {
        self.may_lead.load(Ordering::SeqCst)
    }

    pub(crate) fn set_may_lead(&self, may: bool) {
        self.may_lead.store(may, Ordering::SeqCst);
        self.raft.runtime_config().elect(may);
    }

    pub(crate) fn set_stamp(&self, stamp: Stamp) {
        *self.stamp.write().unwrap_or_else(PoisonError::into_inner) = Some(stamp);
    }

    pub(crate) fn stamp(&self) -> Option<Millis> {
        self.stamp.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(|stamp| stamp())
    }

    pub(crate) fn stop_reason(&self, fatal: &CoreFatal<TypeConfig>) -> String {
        self.fatal.get().unwrap_or_else(|| fatal.to_string())
    }

    /// Replicates `command`, on the leader only.
    pub(crate) async fn write(&self, command: Command) -> Result<Written, ProposeError> {
        let give_up = Instant::now() + LEASE_PATIENCE;
        loop {
            let error = match self.raft.client_write(command.clone()).await {
                Ok(response) => return Ok(Written { id: response.log_id, reply: response.data.reply }),
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

    /// Confirms with a quorum that this node leads, and waits until everything committed before is applied here.
    pub(crate) async fn confirm(&self) -> Result<u64, ReadError> {
        self.with_lease(|| async {
            self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await.map(|id| id.index())
        })
        .await
    }

    /// Confirms with a quorum that this node leads. Whoever has applied the returned index after that has seen
    /// everything that was committed before the call.
    pub(crate) async fn read_index(&self) -> Result<u64, ReadError> {
        self.with_lease(|| async {
            self.raft.get_read_log_id(ReadPolicy::ReadIndex).await.map(|(id, _)| id.index())
        })
        .await
    }

    async fn with_lease<F>(&self, round: impl Fn() -> F) -> Result<u64, ReadError>
    where
        F: Future<Output = Result<u64, RaftError<TypeConfig, LinearizableReadError<TypeConfig>>>>,
    {
        let give_up = Instant::now() + LEASE_PATIENCE;
        loop {
            match round().await {
                Ok(index) => return Ok(index),
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
        let me = *self.raft.node_id();
        match forward.reason {
            ForwardReason::LeaseExpired => true,
            // It gave leadership away: nothing here will settle.
            ForwardReason::LeadershipTransfer => false,
            ForwardReason::NotLeader => forward.leader_id.is_none_or(|leader| leader == me) && self.now().me,
        }
    }

    /// Waits for the core to report something new, at most [`LEASE_RETRY`].
    async fn lease_settles(&self) {
        let mut metrics = self.raft.metrics();
        // Both outcomes mean the same: try again.
        drop(tokio::time::timeout(LEASE_RETRY, metrics.changed()).await);
    }

    /// Whether a node is in the newest configuration, committed or not, or in the last committed one.
    pub(crate) async fn is_member(&self, node: u64) -> Result<bool, ReadError> {
        self.raft
            .with_raft_state(move |state| {
                let membership = &state.membership_state;
                membership.effective().get_node(&node).is_some()
                    || membership.committed().get_node(&node).is_some()
            })
            .await
            .map_err(|fatal| ReadError::Stopped(self.stop_reason(&fatal)))
    }

    /// Whether this node leads a cluster of nobody else.
    pub(crate) fn leads_alone(&self) -> bool {
        leads_alone(&self.raft.metrics().borrow_watched())
    }

    pub(crate) fn last_log(&self) -> u64 {
        self.raft.metrics().borrow_watched().last_log_index.unwrap_or(0)
    }

    /// How far each peer's log is known to agree with this leader's; empty on other nodes.
    pub(crate) fn matched(&self) -> std::collections::BTreeMap<u64, u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let index = |id: &Option<LogId>| (*id).next_index().saturating_sub(1);
        metrics.replication.iter().flatten().map(|(node, matched)| (*node, index(matched))).collect()
    }
}

/// Whether the node of these metrics leads a cluster of nobody else: no heartbeat is due to anyone, and no election
/// to hold.
pub(crate) fn leads_alone(core: &openraft::RaftMetrics<TypeConfig>) -> bool {
    core.state == openraft::ServerState::Leader && core.membership_config.membership().nodes().count() == 1
}
