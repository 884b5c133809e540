//! Which node to dial: rendezvous hashing spreads hosts evenly and brings each back to the same node.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::membership::Gateway;

/// Nodes in the order of this host's preference, `avoid` last: the first retry goes elsewhere.
pub(super) fn preference(host_id: &str, nodes: &[Gateway], avoid: Option<u64>) -> Vec<Gateway> {
    let mut order: Vec<Gateway> = nodes.to_vec();
    order.sort_by_key(|node| (avoid == Some(node.id), std::cmp::Reverse(weight(host_id, node.id)), node.id));
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
            let first = preference(&format!("host-{host}"), &nodes(3), None)[0].id;
            hosts_of[usize::try_from(first).unwrap() - 1] += 1;
            // A node more moves only hosts that go to the new one.
            let grown = preference(&format!("host-{host}"), &nodes(4), None)[0].id;
            assert!(grown == first || grown == 4);
        }
        assert!(hosts_of.iter().all(|hosts| (800..1200).contains(hosts)), "{hosts_of:?}");
    }

    #[test]
    fn the_node_that_failed_comes_last() {
        for avoid in 1..=3 {
            assert_eq!(preference("h", &nodes(3), Some(avoid))[2].id, avoid);
        }
        assert_eq!(preference("h", &nodes(1), Some(1)).len(), 1);
    }
}
