//! `stratavore restart`: same id, new epoch.

use serde::Serialize;

use crate::command::{Success, Verdict};
use crate::dedup::StoredReply;
use crate::event::EventKind;
use crate::lifecycle::{ask_to_stop, requeue};
use crate::query::resolve_runner;
use crate::reply::{Code, Rejected, Reply};
use crate::restart::Retry;
use crate::runner::{RunnerRecord, RunnerState};
use crate::time::Millis;
use crate::tx::Tx;

/// Starts an ended runner again; a live one is stopped first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Restart {
    /// Id, unique id prefix or name.
    pub runner: String,
}

impl Restart {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        let runner = resolve_runner(tx.state(), &self.runner)?.clone();
        let id = runner.id;
        let retry = runner.retry.clone().map(Retry::by_hand);
        if runner.lost.is_some() {
            let message = format!("the host of runner {} does not answer, so it may still run", runner.name);
            let next = "wait for the host, or end the record with `stratavore kill --force`";
            return Err(Rejected::new(Code::HostDisconnected, message, next).field("runner"));
        }
        match runner.state {
            RunnerState::Pending => start_at_once(tx, RunnerRecord { retry, ..runner }),
            RunnerState::Terminated | RunnerState::Failed => {
                check_restartable(tx, &runner)?;
                let stop_request_id = tx.request_id.or(runner.stop_request_id);
                requeue(tx, RunnerRecord { stop_request_id, retry, ..runner }, BY_HAND);
            }
            RunnerState::Starting | RunnerState::Running | RunnerState::Paused | RunnerState::Stopping => {
                if runner.retry != retry {
                    tx.put_runner(RunnerRecord { retry: retry.clone(), ..runner.clone() });
                }
                ask_to_stop(tx, RunnerRecord { retry, ..runner }, false, true);
            }
        }
        Ok(Success { reply: Reply::Restarted(id), stored: StoredReply::Restarted(id) })
    }
}

/// Said of a start that a person asked for.
const BY_HAND: &str = "asked for";

/// One that waits out its back-off waits no longer.
fn start_at_once(tx: &mut Tx<'_>, runner: RunnerRecord) {
    let waits =
        |runner: &RunnerRecord| runner.retry.as_ref().is_some_and(|retry| retry.not_before > Millis(0));
    if tx.state().runner(runner.id).is_some_and(waits) {
        let reason = if runner.admitted { String::new() } else { runner.reason.clone() };
        let runner = RunnerRecord { reason, ..runner };
        tx.runner_event(EventKind::RunnerRestarted, &runner, BY_HAND);
        tx.put_runner(runner);
    }
}

fn check_restartable(tx: &Tx<'_>, runner: &RunnerRecord) -> Result<(), Rejected> {
    if !runner.settled {
        let message = match runner.exit.as_ref().filter(|exit| !exit.leftovers.is_empty()) {
            Some(exit) => format!("processes of its last start are left: {}", exit.leftovers.join(", ")),
            None => "nobody has seen the end of its last start yet".into(),
        };
        let next = "end them on the host, or launch a new runner";
        return Err(Rejected::new(Code::RunnerUnsettled, message, next).field("runner"));
    }
    if let Some(other) = tx.state().live_runner_named(&runner.name) {
        let message = format!("a live runner ({}) is called {} now", other.id, other.name);
        return Err(Rejected::new(Code::NameTaken, message, "launch a new runner").field("runner"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Lab;
    use crate::query::{DesiredWant, desired};
    use crate::{Epoch, Exit, HostId, RunnerId};

    fn running() -> (Lab, HostId, RunnerId, Epoch) {
        let mut lab = Lab::new();
        let host = lab.host("a", 4);
        lab.create_project("web", 1).unwrap();
        let runner = lab.launch("web", 1)[0];
        let epoch = lab.assign(runner, host).unwrap();
        lab.report(host, vec![lab.observed(runner, epoch, 1, RunnerState::Running)]).unwrap();
        (lab, host, runner, epoch)
    }

    #[test]
    fn an_ended_one_gets_a_new_epoch_under_its_id() {
        let (mut lab, host, runner, first) = running();
        lab.report(host, vec![lab.observed(runner, first, 2, RunnerState::Failed)]).unwrap();
        lab.restart(runner).unwrap();
        assert_eq!(lab.state.runner(runner).unwrap().restarts, 1);
        let second = lab.assign(runner, host).unwrap();
        assert!(second > first);
        // What the host says about the first start is history now.
        lab.report(host, vec![lab.observed(runner, first, 9, RunnerState::Terminated)]).unwrap();
        assert_eq!(lab.state.runner(runner).unwrap().state, RunnerState::Starting);
    }

    #[test]
    fn a_live_one_is_stopped_first() {
        let (mut lab, host, runner, epoch) = running();
        lab.restart(runner).unwrap();
        let want = DesiredWant::Stop { force: false, reason: "restarted".into() };
        assert_eq!(desired(&lab.state, host)[0].want, want);
        lab.report(host, vec![lab.observed(runner, epoch, 2, RunnerState::Terminated)]).unwrap();
        let record = lab.state.runner(runner).unwrap();
        assert_eq!((record.state, record.admitted, record.epoch), (RunnerState::Pending, true, None));
    }

    #[test]
    fn a_kill_afterwards_takes_the_restart_back() {
        let (mut lab, host, runner, epoch) = running();
        lab.restart(runner).unwrap();
        lab.kill(&[runner], false).unwrap();
        lab.report(host, vec![lab.observed(runner, epoch, 2, RunnerState::Terminated)]).unwrap();
        assert_eq!(lab.state.runner(runner).unwrap().state, RunnerState::Terminated);
    }

    #[test]
    fn one_that_leaves_processes_behind_is_not_started_again() {
        let (mut lab, host, runner, epoch) = running();
        lab.restart(runner).unwrap();
        let mut exited = lab.observed(runner, epoch, 2, RunnerState::Terminated);
        exited.exit = Some(Exit { leftovers: vec!["7 sh".into()], ..Exit::default() });
        lab.report(host, vec![exited]).unwrap();
        assert_eq!(lab.state.runner(runner).unwrap().state, RunnerState::Terminated);
    }

    #[test]
    fn a_restart_takes_its_own_quota_place_before_those_who_wait() {
        let (mut lab, host, runner, epoch) = running();
        let waiting = lab.launch("web", 1)[0];
        lab.restart(runner).unwrap();
        lab.report(host, vec![lab.observed(runner, epoch, 2, RunnerState::Terminated)]).unwrap();
        assert!(lab.state.runner(runner).unwrap().admitted);
        assert!(!lab.state.runner(waiting).unwrap().admitted);
        lab.kill(&[runner], false).unwrap();
        lab.restart(runner).unwrap();
        // By hand it queues up like everyone else.
        let record = lab.state.runner(runner).unwrap();
        assert_eq!((record.admitted, record.reason.as_str()), (false, "quota_reached"));
    }

    #[test]
    fn never_while_the_old_start_may_live() {
        let (mut lab, host, runner, epoch) = running();
        lab.unreachable(host).unwrap();
        assert_eq!(lab.restart(runner).unwrap_err().code, Code::HostDisconnected);
        lab.kill(&[runner], true).unwrap();
        assert_eq!(lab.restart(runner).unwrap_err().code, Code::RunnerUnsettled);
        let mut exited = lab.observed(runner, epoch, 2, RunnerState::Terminated);
        exited.exit = Some(Exit { leftovers: vec!["7 sh".into()], ..Exit::default() });
        lab.report(host, vec![exited]).unwrap();
        assert_eq!(lab.restart(runner).unwrap_err().code, Code::RunnerUnsettled);
        lab.report(host, vec![lab.observed(runner, epoch, 3, RunnerState::Terminated)]).unwrap();
        lab.restart(runner).unwrap();
    }
}
