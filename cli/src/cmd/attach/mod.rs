//! `attach`: the caller's terminal becomes the runner's; without a terminal, its bytes.

mod progress;
mod screen;
mod session;
#[cfg(test)]
mod tests;
mod wire;

use std::io::IsTerminal;
use std::process::ExitCode;

use stratavore_proto::v1::{Epoch, Exit, Runner, RunnerFilter, RunnerState};

use self::progress::{Progress, Wish};
use self::session::{End, Session};
use self::wire::Wire;
use super::again::{self, After};
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

/// One start after the other: whoever looks at a terminal follows a restart, a pipe ends with the start it was opened
/// for.
async fn session(app: &App, wish: Wish, detach_keys: Option<&str>) -> Result<ExitCode> {
    let name = wish.runner.clone();
    let mut greet = true;
    loop {
        let (end, epoch) = match one_start(app, &wish, detach_keys, greet).await {
            Err(failure) if failure.reason() == "no_terminal" && !wish.raw => {
                let waiting = describe::get(app, &name).await?.runner.unwrap_or_default();
                if !again::waits(&waiting) {
                    return Err(failure);
                }
                // It was quicker than we: what it wrote is in its log.
                if waiting.last_start.is_some() {
                    logs::print_all(app, &waiting.id).await?;
                }
                (Over { exit: Exit::default(), runner: waiting }, None)
            }
            Err(failure) => return Err(failure),
            Ok((End::Detached, _)) => {
                if !wish.raw {
                    view::tell(&format!("detached from {name}; it goes on. next: stratavore attach {name}"));
                }
                return OK;
            }
            Ok((End::Exited(exit), epoch)) => {
                let runner = describe::get(app, &name).await.ok().and_then(|answer| answer.runner);
                (Over { exit, runner: runner.unwrap_or_default() }, epoch)
            }
            Ok((End::Refused(status), epoch)) => {
                // The epoch we watched is over; its record says how it ended.
                let runner = describe::get(app, &name).await?.runner.unwrap_or_default();
                match runner.exit.clone() {
                    Some(exit) if view::runner::is_ended(&runner) => (Over { exit, runner }, epoch),
                    _ if again::waits(&runner) => (Over { exit: Exit::default(), runner }, epoch),
                    _ => return Err(Failure::from_status(&status, &format!("attach to {name}"))),
                }
            }
        };
        if wish.raw || !(again::waits(&end.runner) || again::may_follow(&end.runner, &end.exit)) {
            return conclude(&name, &end.exit);
        }
        match again::after(app, &end.runner.id, epoch).await? {
            After::Over(runner) => {
                if runner.epoch.is_some() && runner.epoch != epoch {
                    logs::print_all(app, &runner.id).await?;
                }
                let gave_up = view::runner::gave_up(&runner);
                let code = conclude(&name, &runner.exit.unwrap_or(end.exit))?;
                if gave_up {
                    view::tell(&format!("its policy has given up; next: stratavore restart {name}"));
                }
                return Ok(code);
            }
            After::Started(_) => greet = false,
        }
    }
}

/// A start that is over, and the runner as it is then.
struct Over {
    exit: Exit,
    runner: Runner,
}

/// Attaches until that start is over, or the person leaves. With which epoch it was, where known.
async fn one_start(
    app: &App,
    wish: &Wish,
    detach_keys: Option<&str>,
    greet: bool,
) -> Result<(End, Option<Epoch>)> {
    let detach_keys = detach_keys.unwrap_or(DEFAULT_KEYS);
    let parser = DetachParser::new(detach_keys).map_err(|why| {
        Failure::usage(format!("--detach-keys {detach_keys} cannot be used"))
            .cause(why)
            .next("stratavore attach --help")
    })?;
    let name = &wish.runner;
    let progress = Progress::new(wish.clone());
    let size = raw::window_size();
    let (wire, first) = Wire::open(app.client()?, &format!("attach to {name}"), progress.open(size)).await?;
    let greeting =
        (!wish.raw && greet).then(|| format!("attached to {name}; detach: {}", keys_for_people(detach_keys)));
    if let Some(greeting) = &greeting {
        view::tell(greeting);
    }
    let mut session = Session::new(wish.clone(), wire, progress, parser, greeting)?;
    let end = session.run(first).await;
    Ok((end?, session.epoch()))
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
