//! `wait`: until a runner ends, or reaches a state.

use std::process::ExitCode;

use stratavore_proto::v1::{Runner, RunnerFilter};

use super::watch::Changes;
use super::{App, OK, describe};
use crate::args::{State, WaitArgs};
use crate::errors::{Exit, Failure, Result};
use crate::view;

/// What a runner's present state means to the one who waits.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Reached,
    NotYet,
    /// It ended without getting there.
    Never,
}

/// Waits, without limit unless `--timeout` says one.
///
/// # Errors
/// Exit 8 when the time is over, 5 when the state can no longer be reached.
pub(crate) async fn run(app: &App, args: WaitArgs) -> Result<ExitCode> {
    let wanted = args.state;
    let patience = app.globals.timeout;
    let mut runner = describe::get(app, &args.runner).await?.runner.unwrap_or_default();
    match patience {
        None => until(app, &mut runner, wanted).await?,
        Some(patience) => match tokio::time::timeout(patience, until(app, &mut runner, wanted)).await {
            Ok(result) => result?,
            Err(_) => return Err(overdue(&runner, wanted, patience)),
        },
    }
    if judge(&runner, wanted) != Verdict::Reached {
        return Err(never(&runner, wanted));
    }
    view::runner::print(app.output(), std::slice::from_ref(&runner), false)?;
    if args.propagate_exit { Ok(propagated(&runner)) } else { OK }
}

async fn until(app: &App, runner: &mut Runner, wanted: Option<State>) -> Result<()> {
    let filter = RunnerFilter { runners: vec![runner.id.clone()], include_ended: true, ..Default::default() };
    let mut changes = Changes::new(app, filter);
    while judge(runner, wanted) == Verdict::NotYet {
        let change = changes.next().await?;
        if change.removed.contains(&runner.id) {
            return Err(Failure::new(Exit::NotFound, format!("cannot wait for {}", runner.name))
                .cause("its record was removed meanwhile")
                .next("stratavore events --no-follow"));
        }
        if let Some(changed) = change.runners.into_iter().find(|changed| changed.id == runner.id) {
            *runner = changed;
        }
    }
    Ok(())
}

fn judge(runner: &Runner, wanted: Option<State>) -> Verdict {
    let ended = view::runner::is_ended(runner);
    match wanted {
        None if ended => Verdict::Reached,
        Some(state) if runner.state() == state.wire() => Verdict::Reached,
        Some(_) if ended => Verdict::Never,
        _ => Verdict::NotYet,
    }
}

/// The command's own exit code, or 128 + signal; a runner that never started has neither.
fn propagated(runner: &Runner) -> ExitCode {
    let code = match runner.exit.as_ref().map(|exit| (exit.code, exit.signal)) {
        Some((_, Some(signal))) => 128 + signal,
        Some((Some(code), None)) => code,
        _ => i32::from(Exit::Generic.code()),
    };
    ExitCode::from(u8::try_from(code & 0xff).unwrap_or(u8::MAX))
}

fn overdue(runner: &Runner, wanted: Option<State>, patience: std::time::Duration) -> Failure {
    let name = &runner.name;
    let what = wanted.map_or_else(
        || "has not ended".to_owned(),
        |state| format!("is not {}", view::runner::state_word(state.wire())),
    );
    let state = view::runner::state_word(runner.state());
    let why = if runner.reason.is_empty() { String::new() } else { format!(" ({})", runner.reason) };
    Failure::new(Exit::Timeout, format!("{name} {what}, and the time is over"))
        .cause(format!("it is still {state}{why} after {}", humantime::format_duration(patience)))
        .next(format!("stratavore explain {name}"))
}

fn never(runner: &Runner, wanted: Option<State>) -> Failure {
    let wanted = wanted.map_or("", |state| view::runner::state_word(state.wire()));
    let how = runner.exit.as_ref().map_or_else(|| runner.reason.clone(), view::runner::exit_text);
    Failure::new(Exit::Conflict, format!("{} will not be {wanted}", runner.name))
        .cause(format!("it is {}: {how}", view::runner::state_word(runner.state())))
        .next(format!("stratavore logs {}", runner.name))
}

#[cfg(test)]
mod tests {
    use stratavore_proto::v1::{self, RunnerState};

    use super::*;

    fn runner(state: RunnerState) -> Runner {
        Runner { state: state.into(), ..Default::default() }
    }

    #[test]
    fn the_end_or_the_state_asked_for() {
        assert_eq!(judge(&runner(RunnerState::Running), None), Verdict::NotYet);
        assert_eq!(judge(&runner(RunnerState::Failed), None), Verdict::Reached);
        assert_eq!(judge(&runner(RunnerState::Running), Some(State::Running)), Verdict::Reached);
        assert_eq!(judge(&runner(RunnerState::Terminated), Some(State::Running)), Verdict::Never);
        assert_eq!(judge(&runner(RunnerState::Pending), Some(State::Running)), Verdict::NotYet);
        assert_eq!(judge(&runner(RunnerState::Lost), None), Verdict::NotYet);
    }

    #[test]
    fn exit_codes_are_propagated_as_a_shell_would() {
        let mut ended = runner(RunnerState::Terminated);
        ended.exit = Some(v1::Exit { code: Some(3), ..Default::default() });
        assert_eq!(format!("{:?}", propagated(&ended)), format!("{:?}", ExitCode::from(3)));
        ended.exit = Some(v1::Exit { signal: Some(9), ..Default::default() });
        assert_eq!(format!("{:?}", propagated(&ended)), format!("{:?}", ExitCode::from(137)));
        ended.exit = None;
        assert_eq!(format!("{:?}", propagated(&ended)), format!("{:?}", ExitCode::from(1)));
    }
}
