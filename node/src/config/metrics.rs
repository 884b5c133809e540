//! `metrics`: the HTTP port for Prometheus and probes.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::config::Problem;
use crate::config::daemon::Daemon;

/// Section `metrics`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    pub prometheus: Prometheus,
}

/// Section `metrics.prometheus`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Prometheus {
    /// False: no HTTP port at all.
    pub enabled: bool,
    /// The port is without TLS and without authentication, so it stays on loopback unless this says otherwise.
    pub listen: String,
    /// Another name of `daemon.metrics_port`.
    pub port: Option<u16>,
}

impl Default for Prometheus {
    fn default() -> Self {
        Self { enabled: true, listen: "127.0.0.1".to_owned(), port: None }
    }
}

impl Metrics {
    pub(crate) fn validate(&self, daemon: &Daemon) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.prometheus.listen.parse::<IpAddr>().is_err() {
            let message = format!("{:?} is not an IP address", self.prometheus.listen);
            problems.push(Problem::new("metrics.prometheus.listen", message));
        }
        if let (Some(port), Some(other)) = (self.prometheus.port, daemon.metrics_port)
            && port != other
        {
            let message = format!("{port} differs from daemon.metrics_port ({other}); set one of them");
            problems.push(Problem::new("metrics.prometheus.port", message));
        }
        problems
    }
}

/// The port that was set, if one was.
pub(crate) fn port(daemon: &Daemon, metrics: &Metrics) -> Option<u16> {
    daemon.metrics_port.or(metrics.prometheus.port)
}
