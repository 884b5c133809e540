//! gRPC to other nodes' API ports: one lazy connection per node, made again when it moves.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use stratavore_model::NodeId;
use stratavore_raft::Handle;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::peer::dial::Dialer;

/// A silent peer is noticed before a viewer gives up.
const KEEPALIVE: Duration = Duration::from_secs(2);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(4);

/// Why there is no way to a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PeerError {
    #[error("node {0} is not a node of this cluster, or was removed")]
    Unknown(NodeId),
}

/// One channel and the address it leads to.
struct Way {
    address: String,
    channel: Channel,
}

/// Channels to the API ports of other nodes. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Channels {
    raft: Handle,
    dialer: Dialer,
    ways: Arc<Mutex<BTreeMap<NodeId, Way>>>,
}

impl Channels {
    pub(crate) fn new(raft: Handle, dialer: Dialer) -> Self {
        Self { raft, dialer, ways: Arc::default() }
    }

    /// A channel to `node`'s API port; calls over it carry this node's certificate. Nothing is dialled before the first
    /// call.
    ///
    /// # Errors
    /// No such node in the applied state.
    pub(crate) fn channel(&self, node: NodeId) -> Result<Channel, PeerError> {
        let address = self.raft.read(|state| {
            state.node(node).filter(|node| !node.removed).map(|node| node.addresses.grpc.clone())
        });
        let mut ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(address) = address else {
            ways.remove(&node);
            return Err(PeerError::Unknown(node));
        };
        if let Some(way) = ways.get(&node).filter(|way| way.address == address) {
            return Ok(way.channel.clone());
        }
        let channel = self.connect(node, address.clone());
        ways.insert(node, Way { address, channel: channel.clone() });
        Ok(channel)
    }

    fn connect(&self, node: NodeId, address: String) -> Channel {
        let dialer = self.dialer.clone();
        let service = tower::service_fn(move |_: Uri| {
            let (dialer, address) = (dialer.clone(), address.clone());
            async move { Ok::<_, io::Error>(TokioIo::new(dialer.dial(node, &address).await?)) }
        });
        // The name is not resolved: the connector dials the node itself.
        Endpoint::from_static("http://node.invalid")
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(false)
            .connect_with_connector_lazy(service)
    }
}
