//! The agent's configuration: defaults suffice.

use serde::{Deserialize, Serialize};
use stratavore_settings::log::LogOptions;

/// Sections that the agent reads.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentConfig {
    pub log: LogOptions,
    pub agent: AgentSection,
}

/// Section `agent`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentSection {
    /// Segmentation offload of the UDP socket. Off: some network drivers fail with it, and an agent gains nothing.
    pub udp_gso: bool,
    /// How long the output of ended runners stays, once the cluster has acknowledged their end.
    pub retain_days: u32,
    /// At most so many of them, the newest.
    pub retain_runners: u32,
    /// At most so much of their output.
    pub retain_bytes: u64,
}

impl Default for AgentSection {
    fn default() -> Self {
        Self { udp_gso: false, retain_days: 7, retain_runners: 10_000, retain_bytes: 10 * 1024 * 1024 * 1024 }
    }
}
