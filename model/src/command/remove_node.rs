//! `stratavore cluster remove`: a node that was taken out of the voters leaves the registry (P21).

use serde::Serialize;

use super::remove_host::cut_keys;
use crate::cluster::NodeRecord;
use crate::command::{Success, Verdict};
use crate::event::EventKind;
use crate::id::NodeId;
use crate::identity::Actor;
use crate::reply::{Code, Rejected, Reply};
use crate::row::Row;
use crate::tx::Tx;

/// Removes a node: its keys stop working at once, its id is never given again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RemoveNode {
    pub node: NodeId,
}

impl RemoveNode {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        let node = tx.state().node(self.node).filter(|node| !node.removed);
        let Some(node) = node.cloned() else {
            let message = format!("there is no node {}", self.node);
            return Err(Rejected::new(Code::NodeNotFound, message, "see `stratavore cluster status`"));
        };
        if tx.state().nodes().filter(|node| !node.removed).count() == 1 {
            let message = format!("node {} is the last one, without it there is no cluster", self.node);
            let next = "let another node join first, or end the cluster with `stratavore down`";
            return Err(Rejected::new(Code::LastNode, message, next).field("node"));
        }
        cut_keys(tx, &Actor::Node(self.node));
        tx.event(EventKind::NodeRemoved, &format!("node {}", self.node));
        tx.put(Row::Node(NodeRecord { removed: true, ..node }));
        Ok(Success::done(Reply::Node(self.node)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::NodeAddresses;
    use crate::command::{Joiner, SetNodeAddress};
    use crate::lab::Lab;
    use crate::query::{Admission, admission};
    use crate::{COMMAND_VERSION, Command, Role};

    fn join(lab: &mut Lab) -> NodeId {
        let token = lab.token(Role::Node);
        let addresses = NodeAddresses::default();
        let joiner = Joiner::Node { addresses, version: "1".into(), max_version: COMMAND_VERSION };
        let redeem = lab.redeem_command(token, joiner);
        match lab.as_node(Command::RedeemToken(redeem)).unwrap() {
            Reply::Redeemed { name, .. } => name.parse().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn remove(lab: &mut Lab, node: NodeId) -> Result<Reply, Rejected> {
        lab.user(Command::RemoveNode(RemoveNode { node }))
    }

    #[test]
    fn p21_its_key_is_cut_and_its_id_never_given_again() {
        let mut lab = Lab::new();
        let second = join(&mut lab);
        let spki = lab.state.node(second).unwrap().spki;
        assert_eq!(remove(&mut lab, second), Ok(Reply::Node(second)));
        assert_eq!(admission(&lab.state, &spki, &Actor::Node(second)), Admission::Removed);
        assert_eq!(remove(&mut lab, second).unwrap_err().code, Code::NodeNotFound);
        let (addresses, version) = (NodeAddresses::default(), String::new());
        let set = SetNodeAddress { node: second, addresses, version, max_version: COMMAND_VERSION };
        let refused = lab.apply(Actor::Node(second), None, Command::SetNodeAddress(set)).reply;
        assert_eq!(refused.rejected().unwrap().code, Code::IdentityRemoved);
        assert!(join(&mut lab) > second);
    }

    #[test]
    fn p21_the_last_one_stays() {
        let mut lab = Lab::new();
        assert_eq!(remove(&mut lab, NodeId(1)).unwrap_err().code, Code::LastNode);
        let second = join(&mut lab);
        remove(&mut lab, second).unwrap();
        assert_eq!(remove(&mut lab, NodeId(1)).unwrap_err().code, Code::LastNode);
    }
}
