//! Which ports the local nodes take: the wanted ones, or for those nobody named the defaults, moving on when taken.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use serde::{Deserialize, Serialize};

use crate::args::PortArgs;
use crate::errors::{Exit, Failure, Result};

/// The ports of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ports {
    pub(crate) grpc: u16,
    pub(crate) quic: u16,
    pub(crate) raft: u16,
    pub(crate) join: u16,
    pub(crate) metrics: u16,
}

/// The first node's ports when nobody named others.
const DEFAULT: Ports = Ports { grpc: 50051, quic: 50052, raft: 50053, join: 50054, metrics: 9091 };

/// From one node's ports to the next one's, and from a block that is taken to the next.
const STEP: u16 = 10;

/// Blocks that are tried: a machine with more local clusters has other troubles.
const BLOCKS_MAX: u16 = 100;

/// Kinds of port that can be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp,
    Udp,
    /// TCP on loopback, whatever the nodes listen on.
    Metrics,
}

/// Whether a port can be bound on `listen` now.
pub(crate) fn is_free(listen: IpAddr, kind: Kind, port: u16) -> bool {
    match kind {
        Kind::Tcp => TcpListener::bind(SocketAddr::from((listen, port))).is_ok(),
        Kind::Udp => UdpSocket::bind(SocketAddr::from((listen, port))).is_ok(),
        Kind::Metrics => TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).is_ok(),
    }
}

/// Ports for `nodes` nodes.
///
/// # Errors
/// Exit 5 when a wanted port is taken, 2 when two are the same.
pub(crate) fn choose(wanted: PortArgs, nodes: u32, free: impl Fn(Kind, u16) -> bool) -> Result<Vec<Ports>> {
    let mut chosen: Vec<Ports> = Vec::new();
    let (mut block, mut metrics_block) = (0, 0);
    for node in 0..u16::try_from(nodes).unwrap_or(u16::MAX) {
        let wanted = shifted(wanted, node);
        refuse_taken(wanted, &free)?;
        let unclaimed = |kind, port| free(kind, port) && !chosen.iter().any(|ports| ports.claims(kind, port));
        let found = (block..BLOCKS_MAX).find_map(|at| {
            let candidate = candidate(wanted, at);
            let fits = [
                (Kind::Tcp, candidate.grpc),
                (Kind::Udp, candidate.quic),
                (Kind::Tcp, candidate.raft),
                (Kind::Tcp, candidate.join),
            ];
            fits.into_iter().all(|(kind, port)| unclaimed(kind, port)).then_some((at, candidate))
        });
        let metrics = (metrics_block..BLOCKS_MAX).find_map(|at| {
            let port = wanted.metrics_port.unwrap_or(DEFAULT.metrics + at);
            unclaimed(Kind::Metrics, port).then_some((at, port))
        });
        let (Some((at, mut ports)), Some((metrics_at, metrics))) = (found, metrics) else {
            return Err(Failure::new(Exit::Conflict, "there are no free ports for the local cluster")
                .cause(format!("the defaults from {} and {} on are taken", DEFAULT.grpc, DEFAULT.metrics))
                .next("give --grpc-port, --quic-port, --raft-port, --join-port and --metrics-port"));
        };
        ports.metrics = metrics;
        refuse_equal(ports)?;
        (block, metrics_block) = (at + 1, metrics_at + 1);
        chosen.push(ports);
    }
    Ok(chosen)
}

impl Ports {
    /// As flags of a node.
    pub(crate) fn flags(self) -> Vec<String> {
        let Self { grpc, quic, raft, join, metrics } = self;
        let named = [("grpc", grpc), ("quic", quic), ("raft", raft), ("join", join), ("metrics", metrics)];
        named.into_iter().flat_map(|(name, port)| [format!("--{name}-port"), port.to_string()]).collect()
    }

    fn claims(&self, kind: Kind, port: u16) -> bool {
        match kind {
            Kind::Udp => self.quic == port,
            Kind::Tcp | Kind::Metrics => [self.grpc, self.raft, self.join, self.metrics].contains(&port),
        }
    }
}

/// The wanted ports of a later node are those of the first, a step on.
fn shifted(wanted: PortArgs, node: u16) -> PortArgs {
    let shift = |port: Option<u16>, step: u16| port.map(|port| port.saturating_add(node * step));
    PortArgs {
        grpc_port: shift(wanted.grpc_port, STEP),
        quic_port: shift(wanted.quic_port, STEP),
        raft_port: shift(wanted.raft_port, STEP),
        join_port: shift(wanted.join_port, STEP),
        metrics_port: shift(wanted.metrics_port, 1),
    }
}

fn candidate(wanted: PortArgs, block: u16) -> Ports {
    let at = |wanted: Option<u16>, default: u16| wanted.unwrap_or(default + block * STEP);
    Ports {
        grpc: at(wanted.grpc_port, DEFAULT.grpc),
        quic: at(wanted.quic_port, DEFAULT.quic),
        raft: at(wanted.raft_port, DEFAULT.raft),
        join: at(wanted.join_port, DEFAULT.join),
        metrics: DEFAULT.metrics,
    }
}

/// A port that was asked for is taken or refused, never silently replaced.
fn refuse_taken(wanted: PortArgs, free: impl Fn(Kind, u16) -> bool) -> Result<()> {
    let named = [
        ("--grpc-port", Kind::Tcp, wanted.grpc_port),
        ("--quic-port", Kind::Udp, wanted.quic_port),
        ("--raft-port", Kind::Tcp, wanted.raft_port),
        ("--join-port", Kind::Tcp, wanted.join_port),
        ("--metrics-port", Kind::Metrics, wanted.metrics_port),
    ];
    for (flag, kind, port) in named {
        let Some(port) = port else { continue };
        if port == 0 {
            return Err(Failure::usage(format!("{flag} 0 cannot be used"))
                .cause("others must know the port")
                .next(format!("give {flag} a number, or leave it out")));
        }
        if !free(kind, port) {
            let protocol = if kind == Kind::Udp { "UDP" } else { "TCP" };
            return Err(Failure::new(Exit::Conflict, format!("port {port} is taken"))
                .cause(format!("another program holds {protocol} port {port}, which {flag} names"))
                .next(format!("give {flag} another number, or leave it out to take a free one")));
        }
    }
    Ok(())
}

fn refuse_equal(ports: Ports) -> Result<()> {
    let tcp = [ports.grpc, ports.raft, ports.join, ports.metrics];
    match (0..tcp.len()).find(|at| tcp[..*at].contains(&tcp[*at])) {
        None => Ok(()),
        Some(at) => Err(Failure::usage(format!("port {} is named twice", tcp[at]))
            .cause("gRPC, raft, join and metrics each need a port of their own")
            .next("stratavore up --help")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(ports: &'static [u16]) -> impl Fn(Kind, u16) -> bool {
        move |_, port| !ports.contains(&port)
    }

    #[test]
    fn the_defaults_are_taken_when_free() {
        assert_eq!(choose(PortArgs::default(), 1, taken(&[])).unwrap(), [DEFAULT]);
    }

    #[test]
    fn a_taken_default_moves_the_block_and_metrics_move_alone() {
        let moved = choose(PortArgs::default(), 1, taken(&[50053, 9091, 9092])).unwrap();
        assert_eq!(moved, [Ports { grpc: 50061, quic: 50062, raft: 50063, join: 50064, metrics: 9093 }]);
    }

    #[test]
    fn several_nodes_are_a_step_apart_and_never_collide() {
        let three = choose(PortArgs::default(), 3, taken(&[50061])).unwrap();
        assert_eq!(three.iter().map(|p| p.grpc).collect::<Vec<_>>(), [50051, 50071, 50081]);
        assert_eq!(three.iter().map(|p| p.metrics).collect::<Vec<_>>(), [9091, 9092, 9093]);
        let wanted = PortArgs { grpc_port: Some(20000), ..Default::default() };
        let named = choose(wanted, 2, taken(&[])).unwrap();
        assert_eq!(named.iter().map(|p| p.grpc).collect::<Vec<_>>(), [20000, 20010]);
    }

    #[test]
    fn a_named_port_is_taken_or_refused() {
        let wanted = PortArgs { grpc_port: Some(20000), metrics_port: Some(20009), ..Default::default() };
        let ports = choose(wanted, 1, taken(&[50052])).unwrap()[0];
        assert_eq!((ports.grpc, ports.quic, ports.metrics), (20000, 50062, 20009));
        let refused = choose(wanted, 1, taken(&[20009])).unwrap_err();
        assert_eq!(refused.exit(), Exit::Conflict);
        assert!(refused.render().contains("--metrics-port"), "{}", refused.render());
    }

    #[test]
    fn zero_and_doubled_ports_are_usage_errors() {
        let zero = PortArgs { raft_port: Some(0), ..Default::default() };
        assert_eq!(choose(zero, 1, taken(&[])).unwrap_err().exit(), Exit::Usage);
        let doubled = PortArgs { grpc_port: Some(20000), join_port: Some(20000), ..Default::default() };
        assert_eq!(choose(doubled, 1, taken(&[])).unwrap_err().exit(), Exit::Usage);
    }

    #[test]
    fn a_bound_port_is_not_free() {
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = held.local_addr().unwrap().port();
        assert!(!is_free(Ipv4Addr::LOCALHOST.into(), Kind::Tcp, port));
        drop(held);
        assert!(is_free(Ipv4Addr::LOCALHOST.into(), Kind::Tcp, port));
    }
}
