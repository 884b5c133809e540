//! Identities of certificates <-> actors of the model.

use stratavore_certs::Identity;
use stratavore_model::{Actor, ClusterId, NodeId};

/// Who a certificate speaks for. `None` cannot happen for one that the handshake has verified: the rules are equal.
pub(crate) fn actor(identity: &Identity) -> Option<Actor> {
    match identity {
        Identity::Node { id, .. } => Some(Actor::Node(NodeId(*id))),
        Identity::Host { id, .. } => id.parse().ok().map(Actor::Host),
        Identity::User { name, .. } => name.parse().ok().map(Actor::User),
    }
}

/// What a certificate for `actor` says; the system has none.
pub(crate) fn identity(cluster: ClusterId, actor: &Actor) -> Option<Identity> {
    let cluster = cluster.to_string();
    match actor {
        Actor::System => None,
        Actor::Node(id) => Some(Identity::Node { cluster, id: id.0 }),
        Actor::Host(id) => Some(Identity::Host { cluster, id: id.to_string() }),
        Actor::User(name) => Some(Identity::User { cluster, name: name.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_survive_the_round_trip() {
        let cluster: ClusterId = "0123456789abcdef".parse().unwrap();
        for text in ["node/3", "host/0123456789", "user/alice"] {
            let wanted: Actor = text.parse().unwrap();
            let certified = identity(cluster, &wanted).unwrap();
            assert_eq!(certified.to_string(), format!("spiffe://{cluster}/{text}"));
            assert_eq!(actor(&certified), Some(wanted));
        }
        assert_eq!(identity(cluster, &Actor::System), None);
    }
}
