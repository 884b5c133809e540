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
