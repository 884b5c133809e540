//! Who is in the raft cluster. Changes are one at a time, by compare-and-swap on the last one (P21).

use std::collections::{BTreeMap, BTreeSet};

use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::raft::{ChangeMembershipRequest, Precondition};
use stratavore_model::NodeId;
use tokio::sync::watch;

use crate::error::MembershipError;
use crate::handle::Handle;
use crate::leadership::CAUGHT_UP_LAG;
use crate::types::{LogId, Member, StoredMembership, TypeConfig};

/// Voters that lose their vote stay as learners until [`Handle::remove_learner`].
const KEEP_AS_LEARNERS: bool = true;

/// A member as the configuration has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberInfo {
    pub node: NodeId,
    pub raft_address: String,
    pub voter: bool,
}

/// The configuration, and what a change of it must name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembershipView {
    pub members: Vec<MemberInfo>,
    /// A change is under way.
    pub joint: bool,
    version: Option<LogId>,
}

/// How far a member's log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberProgress {
    pub node: NodeId,
    pub voter: bool,
    /// Its log is known to agree with the leader's up to here; 0 when nothing is known.
    pub matched: u64,
    /// Entries of the leader's log behind that.
    pub lag: u64,
}

impl MembershipView {
    /// Nodes with a vote.
    pub fn voters(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.members.iter().filter(|member| member.voter).map(|member| member.node)
    }
}

fn view(stored: &StoredMembership) -> MembershipView {
    let voters: BTreeSet<u64> = stored.voter_ids().collect();
    let members = stored
        .nodes()
        .map(|(id, member)| MemberInfo {
            node: NodeId(*id),
            raft_address: member.raft_address.clone(),
            voter: voters.contains(id),
        })
        .collect();
    MembershipView { members, joint: stored.get_joint_config().len() > 1, version: *stored.log_id() }
}

impl Handle {
    /// The newest configuration this node knows, committed or not.
    #[must_use]
    pub fn membership(&self) -> MembershipView {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        view(&metrics.membership_config)
    }

    /// Adds a node without vote, or changes the address of one that has none.
    ///
    /// # Errors
    /// See [`MembershipError`]; a conflict means that `seen` is not the newest configuration any more.
    pub async fn add_learner(
        &self,
        seen: &MembershipView,
        node: NodeId,
        raft_address: String,
    ) -> Result<(), MembershipError> {
        let nodes = BTreeMap::from([(node.0, Member { raft_address })]);
        self.change(seen, ChangeMembers::AddNodes(nodes)).await
    }

    /// Tells all members where `node`, which is one of them, is reached from now on (P21).
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn set_address(
        &self,
        seen: &MembershipView,
        node: NodeId,
        raft_address: String,
    ) -> Result<(), MembershipError> {
        let nodes = BTreeMap::from([(node.0, Member { raft_address })]);
        self.change(seen, ChangeMembers::SetNodes(nodes)).await
    }

    /// Gives the vote to exactly these members, in one joint change: learners are promoted in pairs and a dead voter is
    /// exchanged for a learner this way (P21). Members left out stay as learners: who votes is one question, who leaves
    /// another.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn set_votes(
        &self,
        seen: &MembershipView,
        voters: impl IntoIterator<Item = NodeId>,
    ) -> Result<(), MembershipError> {
        let voters: BTreeSet<u64> = voters.into_iter().map(|node| node.0).collect();
        self.change(seen, ChangeMembers::ReplaceAllVoters(voters)).await
    }

    /// Removes a node without vote. Its id is never used again.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn remove_learner(&self, seen: &MembershipView, node: NodeId) -> Result<(), MembershipError> {
        self.change(seen, ChangeMembers::RemoveNodes(BTreeSet::from([node.0]))).await
    }

    /// How far the members' logs are, as this leader knows it; empty on other nodes.
    #[must_use]
    pub fn progress(&self) -> Vec<MemberProgress> {
        let core = self.core();
        if !core.now().me {
            return Vec::new();
        }
        let (last, matched) = (core.last_log(), core.matched());
        let progress = |member: MemberInfo| {
            let own = (member.node == core.id()).then_some(last);
            let matched = own.or_else(|| matched.get(&member.node.0).copied()).unwrap_or(0);
            let lag = last.saturating_sub(matched);
            MemberProgress { node: member.node, voter: member.voter, matched, lag }
        };
        self.membership().members.into_iter().map(progress).collect()
    }

    /// Whether a member's log is so close to this leader's that it may get a vote (P21).
    #[must_use]
    pub fn is_caught_up(&self, node: NodeId) -> bool {
        let caught_up = |progress: &MemberProgress| progress.matched > 0 && progress.lag <= CAUGHT_UP_LAG;
        // One that has never answered may not even run.
        self.progress().iter().any(|progress| progress.node == node && caught_up(progress))
    }

    /// Turns true when this node is out of the cluster for good: the program must say so and exit. Its id is never
    /// used again, so it may only come back as a new node with an empty directory.
    #[must_use]
    pub fn removed(&self) -> watch::Receiver<bool> {
        self.shared.removed.subscribe()
    }

    /// Where a member is, by the newest configuration.
    pub(crate) fn member(&self, node: NodeId) -> Option<Member> {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().get_node(&node.0).cloned()
    }

    async fn change(
        &self,
        seen: &MembershipView,
        change: ChangeMembers<u64, Member>,
    ) -> Result<(), MembershipError> {
        let precondition = Precondition::LastMembershipLogId { last_membership_log_id: seen.version };
        let request = ChangeMembershipRequest::<TypeConfig>::new(change, KEEP_AS_LEARNERS)
            .with_preconditions([precondition]);
        match self.raft().change_membership_with_payload(request).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                Err(MembershipError::NotLeader { leader: forward.leader_id.map(NodeId) })
            }
            Err(RaftError::APIError(
                error
                @ (ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_)),
            )) => Err(MembershipError::Conflict(error.to_string())),
            Err(error) => Err(MembershipError::Failed(error.to_string())),
        }
    }
}
