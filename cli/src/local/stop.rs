//! `down`: ends the supervisor, then the agents with everything they run, then the nodes. Works with all nodes dead.

use std::process::Stdio;
use std::time::Duration;

use futures::future::join_all;
use stratavore_proto::v1::{KillRunnersRequest, RunnerFilter, RunnerState};
use stratavore_settings::context::Contexts;
use tokio::process::Command;

use super::process::Stopped;
use super::programs::Programs;
use super::record::{Member, Record};
use super::{CONTEXT, Layout};
use crate::args::Globals;
use crate::client;
use crate::cmd::{App, runners};
use crate::context::{chain, contexts_file};
use crate::errors::{Exit, Failure, Result};
use crate::view;

/// A supervisor does nothing at its end.
const SUPERVISOR_GRACE: Duration = Duration::from_secs(5);

/// A node finishes its writes.
const NODE_GRACE: Duration = Duration::from_secs(15);

/// An agent whose runners are stopped has nothing left to do.
const AGENT_GRACE: Duration = Duration::from_secs(5);

/// Nodes of this machine answer at once.
const ASK_WITHIN: Duration = Duration::from_secs(3);

/// Every runner goes through its stop ladder, all at once.
const RUNNERS_WITHIN: Duration = Duration::from_secs(60);

/// Stops everything, in order; goes on past failures and returns the first.
///
/// # Errors
/// What could not be stopped.
pub(crate) async fn stop_all(
    globals: &Globals,
    layout: &Layout,
    record: &mut Record,
    own_pid: u32,
) -> Result<()> {
    let mut failures = Vec::new();
    if let Some(supervisor) = record.live_supervisor().filter(|supervisor| supervisor.pid != own_pid)
        && let Err(error) = supervisor.stop(SUPERVISOR_GRACE).await
    {
        failures.push(cannot_stop("the supervisor", &error));
    }
    // It may have started something in its last moments.
    if let Some(latest) = Record::load(layout)? {
        *record = latest;
    }
    let agents = record.agents.iter().map(|agent| stop_agent(globals, layout, agent));
    failures.extend(join_all(agents).await.into_iter().filter_map(Result::err));
    if record.nodes.iter().any(|node| node.alive().is_some()) {
        end_waiting(globals).await;
    }
    failures.extend(join_all(record.nodes.iter().map(stop_node)).await.into_iter().filter_map(Result::err));
    record.supervisor = None;
    for member in record.nodes.iter_mut().chain(&mut record.agents) {
        member.process = None;
        member.restarts = 0;
    }
    record.save(layout).map_err(|error| {
        Failure::new(Exit::Generic, format!("cannot write {}", layout.record().display()))
            .cause(error.to_string())
    })?;
    failures.into_iter().next().map_or(Ok(()), Err)
}

/// What its restart policy would start again some time later is on no host that could be stopped, and must not come back
/// with the next `up`. Without an answer it does come back.
async fn end_waiting(globals: &Globals) {
    let globals = Globals { timeout: Some(ASK_WITHIN), ..globals.with_context(CONTEXT) };
    let app = App::new(globals);
    let filter = RunnerFilter { states: vec![RunnerState::Pending.into()], ..Default::default() };
    let Ok(pending) = runners::list(&app, filter, false).await else { return };
    let waiting = pending.into_iter().filter(|runner| runner.not_before_unix_ms != 0);
    let runners: Vec<String> = waiting.map(|runner| runner.id).collect();
    if runners.is_empty() {
        return;
    }
    let Ok(client) = app.client() else { return };
    let ended = client
        .mutate("end what waits for its next start", None, async |channel, request_id| {
            let request = KillRunnersRequest { request_id, runners: runners.clone(), ..Default::default() };
            client::runners(channel).kill_runners(request).await
        })
        .await;
    if let Err(failure) = ended {
        view::tell(failure.render().trim_end());
    }
}

async fn stop_node(node: &Member) -> Result<()> {
    let Some(process) = node.alive() else { return Ok(()) };
    match process.stop(NODE_GRACE).await {
        Ok(Stopped::Killed) => view::tell(&format!("{} did not end by itself and was killed", node.name)),
        Ok(Stopped::ByItself) => {}
        Err(error) => return Err(cannot_stop(&node.name, &error)),
    }
    Ok(())
}

async fn stop_agent(globals: &Globals, layout: &Layout, agent: &Member) -> Result<()> {
    let stopped = if layout.has_joined(&agent.name) { stop_runners(globals, agent).await } else { Ok(()) };
    if let Some(process) = agent.alive()
        && let Err(error) = process.stop(AGENT_GRACE).await
    {
        return Err(cannot_stop(&agent.name, &error));
    }
    stopped
}

/// The agent's own program does it, whether the agent lives or not: it finds the shims where they registered.
async fn stop_runners(globals: &Globals, agent: &Member) -> Result<()> {
    let within = globals.timeout.unwrap_or(RUNNERS_WITHIN);
    let output = Command::new(Programs::find()?.agent)
        .args(["stop", "--runners", "--timeout"])
        .arg(humantime::format_duration(within).to_string().replace(' ', ""))
        .arg("--data-dir")
        .arg(&agent.data_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .await
        .map_err(|error| cannot_stop(&agent.name, &error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let line = |label: &str| said.lines().rev().find_map(|line| line.strip_prefix(label)).map(str::trim);
    let why = line("cause:")
        .or_else(|| line("error:"))
        .or_else(|| said.lines().last())
        .unwrap_or("it said nothing");
    Err(Failure::new(Exit::Timeout, format!("cannot stop every runner of {}", agent.name))
        .cause(why.to_owned())
        .next("stratavore down again; what was asked to stop goes on stopping"))
}

fn cannot_stop(what: &str, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Generic, format!("cannot stop {what}")).cause(error.to_string())
}

/// Removes data and context.
///
/// # Errors
/// When something cannot be removed.
pub(crate) fn purge(globals: &Globals, layout: &Layout) -> Result<()> {
    let failed =
        |what: String, why: String| Failure::new(Exit::Generic, format!("cannot remove {what}")).cause(why);
    match std::fs::remove_dir_all(layout.root()) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(layout.root().display().to_string(), error.to_string())),
    }
    let file = contexts_file(globals)?;
    if !file.exists() {
        return Ok(());
    }
    Contexts::edit(&file, |contexts| {
        contexts.remove(CONTEXT);
        Ok(())
    })
    .map_err(|error| failed(format!("the context {CONTEXT}"), chain(&error)))
}
