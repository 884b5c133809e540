//! All sockets of a node.

use std::net::UdpSocket;

use tokio::net::TcpListener;

use crate::address::Binds;
use crate::exit::Failure;
use crate::listen;
use crate::server::Addresses;

/// Sockets are bound before anything else is opened, so that a taken port is told at once.
pub(crate) struct Sockets {
    pub(crate) grpc: TcpListener,
    pub(crate) quic: UdpSocket,
    pub(crate) raft: TcpListener,
    pub(crate) join: TcpListener,
    pub(crate) metrics: Option<TcpListener>,
}

impl Sockets {
    /// # Errors
    /// A taken port, with its flag and key.
    pub(crate) fn bind(binds: &Binds) -> Result<Self, Failure> {
        Ok(Self {
            grpc: listen::tcp(listen::GRPC, binds.grpc)?,
            quic: listen::udp(listen::QUIC, binds.quic)?,
            raft: listen::tcp(listen::RAFT, binds.raft)?,
            join: listen::tcp(listen::JOIN, binds.join)?,
            metrics: binds.metrics.map(|at| listen::tcp(listen::METRICS, at)).transpose()?,
        })
    }

    /// # Errors
    /// The system does not say where a socket is.
    pub(crate) fn addresses(&self) -> std::io::Result<Addresses> {
        Ok(Addresses {
            grpc: self.grpc.local_addr()?,
            quic: self.quic.local_addr()?,
            raft: self.raft.local_addr()?,
            join: self.join.local_addr()?,
            metrics: self.metrics.as_ref().map(TcpListener::local_addr).transpose()?,
        })
    }
}
