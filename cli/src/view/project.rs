//! Projects and their quotas, as table and as JSON.

use serde::Serialize;
use stratavore_proto::v1;

use super::style::{CARE, PLAIN};
use super::table::{Cell, Table};
use super::time;
use crate::args::Output;
use crate::errors::Result;

/// The JSON shape of a project.
#[derive(Debug, Serialize)]
pub(crate) struct ProjectJson {
    name: String,
    path: String,
    command: Vec<String>,
    max_runners: u32,
    runners: u32,
}

impl From<&v1::Project> for ProjectJson {
    fn from(project: &v1::Project) -> Self {
        Self {
            name: project.name.clone(),
            path: project.path.clone(),
            command: project.command.clone(),
            max_runners: project.max_runners,
            runners: project.runners,
        }
    }
}

/// Prints projects.
///
/// # Errors
/// When stdout is closed.
pub(crate) fn print(output: Output, projects: &[v1::Project], verbose: bool) -> Result<()> {
    super::list(output, "ProjectList", projects.iter().map(ProjectJson::from).collect(), || {
        table(projects, verbose)
    })
}

/// Prints projects with their quotas in front.
///
/// # Errors
/// When stdout is closed.
pub(crate) fn print_quotas(output: Output, projects: &[v1::Project]) -> Result<()> {
    super::list(output, "ProjectList", projects.iter().map(ProjectJson::from).collect(), || {
        let mut table = Table::new(&["PROJECT", "QUOTA", "USED", "LIMIT"]);
        for project in projects {
            let (used, limit) = (used(project), project.max_runners.to_string().into());
            table.row(vec![project.name.as_str().into(), "max-runners".into(), used, limit]);
        }
        table
    })
}

fn table(projects: &[v1::Project], verbose: bool) -> Table {
    let mut heads = vec!["PROJECT", "RUNNERS", "MAX", "PATH"];
    if verbose {
        heads.push("AGE");
    }
    heads.push("COMMAND");
    let mut table = Table::new(&heads);
    for project in projects {
        let command =
            if project.command.is_empty() { "$SHELL".to_owned() } else { project.command.join(" ") };
        let mut row: Vec<Cell> = vec![
            project.name.as_str().into(),
            used(project),
            project.max_runners.to_string().into(),
            project.path.as_str().into(),
        ];
        if verbose {
            row.push(time::age(project.created_at_unix_ms).into());
        }
        row.push(command.into());
        table.row(row);
    }
    table
}

fn used(project: &v1::Project) -> Cell {
    let full = project.runners >= project.max_runners;
    Cell::styled(if full { CARE } else { PLAIN }, project.runners.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::json::tests::compact;
    use super::*;

    #[test]
    fn a_project_as_json() {
        let project = v1::Project {
            name: "demo".to_owned(),
            path: "/srv/demo".to_owned(),
            command: vec!["claude".to_owned()],
            max_runners: 5,
            runners: 2,
            created_at_unix_ms: 1,
        };
        assert_eq!(
            compact(&ProjectJson::from(&project)),
            r#"{"name":"demo","path":"/srv/demo","command":["claude"],"max_runners":5,"runners":2}"#
        );
    }
}
