//! What happens to runners on this host.

use stratavore_proto::v1;
use tracing::{info, warn};

use super::desired::{REASON_DISK_FULL, carry_out_stop, settle, start_waiting};
use super::effect::{Effect, RunnerEvent};
use super::entry::{Entry, Phase, Want, is_final};
use super::{Core, Out, deadline, halt, trim};
use crate::epoch::RunnerKey;

/// Starts that may fail for want of processes or files before the launch counts as failed: 5 over 10 s.
const START_ATTEMPTS_MAX: u32 = 5;

/// The shell learnt something about one runner. Late and repeated events change nothing.
pub fn on_runner(core: &mut Core, key: &RunnerKey, event: RunnerEvent, out: &mut Out) {
    match event {
        RunnerEvent::Intended => on_intended(core, key, out),
        RunnerEvent::IntentFailed { cause } => hold(core, key, Phase::Intending, &cause),
        RunnerEvent::Observed(report) | RunnerEvent::Concluded(report) => on_observed(core, key, report, out),
        RunnerEvent::Readopted(report) => {
            // The order to stop may have died with the connection to the shim; it is idempotent.
            if let Some(entry) = core.runners.get_mut(key) {
                entry.stop_sent = None;
            }
            on_observed(core, key, report, out);
        }
        RunnerEvent::Leased(held) => deadline::on_leased(core, key, held, out),
        RunnerEvent::StartDeferred { cause } => on_deferred(core, key, &cause, out),
        RunnerEvent::Recalled(report) => on_recalled(core, key, report),
    }
    halt::finish_when_done(core, out);
}

fn on_intended(core: &mut Core, key: &RunnerKey, out: &mut Out) {
    let Some(entry) = core.runners.get_mut(key).filter(|entry| entry.phase == Phase::Intending) else {
        return;
    };
    entry.phase = Phase::Intended;
    core.waiting.push_back(key.clone());
    start_waiting(core, out);
}

/// Keeps a start that cannot be carried out now, says why, and tries again on a tick.
fn hold(core: &mut Core, key: &RunnerKey, from: Phase, cause: &str) {
    let Some(entry) = core.runners.get_mut(key).filter(|entry| entry.phase == from) else { return };
    warn!(runner = %key, cause, "the start is held and will be tried again");
    entry.phase = Phase::Held;
    if entry.report.reason != cause {
        cause.clone_into(&mut entry.report.reason);
        trim(&mut entry.report);
        core.mark(key);
    }
}

fn on_deferred(core: &mut Core, key: &RunnerKey, cause: &str, out: &mut Out) {
    let starting = core.runners.get(key).is_some_and(|entry| entry.phase == Phase::Starting);
    if !starting {
        return;
    }
    core.starting -= 1;
    hold(core, key, Phase::Starting, cause);
    give_up_after_attempts(core, key, cause, out);
    carry_out_stop(core, key, out);
    start_waiting(core, out);
}

/// Want of space may pass at any time; anything else that persists is told to the person who launched it.
fn give_up_after_attempts(core: &mut Core, key: &RunnerKey, cause: &str, out: &mut Out) {
    let Some(entry) = core.runners.get_mut(key).filter(|_| !cause.starts_with(REASON_DISK_FULL)) else {
        return;
    };
    entry.attempts += 1;
    if entry.attempts >= START_ATTEMPTS_MAX {
        entry.phase = Phase::Concluding;
        let reason = format!("start_failed: {cause}");
        out.push(Effect::Conclude { key: key.clone(), state: v1::RunnerState::Failed, reason });
    }
}

fn on_observed(core: &mut Core, key: &RunnerKey, mut report: v1::Observation, out: &mut Out) {
    let Some(entry) = core.runners.get_mut(key) else { return };
    if entry.phase == Phase::Ended || report.rev < entry.report.rev {
        return;
    }
    trim(&mut report);
    let news = report.rev != entry.report.rev || report.state != entry.report.state;
    let was_starting = entry.phase == Phase::Starting;
    let ended = is_final(&report);
    entry.phase = if ended { Phase::Ended } else { Phase::Live };
    entry.report = report;
    entry.start = None;
    deadline::note_running(entry);
    if news {
        core.mark(key);
    }
    if was_starting {
        core.starting -= 1;
        start_waiting(core, out);
    }
    if ended {
        on_ended(core, key, out);
    } else {
        carry_out_stop(core, key, out);
    }
}

fn on_ended(core: &mut Core, key: &RunnerKey, out: &mut Out) {
    let Some(entry) = core.runners.get(key) else { return };
    info!(runner = %key, reason = %entry.report.reason, "ended");
    if entry.want == Want::Gone {
        settle(core, key, out);
    }
}

fn on_recalled(core: &mut Core, key: &RunnerKey, mut report: v1::Observation) {
    if !is_final(&report) || !core.settled.remove(key) {
        return;
    }
    trim(&mut report);
    core.runners.insert(key.clone(), Entry::observed(report));
    core.mark(key);
}

/// The cluster has committed reports up to `rev`; an end is forgotten only now.
pub(super) fn on_ack(core: &mut Core, key: &RunnerKey, rev: u64, out: &mut Out) {
    if let Some(entry) = core.runners.get_mut(key) {
        entry.acked_rev = entry.acked_rev.max(rev);
    }
    deadline::on_acknowledged(core, key, rev, out);
    let acknowledged =
        core.runners.get(key).is_some_and(|entry| entry.phase == Phase::Ended && entry.report.rev <= rev);
    if acknowledged {
        settle(core, key, out);
    }
}
