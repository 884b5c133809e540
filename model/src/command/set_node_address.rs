//! `stratavored run --advertise`: where a node listens, and which version it is.

use std::net::IpAddr;

use super::finalize::check_new_enough;
use crate::cluster::{NodeAddresses, NodeRecord};
use crate::command::{Success, Verdict};
use crate::id::NodeId;
use crate::limits::bounded;
use crate::reply::{Code, Rejected, Reply};
use crate::row::Row;
use crate::tx::Tx;

/// Records a node's addresses and version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetNodeAddress {
    pub node: NodeId,
    pub addresses: NodeAddresses,
    pub version: String,
    /// P22: the newest cluster version that the node's program can apply.
    pub max_version: u32,
}

impl SetNodeAddress {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        let node = tx.state().node(self.node).filter(|node| !node.removed);
        let Some(node) = node.cloned() else {
            let message = format!("there is no node {}", self.node);
            return Err(Rejected::new(Code::NodeNotFound, message, "see `stratavore cluster status`"));
        };
        check_addresses(&self.addresses)?;
        check_new_enough(tx.state().cluster().map_or(1, |cluster| cluster.version), self.max_version)?;
        self.check_reach(tx)?;
        let max_version = self.max_version;
        let (addresses, version) = (self.addresses.clone(), bounded(&self.version));
        tx.put(Row::Node(NodeRecord { addresses, version, max_version, ..node }));
        Ok(Success::done(Reply::Node(self.node)))
    }

    /// P21: the way from loopback to real addresses is open, one member at a time; the way back is not.
    fn check_reach(&self, tx: &Tx<'_>) -> Result<(), Rejected> {
        let other = other_reach(tx, Reach::Loopback, Some(self.node));
        let Some(other) = other.filter(|_| Reach::of(&self.addresses) == Reach::Loopback) else {
            return Ok(());
        };
        let (raft, there) = (&self.addresses.raft, &other.addresses.raft);
        let message = format!("{raft} is loopback, and node {} at {there} could not dial it", other.id);
        let next = "start the node with `--advertise HOST`, a name or address that the others reach";
        Err(Rejected::new(Code::LoopbackAddress, message, next).field("addresses"))
    }
}

/// P21: which addresses a member can be dialled at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// From this machine only.
    Loopback,
    Remote,
}

impl Reach {
    /// By the address that its peers dial. A name is taken for a remote one, but for `localhost`.
    pub(super) fn of(addresses: &NodeAddresses) -> Self {
        let host = addresses.raft.rsplit_once(':').map_or(addresses.raft.as_str(), |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let here = match host.parse::<IpAddr>() {
            // An unspecified address means the dialler's own machine.
            Ok(ip) => ip.is_loopback() || ip.is_unspecified(),
            Err(_) => host.is_empty() || host.eq_ignore_ascii_case("localhost"),
        };
        if here { Self::Loopback } else { Self::Remote }
    }
}

/// A present member other than `except` that is reached otherwise than `reach`.
pub(super) fn other_reach(tx: &Tx<'_>, reach: Reach, except: Option<NodeId>) -> Option<NodeRecord> {
    let differs =
        |node: &&NodeRecord| !node.removed && Some(node.id) != except && Reach::of(&node.addresses) != reach;
    tx.state().nodes().find(differs).cloned()
}

/// Longest HOST:PORT: a DNS name of 253 bytes, a colon and a port.
const ADDRESS_BYTES_MAX: usize = 260;

pub(super) fn check_addresses(addresses: &NodeAddresses) -> Result<(), Rejected> {
    let all = [&addresses.grpc, &addresses.quic, &addresses.raft, &addresses.join];
    match all.into_iter().find(|address| address.len() > ADDRESS_BYTES_MAX) {
        None => Ok(()),
        Some(_) => {
            let message = format!("an address is longer than {ADDRESS_BYTES_MAX} bytes");
            Err(Rejected::bad_argument("addresses", message, "give HOST:PORT"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Command;
    use crate::lab::Lab;

    #[test]
    fn a_node_moves_itself_only() {
        let mut lab = Lab::new();
        let addresses = NodeAddresses { grpc: "10.0.0.1:50051".into(), ..NodeAddresses::default() };
        let set = |node| {
            let addresses = addresses.clone();
            Command::SetNodeAddress(SetNodeAddress {
                node: NodeId(node),
                addresses,
                version: "2".into(),
                max_version: crate::COMMAND_VERSION,
            })
        };
        lab.as_node(set(1)).unwrap();
        assert_eq!(lab.state.node(NodeId(1)).unwrap().addresses.grpc, "10.0.0.1:50051");
        assert_eq!(lab.as_node(set(2)).unwrap_err().code, Code::NotAllowed);
        assert_eq!(lab.user(set(2)).unwrap_err().code, Code::NodeNotFound);
    }
}
