//! Raft's clocks and bounds, as openraft's configuration.

use std::sync::Arc;

use openraft::{Config, SnapshotPolicy};

use crate::error::OpenError;

/// P19: entries kept behind a snapshot, so that live followers are fed entries and not snapshots.
pub const KEPT_LOG_ENTRIES: u64 = 200_000;

/// So many snapshots are made while as many entries as are kept are written: the work is milliseconds.
const SNAPSHOTS_PER_KEPT_LOG: u64 = 4;

/// A follower further behind is fed a snapshot; only a new or long dead one is.
const LAG_MAX: u64 = 1_000_000;

/// So many purges go over the kept log.
const PURGES_PER_KEPT_LOG: u64 = 20;

/// Entries of one append.
const PAYLOAD_ENTRIES_MAX: u64 = 1024;

/// Heartbeats and elections, in milliseconds, and how much of the log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaftTimings {
    pub heartbeat_ms: u64,
    pub election_min_ms: u64,
    pub election_max_ms: u64,
    /// P19: a follower that is further behind is fed a snapshot.
    pub kept_log_entries: u64,
}

impl Default for RaftTimings {
    /// For one site: a dead leader is replaced in about two seconds.
    fn default() -> Self {
        Self {
            heartbeat_ms: 100,
            election_min_ms: 500,
            election_max_ms: 1000,
            kept_log_entries: KEPT_LOG_ENTRIES,
        }
    }
}

impl RaftTimings {
    /// For overloaded machines and test boxes.
    #[must_use]
    pub const fn slow() -> Self {
        Self {
            heartbeat_ms: 250,
            election_min_ms: 1500,
            election_max_ms: 3000,
            kept_log_entries: KEPT_LOG_ENTRIES,
        }
    }

    pub(crate) fn config(self, cluster: &str) -> Result<Arc<Config>, OpenError> {
        let config = Config {
            cluster_name: cluster.to_string(),
            heartbeat_interval: self.heartbeat_ms,
            election_timeout_min: self.election_min_ms,
            election_timeout_max: self.election_max_ms,
            install_snapshot_timeout: crate::network::client::SNAPSHOT_TIMEOUT.as_millis() as u64,
            max_payload_entries: PAYLOAD_ENTRIES_MAX,
            replication_lag_threshold: LAG_MAX,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(
                (self.kept_log_entries / SNAPSHOTS_PER_KEPT_LOG).max(1),
            ),
            max_in_snapshot_log_to_keep: self.kept_log_entries,
            purge_batch_size: (self.kept_log_entries / PURGES_PER_KEPT_LOG).max(1),
            api_batch_linger_ms: 0,
            // A restarted leader takes a new term: its lease tables died with the process (P7).
            enable_leader_restore: Some(false),
            enable_pre_vote: Some(true),
            allow_log_reversion: Some(false),
            // At least the lease and one election, as openraft asks.
            quorum_loss_probe_interval: Some(2 * self.election_max_ms),
            ..Config::default()
        };
        config.validate().map(Arc::new).map_err(|error| OpenError::Timings(error.to_string()))
    }
}
