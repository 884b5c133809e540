//! Raft traffic over tonic. Connections are made by an injected connector, so this crate knows no
//! certificates; it checks that both ends mean the same cluster and node.

pub(crate) mod client;
pub(crate) mod server;
mod wire;

use std::io;
use std::sync::Arc;

use futures::future::BoxFuture;
use stratavore_model::NodeId;
use tokio::io::{AsyncRead, AsyncWrite};

/// Metadata key with the cluster's id.
const CLUSTER_KEY: &str = "stratavore-cluster";
/// Metadata key with the id of the node that is meant.
const TARGET_KEY: &str = "stratavore-target";

/// Largest message on the raft port: a full append (64 entries of 1 MiB cannot be more) stays below.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Whom to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The peer's certificate must name this node.
    pub node: NodeId,
    /// `HOST:PORT` of its raft port.
    pub address: String,
}

/// An established, authenticated byte stream.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Transport for T {}

/// Connects to a peer's raft port, TLS included. It must end by itself within a second or so.
pub type Connector = Arc<dyn Fn(Peer) -> BoxFuture<'static, io::Result<Box<dyn Transport>>> + Send + Sync>;
