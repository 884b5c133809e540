//! Where this node is reached and where it listens: what `init` recorded, overridden by configuration and flags.

use std::net::{Ipv6Addr, SocketAddr};

use stratavore_model::NodeAddresses;

use crate::config::{Config, daemon, metrics};
use crate::data_dir::Ports;
use crate::exit::{Code, Failure};
use crate::listen;

/// Host names of RFC 1035 end here; nobody types a longer one.
const HOST_BYTES_MAX: usize = 253;

/// `HOST`, `HOST:PORT` or `[IPV6]:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertise {
    pub host: String,
    /// Of the gRPC port, when it was given.
    pub port: Option<u16>,
}

impl std::str::FromStr for Advertise {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not HOST or HOST:PORT");
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, rest)) => (host, Some(rest.strip_prefix(':').ok_or_else(wrong)?)),
            None if text.parse::<Ipv6Addr>().is_ok() => (text, None),
            None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'_');
        if host.is_empty() || host.len() > HOST_BYTES_MAX || !host.bytes().all(plain) {
            return Err(wrong());
        }
        let port = port.map(|port| port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong));
        Ok(Self { host: host.to_owned(), port: port.transpose()? })
    }
}

/// The ports to use: set ones first, then `recorded` ones, then the defaults.
pub(crate) fn ports(config: &Config, grpc: Option<u16>, recorded: Option<Ports>) -> Ports {
    let set = &config.daemon;
    let or = |set: Option<u16>, recorded: Option<u16>, default| set.or(recorded).unwrap_or(default);
    Ports {
        grpc: or(set.grpc_port.or(grpc), recorded.map(|r| r.grpc), daemon::GRPC_PORT),
        quic: or(set.quic_port, recorded.map(|r| r.quic), daemon::QUIC_PORT),
        raft: or(set.raft_port, recorded.map(|r| r.raft), daemon::RAFT_PORT),
        join: or(set.join_port, recorded.map(|r| r.join), daemon::JOIN_PORT),
        metrics: or(metrics::port(set, &config.metrics), recorded.map(|r| r.metrics), daemon::METRICS_PORT),
    }
}

/// What others dial.
pub(crate) fn advertised(host: &str, ports: Ports) -> NodeAddresses {
    let at = |port: u16| match host.parse::<Ipv6Addr>() {
        Ok(address) => SocketAddr::from((address, port)).to_string(),
        Err(_) => format!("{host}:{port}"),
    };
    NodeAddresses { grpc: at(ports.grpc), quic: at(ports.quic), raft: at(ports.raft), join: at(ports.join) }
}

/// What this node binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Binds {
    pub(crate) grpc: SocketAddr,
    pub(crate) quic: SocketAddr,
    pub(crate) raft: SocketAddr,
    pub(crate) join: SocketAddr,
    /// `None`: no HTTP port.
    pub(crate) metrics: Option<SocketAddr>,
}

/// The advertised address unless `daemon.listen` says another.
///
/// # Errors
/// The name does not resolve.
pub(crate) async fn binds(config: &Config, host: &str, ports: Ports) -> Result<Binds, Failure> {
    let host = config.daemon.listen.as_deref().unwrap_or(host);
    let at = listen::resolve(host, ports.grpc).await?.ip();
    let prometheus = &config.metrics.prometheus;
    let metrics = prometheus.listen.parse().map_err(|_| {
        Failure::new(
            Code::Usage,
            format!("metrics.prometheus.listen: {:?} is no address", prometheus.listen),
            "",
        )
    })?;
    Ok(Binds {
        grpc: (at, ports.grpc).into(),
        quic: (at, ports.quic).into(),
        raft: (at, ports.raft).into(),
        join: (at, ports.join).into(),
        metrics: prometheus.enabled.then_some(SocketAddr::new(metrics, ports.metrics)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advertise_takes_hosts_with_and_without_port() {
        let parse = |text: &str| text.parse::<Advertise>();
        let of = |host: &str, port| Ok(Advertise { host: host.into(), port });
        assert_eq!(parse("127.0.0.1"), of("127.0.0.1", None));
        assert_eq!(parse("node-1.example:7000"), of("node-1.example", Some(7000)));
        assert_eq!(parse("[::1]:7000"), of("::1", Some(7000)));
        assert_eq!(parse("[::1]"), of("::1", None));
        assert_eq!(parse("::1"), of("::1", None));
        for bad in ["", ":7000", "a:b", "a:0", "a:70000", "[::1", "a b", "a/b", &"x".repeat(300)] {
            assert!(parse(bad).is_err(), "{bad:?} passed");
        }
    }

    #[test]
    fn set_ports_beat_recorded_ones_which_beat_defaults() {
        let mut config = Config::default();
        config.daemon.raft_port = Some(7);
        let recorded = Ports { grpc: 1, quic: 2, raft: 3, join: 4, metrics: 5 };
        assert_eq!(ports(&config, None, Some(recorded)), Ports { raft: 7, ..recorded });
        assert_eq!(ports(&config, Some(9), None).grpc, 9);
        assert_eq!(ports(&config, None, None).join, daemon::JOIN_PORT);
    }

    #[test]
    fn ipv6_addresses_are_bracketed() {
        let ports = Ports { grpc: 1, quic: 2, raft: 3, join: 4, metrics: 5 };
        assert_eq!(advertised("::1", ports).grpc, "[::1]:1");
        assert_eq!(advertised("a.example", ports).join, "a.example:4");
    }
}
