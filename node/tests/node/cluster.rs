//! Several nodes on loopback.

use std::collections::BTreeSet;

use stratavore_model::NodeId;
use stratavore_node::config::Config;

use crate::client::Client;
use crate::harness::{Node, eventually};

/// Nodes of one cluster, in the order in which they joined.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
}

impl Cluster {
    /// `count` nodes, all of them voters.
    pub(crate) async fn start(count: usize) -> Self {
        Self::start_with(count, |_| {}).await
    }

    pub(crate) async fn start_with(count: usize, change: impl Fn(&mut Config)) -> Self {
        let mut cluster = Self { nodes: vec![Node::start_with(change).await] };
        for _ in 1..count {
            cluster.add().await;
        }
        let all: Vec<u64> = (1..=count as u64).collect();
        cluster.await_voters(&all).await;
        cluster
    }

    /// One more node, which joins through the newest one.
    pub(crate) async fn add(&mut self) -> usize {
        let node = Node::joined(&self.nodes[0], self.running().last().unwrap()).await;
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    pub(crate) fn running(&self) -> impl DoubleEndedIterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.is_running())
    }

    /// A client of the admin that talks to node `index` only.
    pub(crate) async fn client(&self, index: usize) -> Client {
        Client::with(&self.nodes[index], &self.nodes[0].admin()).await
    }

    /// The index of the node that leads and that all running nodes take for the leader.
    pub(crate) async fn leader(&self) -> usize {
        eventually("one leader", || async {
            let leaders: BTreeSet<_> =
                self.running().map(|node| node.raft().leadership().borrow().leader).collect();
            let leader = leaders.first().copied().flatten().filter(|_| leaders.len() == 1)?;
            self.nodes.iter().position(|node| {
                node.is_running() && {
                    let own = *node.raft().leadership().borrow();
                    own.me && own.leader == Some(leader)
                }
            })
        })
        .await
    }

    /// A running node that does not lead.
    pub(crate) async fn follower(&self) -> usize {
        let leader = self.leader().await;
        self.nodes.iter().position(|node| node.is_running()).filter(|index| *index != leader).unwrap_or_else(
            || {
                let other = |index: &usize| *index != leader && self.nodes[*index].is_running();
                (0..self.nodes.len()).find(other).unwrap()
            },
        )
    }

    /// Waits until every running node knows exactly these voters.
    pub(crate) async fn await_voters(&self, ids: &[u64]) {
        let wanted: BTreeSet<NodeId> = ids.iter().map(|id| NodeId(*id)).collect();
        eventually("the voters", || async {
            let agree = self.running().all(|node| {
                let view = node.raft().membership();
                !view.joint && view.voters().collect::<BTreeSet<_>>() == wanted
            });
            agree.then_some(())
        })
        .await;
    }
}
