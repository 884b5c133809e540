//! `attach`: the caller's terminal becomes the runner's; without a terminal, its bytes.

mod progress;
mod session;
#[cfg(test)]
mod tests;
mod wire;

use std::io::IsTerminal;
use std::process::ExitCode;

use stratavore_proto::v1::{Exit, Runner, RunnerFilter, RunnerState};

use self::progress::{Progress, Wish};
use self::session::{End, Session};
use self::wire::Wire;
use super::watch::Changes;
use super::{App, OK, describe, logs, runners};
use crate::args::AttachArgs;
use crate::errors::{Exit as ExitWith, Failure, Result};
use crate::term::detach::{DEFAULT_KEYS, DetachParser};
use crate::term::input::{self, Kind};
use crate::term::raw;
use crate::view;

/// Attaches to the runner that was named, or the only or newest one.
///
/// # Errors
/// An unknown or ended runner, somebody else driving, or the cluster's refusal.
pub(crate) async fn run(app: &App, args: AttachArgs) -> Result<ExitCode> {
    let runner = match args.runner {
        Some(runner) => runner,
        None => only_or_newest(app).await?,
    };
    let raw = !std::io::stdout().is_terminal();
    // Without a terminal nobody types; bytes that are piped in are meant for the runner.
    let observe = args.observe || (raw && input::kind() != Kind::Stream);
    let wish = Wish { runner, observe, steal: args.steal, raw, from_start: args.from_start };
    if args.from_start && !raw {
        return Err(Failure::usage("--from-start needs an output that is no terminal")
            .cause("a terminal gets the present screen; the bytes since the start would garble it")
            .next("stratavore logs, or redirect the output"));
    }
    session(app, wish, args.detach_keys.as_deref()).await
}

/// Attaches to a runner by name or id, driving.
///
/// # Errors
/// As [`run`].
pub(crate) async fn to(app: &App, runner: &str) -> Result<ExitCode> {
    session(app, Wish { runner: runner.to_owned(), ..Default::default() }, None).await
}

/// Attaches to a runner just launched. The node waits for its start; while it is queued for a reason, we do.
///
/// # Errors
/// As [`run`].
pub(crate) async fn to_launched(app: &App, launched: &Runner, queued: bool) -> Result<ExitCode> {
    let started = if queued { started(app, launched).await? } else { launched.clone() };
    if !view::runner::is_ended(&started) {
        match to(app, &launched.name).await {
            Err(failure) if failure.reason() == "runner_ended" => {}
            other => return other,
        }
    }
    // It was quicker than we: what it wrote is in its log.
    let ended = describe::get(app, &launched.id).await?.runner.unwrap_or(started);
    if ended.started_at_unix_ms != 0 {
        logs::print_all(app, &launched.id).await?;
    }
    conclude(&ended.name, &ended.exit.unwrap_or_default())
}

async fn started(app: &App, launched: &Runner) -> Result<Runner> {
    let mut runner = launched.clone();
    let filter = RunnerFilter { runners: vec![runner.id.clone()], include_ended: true, ..Default::default() };
    let mut changes = Changes::new(app, filter);
    while runner.state() == RunnerState::Pending {
        let change = changes.next().await?;
        runner = change.runners.into_iter().find(|changed| changed.id == launched.id).unwrap_or(runner);
    }
    Ok(runner)
}

async fn only_or_newest(app: &App) -> Result<String> {
    let live = runners::live_of(app, "").await?;
    // One that waits in the queue has no terminal yet.
    let Some(newest) =
        live.iter().find(|runner| runner.state() != RunnerState::Pending).or_else(|| live.first())
    else {
        return Err(Failure::new(ExitWith::NotFound, "there is nothing to attach to")
            .cause("no runner is live")
            .next("stratavore PROJECT launches one; stratavore projects lists them"));
    };
    if live.len() > 1 {
        view::tell(&format!("{} runners are live; this is the newest, {}", live.len(), newest.name));
    }
    Ok(newest.name.clone())
}

async fn session(app: &App, wish: Wish, detach_keys: Option<&str>) -> Result<ExitCode> {
    let detach_keys = detach_keys.unwrap_or(DEFAULT_KEYS);
    let parser = DetachParser::new(detach_keys).map_err(|why| {
        Failure::usage(format!("--detach-keys {detach_keys} cannot be used"))
            .cause(why)
            .next("stratavore attach --help")
    })?;
    let name = wish.runner.clone();
    let doing = format!("attach to {name}");
    let progress = Progress::new(wish.clone());
    let size = raw::window_size();
    let (wire, first) = Wire::open(app.client()?, &doing, progress.open(size)).await?;
    let mut session = Session::new(wish.clone(), wire, progress, parser)?;
    if !wish.raw {
        view::tell(&format!("attached to {name}; detach: {}", keys_for_people(detach_keys)));
    }
    let end = session.run(first).await;
    drop(session);
    match end? {
        End::Detached => {
            if !wish.raw {
                view::tell(&format!("detached from {name}; it goes on. next: stratavore attach {name}"));
            }
            OK
        }
        End::Exited(exit) => conclude(&name, &exit),
        End::Refused(status) => {
            // The epoch we watched is over; its record says how it ended.
            let ended = describe::get(app, &name).await?.runner.unwrap_or_default();
            match ended.exit {
                Some(exit) if view::runner::is_ended(&ended) => conclude(&name, &exit),
                _ => Err(Failure::from_status(&status, &doing)),
            }
        }
    }
}

/// Says how it ended. A command that ended is no failure of ours, however it ended; one that never ran is.
fn conclude(name: &str, exit: &Exit) -> Result<ExitCode> {
    if exit.code.is_none() && exit.signal.is_none() {
        return Err(Failure::new(ExitWith::Generic, format!("{name} has failed"))
            .cause(exit.reason.clone())
            .next(format!("stratavore describe {name}")));
    }
    view::tell(&crate::filter::one_line(&format!("{name} {}", view::runner::exit_text(exit))));
    OK
}

/// `ctrl-],d` as one would say it.
fn keys_for_people(keys: &str) -> String {
    let say = |key: &str| match key.trim().to_ascii_lowercase().strip_prefix("ctrl-") {
        Some(letter) => format!("Ctrl-{letter}"),
        None => key.trim().to_owned(),
    };
    keys.split(',').map(say).collect::<Vec<_>>().join(" then ")
}

#[cfg(test)]
mod words {
    use super::*;

    #[test]
    fn keys_are_said_as_they_are_pressed() {
        assert_eq!(keys_for_people(DEFAULT_KEYS), "Ctrl-] then d");
        assert_eq!(keys_for_people("ctrl-p,ctrl-q"), "Ctrl-p then Ctrl-q");
    }
}
