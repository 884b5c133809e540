//! `projects`.

use std::process::ExitCode;

use stratavore_proto::v1::{ListProjectsRequest, Project, ReadOptions};

use super::{App, OK};
use crate::args::ProjectsArgs;
use crate::client;
use crate::errors::{Exit, Failure, Result};
use crate::view;

/// Prints the projects.
///
/// # Errors
/// An unknown name, or the cluster's refusal.
pub(crate) async fn run(app: &App, args: ProjectsArgs) -> Result<ExitCode> {
    let name = args.name.unwrap_or_default();
    let projects = list(app, &name, args.stale).await?;
    if projects.is_empty() && !name.is_empty() {
        return Err(Failure::new(Exit::NotFound, format!("cannot show project {name}"))
            .cause(format!("there is no project \"{name}\""))
            .next(format!("stratavore new {name}")));
    }
    view::project::print(app.output(), &projects, args.verbose)?;
    if projects.is_empty() && app.output() == crate::args::Output::Table {
        view::tell("no projects yet; next: stratavore new NAME");
    }
    OK
}

/// Asks for the projects; an empty name means all.
///
/// # Errors
/// The cluster's refusal.
pub(crate) async fn list(app: &App, name: &str, stale: bool) -> Result<Vec<Project>> {
    let answer = app
        .client()?
        .read("list the projects", async |channel| {
            let request = ListProjectsRequest { read: Some(ReadOptions { stale }), name: name.to_owned() };
            client::projects(channel).list_projects(request).await
        })
        .await?;
    Ok(answer.projects)
}
