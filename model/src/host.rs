//! Hosts: machines that run things.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::id::{Epoch, HostId, HostName, NodeId, RunnerId};
use crate::identity::SpkiHash;
use crate::time::Millis;

/// `key -> value`, of hosts and as a requirement of runners.
pub type Labels = BTreeMap<String, String>;

/// Slots of a host whose agent named no number: roughly what a machine holds of idle sessions.
pub const SLOTS_DEFAULT: u32 = 1000;

/// Where a host stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum HostState {
    /// Has a registered key, never connected.
    Joined,
    Ready,
    /// No renewal for 1.01 leases; its runners are shown as lost (P7).
    Unreachable,
    Removed,
}

impl HostState {
    /// As it stands in tables and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Ready => "ready",
            Self::Unreachable => "unreachable",
            Self::Removed => "removed",
        }
    }
}

/// How a host can end a process tree whose agent and shim are gone (P11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
pub enum Fence {
    /// Not reported yet.
    #[default]
    Unknown,
    PidNamespace,
    Cgroup,
    Weak,
}

impl Fence {
    /// P11: whether a shim's death is sure to end the tree. Unknown promises nothing.
    #[must_use]
    pub const fn is_strong(self) -> bool {
        matches!(self, Self::PidNamespace | Self::Cgroup)
    }

    /// As it stands in messages and JSON; empty while unknown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "",
            Self::PidNamespace => "pidns",
            Self::Cgroup => "cgroup",
            Self::Weak => "weak",
        }
    }

    /// The inverse of [`Self::as_str`]; an unknown word promises nothing, so it is `Unknown`.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        match text {
            "pidns" => Self::PidNamespace,
            "cgroup" => Self::Cgroup,
            "weak" => Self::Weak,
            _ => Self::Unknown,
        }
    }
}

/// What an agent says about its machine when it connects.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct HostFacts {
    /// 0 = keep what the join said.
    pub slots: u32,
    /// 0 = not known; nothing that reserves cpu fits then.
    pub cpu_milli: u64,
    /// 0 = not known; nothing that reserves memory fits then.
    pub memory_bytes: u64,
    pub features: Vec<String>,
    pub fence: Fence,
}

/// P13: whether the shims of a host hold deadlines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum LeaseBound {
    /// The only host: its shims hold none, nothing of it is fenced.
    Unbounded,
    /// No longer the only one: bounded grants go out, and until all its shims are known to hold a deadline nothing of it
    /// is fenced.
    Bounding,
    Bounded,
}

impl LeaseBound {
    /// As it stands in messages and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unbounded => "unbounded",
            Self::Bounding => "bounding",
            Self::Bounded => "bounded",
        }
    }
}

/// The lease that belongs to a host epoch (P3, P9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct HostLease {
    pub ttl_ms: u64,
    pub bound: LeaseBound,
    /// P13: the longest hold that maintenance may have granted and that the host has not proved gone; 0 = none.
    pub widened_ms: u64,
}

/// P8: a new boot that has not yet been waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Reboot {
    /// The host epoch of the earlier boot: no renewal of it may come for so long as the holds are.
    pub old: Epoch,
    /// The entry that brought the new boot id; what was placed before it died with the earlier boot.
    pub at: Epoch,
}

/// A machine with an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostRecord {
    pub id: HostId,
    pub name: HostName,
    pub state: HostState,
    pub labels: Labels,
    pub slots: u32,
    pub cpu_milli: u64,
    pub memory_bytes: u64,
    pub features: Vec<String>,
    pub fence: Fence,
    /// Of the newest connection; empty until the first.
    pub boot_id: String,
    /// The one before: to come back to it means that two machines share this identity (P8).
    pub previous_boot_id: String,
    /// P3; none until the first connection, after a fence until the host has listed, and after removal.
    pub host_epoch: Option<Epoch>,
    /// The host epoch that ended last, while it has no successor: further coverage names it (P7).
    pub fenced: Option<Epoch>,
    /// P3: epochs that a fence covered and that no full list has shown dead yet.
    pub covered: BTreeMap<RunnerId, Epoch>,
    pub rebooted: Option<Reboot>,
    pub lease: HostLease,
    /// P30: it has not said what it runs since the incarnation was raised.
    pub unlisted: bool,
    /// Counted up by the agent, kept on its disk (P14).
    pub connection: u64,
    /// The node that proposed the newest connection.
    pub gateway: Option<NodeId>,
    pub cordoned: bool,
    /// P8: two machines took turns under this identity, and nobody has uncordoned it since.
    pub cloned: bool,
    /// Cordoned to be emptied: what may run elsewhere was asked to move.
    pub draining: bool,
    /// Its newest key.
    pub spki: SpkiHash,
    pub joined_at: Millis,
    /// When `state` was entered.
    pub since: Millis,
    pub agent_version: String,
}

/// What the runners on a host take of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
pub struct HostLoad {
    pub runners: u32,
    pub slots: u32,
    pub cpu_milli: u64,
    pub memory_bytes: u64,
}

impl fmt::Display for HostLoad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} slots, {} milli cpu, {} bytes", self.slots, self.cpu_milli, self.memory_bytes)
    }
}
