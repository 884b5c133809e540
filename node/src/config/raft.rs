//! `raft`: how much of the log a node keeps (P19).

use serde::{Deserialize, Serialize};
use stratavore_raft::{KEPT_LOG_ENTRIES, RaftTimings};

use crate::config::Problem;

/// Fewer, and a follower that was away for a moment under load is fed a whole snapshot.
const KEPT_LOG_ENTRIES_MIN: u64 = 1_000;
/// More is what the bound of 1 GiB would cut.
const KEPT_LOG_ENTRIES_MAX: u64 = 10_000_000;

/// Section `raft`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Raft {
    /// Entries kept behind a snapshot; at most 1 GiB of them, whichever is reached first.
    pub kept_log_entries: u64,
}

impl Default for Raft {
    fn default() -> Self {
        Self { kept_log_entries: KEPT_LOG_ENTRIES }
    }
}

impl Raft {
    pub(crate) fn timings(&self) -> RaftTimings {
        RaftTimings { kept_log_entries: self.kept_log_entries, ..RaftTimings::default() }
    }

    pub(crate) fn validate(&self) -> Vec<Problem> {
        let kept = self.kept_log_entries;
        if (KEPT_LOG_ENTRIES_MIN..=KEPT_LOG_ENTRIES_MAX).contains(&kept) {
            return Vec::new();
        }
        let message = format!("{kept} is not between {KEPT_LOG_ENTRIES_MIN} and {KEPT_LOG_ENTRIES_MAX}");
        vec![Problem::new("raft.kept_log_entries", message)]
    }
}
