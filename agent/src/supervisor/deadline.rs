//! How long runners may live without contact: one deadline per runner, made from the newest grant (P5, P10, P13).

use std::fmt;

use stratavore_proto::v1;

use super::effect::Effect;
use super::entry::{Entry, Phase};
use super::{Core, Out};
use crate::epoch::RunnerKey;

const NS_PER_MS: u64 = 1_000_000;

/// P5: a hold is used to 99 %, since clocks may run 1 % wrong against the leader's, which waits 101 %.
const USED_PERCENT: u64 = 99;

/// A shim is told of a later deadline only when it gains this part of the hold: with 120 s and a renewal every 2 s it
/// hears of every fourth, and dies at most 7.5 s before it must.
const STEP_PARTS: u64 = 16;

/// A start needs this much of its deadline, in ns: a shim is up within milliseconds, and one that is not would be
/// killed before its first report. Below the shortest lease less one renewal that a cluster may configure.
const START_NEEDS_NS: u64 = 500_000_000;

/// Fence of hosts that cannot tie a tree to its shim (P11): their runners count as `keep`.
const FENCE_WEAK: &str = "weak";

/// A time of CLOCK_BOOTTIME in ns at which a runner must be dead, or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(u64);

impl Deadline {
    /// Lives on without contact.
    pub const NEVER: Self = Self(u64::MAX);

    /// At `ns` of CLOCK_BOOTTIME.
    #[must_use]
    pub const fn at(ns: u64) -> Self {
        Self(ns)
    }

    /// 0 stands for none on the shim's socket.
    #[must_use]
    pub const fn from_wire(ns: u64) -> Self {
        if ns == 0 { Self::NEVER } else { Self(ns) }
    }

    /// The inverse of [`Deadline::from_wire`].
    #[must_use]
    pub const fn to_wire(self) -> u64 {
        if self.0 == u64::MAX { 0 } else { self.0 }
    }

    /// Whether there is one.
    #[must_use]
    pub const fn is_finite(self) -> bool {
        self.0 != u64::MAX
    }

    /// Ns of CLOCK_BOOTTIME; `u64::MAX` for never.
    #[must_use]
    pub const fn ns(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_finite() { write!(f, "{} ms", self.0 / NS_PER_MS) } else { f.write_str("never") }
    }
}

/// What becomes of a runner without contact (P9); fixed per placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    pub keep: bool,
    pub hold_ms: u64,
}

impl Terms {
    /// What an order to start says.
    #[must_use]
    pub const fn of_start(start: &v1::RunnerStart) -> Self {
        Self { keep: start.keep, hold_ms: start.hold_ms }
    }
}

/// What a shim says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    pub deadline: Deadline,
    pub terms: Terms,
}

/// The newest grant of the present host epoch, as far as it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Granted {
    pub(super) b0_ns: u64,
    pub(super) lease_ns: u64,
    /// Maintenance (P13): every hold is longer by this.
    pub(super) widen_ns: u64,
    /// The only host of its cluster (P13).
    pub(super) unbounded: bool,
}

impl Granted {
    /// P5 for one runner. `acknowledged`: its first `running` report is committed; until then it counts as `stop` with
    /// the lease as its hold (P10).
    pub(super) fn deadline(&self, terms: Terms, acknowledged: bool) -> Deadline {
        if self.unbounded || (terms.keep && acknowledged) {
            return Deadline::NEVER;
        }
        let hold_ns = if acknowledged { hold_ns(terms, self.lease_ns) } else { self.lease_ns };
        let lives_ns = hold_ns.saturating_add(self.widen_ns) / 100 * USED_PERCENT;
        Deadline(self.b0_ns.saturating_add(lives_ns))
    }

    /// What a new runner is armed with (P10).
    pub(super) fn first_deadline(&self, terms: Terms) -> Deadline {
        self.deadline(terms, false)
    }
}

/// Never below the lease: the leader does not judge earlier.
fn hold_ns(terms: Terms, lease_ns: u64) -> u64 {
    terms.hold_ms.saturating_mul(NS_PER_MS).max(lease_ns)
}

/// The lease of one runner, as the core knows it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RunnerLease {
    /// Unknown until the order or the shim says it.
    pub(super) terms: Option<Terms>,
    /// Its first `running` report is committed.
    pub(super) acknowledged: bool,
    /// Revision of its first report as running that this process saw.
    running_rev: Option<u64>,
    /// What it should hold; only a bounding grant lowers it.
    wish: Option<Deadline>,
    /// What was last sent to the shim.
    sent: Option<Deadline>,
    /// What the shim last confirmed.
    held: Option<Deadline>,
}

impl RunnerLease {
    /// Before its shim is started.
    pub(super) const fn ordered(terms: Terms) -> Self {
        Self {
            terms: Some(terms),
            acknowledged: false,
            running_rev: None,
            wish: None,
            sent: None,
            held: None,
        }
    }

    /// The shim is started with `deadline`.
    pub(super) const fn armed(&mut self, deadline: Deadline) {
        self.wish = Some(deadline);
        self.sent = Some(deadline);
        self.held = None;
    }

    /// P13: it needs no deadline, or its shim has confirmed one that is no later than the wish.
    fn is_bounded(&self) -> bool {
        match (self.terms, self.wish, self.held) {
            (Some(terms), ..) if terms.keep && self.acknowledged => true,
            (Some(_), Some(wish), Some(held)) => held.is_finite() && held <= wish,
            _ => false,
        }
    }

    /// Whether the shim should be told now.
    fn is_worth_telling(&self, wish: Deadline, lease_ns: u64) -> bool {
        let Some(sent) = self.sent else { return true };
        if wish <= sent || !wish.is_finite() {
            return wish > sent;
        }
        let hold_ns = match self.terms {
            Some(terms) if self.acknowledged => hold_ns(terms, lease_ns),
            _ => lease_ns,
        };
        wish.0 - sent.0 >= hold_ns / STEP_PARTS
    }
}

/// Raises every deadline to what `granted` allows; never lowers one.
pub(super) fn raise_all(core: &mut Core, granted: &Granted, out: &mut Out) {
    for (key, entry) in &mut core.runners {
        raise(key, entry, granted, out);
    }
}

fn raise(key: &RunnerKey, entry: &mut Entry, granted: &Granted, out: &mut Out) {
    let Some(deadline) = allowed(entry, granted) else { return };
    let lease = &mut entry.lease;
    let wish = lease.wish.map_or(deadline, |wish| wish.max(deadline));
    lease.wish = Some(wish);
    if lease.is_worth_telling(wish, granted.lease_ns) {
        lease.sent = Some(wish);
        out.push(Effect::Lease { key: key.clone(), deadline: wish, lower: false });
    }
}

/// P13: the bounding grant is the only message that lowers a deadline.
pub(super) fn bound_all(core: &mut Core, granted: &Granted, out: &mut Out) {
    for (key, entry) in &mut core.runners {
        if entry.phase == Phase::Starting {
            // It was armed with a wider grant, and its start crosses this one: its shim is lowered as soon as it answers
            // ([`on_leased`]), and until then it is not bounded.
            entry.lease.wish = entry.lease.terms.map(|terms| granted.first_deadline(terms));
            continue;
        }
        let Some(deadline) = allowed(entry, granted) else { continue };
        let lease = &mut entry.lease;
        let lower =
            lease.sent.is_none_or(|sent| deadline < sent) || lease.held.is_none_or(|held| deadline < held);
        lease.wish = Some(deadline);
        if lower || lease.is_worth_telling(deadline, granted.lease_ns) {
            lease.sent = Some(deadline);
            out.push(Effect::Lease { key: key.clone(), deadline, lower });
        }
    }
}

/// `None` for what has no shim, and while its terms are unknown.
fn allowed(entry: &Entry, granted: &Granted) -> Option<Deadline> {
    if entry.phase != Phase::Live {
        return None;
    }
    let terms = entry.lease.terms?;
    // P14: what the cluster does not know counts as `keep`; P11: so does what no fence ties to its shim.
    let keep = terms.keep || entry.orphaned || entry.report.fence == FENCE_WEAK;
    Some(granted.deadline(Terms { keep, ..terms }, entry.lease.acknowledged || entry.orphaned))
}

/// P13: every shim holds a finite deadline, or needs none because it is kept.
pub(super) fn all_bounded(core: &Core) -> bool {
    let mut living = core.runners.values().filter(|entry| entry.may_run());
    living.all(|entry| entry.orphaned || entry.report.fence == FENCE_WEAK || entry.lease.is_bounded())
}

/// What a start is armed with, if it may happen at all (P10): the order names the present host epoch, and the newest
/// grant of that epoch leaves time enough.
pub(super) fn to_arm(core: &Core, start: &v1::RunnerStart) -> Option<Deadline> {
    let named = start.host_epoch.as_ref().map(crate::epoch::Epoch::from);
    if named.is_some() && named != core.lease.host_epoch {
        return None;
    }
    let deadline = core.lease.granted?.first_deadline(Terms::of_start(start));
    (deadline.ns() > core.lease.now_ns.saturating_add(START_NEEDS_NS)).then_some(deadline)
}

/// Its shim says what it holds: after an adoption, or in answer to [`Effect::Lease`]. `None`: it did not answer.
pub(super) fn on_leased(core: &mut Core, key: &RunnerKey, held: Option<Held>, out: &mut Out) {
    let bounding = core.lease.is_bounding();
    let Some(entry) = core.runners.get_mut(key) else { return };
    let lease = &mut entry.lease;
    let Some(held) = held else {
        // The next grant tells it again.
        lease.sent = lease.held;
        return;
    };
    lease.held = Some(held.deadline);
    lease.terms.get_or_insert(held.terms);
    match lease.wish {
        // A shim from before the bounding, or one whose start crossed it.
        Some(wish) if bounding && held.deadline > wish => {
            lease.sent = Some(wish);
            out.push(Effect::Lease { key: key.clone(), deadline: wish, lower: true });
        }
        Some(wish) if held.deadline < wish => lease.sent = Some(held.deadline),
        Some(wish) => lease.wish = Some(wish.max(held.deadline)),
        None => (lease.wish, lease.sent) = (Some(held.deadline), Some(held.deadline)),
    }
    if let Some(granted) = core.lease.granted {
        raise_one(core, key, &granted, out);
    }
}

/// Notes the first report as running, whose acknowledgement ends the time in which every runner counts as `stop`.
pub(super) fn note_running(entry: &mut Entry) {
    if entry.phase == Phase::Live && entry.lease.running_rev.is_none() {
        entry.lease.running_rev = Some(entry.report.rev);
    }
}

/// The cluster has committed reports of `key` up to `rev`.
pub(super) fn on_acknowledged(core: &mut Core, key: &RunnerKey, rev: u64, out: &mut Out) {
    let Some(entry) = core.runners.get_mut(key) else { return };
    let lease = &mut entry.lease;
    if lease.acknowledged || lease.running_rev.is_none_or(|running| rev < running) {
        return;
    }
    lease.acknowledged = true;
    let kept = lease.terms.is_some_and(|terms| terms.keep);
    if kept {
        // P5: none from now on, with or without a further grant.
        let (deadline, key) = (Deadline::NEVER, key.clone());
        (lease.wish, lease.sent) = (Some(deadline), Some(deadline));
        out.push(Effect::Lease { key, deadline, lower: false });
    } else if let Some(granted) = core.lease.granted {
        raise_one(core, key, &granted, out);
    }
}

fn raise_one(core: &mut Core, key: &RunnerKey, granted: &Granted, out: &mut Out) {
    if let Some(entry) = core.runners.get_mut(key) {
        raise(key, entry, granted, out);
    }
}
