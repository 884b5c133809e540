//! Renewals and grants (P5), and the other periodic messages of a link.
//!
//! In this release every runner is `keep`, so a grant moves no deadline of a runner; what it proves is that the
//! gateway still reaches a leader (P17).

use std::collections::VecDeque;

use stratavore_proto::v1;
use stratavore_proto::v1::agent_message::Message;
use tracing::{debug, warn};

use super::effect::{Effect, Move};
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
#[derive(Debug, Default)]
pub(super) struct Lease {
    pub(super) host_epoch: Option<Epoch>,
    pub(super) last_rtt_us: u64,
    up: Option<Up>,
}

#[derive(Debug)]
struct Up {
    renew_ns: u64,
    load_ns: u64,
    resync_ns: u64,
    next_renew_ns: u64,
    next_load_ns: u64,
    next_resync_ns: u64,
    /// b0 of renewals without grant, oldest first.
    pending: VecDeque<u64>,
    /// Renewals since the last grant.
    unanswered: u32,
}

impl Lease {
    pub(super) const fn is_up(&self) -> bool {
        self.up.is_some()
    }

    /// A link is welcomed: the first renewal and load report go out on the next tick, which is due at once.
    pub(super) fn connect(&mut self, welcome: &v1::Welcome, now_ns: u64) {
        self.host_epoch = welcome.host_epoch.as_ref().map(Epoch::from);
        let resync_ns = period_ns(welcome.resync_ms, RESYNC_DEFAULT_MS);
        debug!(lease_ms = period_ns(welcome.lease_ms, LEASE_DEFAULT_MS) / NS_PER_MS, "lease terms");
        self.up = Some(Up {
            renew_ns: period_ns(welcome.renew_ms, RENEW_DEFAULT_MS),
            load_ns: period_ns(welcome.load_report_ms, LOAD_DEFAULT_MS),
            resync_ns,
            next_renew_ns: now_ns,
            next_load_ns: now_ns,
            next_resync_ns: now_ns.saturating_add(resync_ns),
            pending: VecDeque::new(),
            unanswered: 0,
        });
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
    let Some(up) = &mut core.lease.up else { return };
    if now_ns >= up.next_renew_ns {
        up.next_renew_ns = now_ns.saturating_add(up.renew_ns);
        if up.unanswered >= UNANSWERED_MAX && up.unanswered.is_power_of_two() {
            let reason = format!("{} renewals are unanswered", up.unanswered);
            out.push(Effect::Move(Move { reason, same_node_too: true }));
        }
        if let Some(host_epoch) = core.lease.host_epoch {
            up.unanswered = up.unanswered.saturating_add(1);
            up.pending.push_back(now_ns);
            if up.pending.len() > PENDING_MAX {
                up.pending.pop_front();
            }
            let renewal = v1::Renewal {
                host_epoch: Some(host_epoch.into()),
                boot_id: core.identity.boot_id.clone(),
                b0_ns: now_ns,
            };
            out.push(Effect::Send(Box::new(Message::Renewal(renewal))));
        }
    }
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

/// A grant counts only when it echoes a renewal of this very link, boot and host epoch.
pub(super) fn on_grant(core: &mut Core, grant: &v1::Grant, now_ns: u64) {
    let Some(renewal) = &grant.renewal else { return };
    let host_epoch = renewal.host_epoch.as_ref().map(Epoch::from);
    let ours = renewal.boot_id == core.identity.boot_id && host_epoch == core.lease.host_epoch;
    let Some(up) = core.lease.up.as_mut().filter(|_| ours) else {
        warn!(b0_ns = renewal.b0_ns, "a grant that echoes no renewal of ours is ignored");
        return;
    };
    if !up.pending.contains(&renewal.b0_ns) {
        return;
    }
    up.pending.retain(|b0_ns| *b0_ns > renewal.b0_ns);
    up.unanswered = 0;
    core.lease.last_rtt_us = now_ns.saturating_sub(renewal.b0_ns) / 1000;
}
