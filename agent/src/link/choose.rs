//! Which node to dial: rendezvous hashing spreads hosts evenly and brings each back to the same node.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::membership::Gateway;

/// Nodes in an order of this host's own, for as long as no node has said which.
pub(crate) fn spread(host_id: &str, nodes: &[Gateway]) -> Vec<Gateway> {
    let mut order: Vec<Gateway> = nodes.to_vec();
    order.sort_by_key(|node| (std::cmp::Reverse(weight(host_id, node.id)), node.id));
    order
}

/// Nodes in the order to dial them: as the cluster ordered them for this host, `avoid` last: a retry goes elsewhere.
pub(super) fn order(nodes: &[Gateway], avoid: Option<u64>) -> Vec<Gateway> {
    let mut order: Vec<Gateway> = nodes.to_vec();
    order.sort_by_key(|node| avoid == Some(node.id));
    order
}

fn weight(host_id: &str, node: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (host_id, node).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(n: u64) -> Vec<Gateway> {
        (1..=n).map(|id| Gateway { id, quic: format!("127.0.0.1:{id}") }).collect()
    }

    #[test]
    fn hosts_spread_and_stay() {
        let mut hosts_of = [0_u32; 3];
        for host in 0..3000 {
            let first = spread(&format!("host-{host}"), &nodes(3))[0].id;
            hosts_of[usize::try_from(first).unwrap() - 1] += 1;
            // A node more moves only hosts that go to the new one.
            let grown = spread(&format!("host-{host}"), &nodes(4))[0].id;
            assert!(grown == first || grown == 4);
        }
        assert!(hosts_of.iter().all(|hosts| (800..1200).contains(hosts)), "{hosts_of:?}");
    }

    #[test]
    fn the_order_of_the_cluster_stands_but_the_node_that_failed_comes_last() {
        let ids = |order: Vec<Gateway>| order.iter().map(|node| node.id).collect::<Vec<_>>();
        let mut nodes = nodes(3);
        nodes.reverse();
        assert_eq!(ids(order(&nodes, None)), [3, 2, 1]);
        assert_eq!(ids(order(&nodes, Some(3))), [2, 1, 3]);
        assert_eq!(ids(order(&nodes[..1], Some(3))), [3]);
    }
}
