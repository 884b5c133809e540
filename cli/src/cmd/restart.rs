//! `restart`: same id, new epoch.

use std::process::ExitCode;

use stratavore_proto::v1::RestartRunnerRequest;

use super::{App, OK};
use crate::args::RestartArgs;
use crate::client;
use crate::errors::Result;
use crate::view;

/// Restarts; returns when that is committed.
///
/// # Errors
/// The cluster's refusal.
pub(crate) async fn run(app: &App, args: RestartArgs) -> Result<ExitCode> {
    let doing = format!("restart {}", args.runner);
    let answer = app
        .client()?
        .mutate(&doing, args.request_id, async |channel, request_id| {
            let request = RestartRunnerRequest { request_id, runner: args.runner.clone() };
            client::runners(channel).restart_runner(request).await
        })
        .await?;
    view::runner::print(app.output(), &answer.runner.into_iter().collect::<Vec<_>>(), false)?;
    OK
}
