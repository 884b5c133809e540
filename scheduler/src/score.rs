//! Which feasible host is best.

use std::cmp::Reverse;

use stratavore_model::{HostId, HostLoad, HostRecord};

/// How runners are spread over hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Least loaded first: sessions get what there is, and a dead host takes few with it.
    #[default]
    Spread,
    /// Fullest first: whole hosts stay free for large runners.
    BinPack,
}

/// Shares are counted in millionths.
const WHOLE: u64 = 1_000_000;

/// The best host has the greatest rank: score, then fewer runners, then the lower id.
pub(crate) type Rank = (i64, Reverse<u32>, Reverse<HostId>);

/// The score of a host, 0 to 1,000,000: what is left of its scarcest resource, or under bin-packing what is taken.
pub(crate) fn score(policy: Policy, host: &HostRecord, load: &HostLoad) -> i64 {
    let slots = share(load.slots.into(), host.slots.into());
    let cpu = share(load.cpu_milli, host.cpu_milli);
    let memory = share(load.memory_bytes, host.memory_bytes);
    let taken = slots.max(cpu).max(memory);
    match policy {
        Policy::Spread => (WHOLE - taken) as i64,
        Policy::BinPack => taken as i64,
    }
}

pub(crate) fn rank(policy: Policy, host: &HostRecord, load: &HostLoad) -> Rank {
    (score(policy, host, load), Reverse(load.runners), Reverse(host.id))
}

/// Taken of whole in millionths; what is not known is not scarce.
fn share(taken: u64, whole: u64) -> u64 {
    if whole == 0 {
        return 0;
    }
    let share = u128::from(taken) * u128::from(WHOLE) / u128::from(whole);
    u64::try_from(share).unwrap_or(WHOLE).min(WHOLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_exact_at_the_ends_and_never_overflow() {
        assert_eq!(share(0, 10), 0);
        assert_eq!(share(5, 10), WHOLE / 2);
        assert_eq!(share(10, 10), WHOLE);
        assert_eq!(share(11, 10), WHOLE, "a host may shrink below its load");
        assert_eq!(share(7, 0), 0);
        assert_eq!(share(u64::MAX, 1), WHOLE);
    }
}
