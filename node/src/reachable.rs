//! P21: a node that advertises loopback is reached by nobody on another machine, so such nodes do not mix with others.

use std::net::IpAddr;

use stratavore_model::{NodeAddresses, Rejected, State};

/// Whether `address` (`HOST:PORT`) leads back to the machine that dials it.
fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let named = host == "localhost" || host.ends_with(".localhost");
    named || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether a node at these addresses, which asks from `from`, can take part.
///
/// # Errors
/// `bad_argument` with the node that has to advertise another address.
pub(crate) fn check(state: &State, joiner: &NodeAddresses, from: Option<IpAddr>) -> Result<(), Rejected> {
    let here = is_loopback(&joiner.raft);
    let advertise = |message: String, next: &str| Rejected::bad_argument("advertise", message, next);
    if here && from.is_some_and(|from| !from.is_loopback()) {
        let message =
            format!("the joining node advertises {}, which only its own machine reaches", joiner.raft);
        return Err(advertise(message, "join with --advertise and an address that the other nodes reach"));
    }
    let mut members = state.nodes().filter(|node| !node.removed);
    let Some(other) = members.find(|node| is_loopback(&node.addresses.raft) != here) else { return Ok(()) };
    let (id, at) = (other.id, &other.addresses.raft);
    Err(if here {
        advertise(
            format!("the joining node advertises {}, which node {id} at {at} cannot reach", joiner.raft),
            "join with --advertise and an address that the other nodes reach",
        )
    } else {
        advertise(
            format!("node {id} advertises {at}, which the joining node cannot reach"),
            "restart that node with `stratavored run --advertise HOST` first, then join again",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p21_loopback_is_recognised_in_every_spelling() {
        for address in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:50053", "localhost:7", "a.localhost:7"] {
            assert!(is_loopback(address), "{address}");
        }
        for address in ["10.0.0.1:1", "[fe80::1]:1", "node-1.example:1", "localhost.example:1"] {
            assert!(!is_loopback(address), "{address}");
        }
    }
}
