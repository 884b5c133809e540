//! The cluster's own rows: what is fixed at its birth, and the clock that every entry moves.

use std::fmt;

use serde::Serialize;

use crate::id::{ClusterId, Incarnation, NodeId};
use crate::identity::SpkiHash;
use crate::time::Millis;

/// Lease and hold lengths, replicated and fixed at init (P5, P7, P9, P13). All in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LeaseNumbers {
    pub ttl_ms: u64,
    pub renew_ms: u64,
    pub kill_grace_ms: u64,
    pub hold_ms: u64,
    pub hold_max_ms: u64,
}

impl Default for LeaseNumbers {
    fn default() -> Self {
        Self { ttl_ms: 15_000, renew_ms: 2_000, kill_grace_ms: 3_000, hold_ms: 120_000, hold_max_ms: 600_000 }
    }
}

/// P13: while it lasts the lease and every hold are longer by `hold_ms`, so that a planned absence of the control plane
/// ends nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Maintenance {
    /// State time. It only stops wide grants; what was granted is honoured until the hosts prove it gone (P4).
    pub until: Millis,
    pub hold_ms: u64,
    /// The entry that asked for it: what was decided before that says nothing about it.
    pub at: u64,
}

/// A private key that never shows up in a log line and leaves memory zeroed.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct SecretBytes(Vec<u8>);

impl SecretBytes {
    /// Takes the bytes over.
    #[must_use]
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes, for the one place that signs or persists with them.
    #[must_use]
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretBytes({} bytes, not shown)", self.0.len())
    }
}

impl Drop for SecretBytes {
    fn drop(&mut self) {
        self.0.fill(0);
        // Without a use after the write the compiler may drop the write.
        std::hint::black_box(&self.0);
    }
}

/// Written at init, at a raised incarnation, when nodes join, for maintenance and at `cluster finalize`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClusterRecord {
    pub id: ClusterId,
    pub incarnation: Incarnation,
    pub created_at: Millis,
    pub lease: LeaseNumbers,
    pub ca_cert_der: Vec<u8>,
    /// Replicated state: voters and learners only.
    pub ca_key_der: SecretBytes,
    /// P22: what entries mean; raised by `cluster finalize` only.
    pub version: u32,
    /// The id the next node gets; ids are never reused.
    pub next_node: NodeId,
    /// Log index of the entry that raised the incarnation, 0 in the first: what became pending up to it is placed only
    /// when every host has listed what it runs (P30).
    pub raised_at_index: u64,
    /// The newest, over or not.
    pub maintenance: Option<Maintenance>,
}

impl Maintenance {
    /// Ended at `now` at the latest.
    #[must_use]
    pub fn over(self, now: Millis) -> Self {
        Self { until: self.until.min(now), ..self }
    }
}

impl ClusterRecord {
    /// The hold that maintenance grants at state time `now`; 0 = none is on.
    #[must_use]
    pub fn widening(&self, now: Millis) -> u64 {
        self.maintenance.filter(|maintenance| now < maintenance.until).map_or(0, |m| m.hold_ms)
    }
}

/// The part that nearly every entry moves, kept apart so that each writes little.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct ClockRecord {
    /// Leader-stamped wall time, monotone but for `cluster clock reset` (P4).
    pub now: Millis,
    /// What deletion by age goes by: follows `now` at no more than one day per real hour (P4).
    pub age: Millis,
    /// P25: request ids (uuid v7) minted before this are unknown for good.
    pub dedup_floor: Millis,
}

/// Where a node listens, `HOST:PORT` each.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct NodeAddresses {
    pub grpc: String,
    pub quic: String,
    pub raft: String,
    pub join: String,
}

/// A control-plane node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeRecord {
    pub id: NodeId,
    pub addresses: NodeAddresses,
    /// Its newest key.
    pub spki: SpkiHash,
    /// Of the program, for people.
    pub version: String,
    /// P22: the newest cluster version that its program can apply.
    pub max_version: u32,
    pub joined_at: Millis,
    pub removed: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        let secret = SecretBytes::new(b"top secret".to_vec());
        assert_eq!(format!("{secret:?}"), "SecretBytes(10 bytes, not shown)");
        assert_eq!(secret.reveal(), b"top secret");
    }
}
