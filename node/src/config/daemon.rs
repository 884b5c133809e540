//! `daemon`: where the node listens and how often it looks at everything again.

use serde::{Deserialize, Serialize};

use crate::config::Problem;

/// Ports of a node when neither `init` nor the configuration names others.
pub const GRPC_PORT: u16 = 50051;
/// See [`GRPC_PORT`].
pub const QUIC_PORT: u16 = 50052;
/// See [`GRPC_PORT`].
pub const RAFT_PORT: u16 = 50053;
/// See [`GRPC_PORT`].
pub const JOIN_PORT: u16 = 50054;
/// See [`GRPC_PORT`].
pub const METRICS_PORT: u16 = 9091;

/// Periods above a day are typing errors.
const INTERVAL_SECONDS_MAX: u64 = 86_400;

/// Section `daemon`. Ports that are not set are those that `init` recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Daemon {
    pub grpc_port: Option<u16>,
    pub quic_port: Option<u16>,
    pub raft_port: Option<u16>,
    pub join_port: Option<u16>,
    pub metrics_port: Option<u16>,
    /// Address to bind instead of the advertised one, for example `0.0.0.0`.
    pub listen: Option<String>,
    /// How often agents report the load of their machine. Liveness is the lease's matter.
    pub heartbeat_interval_seconds: u64,
    /// How often agents and nodes exchange their full sets, whatever was said before.
    pub reconcile_interval_seconds: u64,
}

impl Default for Daemon {
    fn default() -> Self {
        Self {
            grpc_port: None,
            quic_port: None,
            raft_port: None,
            join_port: None,
            metrics_port: None,
            listen: None,
            heartbeat_interval_seconds: 10,
            reconcile_interval_seconds: 30,
        }
    }
}

impl Daemon {
    pub(crate) fn validate(&self) -> Vec<Problem> {
        let mut problems = self.ports_in_conflict();
        let intervals = [
            ("daemon.heartbeat_interval_seconds", self.heartbeat_interval_seconds),
            ("daemon.reconcile_interval_seconds", self.reconcile_interval_seconds),
        ];
        for (key, seconds) in intervals {
            if !(1..=INTERVAL_SECONDS_MAX).contains(&seconds) {
                problems.push(Problem::new(
                    key,
                    format!("{seconds} is not between 1 and {INTERVAL_SECONDS_MAX}"),
                ));
            }
        }
        problems
    }

    /// QUIC is UDP, so it may share a number with a TCP port; port 0 takes whatever is free.
    fn ports_in_conflict(&self) -> Vec<Problem> {
        let tcp = [
            ("daemon.grpc_port", self.grpc_port),
            ("daemon.raft_port", self.raft_port),
            ("daemon.join_port", self.join_port),
            ("daemon.metrics_port", self.metrics_port),
        ];
        let mut problems = Vec::new();
        for (n, (key, port)) in tcp.iter().enumerate() {
            let Some(port) = port.filter(|port| *port != 0) else { continue };
            if let Some((other, _)) = tcp.iter().take(n).find(|(_, taken)| *taken == Some(port)) {
                problems.push(Problem::new(key, format!("port {port} is already used by {other}")));
            }
        }
        problems
    }
}
