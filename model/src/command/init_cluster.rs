//! The first entry of a cluster.

use super::finalize::check_new_enough;
use crate::cluster::{ClockRecord, ClusterRecord, LeaseNumbers, NodeAddresses, NodeRecord, SecretBytes};
use crate::command::{Success, Verdict};
use crate::event::EventKind;
use crate::id::{ClusterId, Incarnation, NodeId, TokenId, UserName};
use crate::identity::{Actor, KeyRecord, SpkiHash, UserRecord};
use crate::limits::bounded;
use crate::reply::{Code, Rejected, Reply};
use crate::row::Row;
use crate::time::Millis;
use crate::tx::Tx;

/// Founds the cluster: its CA, its first node and its first user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitCluster {
    pub cluster: ClusterId,
    pub nonce: [u8; 16],
    pub lease: LeaseNumbers,
    pub ca_cert_der: Vec<u8>,
    pub ca_key_der: SecretBytes,
    pub node: NodeId,
    pub node_addresses: NodeAddresses,
    pub node_spki: SpkiHash,
    pub node_version: String,
    /// P22: of the founding program: what its entries mean, and the newest that it could apply.
    pub version: u32,
    pub node_max_version: u32,
    pub admin: UserName,
    pub admin_spki: SpkiHash,
}

impl InitCluster {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        if let Some(cluster) = tx.state().cluster() {
            let message = format!("this is already cluster {}", cluster.id);
            return Err(Rejected::new(Code::AlreadyInitialized, message, "start it with `stratavored run`"));
        }
        if self.node_spki == self.admin_spki {
            return Err(key_in_use("admin_spki"));
        }
        check_new_enough(self.version.max(1), self.node_max_version)?;
        let now = tx.now();
        tx.put(Row::Cluster(Box::new(ClusterRecord {
            id: self.cluster,
            incarnation: Incarnation { n: 1, nonce: self.nonce },
            created_at: now,
            lease: self.lease,
            ca_cert_der: self.ca_cert_der.clone(),
            ca_key_der: self.ca_key_der.clone(),
            version: self.version.max(1),
            next_node: NodeId(self.node.0.saturating_add(1)),
            raised_at_index: 0,
            maintenance: None,
        })));
        tx.put_clock(ClockRecord { now, age: now, dedup_floor: Millis(0) });
        tx.put(Row::Node(NodeRecord {
            id: self.node,
            addresses: self.node_addresses.clone(),
            spki: self.node_spki,
            version: bounded(&self.node_version),
            max_version: self.node_max_version,
            joined_at: now,
            removed: false,
        }));
        tx.put(Row::User(UserRecord { name: self.admin.clone(), created_at: now, removed: false }));
        register(tx, self.node_spki, Actor::Node(self.node), None)?;
        register(tx, self.admin_spki, Actor::User(self.admin.clone()), None)?;
        tx.event(EventKind::ClusterInitialized, &format!("cluster {}", self.cluster));
        tx.event(EventKind::NodeJoined, &format!("node {}", self.node));
        tx.event(EventKind::UserJoined, &format!("user {}", self.admin));
        Ok(Success::done(Reply::Node(self.node)))
    }
}

/// Registers a key that nobody has.
pub(crate) fn register(
    tx: &mut Tx<'_>,
    spki: SpkiHash,
    identity: Actor,
    token: Option<TokenId>,
) -> Result<(), Rejected> {
    if tx.state().key(&spki).is_some() {
        return Err(key_in_use("spki"));
    }
    let registered_at = tx.now();
    tx.put(Row::Key(KeyRecord { spki, identity, registered_at, token, removed: false }));
    Ok(())
}

fn key_in_use(field: &str) -> Rejected {
    let message = "this key is registered already";
    Rejected::new(Code::IdTaken, message, "make a new key: start over in an empty data directory")
        .field(field)
}

#[cfg(test)]
mod tests {
    use crate::lab::{Lab, init};
    use crate::{Actor, Code, EventKind, query};

    #[test]
    fn founds_the_cluster_with_node_and_admin() {
        let lab = Lab::new();
        assert_eq!(lab.state.incarnation(), 1);
        assert_eq!(lab.state.nodes().count(), 1);
        let admin = Actor::User("admin".parse().unwrap());
        assert_eq!(query::admission(&lab.state, &[2; 32], &admin), query::Admission::Admitted);
        assert_eq!(query::admission(&lab.state, &[1; 32], &admin), query::Admission::Unknown);
        assert_eq!(lab.events_of(EventKind::ClusterInitialized), 1);
    }

    #[test]
    fn happens_once() {
        let mut lab = Lab::new();
        assert_eq!(lab.system(init()).unwrap_err().code, Code::AlreadyInitialized);
    }

    #[test]
    fn nothing_else_comes_before_it() {
        let mut lab = Lab::empty();
        assert_eq!(lab.create_project("web", 1).unwrap_err().code, Code::NotInitialized);
    }
}
