//! `runners` (`ps`).

use std::process::ExitCode;

use stratavore_proto::v1::{
    AdoptRunnerRequest, DeclareRunnerDeadRequest, ListRunnersRequest, ReadOptions, Runner, RunnerFilter,
};
use uuid::Uuid;

use super::{App, OK, sure};
use crate::args::{Output, RunnersArgs, RunnersCommand, RunnersListArgs, State};
use crate::client;
use crate::errors::Result;
use crate::view;

/// Prints runners, the live ones by default, or adopts one, or declares one dead.
///
/// # Errors
/// The cluster's refusal.
pub(crate) async fn run(app: &App, args: RunnersArgs) -> Result<ExitCode> {
    match args.command {
        None => show(app, args.list).await,
        Some(RunnersCommand::Adopt { runner, project, name, request_id }) => {
            let name = name.unwrap_or_default();
            let request = AdoptRunnerRequest { runner, project, name, ..Default::default() };
            adopt(app, request, request_id).await
        }
        Some(RunnersCommand::DeclareDead { runner, yes, request_id }) => {
            sure(app, yes, &format!("Does really nothing of {runner} run any more? [y/N] "))?;
            declare_dead(app, &runner, request_id).await
        }
    }
}

async fn adopt(app: &App, request: AdoptRunnerRequest, request_id: Option<Uuid>) -> Result<ExitCode> {
    let answer = app
        .client()?
        .mutate(&format!("adopt {}", request.runner), request_id, async |channel, request_id| {
            let request = AdoptRunnerRequest { request_id, ..request.clone() };
            client::runners(channel).adopt_runner(request).await
        })
        .await?;
    view::runner::print(app.output(), &answer.runner.into_iter().collect::<Vec<_>>(), false)?;
    OK
}

async fn declare_dead(app: &App, runner: &str, request_id: Option<Uuid>) -> Result<ExitCode> {
    let answer = app
        .client()?
        .mutate(&format!("declare {runner} dead"), request_id, async |channel, request_id| {
            let request = DeclareRunnerDeadRequest { request_id, runner: runner.to_owned() };
            client::runners(channel).declare_runner_dead(request).await
        })
        .await?;
    view::runner::print(app.output(), &answer.runner.into_iter().collect::<Vec<_>>(), false)?;
    OK
}

async fn show(app: &App, args: RunnersListArgs) -> Result<ExitCode> {
    let filter = RunnerFilter {
        runners: Vec::new(),
        project: args.project.or(args.only).unwrap_or_default(),
        states: args.state.iter().map(|state| state.wire().into()).collect(),
        include_ended: args.all || args.state.iter().copied().any(State::is_ended),
    };
    let mut runners = list(app, filter, args.stale).await?;
    runners.sort_by(|a, b| (a.created_at_unix_ms, &a.name).cmp(&(b.created_at_unix_ms, &b.name)));
    view::runner::print(app.output(), &runners, args.verbose)?;
    if runners.is_empty() && app.output() == Output::Table {
        view::tell(
            "no such runners; ended ones are shown with --all, new ones start with stratavore PROJECT",
        );
    }
    OK
}

/// The live runners of a project that can be attached to, newest first.
///
/// # Errors
/// The cluster's refusal.
pub(crate) async fn live_of(app: &App, project: &str) -> Result<Vec<Runner>> {
    let filter = RunnerFilter { project: project.to_owned(), ..Default::default() };
    let mut runners = list(app, filter, false).await?;
    runners.retain(|runner| !view::runner::is_ended(runner));
    runners.sort_by_key(|runner| std::cmp::Reverse(runner.created_at_unix_ms));
    Ok(runners)
}

/// All runners of a filter; says at which index when the answer is stale.
///
/// # Errors
/// The cluster's refusal.
pub(crate) async fn list(app: &App, filter: RunnerFilter, stale: bool) -> Result<Vec<Runner>> {
    let (runners, index) = pages(app, &filter, stale).await?;
    if stale {
        view::tell(&format!("stale: a node's own state at index {index}"));
    }
    Ok(runners)
}

/// All runners of a filter, page by page, and the index of the last page.
///
/// # Errors
/// The cluster's refusal.
pub(crate) async fn pages(app: &App, filter: &RunnerFilter, stale: bool) -> Result<(Vec<Runner>, u64)> {
    let mut runners = Vec::new();
    let mut page_token = String::new();
    loop {
        let answer = app
            .client()?
            .read("list the runners", async |channel| {
                let request = ListRunnersRequest {
                    filter: Some(filter.clone()),
                    read: Some(ReadOptions { stale }),
                    page_size: 0,
                    page_token: page_token.clone(),
                };
                client::runners(channel).list_runners(request).await
            })
            .await?;
        runners.extend(answer.runners);
        if answer.next_page_token.is_empty() {
            return Ok((runners, answer.info.unwrap_or_default().applied_index));
        }
        page_token = answer.next_page_token;
    }
}
