//! `stratavore runners declare-dead`: an operator vouches that nothing of a runner lives (P15).

use serde::Serialize;

use crate::command::{Success, Verdict};
use crate::event::EventKind;
use crate::lifecycle::close;
use crate::query::resolve_runner;
use crate::reply::{Code, Rejected};
use crate::runner::{OnDisconnect, RunnerRecord};
use crate::tx::Tx;

/// Ends an epoch on an operator's word; its event says whose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeclareRunnerDead {
    /// Id, unique id prefix or name.
    pub runner: String,
}

impl DeclareRunnerDead {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        let runner = resolve_runner(tx.state(), &self.runner)?.clone();
        let id = runner.id;
        check_open(&runner)?;
        tx.runner_event(EventKind::RunnerDeclaredDead, &runner, "");
        // Restartable work goes on elsewhere; the others wait for `stratavore restart`.
        let again = runner.on_disconnect == OnDisconnect::Stop;
        close(tx, runner, DECLARED_DEAD, again);
        Ok(Success::stopping(vec![id]))
    }
}

/// Only what nobody can report on any more is for an operator to end.
fn check_open(runner: &RunnerRecord) -> Result<(), Rejected> {
    let refuse = |code, what: &str, next: String| {
        let message = format!("runner {} ({}) {what}", runner.name, runner.id);
        Err(Rejected::new(code, message, next).field("runner"))
    };
    match (runner.state.is_placed(), runner.lost, runner.settled) {
        (true, Some(_), _) | (false, _, false) => Ok(()),
        (true, None, _) => {
            let next = format!("end it with `stratavore kill {}`", runner.id);
            refuse(Code::HostReachable, "is reported on by its host", next)
        }
        (false, _, true) => {
            let next = format!("see how it stands with `stratavore describe {}`", runner.id);
            refuse(Code::RunnerEnded, "is on no host", next)
        }
    }
}

/// Reason of what an operator declared dead.
pub(super) const DECLARED_DEAD: &str = "declared_dead";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OnDisconnect::{Keep, Stop};
    use crate::lab::{Lab, admin};
    use crate::{Command, RunnerId, RunnerState};

    fn declare(lab: &mut Lab, runner: RunnerId) -> Result<crate::Reply, Rejected> {
        lab.user(Command::DeclareRunnerDead(DeclareRunnerDead { runner: runner.to_string() }))
    }

    #[test]
    fn p15_an_operator_ends_what_is_lost_and_nothing_else() {
        let mut lab = Lab::new();
        lab.create_project("web", 9).unwrap();
        let (a, _) = lab.two_hosts(4);
        let (kept, epoch) = lab.placed(a, Keep, true);
        let (stopped, _) = lab.placed(a, Stop, true);
        assert_eq!(declare(&mut lab, kept).unwrap_err().code, Code::HostReachable);
        lab.unreachable(a).unwrap();
        declare(&mut lab, kept).unwrap();
        let record = lab.state.runner(kept).unwrap();
        let shown = (record.state, record.reason.as_str(), record.settled);
        assert_eq!(shown, (RunnerState::Failed, "declared_dead", true));
        declare(&mut lab, stopped).unwrap();
        assert_eq!(lab.state.runner(stopped).unwrap().state, RunnerState::Pending);
        assert_eq!(declare(&mut lab, kept).unwrap_err().code, Code::RunnerEnded);
        assert_eq!(declare(&mut lab, stopped).unwrap_err().code, Code::RunnerEnded);
        let mut audited = lab.changes.events().iter().filter(|e| e.kind == EventKind::RunnerDeclaredDead);
        let first = audited.next().unwrap();
        assert_eq!((first.actor.clone(), first.epoch), (admin(), Some(epoch)));
    }

    #[test]
    fn p15_it_settles_what_was_closed_without_proof() {
        let mut lab = Lab::new();
        lab.create_project("web", 9).unwrap();
        let (a, _) = lab.two_hosts(4);
        let (kept, _) = lab.placed(a, Keep, true);
        lab.unreachable(a).unwrap();
        lab.kill(&[kept], true).unwrap();
        assert_eq!(lab.restart(kept).unwrap_err().code, Code::RunnerUnsettled);
        declare(&mut lab, kept).unwrap();
        lab.restart(kept).unwrap();
    }

    #[test]
    fn p25_a_retry_gets_the_first_answer() {
        let mut lab = Lab::new();
        lab.create_project("web", 9).unwrap();
        let (a, _) = lab.two_hosts(4);
        let (kept, _) = lab.placed(a, Keep, true);
        lab.unreachable(a).unwrap();
        let request = lab.v7(0);
        let command = Command::DeclareRunnerDead(DeclareRunnerDead { runner: kept.to_string() });
        let first = lab.apply(admin(), Some(request), command.clone()).reply;
        assert_eq!(lab.apply(admin(), Some(request), command).reply, first);
        assert_eq!(first, crate::Reply::Stopping { runners: vec![kept] });
    }
}
