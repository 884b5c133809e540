//! Who leads: the watch, the refusal to lead, and the planned hand-over.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use model::NodeId;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::Fatal as CoreFatal;
use stratavore_model as model;
use stratavore_proto::raft as pb;
use tokio::sync::watch;

use crate::core::{Stamp, leads_alone};
use crate::error::TransferError;
use crate::fatal::Fatal;
use crate::handle::{Handle, Leadership, Raft};

/// How long a node may take to say whether it would lead.
const STANDING_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a successor may take to have this leader's log, while this one still leads.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(5);

/// A successor this close behind has the rest within a round trip.
pub(crate) const CAUGHT_UP_LAG: u64 = 100;

/// How long the one hand-over may take before the next candidate is asked: a vote is two round trips and two syncs.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(1);

/// A leader that gave leadership away accepts no proposals any more. When nobody took it, it stops its heartbeats,
/// so that the others hold an ordinary election; that takes a few of the longest timeouts.
const ELECTIONS: u32 = 6;

/// Pause between two looks at a successor's log.
const LOOK_PERIOD: Duration = Duration::from_millis(5);

impl Handle {
    /// Who leads and in which term, as it changes, on every node.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.shared.core.leadership.clone()
    }

    /// Whether this node takes part in elections as a candidate and accepts a hand-over (P4, P24). It still votes and
    /// keeps its log. A node that leads goes on until [`Self::transfer_leadership`]. Not remembered over a restart.
    pub fn set_may_lead(&self, may: bool) {
        self.shared.core.set_may_lead(may);
    }

    /// Whether this node would lead.
    #[must_use]
    pub fn may_lead(&self) -> bool {
        self.shared.core.may_lead()
    }

    /// What this node stamps on entries while it leads (P4), its own and those that other nodes bring. Without it they
    /// keep the time of the node that took the request.
    pub fn set_stamp(&self, stamp: Stamp) {
        self.shared.core.set_stamp(stamp);
    }

    /// Hands leadership to `to`, or to the voter with the longest log that would lead, and waits until another node
    /// leads. Returns who does.
    ///
    /// # Errors
    /// See [`TransferError`]; only after [`TransferError::Failed`] leadership may have moved all the same.
    pub async fn transfer_leadership(&self, to: Option<NodeId>) -> Result<NodeId, TransferError> {
        let now = self.shared.core.now();
        if !now.me {
            return Err(TransferError::NotLeader { leader: now.leader });
        }
        let candidates = self.candidates(to).await?;
        let mut leadership = self.leadership();
        let mut given_away = false;
        for candidate in &candidates {
            if !self.catches_up(*candidate).await {
                tracing::info!(node = %candidate, "is too far behind to take over");
                continue;
            }
            tracing::info!(node = %candidate, "handing leadership over");
            let trigger = self.raft().trigger();
            trigger
                .transfer_leader(candidate.0)
                .await
                .map_err(|error| TransferError::Failed(error.to_string()))?;
            given_away = true;
            if let Some(leader) = moved(&mut leadership, HAND_OVER_PATIENCE).await {
                return Ok(leader);
            }
        }
        if !given_away {
            return Err(TransferError::Refused("no other voter has a log that is long enough".into()));
        }
        self.force_election(&mut leadership).await
    }

    /// Voters that answer and would lead, the best first.
    async fn candidates(&self, to: Option<NodeId>) -> Result<Vec<NodeId>, TransferError> {
        let me = self.shared.core.id();
        let view = self.membership();
        let mut voters: Vec<NodeId> = view.voters().filter(|voter| *voter != me).collect();
        if let Some(to) = to {
            if to == me {
                return Err(TransferError::Refused(format!("node {to} leads already")));
            }
            if !voters.contains(&to) {
                return Err(TransferError::Refused(format!("node {to} is not a voter")));
            }
            voters = vec![to];
        }
        let asked = voters.iter().map(|voter| async { (*voter, self.would_lead(*voter).await) });
        let answers = futures::future::join_all(asked).await;
        let reasons: Vec<String> =
            answers.iter().filter_map(|(_, answer)| answer.as_ref().err().cloned()).collect();
        let matched = self.shared.core.matched();
        let mut able: Vec<NodeId> =
            answers.into_iter().filter(|(_, answer)| answer.is_ok()).map(|(voter, _)| voter).collect();
        able.sort_by_key(|voter| Reverse(matched.get(&voter.0).copied().unwrap_or(0)));
        match able.is_empty() {
            false => Ok(able),
            true if reasons.is_empty() => Err(TransferError::Refused("there is no other voter".into())),
            true => Err(TransferError::Refused(reasons.join("; "))),
        }
    }

    async fn would_lead(&self, node: NodeId) -> Result<(), String> {
        let member = self.member(node).ok_or_else(|| format!("node {node} is not known"))?;
        let mut client = self.shared.forwarder.network().client(node.0, &member.raft_address);
        let call = client.standing(pb::StandingRequest {});
        match tokio::time::timeout(STANDING_TIMEOUT, call).await {
            Ok(Ok(standing)) if standing.get_ref().may_lead => Ok(()),
            Ok(Ok(_)) => Err(format!("node {node} may not lead")),
            Ok(Err(status)) => Err(format!("node {node} does not answer: {}", status.message())),
            Err(_) => Err(format!("node {node} does not answer")),
        }
    }

    async fn catches_up(&self, node: NodeId) -> bool {
        let give_up = Instant::now() + CATCH_UP_PATIENCE;
        while !self.is_caught_up(node) {
            if Instant::now() >= give_up || !self.shared.core.now().me {
                return false;
            }
            tokio::time::sleep(LOOK_PERIOD).await;
        }
        true
    }

    /// Nobody took over in time; as a leader that gave leadership away this one is of no use.
    async fn force_election(
        &self,
        leadership: &mut watch::Receiver<Leadership>,
    ) -> Result<NodeId, TransferError> {
        tracing::warn!("nobody took leadership over, leaving it to an election");
        let config = self.raft().runtime_config();
        config.heartbeat(false);
        let wait = Duration::from_millis(self.raft().config().election_timeout_max) * ELECTIONS;
        let leader = moved(leadership, wait).await;
        config.heartbeat(true);
        leader.ok_or_else(|| TransferError::Failed("no other node could be elected".into()))
    }
}

/// Waits until another node leads.
async fn moved(leadership: &mut watch::Receiver<Leadership>, patience: Duration) -> Option<NodeId> {
    let other = leadership.wait_for(|now| !now.me && now.leader.is_some());
    tokio::time::timeout(patience, other).await.ok()?.ok()?.leader
}

/// Turns the core's metrics into leadership, and its end into a fatal report. The core's clock rests while this node
/// leads alone: an idle cluster of one would wake up fifty times a second for nothing.
pub(crate) async fn watch_core(
    raft: Raft,
    leadership: watch::Sender<Leadership>,
    removed: watch::Sender<bool>,
    fatal: Fatal,
) {
    let me = *raft.node_id();
    let mut metrics = raft.metrics();
    let mut was_member = false;
    loop {
        raft.runtime_config().tick(!leads_alone(&metrics.borrow_watched()));
        let (now, failure) = {
            let core = metrics.borrow_watched();
            // A node that catches up applies configurations from before it joined: only leaving one counts.
            let member = core.committed_membership_config.membership().get_node(&me).is_some();
            if was_member && !member {
                removed.send_replace(true);
            }
            was_member = member;
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
