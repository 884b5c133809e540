//! The end of all runners on this host: by its own order, or because the cluster removed it (P18).

use super::desired::carry_out_stop;
use super::effect::{Effect, Finish};
use super::entry::{Phase, Want};
use super::{Core, Out};
use crate::epoch::RunnerKey;

#[derive(Debug, Clone, Copy)]
pub(super) struct Halt {
    finish: Finish,
    /// [`Effect::Finish`] was given out.
    finished: bool,
}

/// Stops every runner and starts none any more; [`Effect::Finish`] follows when nothing lives. Needs no node.
/// A removal overrides a stop that is under way.
pub fn on_halt(core: &mut Core, finish: Finish, reason: &str, out: &mut Out) {
    match &mut core.halt {
        Some(halt) if finish == Finish::Removed && !halt.finished => halt.finish = finish,
        Some(_) => return,
        None => core.halt = Some(Halt { finish, finished: false }),
    }
    let keys: Vec<RunnerKey> = core.runners.keys().cloned().collect();
    for key in keys {
        if let Some(entry) = core.runners.get_mut(&key) {
            entry.want.raise(Want::Stop { force: false, reason: reason.to_owned() });
        }
        carry_out_stop(core, &key, out);
    }
    finish_when_done(core, out);
}

/// Says once that nothing is left alive.
pub(super) fn finish_when_done(core: &mut Core, out: &mut Out) {
    let Some(halt) = core.halt.as_mut().filter(|halt| !halt.finished) else { return };
    if core.runners.values().all(|entry| entry.phase == Phase::Ended) {
        halt.finished = true;
        out.push(Effect::Finish(halt.finish));
    }
}
