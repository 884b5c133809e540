//! Arguments of the local cluster: `up`, `down` and the hidden supervisor between them.

use std::path::PathBuf;

use clap::Args;

/// P21: a cluster grows to five voters; more would only slow every commit down.
const NODES_MAX: i64 = 5;

/// Each is a process with a connection of its own; a hundred pretended hosts are a benchmark, not a cluster.
const AGENTS_MAX: i64 = 99;

/// `up`.
#[derive(Debug, Clone, Args)]
pub(crate) struct UpArgs {
    /// Control-plane nodes: 1, 3 or 5 (default: as many as the local cluster has, 1 for a new one).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=NODES_MAX))]
    pub(crate) nodes: Option<u32>,
    /// Agents, one per pretended host (default: as many as the local cluster has, 1 for a new one).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=AGENTS_MAX))]
    pub(crate) agents: Option<u32>,
    /// An even number of nodes, although it adds no availability.
    #[arg(long)]
    pub(crate) allow_even: bool,
    /// Logs in this terminal; Ctrl-C ends everything.
    #[arg(long)]
    pub(crate) foreground: bool,
    #[command(flatten)]
    pub(crate) ports: PortArgs,
    /// Address the nodes listen on and are reached at.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub(crate) listen: std::net::IpAddr,
}

/// Ports of the first node; without a flag its default, moving on when that is taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Args)]
pub(crate) struct PortArgs {
    /// gRPC (default 50051).
    #[arg(long, value_name = "PORT")]
    pub(crate) grpc_port: Option<u16>,
    /// QUIC, for agents (default 50052).
    #[arg(long, value_name = "PORT")]
    pub(crate) quic_port: Option<u16>,
    /// Raft, between nodes (default 50053).
    #[arg(long, value_name = "PORT")]
    pub(crate) raft_port: Option<u16>,
    /// Joining (default 50054).
    #[arg(long, value_name = "PORT")]
    pub(crate) join_port: Option<u16>,
    /// Metrics, on loopback (default 9091).
    #[arg(long, value_name = "PORT")]
    pub(crate) metrics_port: Option<u16>,
}

/// `down`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DownArgs {
    /// Remove its data and its context too.
    #[arg(long)]
    pub(crate) purge: bool,
}

/// The supervisor that `up` leaves behind.
#[derive(Debug, Clone, Args)]
pub(crate) struct SuperviseArgs {
    /// The local cluster's state directory.
    #[arg(long)]
    pub(crate) state: PathBuf,
}
