//! Who may be fenced, after how long, and what a grant says (P5, P7, P9-P11, P13). Pure reads: the same answers serve the
//! leader's loop and the check in apply.

use crate::host::{Fence, HostLease, HostRecord, HostState, LeaseBound};
use crate::id::{Epoch, HostId, RunnerId};
use crate::runner::{Lost, OnDisconnect, RunnerRecord, RunnerSpec, RunnerState};
use crate::state::State;
use crate::tx::Tx;

/// P5, P7: the leader waits one percent longer than a lease lasts, which is what its clock may be fast by; the host, whose
/// clock may be slow by as much, stops one percent early.
const WAIT_PERCENT: u64 = 101;

/// Whether a host that has been silent for `waited_ms`, by the leader's clock, has let a hold of `hold_ms` pass.
#[must_use]
pub const fn waited_enough(hold_ms: u64, waited_ms: u64) -> bool {
    waited_ms.saturating_mul(100) >= hold_ms.saturating_mul(WAIT_PERCENT)
}

/// P9: what a runner of this spec is placed under on this host. P11: without a sure fence nothing is ever replaced.
pub(crate) fn placed_policy(spec: &RunnerSpec, host: &HostRecord) -> OnDisconnect {
    if host.fence.is_strong() { spec.on_disconnect } else { OnDisconnect::Keep }
}

/// P9: the hold that a placement fixes: the spec's, else the cluster's, never below a lease nor above the longest.
pub(crate) fn placed_hold(state: &State, spec: &RunnerSpec) -> u64 {
    let Some(lease) = state.cluster().map(|cluster| cluster.lease) else { return 0 };
    let wanted = if spec.hold_ms == 0 { lease.hold_ms } else { spec.hold_ms };
    wanted.min(lease.hold_max_ms).max(lease.ttl_ms)
}

/// Whether a fence may cover the runner. `keep` is what it says; besides, everything is kept on a host whose shims may
/// hold no deadline (P13) or whose fence is not sure (P11), or that has not said what it runs (P30). Until its first
/// report that it runs, everything else counts as `stop` (P10).
#[must_use]
pub fn effective_policy(state: &State, runner: &RunnerRecord) -> OnDisconnect {
    let host = runner.host.and_then(|id| state.host(id));
    let fenceable = host.is_some_and(|host| {
        host.lease.bound == LeaseBound::Bounded && host.fence.is_strong() && !host.unlisted
    });
    // Other than the host's word at its connect, this is about this very process tree.
    let sure = fenceable && runner.fence != Fence::Weak;
    match (sure, runner.state) {
        (false, _) => OnDisconnect::Keep,
        (true, RunnerState::Starting) => OnDisconnect::Stop,
        (true, _) => runner.on_disconnect,
    }
}

/// How long the runner may live without contact: its hold, a lease until it is known to run (P10), and what maintenance
/// may have granted on top (P13). 0 for one without a host.
#[must_use]
pub fn hold_ms(state: &State, runner: &RunnerRecord) -> u64 {
    let Some(host) = runner.host.and_then(|id| state.host(id)) else { return 0 };
    let own = if runner.state == RunnerState::Starting { host.lease.ttl_ms } else { runner.hold_ms };
    own.saturating_add(host.lease.widened_ms)
}

/// One line of what may be covered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coverable {
    pub runner: RunnerId,
    pub epoch: Epoch,
    /// The silence that it takes is 1.01 times this: see [`waited_enough`].
    pub hold_ms: u64,
}

/// What a fence of the host may cover, and after which hold (P7). Empty where nothing may be fenced.
#[must_use]
pub fn coverable(state: &State, host: HostId) -> Vec<Coverable> {
    let may = |runner: &&RunnerRecord| why_not_coverable(state, runner).is_none();
    lines(state, state.runners_on(host).filter(may))
}

/// What a confirmed reboot of the host would settle (P8).
#[must_use]
pub fn reboot_waiting(state: &State, host: HostId) -> Vec<Coverable> {
    lines(state, state.runners_on(host).filter(|runner| waits_for_reboot(state, runner)))
}

fn lines<'a>(state: &State, runners: impl Iterator<Item = &'a RunnerRecord>) -> Vec<Coverable> {
    let line = |runner: &RunnerRecord| {
        let hold_ms = match runner.lost {
            // What the earlier boot was granted is not known to be less.
            Some(Lost::HostRebooted) => runner.hold_ms.max(hold_ms(state, runner)),
            _ => hold_ms(state, runner),
        };
        Some(Coverable { runner: runner.id, epoch: runner.epoch?, hold_ms })
    };
    runners.filter_map(line).collect()
}

/// Why a fence may not cover what takes room on a host; none if it may.
pub(crate) fn why_not_coverable(state: &State, runner: &RunnerRecord) -> Option<&'static str> {
    if runner.occupies().is_none() {
        return Some("has_ended");
    }
    if waits_for_reboot(state, runner) {
        return Some("host_rebooted");
    }
    // A deadline ends what can be ended; these could not (P15).
    if runner.exit.as_ref().is_some_and(|exit| !exit.leftovers.is_empty()) {
        return Some("leftovers");
    }
    (effective_policy(state, runner) == OnDisconnect::Keep).then_some("keep")
}

/// P8: whether only the reboot of its host speaks for the runner's end so far.
pub(crate) fn waits_for_reboot(state: &State, runner: &RunnerRecord) -> bool {
    let reboot = runner.host.and_then(|id| state.host(id)).and_then(|host| host.rebooted);
    let before = reboot.is_some_and(|reboot| runner.epoch < Some(reboot.at));
    before && (runner.lost == Some(Lost::HostRebooted) || !runner.settled)
}

/// What a grant to a host says now (P5, P13).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrantTerms {
    pub host_epoch: Epoch,
    pub ttl_ms: u64,
    /// `Unbounded`: the grant sets no deadline.
    pub bound: LeaseBound,
    /// Above 0 while maintenance is on: the lease and every hold are longer by so much.
    pub widen_ms: u64,
    /// The grant may lower deadlines, and once a renewal says that every shim holds its own, `LeaseBounded` is due.
    pub lower: bool,
    /// The entry of the newest maintenance, 0 = none: `LeaseBounded` repeats it.
    pub maintenance: u64,
}

/// The terms of the host's lease; none for a host that holds no host epoch.
#[must_use]
pub fn grant_terms(state: &State, host: HostId) -> Option<GrantTerms> {
    let host = state.host(host).filter(|host| host.state != HostState::Removed)?;
    let HostLease { ttl_ms, bound, widened_ms } = host.lease;
    // Never wider than the row remembers: that is what a fence will honour.
    let widen_ms = state.cluster().map_or(0, |cluster| cluster.widening(state.now())).min(widened_ms);
    let maintenance = state.cluster().and_then(|cluster| cluster.maintenance).map_or(0, |m| m.at);
    let over = widened_ms > 0 && widen_ms == 0;
    let lower = bound == LeaseBound::Bounding || (bound == LeaseBound::Bounded && over);
    Some(GrantTerms { host_epoch: host.host_epoch?, ttl_ms, bound, widen_ms, lower, maintenance })
}

/// P13: the lease of the only host is unbounded, and it has to be bounded again when it is no longer alone. Call after
/// the number of hosts changed.
pub(crate) fn follow_host_count(tx: &mut Tx<'_>) {
    let present = tx.state().hosts_present();
    // Otherwise nobody's turns, and a scan for every host that joins would add up.
    if present > 2 {
        return;
    }
    let hosts: Vec<_> = tx.state().hosts().filter(|host| host.state != HostState::Removed).cloned().collect();
    for host in hosts {
        let bound = match (present, host.lease.bound) {
            // After a fence its shims still hold the deadlines that the fence counts on.
            (1, _) if host.fenced.is_none() => LeaseBound::Unbounded,
            (2, LeaseBound::Unbounded) => LeaseBound::Bounding,
            (_, bound) => bound,
        };
        if bound != host.lease.bound {
            tx.put_host(HostRecord { lease: HostLease { bound, ..host.lease }, ..host });
        }
    }
}
