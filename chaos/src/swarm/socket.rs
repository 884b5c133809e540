//! UDP sockets of simulated agents, with the transport numbers of the real agent.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ClientConfig, Endpoint, EndpointConfig, MtuDiscoveryConfig, TokioRuntime, TransportConfig, VarInt,
};
use rustix::net::sockopt;
use stratavore_certs::{Credentials, tls};

/// Many agents behind one socket: what each real one has for itself.
const BUFFER_BYTES: usize = 8 << 20;

/// As the real agent's, see `agent/src/link/dial.rs`.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const IDLE_TIMEOUT_MS: u32 = 45_000;
const INITIAL_RTT: Duration = Duration::from_millis(50);
const MTU_MAX: u16 = 8952;
const STREAMS_MAX: u32 = 64;

/// A socket of its own.
///
/// # Errors
/// None can be had.
pub fn endpoint() -> std::io::Result<Endpoint> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let fd = socket.as_fd();
    if sockopt::set_socket_recv_buffer_size_force(fd, BUFFER_BYTES).is_err() {
        sockopt::set_socket_recv_buffer_size(fd, BUFFER_BYTES).ok();
    }
    sockopt::set_socket_send_buffer_size(fd, BUFFER_BYTES).ok();
    Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime))
}

/// How one host dials.
///
/// # Errors
/// The credentials are of no use for it.
pub fn client(credentials: &Credentials) -> anyhow::Result<ClientConfig> {
    let crypto = QuicClientConfig::try_from(tls::quic_client(credentials, None)?)?;
    let mut client = ClientConfig::new(Arc::new(crypto));
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(MTU_MAX);
    let mut transport = TransportConfig::default();
    transport
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(VarInt::from_u32(IDLE_TIMEOUT_MS).into()))
        .initial_rtt(INITIAL_RTT)
        .mtu_discovery_config(Some(mtu))
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None);
    client.transport_config(Arc::new(transport));
    Ok(client)
}
