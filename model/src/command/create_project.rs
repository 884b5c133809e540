//! `stratavore new`.

use serde::Serialize;

use crate::command::{Success, Verdict};
use crate::event::EventKind;
use crate::id::ProjectName;
use crate::limits::{PROJECTS_MAX, check_command, check_path};
use crate::project::{MAX_RUNNERS_DEFAULT, MAX_RUNNERS_LIMIT, ProjectRecord};
use crate::reply::{Code, Rejected};
use crate::row::Row;
use crate::tx::Tx;

/// Creates a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CreateProject {
    pub name: ProjectName,
    /// Directory on the hosts.
    pub path: String,
    /// Empty: the host's `$SHELL`.
    pub command: Vec<String>,
    /// 0 = [`crate::project::MAX_RUNNERS_DEFAULT`].
    pub max_runners: u32,
}

impl CreateProject {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        if tx.state().project(&self.name).is_some() {
            let message = format!("project {} exists", self.name);
            let next = format!("launch in it with `stratavore {}`, or choose another name", self.name);
            return Err(Rejected::new(Code::ProjectExists, message, next).field("name"));
        }
        if tx.state().projects().len() >= PROJECTS_MAX {
            let message = format!("there are {PROJECTS_MAX} projects, the most that a cluster holds");
            return Err(Rejected::new(Code::TooMany, message, "use one of them"));
        }
        check_path("path", &self.path)?;
        check_command("command", &self.command)?;
        let max_runners = if self.max_runners == 0 { MAX_RUNNERS_DEFAULT } else { self.max_runners };
        check_quota(max_runners)?;
        let created_at = tx.now();
        tx.put(Row::Project(ProjectRecord {
            name: self.name.clone(),
            path: self.path.clone(),
            command: self.command.clone(),
            max_runners,
            created_at,
            names_given: 0,
        }));
        tx.project_event(EventKind::ProjectCreated, &self.name, "");
        Ok(Success::project(self.name.clone()))
    }
}

pub(super) fn check_quota(max_runners: u32) -> Result<(), Rejected> {
    if (1..=MAX_RUNNERS_LIMIT).contains(&max_runners) {
        return Ok(());
    }
    let message = format!("{max_runners} is not between 1 and {MAX_RUNNERS_LIMIT}");
    Err(Rejected::bad_argument("max_runners", message, "give a number of runners"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Lab;

    #[test]
    fn default_quota_is_five() {
        let mut lab = Lab::new();
        lab.create_project("web", 0).unwrap();
        assert_eq!(lab.project("web").max_runners, 5);
    }

    #[test]
    fn refuses_a_second_one_a_relative_path_and_a_silly_quota() {
        let mut lab = Lab::new();
        lab.create_project("web", 1).unwrap();
        assert_eq!(lab.create_project("web", 1).unwrap_err().code, Code::ProjectExists);
        let rejected = lab.create_project("big", MAX_RUNNERS_LIMIT + 1).unwrap_err();
        assert_eq!(rejected.field.as_deref(), Some("max_runners"));
        let relative = CreateProject {
            name: "rel".parse().unwrap(),
            path: "srv".into(),
            command: vec![],
            max_runners: 1,
        };
        let rejected = lab.user(crate::Command::CreateProject(relative)).unwrap_err();
        assert_eq!(rejected.field.as_deref(), Some("path"));
    }
}
