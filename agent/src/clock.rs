//! The only clocks of the agent.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// CLOCK_BOOTTIME in ns: counts suspend, never steps; every lease is measured on it (P5).
#[must_use]
pub(crate) fn boottime_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}

/// How long to sleep until `at_ns` of [`boottime_ns`].
#[must_use]
pub(crate) fn until(at_ns: u64) -> Duration {
    Duration::from_nanos(at_ns.saturating_sub(boottime_ns()))
}

/// Wall time in ms, for people only: no decision reads it (P4).
#[must_use]
pub(crate) fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
