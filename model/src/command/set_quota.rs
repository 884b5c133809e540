//! `stratavore quotas set`.

use serde::Serialize;

use super::create_project::check_quota;
use crate::command::{Success, Verdict};
use crate::event::EventKind;
use crate::id::ProjectName;
use crate::lifecycle::admit_waiting;
use crate::project::ProjectRecord;
use crate::query::known_project;
use crate::row::Row;
use crate::tx::Tx;

/// Sets how many runners of a project may live at a time. Lowering it ends none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SetQuota {
    pub project: ProjectName,
    pub max_runners: u32,
}

impl SetQuota {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        let project = known_project(tx.state(), &self.project)?.clone();
        check_quota(self.max_runners)?;
        let reason = format!("max_runners {} -> {}", project.max_runners, self.max_runners);
        tx.put(Row::Project(ProjectRecord { max_runners: self.max_runners, ..project }));
        tx.project_event(EventKind::QuotaSet, &self.project, &reason);
        admit_waiting(tx, &self.project);
        Ok(Success::project(self.project.clone()))
    }
}

#[cfg(test)]
mod tests {
    use crate::Code;
    use crate::lab::Lab;

    #[test]
    fn raising_admits_who_waited_longest_and_lowering_ends_none() {
        let mut lab = Lab::new();
        lab.create_project("web", 1).unwrap();
        let runners = lab.launch("web", 3);
        assert_eq!(lab.state.admitted(&lab.project("web").name), 1);
        lab.set_quota("web", 2).unwrap();
        assert!(lab.state.runner(runners[1]).unwrap().admitted);
        assert!(!lab.state.runner(runners[2]).unwrap().admitted);
        lab.set_quota("web", 1).unwrap();
        assert_eq!(lab.state.admitted(&lab.project("web").name), 2);
    }

    #[test]
    fn refuses_zero_and_unknown_projects() {
        let mut lab = Lab::new();
        lab.create_project("web", 1).unwrap();
        assert_eq!(lab.set_quota("web", 0).unwrap_err().code, Code::BadArgument);
        assert_eq!(lab.set_quota("nope", 1).unwrap_err().code, Code::ProjectNotFound);
    }
}
