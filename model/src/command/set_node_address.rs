//! `stratavored run --advertise`: where a node listens, and which version it is.

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
}

impl SetNodeAddress {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        let node = tx.state().node(self.node).filter(|node| !node.removed);
        let Some(node) = node.cloned() else {
            let message = format!("there is no node {}", self.node);
            return Err(Rejected::new(Code::NodeNotFound, message, "see `stratavore cluster status`"));
        };
        check_addresses(&self.addresses)?;
        let (addresses, version) = (self.addresses.clone(), bounded(&self.version));
        tx.put(Row::Node(NodeRecord { addresses, version, ..node }));
        Ok(Success::done(Reply::Node(self.node)))
    }
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
            Command::SetNodeAddress(SetNodeAddress { node: NodeId(node), addresses, version: "2".into() })
        };
        lab.as_node(set(1)).unwrap();
        assert_eq!(lab.state.node(NodeId(1)).unwrap().addresses.grpc, "10.0.0.1:50051");
        assert_eq!(lab.as_node(set(2)).unwrap_err().code, Code::NotAllowed);
        assert_eq!(lab.user(set(2)).unwrap_err().code, Code::NodeNotFound);
    }
}
