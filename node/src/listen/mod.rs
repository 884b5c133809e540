//! Sockets: binding them with a message that helps, accepting TLS on them, and bounding what strangers can hold.

pub(crate) mod accept;
pub(crate) mod bounds;
pub(crate) mod sockets;
pub(crate) mod stream;

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use tokio::net::{TcpListener, TcpSocket, lookup_host};

use crate::exit::{Code, Failure};

/// Connections the kernel may hold for us while a burst of agents or scripts connects.
const BACKLOG: u32 = 1024;

/// The default of about 208 KiB drops datagrams when thousands of agents reconnect at once.
const UDP_BUFFER_BYTES: usize = 8 * 1024 * 1024;

/// One port of the node: how people name it and where they change it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Port {
    pub(crate) name: &'static str,
    pub(crate) flag: &'static str,
    pub(crate) key: &'static str,
}

pub(crate) const GRPC: Port = Port { name: "grpc", flag: "--grpc-port", key: "daemon.grpc_port" };
pub(crate) const QUIC: Port = Port { name: "quic", flag: "--quic-port", key: "daemon.quic_port" };
pub(crate) const RAFT: Port = Port { name: "raft", flag: "--raft-port", key: "daemon.raft_port" };
pub(crate) const JOIN: Port = Port { name: "join", flag: "--join-port", key: "daemon.join_port" };
pub(crate) const METRICS: Port = Port { name: "metrics", flag: "--metrics-port", key: "daemon.metrics_port" };

/// Binds a TCP port.
///
/// # Errors
/// A taken port is [`Code::Conflict`] and names the port, the flag and the key.
pub(crate) fn tcp(port: Port, at: SocketAddr) -> Result<TcpListener, Failure> {
    let bind = || {
        let socket = if at.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(at)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|error| refused(port, "tcp", at, &error))
}

/// Binds a UDP port with large buffers.
///
/// # Errors
/// As [`tcp`].
pub(crate) fn udp(port: Port, at: SocketAddr) -> Result<UdpSocket, Failure> {
    let socket = UdpSocket::bind(at).map_err(|error| refused(port, "udp", at, &error))?;
    enlarge(&socket);
    Ok(socket)
}

/// Beyond the limit of `net.core.rmem_max` only with CAP_NET_ADMIN; a smaller buffer costs throughput, not correctness.
fn enlarge(socket: &UdpSocket) {
    use rustix::net::sockopt;
    let fd = socket.as_fd();
    if sockopt::set_socket_recv_buffer_size_force(fd, UDP_BUFFER_BYTES).is_err() {
        sockopt::set_socket_recv_buffer_size(fd, UDP_BUFFER_BYTES).ok();
    }
    sockopt::set_socket_send_buffer_size(fd, UDP_BUFFER_BYTES).ok();
}

fn refused(port: Port, protocol: &str, at: SocketAddr, error: &std::io::Error) -> Failure {
    let Port { name, flag, key } = port;
    let number = at.port();
    match error.kind() {
        std::io::ErrorKind::AddrInUse => Failure::new(
            Code::Conflict,
            format!("{name} port {number}/{protocol} on {} is taken by another process", at.ip()),
            format!("stop that process, or choose another port with {flag} or the key {key}"),
        ),
        std::io::ErrorKind::AddrNotAvailable => Failure::new(
            Code::Usage,
            format!("cannot listen on {at} ({name} port): this machine has no such address"),
            "give an address of this machine with daemon.listen or --listen",
        ),
        _ => Failure::new(
            Code::Generic,
            format!("cannot listen on {at}/{protocol} ({name} port): {error}"),
            format!("check {flag} and the key {key}"),
        ),
    }
}

/// The first address of `host`.
///
/// # Errors
/// [`Code::Usage`] when the name does not resolve.
pub(crate) async fn resolve(host: &str, port: u16) -> Result<SocketAddr, Failure> {
    let failed = |detail: String| {
        Failure::new(
            Code::Usage,
            format!("cannot resolve the address {host:?}: {detail}"),
            "give an IP address or a name that resolves, with --advertise or --listen",
        )
    };
    let mut addresses = lookup_host((host, port)).await.map_err(|error| failed(error.to_string()))?;
    addresses.next().ok_or_else(|| failed("no address".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named_with_flag_and_key() {
        let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let failure = tcp(GRPC, holder.local_addr().unwrap()).unwrap_err();
        assert_eq!(failure.code, Code::Conflict);
        let text = failure.to_string();
        let number = holder.local_addr().unwrap().port().to_string();
        for part in [number.as_str(), "--grpc-port", "daemon.grpc_port"] {
            assert!(text.contains(part), "{text}");
        }
        let holder = UdpSocket::bind("127.0.0.1:0").unwrap();
        let failure = udp(QUIC, holder.local_addr().unwrap()).unwrap_err();
        assert!(failure.to_string().contains("--quic-port"));
    }

    #[tokio::test]
    async fn a_name_that_does_not_resolve_is_a_usage_error() {
        let failure = resolve("no-such-host.invalid", 1).await.unwrap_err();
        assert_eq!(failure.code, Code::Usage);
    }
}
