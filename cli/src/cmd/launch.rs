//! `launch`: starts runners, and attaches when a person is there to look.

use std::io::IsTerminal;
use std::process::ExitCode;

use stratavore_proto::v1::{self, LaunchRunnersRequest, LaunchRunnersResponse, RunnerSpec};

use super::{App, OK, attach};
use crate::args::{LaunchArgs, OnDisconnect, Output, Restart};
use crate::client;
use crate::errors::{Failure, Result};
use crate::view;

/// Launches; returns when the launch is committed, or after the attached session.
///
/// # Errors
/// The cluster's refusal, or the session's failure.
pub(crate) async fn run(app: &App, args: LaunchArgs) -> Result<ExitCode> {
    let attached = attaches(app, &args);
    let answer = commit(app, &args).await?;
    finish(app, &args, answer, attached).await
}

/// Whether the launch ends in a session: one runner, a person at both ends, and a table wanted.
pub(crate) fn attaches(app: &App, args: &LaunchArgs) -> bool {
    let person = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    person && !args.detach && args.count == 1 && app.output() == Output::Table
}

/// Commits the launch.
///
/// # Errors
/// The cluster's refusal.
pub(crate) async fn commit(app: &App, args: &LaunchArgs) -> Result<LaunchRunnersResponse> {
    let spec = spec(args)?;
    let doing = format!("launch in {}", args.project);
    app.client()?
        .mutate(&doing, args.request_id, async |channel, request_id| {
            let request = LaunchRunnersRequest {
                request_id,
                project: args.project.clone(),
                count: args.count,
                name: args.name.clone().unwrap_or_default(),
                spec: Some(spec.clone()),
                no_queue: args.no_queue,
            };
            client::runners(channel).launch_runners(request).await
        })
        .await
}

/// Prints what was launched, or attaches to it.
///
/// # Errors
/// When stdout is closed, or the session's failure.
pub(crate) async fn finish(
    app: &App,
    args: &LaunchArgs,
    answer: LaunchRunnersResponse,
    attached: bool,
) -> Result<ExitCode> {
    let queued = &answer.queued_reason;
    if attached && let [runner] = answer.runners.as_slice() {
        if !queued.is_empty() {
            view::tell(&format!("{} waits: {queued}; why: stratavore explain {}", runner.name, runner.name));
        }
        return Box::pin(attach::to_launched(app, runner, !queued.is_empty())).await;
    }
    view::runner::print(app.output(), &answer.runners, false)?;
    if !queued.is_empty() && app.output() == Output::Table {
        let waiting =
            answer.runners.iter().find(|runner| !runner.reason.is_empty()).or_else(|| answer.runners.first());
        let first = waiting.map_or(args.project.as_str(), |runner| runner.name.as_str());
        view::tell(&format!("queued: {queued}; why: stratavore explain {first}"));
    }
    OK
}

fn spec(args: &LaunchArgs) -> Result<RunnerSpec> {
    let restart = match args.restart {
        Restart::Never => v1::RestartPolicy::Never,
        Restart::OnFailure => v1::RestartPolicy::OnFailure,
        Restart::Always => v1::RestartPolicy::Always,
    };
    let on_disconnect = match (args.on_disconnect, args.restart) {
        (Some(OnDisconnect::Keep), Restart::OnFailure | Restart::Always) => {
            return Err(Failure::usage(
                "--on-disconnect keep does not go with --restart on-failure or always",
            )
            .cause("a runner that restarts by itself must be replaceable when its host is lost")
            .next("leave out --on-disconnect, or --restart"));
        }
        (Some(OnDisconnect::Stop), _) | (None, Restart::OnFailure | Restart::Always) => {
            v1::OnDisconnect::Stop
        }
        (Some(OnDisconnect::Keep) | None, Restart::Never) => v1::OnDisconnect::Keep,
    };
    Ok(RunnerSpec {
        command: args.command.clone(),
        env: args
            .env
            .iter()
            .map(|(name, value)| v1::EnvVar { name: name.clone(), value: value.clone() })
            .collect(),
        workdir: args.workdir.clone().unwrap_or_default(),
        tty: !args.no_tty,
        slots: args.slots,
        cpu_milli: args.cpu.unwrap_or_default(),
        memory_bytes: args.memory.unwrap_or_default(),
        labels: args.labels.iter().cloned().collect(),
        host: args.host.clone().unwrap_or_default(),
        on_disconnect: on_disconnect.into(),
        hold_ms: args.hold.map_or(0, |hold| u64::try_from(hold.as_millis()).unwrap_or(u64::MAX)),
        restart: restart.into(),
    })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::args::{Action, Command, parse};
    use crate::errors::Exit;

    fn spec_of(line: &str) -> Result<RunnerSpec> {
        let words = std::iter::once("stratavore").chain(line.split_whitespace()).map(OsString::from);
        let Action::Command(Command::Launch(args)) = parse(words).unwrap().action else { panic!("{line}") };
        spec(&args)
    }

    #[test]
    fn the_defaults_are_an_interactive_kept_runner_of_one_slot() {
        let spec = spec_of("launch demo").unwrap();
        assert!(spec.tty && spec.command.is_empty());
        assert_eq!((spec.slots, spec.cpu_milli, spec.memory_bytes, spec.hold_ms), (1, 0, 0, 0));
        assert_eq!(spec.on_disconnect(), v1::OnDisconnect::Keep);
        assert_eq!(spec.restart(), v1::RestartPolicy::Never);
    }

    #[test]
    fn restarting_implies_stop_and_contradicts_keep() {
        assert_eq!(spec_of("launch demo --restart always").unwrap().on_disconnect(), v1::OnDisconnect::Stop);
        let refused = spec_of("launch demo --restart on-failure --on-disconnect keep").unwrap_err();
        assert_eq!(refused.exit(), Exit::Usage);
        assert!(spec_of("launch demo --restart on-failure --on-disconnect stop").is_ok());
    }

    #[test]
    fn everything_typed_arrives() {
        let spec = spec_of(
            "launch demo -e A=b=c --workdir /w --host h --label z=1 --slots 2 --cpu 0.5 --memory 1M --no-tty --hold 5s -- a b",
        )
        .unwrap();
        assert_eq!(spec.env[0], v1::EnvVar { name: "A".to_owned(), value: "b=c".to_owned() });
        assert_eq!((spec.workdir.as_str(), spec.host.as_str(), spec.labels["z"].as_str()), ("/w", "h", "1"));
        assert_eq!((spec.slots, spec.cpu_milli, spec.memory_bytes, spec.hold_ms), (2, 500, 1 << 20, 5000));
        assert_eq!(spec.command, ["a", "b"]);
        assert!(!spec.tty);
    }
}
