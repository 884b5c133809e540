//! Counters of the storage and commit path, read without locks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the latency buckets, in microseconds: from half an fdatasync on a good disk to "stuck".
pub const LATENCY_BUCKETS_US: [u64; 14] =
    [100, 200, 400, 600, 1_000, 2_000, 4_000, 8_000, 16_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000];

#[derive(Debug, Default)]
pub(crate) struct Latency {
    buckets: [AtomicU64; LATENCY_BUCKETS_US.len()],
    count: AtomicU64,
    sum_us: AtomicU64,
}

impl Latency {
    pub(crate) fn observe(&self, elapsed: Duration) {
        let us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        if let Some(bucket) = LATENCY_BUCKETS_US.iter().position(|bound| us <= *bound) {
            self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    fn snapshot(&self) -> LatencySnapshot {
        let mut below = 0;
        let buckets = std::array::from_fn(|bucket| {
            below += self.buckets[bucket].load(Ordering::Relaxed);
            below
        });
        LatencySnapshot {
            buckets,
            count: self.count.load(Ordering::Relaxed),
            sum_us: self.sum_us.load(Ordering::Relaxed),
        }
    }
}

/// A cumulative histogram over [`LATENCY_BUCKETS_US`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LatencySnapshot {
    /// Observations at or below each bound.
    pub buckets: [u64; LATENCY_BUCKETS_US.len()],
    pub count: u64,
    /// Sum of all observations, in microseconds.
    pub sum_us: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// From the call of `propose` to the reply.
    pub(crate) commit: Latency,
    /// One sync of the log's WAL.
    pub(crate) sync: Latency,
    pub(crate) synced_jobs: AtomicU64,
    pub(crate) applied_entries: AtomicU64,
    pub(crate) apply_batches: AtomicU64,
    pub(crate) apply_panics: AtomicU64,
    pub(crate) snapshots_installed: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn read(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    pub(crate) fn latencies(&self) -> (LatencySnapshot, LatencySnapshot) {
        (self.commit.snapshot(), self.sync.snapshot())
    }
}

/// What a node does in the raft cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Leader,
    Follower,
    Candidate,
    Learner,
    Stopped,
}

impl Role {
    /// As it is shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Learner => "learner",
            Self::Stopped => "stopped",
        }
    }
}

/// One look at the node's raft figures.
#[derive(Debug, Clone)]
pub struct RaftMetrics {
    pub role: Role,
    pub term: u64,
    pub leader: Option<stratavore_model::NodeId>,
    /// Index of the last entry in the log; 0 when empty.
    pub last_log: u64,
    pub committed: u64,
    pub last_applied: u64,
    /// Index of the newest snapshot; 0 when there is none.
    pub snapshot: u64,
    /// Index of the newest deleted entry; 0 when there is none.
    pub purged: u64,
    /// Propose to reply, on this node.
    pub commit_latency: LatencySnapshot,
    /// Syncs of the log.
    pub sync_latency: LatencySnapshot,
    /// Appends, votes and truncations that those syncs covered: above the number of syncs = group commit.
    pub synced_writes: u64,
    pub applied_entries: u64,
    pub apply_batches: u64,
    /// Commands that panicked in apply and became `internal_error` (P23): alarm above 0.
    pub apply_panics: u64,
    /// Snapshots of a leader's that took the place of this node's state.
    pub snapshots_installed: u64,
    /// False after the reserve file was freed on a full disk and could not be made again (P26).
    pub reserve_present: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative() {
        let latency = Latency::default();
        for us in [50, 150, 150, 9_000_000] {
            latency.observe(Duration::from_micros(us));
        }
        let snapshot = latency.snapshot();
        assert_eq!(snapshot.buckets[0], 1);
        assert_eq!(snapshot.buckets[1], 3);
        assert_eq!(snapshot.buckets[LATENCY_BUCKETS_US.len() - 1], 3);
        assert_eq!((snapshot.count, snapshot.sum_us), (4, 9_000_350));
    }
}
