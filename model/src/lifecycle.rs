//! The moves in a runner's life that several commands make.

use std::sync::Arc;

use crate::command::RESTARTS_SINCE;
use crate::event::EventKind;
use crate::host::Fence;
use crate::id::{ProjectName, RunnerId};
use crate::restart::{self, LastStart, Next, RESTART_BACKOFF, RESTART_LIMIT, Retry};
use crate::runner::{Exit, Lost, OnDisconnect, QUOTA_REACHED, RunnerRecord, RunnerState, Want};
use crate::time::Millis;
use crate::tx::Tx;

/// How an epoch ends.
pub(crate) struct End {
    pub(crate) state: RunnerState,
    pub(crate) exit: Option<Exit>,
    pub(crate) reason: String,
    /// Whether its process tree is proven gone (P8).
    pub(crate) settled: bool,
}

/// Ends a live runner as its host reports it. Its restart policy decides what follows, once nothing of it is left.
pub(crate) fn end_as_reported(tx: &mut Tx<'_>, runner: RunnerRecord, mut how: End) {
    let clean = how.settled && how.exit.as_ref().is_none_or(|exit| exit.leftovers.is_empty());
    let follows = if clean && !runner.restart_wanted {
        restart::next(&runner, how.state, how.exit.as_ref(), tx.now())
    } else {
        Next::Over
    };
    if follows == Next::GaveUp {
        (how.state, how.reason) = (RunnerState::Failed, RESTART_LIMIT.into());
    }
    let Next::Again { attempts, delay_ms } = follows else { return end(tx, runner, how) };
    let (id, project) = (runner.id, runner.project.clone());
    note_end(tx, runner, how);
    respawn(tx, id, attempts, delay_ms);
    admit_waiting(tx, &project);
}

/// The late proof that nothing is left of what its host reported as ended (P15): now its policy may follow.
pub(crate) fn settled_late(tx: &mut Tx<'_>, runner: RunnerRecord) {
    let name_free = tx.state().live_runner_named(&runner.name).is_none();
    let follows = restart::next(&runner, runner.state, runner.exit.as_deref(), tx.now());
    let id = runner.id;
    tx.put_runner(runner);
    if let Next::Again { attempts, delay_ms } = follows
        && name_free
    {
        respawn(tx, id, attempts, delay_ms);
    }
}

/// Queues an ended, settled runner again as its policy says.
fn respawn(tx: &mut Tx<'_>, id: RunnerId, attempts: u32, delay_ms: u64) {
    let Some(runner) = tx.state().runner(id).cloned() else { return };
    let policy = runner.spec.restart;
    let not_before = if delay_ms == 0 { Millis(0) } else { tx.now().plus(delay_ms) };
    let placed_at = runner.retry.as_ref().map_or(Millis(0), |retry| retry.placed_at);
    let exit = runner
        .exit
        .clone()
        .unwrap_or_else(|| Arc::new(Exit { reason: runner.reason.clone(), ..Exit::default() }));
    let how = exit.words();
    let last = runner.epoch.zip(runner.host).map(|(epoch, host)| LastStart { epoch, host, exit });
    let when = if delay_ms == 0 { String::from("now") } else { format!("in {} s", delay_ms / 1000) };
    let why = format!("{}: {how}; {} {when}", policy.as_str(), restart::count_words(policy, attempts));
    let retry = Some(Retry { attempts, not_before, placed_at, last });
    requeue(tx, RunnerRecord { retry, ..runner }, &why);
}

/// Ends a live runner, frees its quota place, and queues it again if that was asked for.
pub(crate) fn end(tx: &mut Tx<'_>, runner: RunnerRecord, how: End) {
    let (project, why) = (runner.project.clone(), how.reason.clone());
    let runner = note_end(tx, runner, how);
    if runner.restart_wanted && runner.settled {
        // Its quota place is free while it is re-queued, so it may take it again.
        requeue(tx, runner, &why);
    } else if runner.restart_wanted {
        tx.put_runner(RunnerRecord { restart_wanted: false, ..runner });
    }
    admit_waiting(tx, &project);
}

/// Writes the end down, with its event.
fn note_end(tx: &mut Tx<'_>, mut runner: RunnerRecord, end: End) -> RunnerRecord {
    let leftovers = end.exit.as_ref().is_some_and(|exit| !exit.leftovers.is_empty());
    runner.state = end.state;
    runner.exit = end.exit.map(Arc::new);
    runner.reason = end.reason;
    runner.lost = None;
    runner.admitted = false;
    if let Some(retry) = &mut runner.retry {
        retry.not_before = Millis(0);
    }
    runner.ended_at = Some(tx.now());
    runner.settled = end.settled && !leftovers;
    let kind = match end.state {
        RunnerState::Failed => EventKind::RunnerFailed,
        _ => EventKind::RunnerStopped,
    };
    tx.runner_event(kind, &runner, &runner.reason);
    tx.put_runner(runner.clone());
    runner
}

/// Reason of what a reboot ended.
pub(crate) const HOST_REBOOTED: &str = "host_rebooted";

/// Ends an epoch whose end nobody reported but which is proven, or vouched for (P8, P15); one that has ended before is
/// settled. `again`: it is restartable work and is queued at once, unless a stop was wanted (P9).
pub(crate) fn close(tx: &mut Tx<'_>, runner: RunnerRecord, reason: &str, again: bool) {
    if !runner.is_live() {
        tx.put_runner(RunnerRecord { settled: true, ..runner });
        return;
    }
    let restart_wanted = runner.restart_wanted || (again && runner.want == Want::Run);
    let exit = Some(Exit { reason: reason.to_owned(), ..Exit::default() });
    let end_of = End { state: RunnerState::Failed, exit, reason: reason.to_owned(), settled: true };
    end(tx, RunnerRecord { restart_wanted, ..runner }, end_of);
}

/// P8: a new boot id says that a runner's tree is gone, and is not proof enough to start it again. What is to be started
/// again stays, lost, until the reboot is confirmed; the rest has failed and owes the proof.
pub(crate) fn end_by_reboot(tx: &mut Tx<'_>, runner: RunnerRecord) {
    let again = runner.on_disconnect == OnDisconnect::Stop && runner.want == Want::Run;
    if again || runner.restart_wanted {
        if runner.lost.is_none() {
            tx.runner_event(EventKind::RunnerLost, &runner, Lost::HostRebooted.as_str());
        }
        tx.put_runner(RunnerRecord { lost: Some(Lost::HostRebooted), ..runner });
        return;
    }
    let exit = Some(Exit { reason: HOST_REBOOTED.into(), ..Exit::default() });
    end(tx, runner, End { state: RunnerState::Failed, exit, reason: HOST_REBOOTED.into(), settled: false });
}

/// Makes an ended, settled runner pending again: same id, and a new epoch once it is placed. `why` is for the event.
pub(crate) fn requeue(tx: &mut Tx<'_>, runner: RunnerRecord, why: &str) {
    let admitted = has_quota_place(tx, &runner.project);
    let queued = tx.next_place();
    let waits = runner.retry.as_ref().is_some_and(|retry| retry.not_before > Millis(0));
    let reason = match (admitted, waits) {
        (false, _) => QUOTA_REACHED,
        (true, true) => RESTART_BACKOFF,
        (true, false) => "",
    };
    // Events are counted in bytes, so this entry says no more than it did before (P22).
    let said = tx.state().cluster().is_some_and(|cluster| cluster.version >= RESTARTS_SINCE);
    let runner = RunnerRecord {
        state: RunnerState::Pending,
        lost: None,
        want: Want::Run,
        restart_wanted: false,
        admitted,
        queued,
        epoch: None,
        host: None,
        on_disconnect: OnDisconnect::Keep,
        hold_ms: 0,
        rev: 0,
        pid: 0,
        fence: Fence::Unknown,
        exit: None,
        reason: reason.into(),
        started_at: None,
        ended_at: None,
        restarts: runner.restarts.saturating_add(1),
        settled: true,
        ..runner
    };
    tx.runner_event(EventKind::RunnerRestarted, &runner, if said { why } else { "" });
    if !admitted {
        tx.runner_event(EventKind::RunnerQueued, &runner, QUOTA_REACHED);
    }
    tx.put_runner(runner);
}

/// Whether one more runner of the project can be admitted.
pub(crate) fn has_quota_place(tx: &Tx<'_>, project: &ProjectName) -> bool {
    quota_places(tx, project) > 0
}

/// How many more runners of the project can be admitted.
pub(crate) fn quota_places(tx: &Tx<'_>, project: &ProjectName) -> u32 {
    let max = tx.state().project(project).map_or(0, |project| project.max_runners);
    max.saturating_sub(tx.state().admitted(project))
}

/// Gives free quota places to the runners that have waited longest.
pub(crate) fn admit_waiting(tx: &mut Tx<'_>, project: &ProjectName) {
    while has_quota_place(tx, project) {
        let longest = tx.state().waiting(project).next();
        let Some(runner) = longest.and_then(|id| tx.state().runner(id).cloned()) else { return };
        tx.put_runner(RunnerRecord { admitted: true, reason: String::new(), ..runner });
    }
}

/// Lays the overlay on a placed runner (P15); an overlay that is there stays.
pub(crate) fn lose(tx: &mut Tx<'_>, runner: RunnerRecord, lost: Lost) {
    if runner.state.is_placed() && runner.lost.is_none() {
        tx.runner_event(EventKind::RunnerLost, &runner, lost.as_str());
        tx.put_runner(RunnerRecord { lost: Some(lost), ..runner });
    }
}

/// Takes the overlay off.
pub(crate) fn recover(tx: &mut Tx<'_>, runner: RunnerRecord) {
    if runner.lost.is_some() {
        tx.runner_event(EventKind::RunnerRecovered, &runner, "");
        tx.put_runner(RunnerRecord { lost: None, ..runner });
    }
}

/// Records the wish that a placed runner stops. `again`: start it afresh afterwards.
pub(crate) fn ask_to_stop(tx: &mut Tx<'_>, runner: RunnerRecord, force: bool, again: bool) {
    let want = match runner.want {
        Want::Stop { force: forced } => Want::Stop { force: forced || force },
        Want::Run => Want::Stop { force },
    };
    if want == runner.want && again == runner.restart_wanted {
        return;
    }
    let reason = match (again, force) {
        (true, _) => "restart",
        (false, true) => "kill --force",
        (false, false) => "kill",
    };
    tx.runner_event(EventKind::RunnerStopRequested, &runner, reason);
    let stop_request_id = tx.request_id.or(runner.stop_request_id);
    tx.put_runner(RunnerRecord { want, restart_wanted: again, stop_request_id, ..runner });
}
