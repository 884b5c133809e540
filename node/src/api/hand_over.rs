//! Leadership and votes as an administrator moves them: through any node, done by the leader.

use stratavore_model::{NodeId, Rejected};
use stratavore_proto::v1::HandOverRequest;
use stratavore_proto::v1::cluster_service_client::ClusterServiceClient;
use stratavore_raft::ReadError;
use tonic::Status;

use crate::api::Api;
use crate::api::status::ApiError;

impl Api {
    /// Lets `node` (0 = any voter) lead, whoever leads now; who does then.
    ///
    /// # Errors
    /// No such voter, nobody leads, or nobody can take over.
    pub(super) async fn hand_over_anywhere(&self, node: u64) -> Result<u64, Status> {
        let leader = self.raft.metrics().leader;
        match leader {
            Some(leader) if leader == self.node => self.hand_over_here(node).await,
            Some(leader) => {
                let channel = self.channels.channel(leader);
                let channel = channel.map_err(|error| ApiError::Internal(error.to_string()))?;
                let request = HandOverRequest { node };
                Ok(ClusterServiceClient::new(channel).hand_over(request).await?.into_inner().leader)
            }
            None => Err(ApiError::Read(ReadError::NotLeader { leader: None }).into()),
        }
    }

    /// The same on the node that leads.
    ///
    /// # Errors
    /// As [`Self::hand_over_anywhere`]; also that this node does not lead (any more).
    pub(super) async fn hand_over_here(&self, node: u64) -> Result<u64, Status> {
        let to = (node != 0).then_some(NodeId(node));
        if let Some(to) = to {
            check_voter(&self.voters(), to).map_err(ApiError::from)?;
            if to == self.node && self.raft.metrics().leader == Some(self.node) {
                return Ok(to.0);
            }
        }
        let leader = self.raft.transfer_leadership(to).await.map_err(ApiError::from)?;
        Ok(leader.0)
    }

    /// What has to hold before a node may be removed: an odd number of voters is left, unless that was waived, and
    /// the leader is another one, so that nothing waits for an election.
    ///
    /// # Errors
    /// The refusal.
    pub(super) async fn prepare_removal(&self, node: NodeId, allow_even: bool) -> Result<(), Status> {
        self.confirmed().await?;
        let present: Vec<NodeId> =
            self.raft.read(|state| state.nodes().filter(|node| !node.removed).map(|node| node.id).collect());
        check_votes(&self.voters(), &present, node, allow_even).map_err(ApiError::from)?;
        let leads = self.raft.metrics().leader == Some(node);
        if leads && present.len() > 1 {
            self.hand_over_anywhere(0).await?;
        }
        Ok(())
    }

    fn voters(&self) -> Vec<NodeId> {
        self.raft.membership().voters().collect()
    }
}

fn check_voter(voters: &[NodeId], node: NodeId) -> Result<(), Rejected> {
    if voters.contains(&node) {
        return Ok(());
    }
    let message = format!("node {node} is not a voter of this cluster");
    Err(Rejected::new(stratavore_model::Code::NodeNotFound, message, "look at `stratavore cluster status`")
        .field("node"))
}

/// P21: a voter that leaves is replaced by a node without a vote; without one, an even number would be left.
fn check_votes(
    voters: &[NodeId],
    present: &[NodeId],
    leaving: NodeId,
    allow_even: bool,
) -> Result<(), Rejected> {
    let spare = present.iter().any(|node| *node != leaving && !voters.contains(node));
    let rest = voters.len().saturating_sub(1);
    if allow_even || spare || !voters.contains(&leaving) || rest == 0 || !rest.is_multiple_of(2) {
        return Ok(());
    }
    let message =
        format!("{rest} voters would be left, and they survive no more failures than {} do", rest - 1);
    let next = "let another node join first (stratavore token create --role node), or give --allow-even";
    Err(Rejected::bad_argument("allow_even", message, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(ids: &[u64]) -> Vec<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn p21_a_voter_leaves_when_another_takes_its_place_or_the_even_number_is_wanted() {
        let check = |voters: &[u64], learners: &[u64], leaving, allow_even| {
            let present = nodes(&[voters, learners].concat());
            check_votes(&nodes(voters), &present, NodeId(leaving), allow_even).is_ok()
        };
        assert!(!check(&[1, 2, 3], &[], 3, false), "two voters would be left");
        assert!(check(&[1, 2, 3], &[], 3, true));
        assert!(check(&[1, 2, 3], &[4], 3, false), "node 4 gets the vote");
        assert!(check(&[1, 2, 3], &[4], 4, false), "a learner has no vote to lose");
        assert!(check(&[1, 2], &[], 2, false), "one voter is left");
        assert!(check(&[1], &[], 1, false), "the last node is refused by the state itself");
        assert!(check(&[1, 2, 3], &[], 9, false), "an unknown node is refused by the state itself");
    }

    #[test]
    fn only_a_voter_can_be_told_to_lead() {
        let voters = nodes(&[1, 2, 3]);
        assert!(check_voter(&voters, NodeId(2)).is_ok());
        assert_eq!(check_voter(&voters, NodeId(4)).unwrap_err().code, stratavore_model::Code::NodeNotFound);
    }
}
