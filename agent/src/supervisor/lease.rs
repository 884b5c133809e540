//! Renewals and grants (P5, P13), and the other periodic messages of a link.
//!
//! A grant counts when it echoes a renewal that this process sent, on whatever link, under the present host epoch and
//! boot. Deadlines of runners follow from it in `deadline`.

use std::collections::VecDeque;

use stratavore_proto::v1;
use stratavore_proto::v1::agent_message::Message;
use tracing::warn;

use super::deadline::{Granted, all_bounded, bound_all, raise_all};
use super::desired::start_waiting;
use super::effect::{Effect, Move, MoveKind};
use super::{Core, Out};
use crate::epoch::Epoch;

const NS_PER_MS: u64 = 1_000_000;

/// Periods used when a gateway names none, and the shortest accepted, in ms.
const RENEW_DEFAULT_MS: u64 = 2_000;
const LEASE_DEFAULT_MS: u64 = 15_000;
const LOAD_DEFAULT_MS: u64 = 10_000;
const RESYNC_DEFAULT_MS: u64 = 30_000;
const PERIOD_MIN_MS: u64 = 50;

/// Renewals whose grant may still come; older ones are forgotten. More than fit one lease at the defaults.
const PENDING_MAX: usize = 16;

/// P17: unanswered renewals after which another node is tried, and again after each doubling.
const UNANSWERED_MAX: u32 = 2;

/// What the agent knows of its lease, and when the present link wants what.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) host_epoch: Option<Epoch>,
    pub(super) last_rtt_us: u64,
    /// Newest grant of the host epoch (P10).
    pub(super) granted: Option<Granted>,
    /// CLOCK_BOOTTIME of the last input that carried it.
    pub(super) now_ns: u64,
    lease_ns: u64,
    /// When the last bounding grant of the host epoch arrived (P13).
    bounding_ns: Option<u64>,
    /// An unbounded or widened grant has counted since.
    wide: bool,
    /// b0 of renewals without grant, oldest first, of all links.
    issued: VecDeque<u64>,
    up: Option<Up>,
}

impl Default for Lease {
    fn default() -> Self {
        Self {
            host_epoch: None,
            last_rtt_us: 0,
            granted: None,
            now_ns: 0,
            lease_ns: LEASE_DEFAULT_MS * NS_PER_MS,
            bounding_ns: None,
            wide: false,
            issued: VecDeque::new(),
            up: None,
        }
    }
}

#[derive(Debug)]
struct Up {
    renew_ns: u64,
    load_ns: u64,
    resync_ns: u64,
    next_renew_ns: u64,
    next_load_ns: u64,
    next_resync_ns: u64,
    /// Renewals since the last grant.
    unanswered: u32,
}

impl Lease {
    pub(super) const fn is_up(&self) -> bool {
        self.up.is_some()
    }

    /// A link is welcomed: the first renewal and load report go out on the next tick, which is due at once.
    pub(super) fn connect(&mut self, welcome: &v1::Welcome, now_ns: u64) {
        self.enter(welcome.host_epoch.as_ref().map(Epoch::from));
        let resync_ns = period_ns(welcome.resync_ms, RESYNC_DEFAULT_MS);
        self.lease_ns = period_ns(welcome.lease_ms, LEASE_DEFAULT_MS);
        self.up = Some(Up {
            renew_ns: period_ns(welcome.renew_ms, RENEW_DEFAULT_MS),
            load_ns: period_ns(welcome.load_report_ms, LOAD_DEFAULT_MS),
            resync_ns,
            next_renew_ns: now_ns,
            next_load_ns: now_ns,
            next_resync_ns: now_ns.saturating_add(resync_ns),
            unanswered: 0,
        });
    }

    /// P3: grants belong to a host epoch; runners carry over with the deadlines they have.
    pub(super) fn enter(&mut self, host_epoch: Option<Epoch>) {
        if self.host_epoch != host_epoch {
            self.host_epoch = host_epoch;
            self.granted = None;
            self.bounding_ns = None;
            self.wide = false;
            self.issued.clear();
        }
    }

    /// P13: since a bounding grant nothing wider has counted.
    pub(super) const fn is_bounding(&self) -> bool {
        self.bounding_ns.is_some() && !self.wide
    }

    pub(super) fn disconnect(&mut self) {
        self.up = None;
    }

    pub(super) fn next_ns(&self) -> u64 {
        self.up.as_ref().map_or(u64::MAX, |up| up.next_renew_ns.min(up.next_load_ns).min(up.next_resync_ns))
    }
}

fn period_ns(given_ms: u64, default_ms: u64) -> u64 {
    let ms = if given_ms == 0 { default_ms } else { given_ms.max(PERIOD_MIN_MS) };
    ms.saturating_mul(NS_PER_MS)
}

pub(super) fn on_tick(core: &mut Core, now_ns: u64, out: &mut Out) {
    core.lease.now_ns = now_ns;
    let Some(up) = &mut core.lease.up else { return };
    if now_ns >= up.next_renew_ns {
        up.next_renew_ns = now_ns.saturating_add(up.renew_ns);
        if up.unanswered >= UNANSWERED_MAX && up.unanswered.is_power_of_two() {
            let reason = format!("{} renewals are unanswered", up.unanswered);
            out.push(Effect::Move(Move { reason, kind: MoveKind::Silent }));
        }
        if core.lease.host_epoch.is_some() {
            up.unanswered = up.unanswered.saturating_add(1);
            if let Some(renewal) = core.renewal(now_ns) {
                out.push(Effect::Send(Box::new(Message::Renewal(renewal))));
            }
        }
    }
    let Some(up) = &mut core.lease.up else { return };
    if now_ns >= up.next_load_ns {
        up.next_load_ns = now_ns.saturating_add(up.load_ns);
        out.push(Effect::ReportLoad);
    }
    if now_ns >= up.next_resync_ns {
        up.next_resync_ns = now_ns.saturating_add(up.resync_ns);
        let full = v1::Observed { runners: core.list(), full: true, seen: Some(core.seen.into()) };
        out.push(Effect::Send(Box::new(Message::Observed(full))));
    }
}

impl Core {
    /// A renewal to be sent now (P5); `None` without a host epoch.
    pub fn renewal(&mut self, now_ns: u64) -> Option<v1::Renewal> {
        let host_epoch = self.lease.host_epoch?;
        let issued = &mut self.lease.issued;
        if issued.back() != Some(&now_ns) {
            issued.push_back(now_ns);
        }
        if issued.len() > PENDING_MAX {
            issued.pop_front();
        }
        Some(v1::Renewal {
            host_epoch: Some(host_epoch.into()),
            boot_id: self.identity.boot_id.clone(),
            b0_ns: now_ns,
            bounded: self.lease.is_bounding() && all_bounded(self),
        })
    }
}

/// Takes a grant that echoes a renewal of this process, boot and host epoch; everything else is ignored.
pub(super) fn on_grant(core: &mut Core, grant: &v1::Grant, now_ns: u64, out: &mut Out) {
    let Some(renewal) = &grant.renewal else { return };
    let lease = &mut core.lease;
    lease.now_ns = now_ns;
    let host_epoch = renewal.host_epoch.as_ref().map(Epoch::from);
    if renewal.boot_id != core.identity.boot_id || host_epoch != lease.host_epoch {
        warn!(b0_ns = renewal.b0_ns, "a grant that echoes no renewal of ours is ignored");
        return;
    }
    let b0_ns = renewal.b0_ns;
    if !lease.issued.contains(&b0_ns) {
        return;
    }
    lease.issued.retain(|issued_ns| *issued_ns > b0_ns);
    lease.last_rtt_us = now_ns.saturating_sub(b0_ns) / 1000;
    if let Some(up) = &mut lease.up {
        up.unanswered = 0;
    }
    let granted = lease.accept(grant, b0_ns, now_ns);
    if grant.bounding {
        bound_all(core, &granted, out);
    } else {
        raise_all(core, &granted, out);
    }
    // P10: starts wait for a grant that leaves them time.
    start_waiting(core, out);
}

impl Lease {
    /// P13: what a grant says of width counts only if the renewal was sent after the last bounding grant had arrived;
    /// the state that an earlier one was decided on may be older than that.
    fn accept(&mut self, grant: &v1::Grant, b0_ns: u64, now_ns: u64) -> Granted {
        let newest_ns = self.granted.map_or(b0_ns, |granted| granted.b0_ns.max(b0_ns));
        let narrow = Granted { b0_ns: newest_ns, lease_ns: self.lease_ns, widen_ns: 0, unbounded: false };
        let granted = if grant.bounding {
            self.bounding_ns = Some(now_ns);
            self.wide = false;
            narrow
        } else if self.bounding_ns.is_some_and(|bounding_ns| b0_ns < bounding_ns) {
            narrow
        } else {
            let widen_ns = grant.widen_ms.saturating_mul(NS_PER_MS);
            self.wide |= grant.unbounded || widen_ns > 0;
            Granted { b0_ns, widen_ns, unbounded: grant.unbounded, ..narrow }
        };
        self.granted = Some(granted);
        granted
    }
}
