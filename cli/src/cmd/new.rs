//! `new`: registers a project.

use std::process::ExitCode;

use stratavore_proto::v1::CreateProjectRequest;

use super::{App, OK};
use crate::args::{NewArgs, Output, usage};
use crate::client;
use crate::errors::{Exit, Failure, Result};
use crate::view;

/// Registers the project and says how to use it.
///
/// # Errors
/// A reserved or bad name, a name taken, or the cluster's refusal.
pub(crate) async fn run(app: &App, args: NewArgs) -> Result<ExitCode> {
    usage::refuse_reserved(&args.name)?;
    let path = host_path(args.path.as_deref())?;
    let doing = format!("create project {}", args.name);
    let created = app
        .client()?
        .mutate(&doing, args.request_id, async |channel, request_id| {
            let request = CreateProjectRequest {
                request_id,
                name: args.name.clone(),
                path: path.clone(),
                max_runners: args.max_runners.unwrap_or_default(),
                command: args.command.clone(),
            };
            client::projects(channel).create_project(request).await
        })
        .await?;
    let project = created.project.unwrap_or_default();
    let name = project.name.clone();
    view::project::print(app.output(), &[project], false)?;
    if app.output() == Output::Table {
        view::tell(&format!("next: stratavore {name}"));
    }
    OK
}

/// The directory as the host will see it: absolute; a relative one is meant from here.
fn host_path(typed: Option<&str>) -> Result<String> {
    let path = std::path::absolute(typed.unwrap_or(".")).map_err(|error| {
        Failure::usage("cannot tell which directory is meant").cause(error.to_string()).next("give --path")
    })?;
    let path = path.into_os_string().into_string().map_err(|_| {
        Failure::new(Exit::Usage, "the directory's name is not UTF-8")
            .next("give another directory with --path")
    })?;
    Ok(if path.len() > 1 { path.trim_end_matches('/').to_owned() } else { path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_absolute() {
        assert_eq!(host_path(Some("/srv/x/")).unwrap(), "/srv/x");
        assert_eq!(host_path(Some("/")).unwrap(), "/");
        let here = std::env::current_dir().unwrap().into_os_string().into_string().unwrap();
        assert_eq!(host_path(None).unwrap(), here);
        assert_eq!(host_path(Some("sub")).unwrap(), format!("{here}/sub"));
    }
}
