//! Desired state: what the cluster wants on this host, at which state index.

use std::collections::{BTreeSet, VecDeque};

use stratavore_proto::v1;
use tracing::{info, warn};

use super::deadline::{Terms, to_arm};
use super::effect::Effect;
use super::entry::{Entry, Phase, REASON_NOT_WANTED, Want};
use super::{Core, Out, STARTS_MAX, halt};
use crate::epoch::{Epoch, RunnerKey};

/// Reason shown while a start waits for disk space.
pub(super) const REASON_DISK_FULL: &str = "disk_full";

/// Takes one frame of desired state. A set may come in several frames (`more`); only its last one counts as seen.
pub(super) fn on_desired(core: &mut Core, desired: v1::Desired, out: &mut Out) {
    let Some(index) = desired.index.as_ref().map(Epoch::from) else {
        warn!("a desired set without index is ignored");
        return;
    };
    if index.incarnation < core.seen.incarnation {
        warn!(%index, seen = %core.seen, "a desired set of an older incarnation is refused");
        return;
    }
    if core.halt.is_some() {
        return;
    }
    let stale = index < core.seen;
    let mut set = core.partial.take().unwrap_or_default();
    for order in desired.runners {
        match RunnerKey::from_wire(&order.runner, order.epoch.as_ref()) {
            Ok(key) => {
                set.named.insert(key.clone());
                let may_start = !stale && key.epoch() <= index;
                on_order(core, key, order, desired.full, may_start, &mut set.intents, out);
            }
            Err(error) => warn!(%error, "an order names no runner"),
        }
    }
    if desired.more {
        core.partial = Some(set);
        return;
    }
    if desired.full && !stale {
        remove_absent(core, &set.named, index, out);
    }
    let advanced = index > core.seen;
    core.seen = core.seen.max(index);
    if advanced || !set.intents.is_empty() {
        out.push(Effect::Intend { keys: set.intents, seen: core.durable_seen() });
    }
}

/// The part of a set that has come so far.
#[derive(Debug, Default)]
pub(super) struct Partial {
    named: BTreeSet<RunnerKey>,
    /// Their directories are made with the last frame: only then is the index that ordered them seen.
    intents: Vec<RunnerKey>,
}

/// The link broke within a set: its starts wait for the next one.
pub(super) fn drop_partial(core: &mut Core) {
    for key in core.partial.take().unwrap_or_default().intents {
        if let Some(entry) = core.runners.get_mut(&key).filter(|entry| entry.phase == Phase::Intending) {
            entry.phase = Phase::Held;
        }
    }
}

fn on_order(
    core: &mut Core,
    key: RunnerKey,
    order: v1::DesiredRunner,
    full: bool,
    may_start: bool,
    intents: &mut Vec<RunnerKey>,
    out: &mut Out,
) {
    let want = match order.want() {
        v1::Want::Run => Want::Run,
        v1::Want::Stop => {
            let reason =
                if order.stop_reason.is_empty() { "stopped".into() } else { order.stop_reason.clone() };
            Want::Stop { force: order.force, reason }
        }
        v1::Want::Gone => Want::Gone,
        v1::Want::Unspecified => {
            warn!(runner = %key, want = order.want, "an order that this version does not know is ignored");
            return;
        }
    };
    if core.runners.contains_key(&key) {
        on_known(core, &key, want, order.start, may_start, intents, out);
    } else if core.settled.contains(&key) {
        // Acknowledged once; a full set that still names it comes from a state that does not know (restore, lag).
        if full && want != Want::Gone {
            out.push(Effect::Recall { key });
        }
    } else {
        on_unknown(core, key, want, order.start, may_start, intents, out);
    }
}

/// An order about an epoch that is on this host.
fn on_known(
    core: &mut Core,
    key: &RunnerKey,
    want: Want,
    start: Option<v1::RunnerStart>,
    may_start: bool,
    intents: &mut Vec<RunnerKey>,
    out: &mut Out,
) {
    let Some(entry) = core.runners.get_mut(key) else { return };
    if want != Want::Gone {
        entry.orphaned = false;
    }
    entry.want.raise(want);
    if entry.want == Want::Run {
        let Some(start) = start else { return };
        entry.lease.terms.get_or_insert_with(|| Terms::of_start(&start));
        let waits = matches!(entry.phase, Phase::Held | Phase::Intending | Phase::Intended);
        if !may_start || !waits {
            return;
        }
        // An intent found on disk after a restart waits for exactly this; its index may not have become durable.
        if entry.start.is_none() && entry.phase != Phase::Intending {
            entry.phase = Phase::Intending;
            intents.push(key.clone());
        }
        // The same order under a later host epoch (P10) takes the place of the earlier one.
        entry.start = Some(Box::new(start));
        return;
    }
    carry_out_stop(core, key, out);
}

/// Passes the wish to end on, as far as the entry is. Idempotent.
pub(super) fn carry_out_stop(core: &mut Core, key: &RunnerKey, out: &mut Out) {
    let Some(entry) = core.runners.get_mut(key) else { return };
    let Some((force, reason)) = entry.want.stop() else { return };
    let reason = reason.to_owned();
    match entry.phase {
        Phase::Held | Phase::Intending | Phase::Intended => {
            entry.phase = Phase::Concluding;
            out.push(Effect::Conclude { key: key.clone(), state: v1::RunnerState::Terminated, reason });
        }
        Phase::Live if entry.stop_sent.is_none_or(|sent| force && !sent) => {
            entry.stop_sent = Some(force);
            out.push(Effect::Stop { key: key.clone(), force, reason });
        }
        Phase::Ended if entry.want == Want::Gone => settle(core, key, out),
        // A start in flight is stopped as soon as its shim answers.
        Phase::Starting | Phase::Live | Phase::Concluding | Phase::Ended => {}
    }
}

/// The end needs no more reporting: the shim may go, the output stays.
pub(super) fn settle(core: &mut Core, key: &RunnerKey, out: &mut Out) {
    core.runners.remove(key);
    core.dirty.remove(key);
    core.settled.insert(key.clone());
    out.push(Effect::Reap { key: key.clone() });
}

/// An order about an epoch of which this host has nothing.
fn on_unknown(
    core: &mut Core,
    key: RunnerKey,
    want: Want,
    start: Option<v1::RunnerStart>,
    may_start: bool,
    intents: &mut Vec<RunnerKey>,
    out: &mut Out,
) {
    if want == Want::Gone {
        return;
    }
    if !may_start || key.epoch() <= core.floor {
        // It was here and its directory is gone, or the set is older than what was seen: silence, never a second start.
        warn!(runner = %key, seen = %core.seen, "an order for an epoch that has been here before is not carried out");
        return;
    }
    match (want, start) {
        (Want::Run, Some(start)) => {
            let phase = if core.disk_full { Phase::Held } else { Phase::Intending };
            let mut entry = Entry::new(&key, phase, Some(Box::new(start)));
            if phase == Phase::Held {
                entry.report.reason = REASON_DISK_FULL.into();
                core.dirty.insert(key.clone());
            } else {
                intents.push(key.clone());
            }
            core.runners.insert(key, entry);
        }
        (Want::Run, None) => warn!(runner = %key, "an order to run without a start is ignored"),
        (want, _) => {
            // Stopped before it ever came here: said once, durably, so that no later set can start it.
            let mut entry = Entry::new(&key, Phase::Held, None);
            entry.want = want;
            core.runners.insert(key.clone(), entry);
            carry_out_stop(core, &key, out);
        }
    }
}

/// P14: a full set at `index` removes only epochs that its author can have known; what an earlier incarnation left is
/// quarantined, since a restored state may never have heard of it.
fn remove_absent(core: &mut Core, named: &BTreeSet<RunnerKey>, index: Epoch, out: &mut Out) {
    let absent: Vec<RunnerKey> =
        core.runners.keys().filter(|key| !named.contains(key) && key.epoch() <= index).cloned().collect();
    for key in absent {
        let Some(entry) = core.runners.get_mut(&key) else { continue };
        // An end is reported until it is acknowledged, wanted or not.
        if matches!(entry.phase, Phase::Ended | Phase::Concluding) {
            continue;
        }
        if key.epoch().incarnation < index.incarnation {
            quarantine(&key, entry);
            continue;
        }
        info!(runner = %key, %index, reason = REASON_NOT_WANTED, "the cluster no longer wants this epoch here");
        entry.want.raise(Want::Gone);
        if matches!(entry.phase, Phase::Held | Phase::Intending | Phase::Intended) {
            core.runners.remove(&key);
            core.dirty.remove(&key);
            out.push(Effect::Discard { key });
        } else {
            carry_out_stop(core, &key, out);
        }
    }
    halt::finish_when_done(core, out);
}

fn quarantine(key: &RunnerKey, entry: &mut Entry) {
    if !entry.orphaned {
        warn!(runner = %key, "unknown to the cluster: quarantined as orphaned, it keeps running");
    }
    entry.orphaned = true;
}

/// Puts every held start back on its way.
pub(super) fn retry_held(core: &mut Core, out: &mut Out) {
    let mut keys = Vec::new();
    for (key, entry) in &mut core.runners {
        if entry.phase == Phase::Held && entry.start.is_some() {
            entry.phase = Phase::Intending;
            entry.report.reason.clear();
            keys.push(key.clone());
        }
    }
    if !keys.is_empty() {
        out.push(Effect::Intend { keys, seen: core.durable_seen() });
    }
}

/// Starts waiting runners while slots for starts are free; one that cannot be armed goes on waiting (P10).
pub(super) fn start_waiting(core: &mut Core, out: &mut Out) {
    if core.lease.granted.is_none() {
        return;
    }
    let mut unarmed = VecDeque::new();
    while core.starting < STARTS_MAX {
        let Some(key) = core.waiting.pop_front() else { break };
        let waits = |entry: &&Entry| entry.phase == Phase::Intended && entry.want == Want::Run;
        let Some(entry) = core.runners.get(&key).filter(waits) else { continue };
        let Some(start) = entry.start.clone() else { continue };
        let Some(deadline) = to_arm(core, &start) else {
            unarmed.push_back(key);
            continue;
        };
        core.starting += 1;
        if let Some(entry) = core.runners.get_mut(&key) {
            entry.phase = Phase::Starting;
            entry.lease.armed(deadline);
        }
        out.push(Effect::Spawn { key, start, deadline });
    }
    unarmed.append(&mut core.waiting);
    core.waiting = unarmed;
}
