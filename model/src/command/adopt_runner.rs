//! `stratavore runners adopt`: what a host had and the cluster did not know gets a project and a name (P14).

use serde::Serialize;

use super::host_connect::ORPHANED;
use crate::command::{Success, Verdict};
use crate::dedup::StoredReply;
use crate::event::EventKind;
use crate::id::{ProjectName, RunnerName};
use crate::query::{known_project, resolve_runner};
use crate::reply::{Code, Rejected, Reply};
use crate::runner::RunnerRecord;
use crate::tx::Tx;

/// Moves an orphan into a project, whose quota it counts against from then on. It stays where it is and runs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AdoptRunner {
    /// Id, unique id prefix or name.
    pub runner: String,
    pub project: ProjectName,
    /// None = it keeps the name that it was listed under.
    pub name: Option<RunnerName>,
}

impl AdoptRunner {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        let runner = resolve_runner(tx.state(), &self.runner)?.clone();
        let id = runner.id;
        check_orphan(&runner)?;
        self.check_room(tx)?;
        let name = self.name.clone().unwrap_or_else(|| runner.name.clone());
        if let Some(other) = tx.state().live_runner_named(&name).filter(|other| other.id != id) {
            let message = format!("a live runner ({}) is called {name}", other.id);
            return Err(Rejected::new(Code::NameTaken, message, "choose another --name").field("name"));
        }
        let runner = RunnerRecord { project: self.project.clone(), name, reason: String::new(), ..runner };
        tx.runner_event(EventKind::RunnerAdopted, &runner, "");
        tx.put_runner(runner);
        Ok(Success { reply: Reply::Restarted(id), stored: StoredReply::Restarted(id) })
    }

    fn check_room(&self, tx: &Tx<'_>) -> Result<(), Rejected> {
        let max = known_project(tx.state(), &self.project)?.max_runners;
        let admitted = tx.state().admitted(&self.project);
        if admitted < max {
            return Ok(());
        }
        let message = format!("project {} has {admitted} of {max} runners", self.project);
        let next = format!("raise it with `stratavore quotas set {} max-runners N`", self.project);
        Err(Rejected::new(Code::QuotaReached, message, next))
    }
}

fn check_orphan(runner: &RunnerRecord) -> Result<(), Rejected> {
    if !runner.is_live() {
        let message = format!("runner {} ({}) has ended", runner.name, runner.id);
        return Err(Rejected::new(Code::RunnerEnded, message, "launch a new one").field("runner"));
    }
    if runner.project.as_str() != ORPHANED {
        let message = format!("runner {} is of project {} already", runner.id, runner.project);
        let next = format!("list orphans with `stratavore runners --project {ORPHANED}`");
        return Err(Rejected::new(Code::BadArgument, message, next).field("runner"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::{Lab, founded_at};
    use crate::{Command, Epoch, RunnerId, RunnerState};

    fn adopt(lab: &mut Lab, runner: RunnerId, name: Option<&str>) -> Result<Reply, Rejected> {
        let (runner, project) = (runner.to_string(), "web".parse().unwrap());
        let name = name.map(|name| name.parse().unwrap());
        lab.user(Command::AdoptRunner(AdoptRunner { runner, project, name }))
    }

    fn orphan(lab: &mut Lab) -> RunnerId {
        let host = lab.host("a", 4);
        lab.create_project("web", 1).unwrap();
        let stranger = lab.fresh_runner_id();
        let epoch = Epoch { incarnation: 1, index: 900 };
        lab.connect(host, "boot-a", 2, vec![lab.observed(stranger, epoch, 3, RunnerState::Running)]);
        stranger
    }

    #[test]
    fn p14_an_orphan_gets_a_project_and_a_name_and_runs_on() {
        let mut lab = Lab::new();
        let stranger = orphan(&mut lab);
        let before = lab.state.runner(stranger).unwrap().clone();
        adopt(&mut lab, stranger, Some("found")).unwrap();
        let after = lab.state.runner(stranger).unwrap().clone();
        assert_eq!((after.project.as_str(), after.name.as_str()), ("web", "found"));
        assert_eq!((after.epoch, after.state, after.host), (before.epoch, before.state, before.host));
        assert_eq!(lab.events_of(EventKind::RunnerAdopted), 1);
        assert_eq!(adopt(&mut lab, stranger, None).unwrap_err().code, Code::BadArgument);
    }

    #[test]
    fn names_and_quotas_hold_for_orphans_too() {
        let mut lab = Lab::new();
        let stranger = orphan(&mut lab);
        let mine = lab.launch("web", 1)[0];
        let name = lab.state.runner(mine).unwrap().name.to_string();
        assert_eq!(adopt(&mut lab, stranger, None).unwrap_err().code, Code::QuotaReached);
        lab.set_quota("web", 2).unwrap();
        assert_eq!(adopt(&mut lab, stranger, Some(&name)).unwrap_err().code, Code::NameTaken);
        adopt(&mut lab, stranger, None).unwrap();
    }

    #[test]
    fn p22_an_older_cluster_adopts_nothing() {
        let mut lab = founded_at(2);
        let stranger = orphan(&mut lab);
        assert_eq!(adopt(&mut lab, stranger, None).unwrap_err().code, Code::NotFinalized);
    }
}
