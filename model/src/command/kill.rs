//! `stratavore kill`: a wish; the end is what the host reports (P15).

use std::collections::BTreeMap;

use serde::Serialize;

use crate::command::{Success, Verdict};
use crate::id::ProjectName;
use crate::lifecycle::{End, ask_to_stop, end};
use crate::query::{known_project, resolve_runner};
use crate::reply::{Code, Rejected};
use crate::runner::{RunnerRecord, RunnerState, Want};
use crate::tx::Tx;

/// Which runners.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Selector {
    /// Ids, unique id prefixes or names; all must resolve.
    Runners(Vec<String>),
    /// All live ones of a project.
    Project(ProjectName),
    /// All live ones.
    All,
}

/// Asks for the end of runners.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kill {
    pub selector: Selector,
    /// Straight to KILL; on a lost runner: close the record, its processes die when the host returns.
    pub force: bool,
}

impl Kill {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        let runners = self.selected(tx)?;
        let ids: Vec<_> = runners.iter().map(|runner| runner.id).collect();
        for runner in runners {
            self.stop(tx, runner);
        }
        Ok(Success::stopping(ids))
    }

    fn selected(&self, tx: &Tx<'_>) -> Result<Vec<RunnerRecord>, Rejected> {
        let state = tx.state();
        match &self.selector {
            Selector::All => Ok(state.runners().filter(|runner| runner.is_live()).cloned().collect()),
            Selector::Project(project) => {
                known_project(state, project)?;
                Ok(state.runners_of(project).cloned().collect())
            }
            Selector::Runners(names) => {
                if names.is_empty() {
                    let message = "no runner is named";
                    return Err(Rejected::bad_argument("runners", message, "name one, a project, or all"));
                }
                let mut runners = BTreeMap::new();
                for name in names {
                    let runner = resolve_runner(state, name)?;
                    if !runner.is_live() {
                        return Err(ended(runner));
                    }
                    runners.insert(runner.id, runner.clone());
                }
                Ok(runners.into_values().collect())
            }
        }
    }

    fn stop(&self, tx: &mut Tx<'_>, runner: RunnerRecord) {
        let ended = |state, reason: &str, settled| End { state, exit: None, reason: reason.into(), settled };
        // What is never started again must not count as wanting that.
        let runner = RunnerRecord { stop_request_id: tx.request_id.or(runner.stop_request_id), ..runner };
        if runner.state == RunnerState::Pending {
            end(tx, runner, ended(RunnerState::Terminated, "killed", true));
        } else if runner.lost.is_some() && self.force {
            // P15: the record closes; whatever lives is told to go when its host returns.
            // Its policy must not start it again when its host has shown it dead.
            let over = runner.retry.is_some();
            let want = if over { Want::Stop { force: true } } else { runner.want };
            let runner = RunnerRecord { restart_wanted: false, want, ..runner };
            end(tx, runner, ended(RunnerState::Failed, CLOSED_WHILE_LOST, false));
        } else {
            ask_to_stop(tx, runner, self.force, false);
        }
    }
}

/// Reason of a runner that an operator gave up while its host was silent.
const CLOSED_WHILE_LOST: &str = "closed_while_lost";

fn ended(runner: &RunnerRecord) -> Rejected {
    let state = runner.shown_state().as_str();
    let message = format!("runner {} ({}) has ended already: it is {state}", runner.name, runner.id);
    let next = format!("see how with `stratavore describe {}`", runner.id);
    Rejected::new(Code::RunnerEnded, message, next).field("runners")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Lab;
    use crate::query::{DesiredWant, desired};
    use crate::{Command, EventKind, HostId, RunnerId, ShownState};

    fn running() -> (Lab, HostId, RunnerId) {
        let mut lab = Lab::new();
        let host = lab.host("a", 4);
        lab.create_project("web", 3).unwrap();
        let runner = lab.launch("web", 1)[0];
        let epoch = lab.assign(runner, host).unwrap();
        lab.report(host, vec![lab.observed(runner, epoch, 1, RunnerState::Running)]).unwrap();
        (lab, host, runner)
    }

    #[test]
    fn a_pending_one_ends_at_once_and_frees_its_quota_place() {
        let mut lab = Lab::new();
        lab.create_project("web", 1).unwrap();
        let runners = lab.launch("web", 2);
        lab.kill(&runners[..1], false).unwrap();
        assert_eq!(lab.state.runner(runners[0]).unwrap().state, RunnerState::Terminated);
        assert!(lab.state.runner(runners[1]).unwrap().admitted);
    }

    #[test]
    fn a_running_one_is_asked_and_force_escalates_once() {
        let (mut lab, host, runner) = running();
        lab.kill(&[runner], false).unwrap();
        lab.kill(&[runner], false).unwrap();
        assert_eq!(lab.events_of(EventKind::RunnerStopRequested), 1);
        lab.kill(&[runner], true).unwrap();
        lab.kill(&[runner], false).unwrap();
        let want = DesiredWant::Stop { force: true, reason: "killed".into() };
        assert_eq!(desired(&lab.state, host)[0].want, want);
        assert_eq!(lab.state.runner(runner).unwrap().shown_state(), ShownState::Stopping);
    }

    #[test]
    fn forcing_a_lost_one_closes_the_record_and_its_host_still_owes_the_end() {
        let (mut lab, host, runner) = running();
        let epoch = lab.state.runner(runner).unwrap().epoch.unwrap();
        lab.unreachable(host).unwrap();
        lab.kill(&[runner], true).unwrap();
        let record = lab.state.runner(runner).unwrap();
        assert_eq!((record.state, record.settled), (RunnerState::Failed, false));
        assert_eq!(desired(&lab.state, host)[0].want, DesiredWant::Gone);
        lab.reachable(host).unwrap();
        lab.unreachable(host).unwrap();
        assert_eq!(lab.state.runner(runner).unwrap().lost, None, "what has ended is not lost");
        lab.report(host, vec![lab.observed(runner, epoch, 2, RunnerState::Terminated)]).unwrap();
        assert!(desired(&lab.state, host).is_empty());
    }

    #[test]
    fn selects_a_project_or_everything() {
        let (mut lab, ..) = running();
        lab.create_project("other", 3).unwrap();
        lab.launch("other", 2);
        let kill = |selector| Command::Kill(Kill { selector, force: false });
        lab.user(kill(Selector::Project("other".parse().unwrap()))).unwrap();
        assert_eq!(lab.state.live_runners(), 1);
        let refused = lab.user(kill(Selector::Project("nope".parse().unwrap()))).unwrap_err();
        assert_eq!(refused.code, Code::ProjectNotFound);
        lab.user(kill(Selector::All)).unwrap();
        assert_eq!(lab.state.count(ShownState::Stopping), 1);
        assert_eq!(lab.user(kill(Selector::Runners(vec![]))).unwrap_err().code, Code::BadArgument);
    }

    #[test]
    fn an_ended_or_unknown_one_is_refused_whole() {
        let (mut lab, _, runner) = running();
        let dead = lab.launch("web", 1)[0];
        lab.kill(&[dead], false).unwrap();
        assert_eq!(lab.kill(&[runner, dead], false).unwrap_err().code, Code::RunnerEnded);
        assert_eq!(lab.state.runner(runner).unwrap().shown_state(), ShownState::Running);
        let unknown = lab.fresh_runner_id();
        assert_eq!(lab.kill(&[unknown], false).unwrap_err().code, Code::RunnerNotFound);
    }
}
