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
