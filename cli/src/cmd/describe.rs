//! `describe`.

use std::process::ExitCode;

use stratavore_proto::v1::{GetRunnerRequest, GetRunnerResponse};

use super::{App, OK};
use crate::args::RunnerArg;
use crate::client;
use crate::errors::Result;
use crate::view;

/// Prints everything about one runner.
///
/// # Errors
/// An unknown runner, or the cluster's refusal.
pub(crate) async fn run(app: &App, args: RunnerArg) -> Result<ExitCode> {
    let answer = get(app, &args.runner).await?;
    view::runner::print_detail(app.output(), &answer.runner.unwrap_or_default(), &answer.events)?;
    OK
}

/// Asks for one runner by name, id or unique id prefix.
///
/// # Errors
/// As [`run`].
pub(crate) async fn get(app: &App, runner: &str) -> Result<GetRunnerResponse> {
    app.client()?
        .read(&format!("find runner {runner}"), async |channel| {
            let request = GetRunnerRequest { runner: runner.to_owned(), read: None };
            client::runners(channel).get_runner(request).await
        })
        .await
}
