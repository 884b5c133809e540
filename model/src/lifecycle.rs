//! The moves in a runner's life that several commands make.

use std::sync::Arc;

use crate::event::EventKind;
use crate::host::Fence;
use crate::id::ProjectName;
use crate::runner::{Exit, Lost, OnDisconnect, QUOTA_REACHED, RunnerRecord, RunnerState, Want};
use crate::tx::Tx;

/// How an epoch ends.
pub(crate) struct End {
    pub(crate) state: RunnerState,
    pub(crate) exit: Option<Exit>,
    pub(crate) reason: String,
    /// Whether its process tree is proven gone (P8).
    pub(crate) settled: bool,
}

/// Ends a live runner, frees its quota place, and queues it again if that was asked for.
pub(crate) fn end(tx: &mut Tx<'_>, mut runner: RunnerRecord, end: End) {
    let leftovers = end.exit.as_ref().is_some_and(|exit| !exit.leftovers.is_empty());
    runner.state = end.state;
    runner.exit = end.exit.map(Arc::new);
    runner.reason = end.reason;
    runner.lost = None;
    runner.admitted = false;
    runner.ended_at = Some(tx.now());
    runner.settled = end.settled && !leftovers;
    let kind = match end.state {
        RunnerState::Failed => EventKind::RunnerFailed,
        _ => EventKind::RunnerStopped,
    };
    tx.runner_event(kind, &runner, &runner.reason);
    let project = runner.project.clone();
    if runner.restart_wanted && runner.settled {
        // Its quota place is free while it is re-queued, so it may take it again.
        tx.put_runner(runner.clone());
        requeue(tx, runner);
    } else {
        runner.restart_wanted = false;
        tx.put_runner(runner);
    }
    admit_waiting(tx, &project);
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

/// Makes an ended, settled runner pending again: same id, and a new epoch once it is placed.
pub(crate) fn requeue(tx: &mut Tx<'_>, runner: RunnerRecord) {
    let admitted = has_quota_place(tx, &runner.project);
    let queued = tx.next_place();
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
        reason: if admitted { String::new() } else { QUOTA_REACHED.into() },
        started_at: None,
        ended_at: None,
        restarts: runner.restarts.saturating_add(1),
        settled: true,
        ..runner
    };
    tx.runner_event(EventKind::RunnerRestarted, &runner, "");
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
