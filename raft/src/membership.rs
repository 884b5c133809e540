//! Who is in the raft cluster. Changes are one at a time, by compare-and-swap on the last one (P21).

use std::collections::{BTreeMap, BTreeSet};

use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::raft::{ChangeMembershipRequest, Precondition};
use stratavore_model::NodeId;

use crate::error::MembershipError;
use crate::handle::Handle;
use crate::types::{LogId, Member, StoredMembership, TypeConfig};

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

    /// Gives the vote to exactly these members, in one joint change: learners are promoted in pairs and a
    /// dead voter is exchanged for a learner this way (P21). Members left out lose their vote and leave.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn set_voters(
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

    async fn change(
        &self,
        seen: &MembershipView,
        change: ChangeMembers<u64, Member>,
    ) -> Result<(), MembershipError> {
        let precondition = Precondition::LastMembershipLogId { last_membership_log_id: seen.version };
        let request =
            ChangeMembershipRequest::<TypeConfig>::new(change, false).with_preconditions([precondition]);
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
