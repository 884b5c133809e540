//! `lease`: the numbers that `init` fixes in the replicated state (P5, P7, P9). Afterwards they have no effect.

use serde::{Deserialize, Serialize};
use stratavore_model::LeaseNumbers;

use crate::config::Problem;

/// Shorter leases would call a busy machine dead.
const TTL_MS_MIN: u64 = 1_000;
/// Longer ones are what `hold_ms` is for.
const TTL_MS_MAX: u64 = 300_000;
/// P9: the longest hold that any cluster may choose.
const HOLD_MS_MAX: u64 = 24 * 3600 * 1000;

/// Section `lease`, in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lease {
    /// How long a host counts as reachable after a renewal.
    pub ttl_ms: u64,
    /// How often an agent renews.
    pub renew_ms: u64,
    /// How long a runner may take to end on TERM before KILL.
    pub kill_grace_ms: u64,
    /// How long a `stop` runner may live without contact.
    pub hold_ms: u64,
    /// The longest hold that a launch may ask for.
    pub hold_max_ms: u64,
}

impl Default for Lease {
    fn default() -> Self {
        let LeaseNumbers { ttl_ms, renew_ms, kill_grace_ms, hold_ms, hold_max_ms } = LeaseNumbers::default();
        Self { ttl_ms, renew_ms, kill_grace_ms, hold_ms, hold_max_ms }
    }
}

impl Lease {
    pub(crate) fn numbers(&self) -> LeaseNumbers {
        let Self { ttl_ms, renew_ms, kill_grace_ms, hold_ms, hold_max_ms } = *self;
        LeaseNumbers { ttl_ms, renew_ms, kill_grace_ms, hold_ms, hold_max_ms }
    }

    pub(crate) fn validate(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut check = |key, holds: bool, message: String| {
            if !holds {
                problems.push(Problem::new(key, message));
            }
        };
        let Self { ttl_ms, renew_ms, kill_grace_ms, hold_ms, hold_max_ms } = *self;
        check(
            "lease.ttl_ms",
            (TTL_MS_MIN..=TTL_MS_MAX).contains(&ttl_ms),
            format!("{ttl_ms} is not between {TTL_MS_MIN} and {TTL_MS_MAX}"),
        );
        check(
            "lease.renew_ms",
            renew_ms > 0 && renew_ms <= ttl_ms / 3,
            format!("{renew_ms} is not between 1 and a third of lease.ttl_ms ({})", ttl_ms / 3),
        );
        check(
            "lease.kill_grace_ms",
            kill_grace_ms < hold_ms,
            format!("{kill_grace_ms} is not below lease.hold_ms ({hold_ms})"),
        );
        check(
            "lease.hold_ms",
            (ttl_ms..=hold_max_ms).contains(&hold_ms),
            format!("{hold_ms} is not between lease.ttl_ms ({ttl_ms}) and lease.hold_max_ms ({hold_max_ms})"),
        );
        check(
            "lease.hold_max_ms",
            hold_max_ms <= HOLD_MS_MAX,
            format!("{hold_max_ms} is above a day ({HOLD_MS_MAX})"),
        );
        problems
    }
}
