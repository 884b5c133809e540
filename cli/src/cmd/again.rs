//! What comes after a start that is over: the next one, by the runner's policy or by hand, or nothing.

use stratavore_proto::v1::{Epoch, Exit, RestartPolicy, Runner, RunnerFilter, RunnerState};

use super::App;
use super::watch::Changes;
use crate::errors::{Exit as ExitWith, Failure, Result};
use crate::filter;
use crate::view;

/// The reason of an end that a start follows, whatever the policy says.
const RESTARTED: &str = "restarted";

/// See the module.
#[derive(Debug)]
pub(crate) enum After {
    /// It runs again, under a newer epoch.
    Started(Runner),
    /// It has ended for good.
    Over(Runner),
}

/// Whether another start may follow an end.
pub(crate) fn may_follow(runner: &Runner, exit: &Exit) -> bool {
    let policy = runner.spec.as_ref().map_or(RestartPolicy::Never, |spec| spec.restart());
    exit.reason == RESTARTED || !matches!(policy, RestartPolicy::Never | RestartPolicy::Unspecified)
}

/// Whether it waits for its next start.
pub(crate) fn waits(runner: &Runner) -> bool {
    runner.state() == RunnerState::Pending && runner.restarts > 0
}

/// Waits for what follows the start `shown` of the runner with this id; says once per wait how long it is. None shown:
/// the first start counts.
///
/// # Errors
/// When no node replies any more, or its record is gone.
pub(crate) async fn after(app: &App, id: &str, shown: Option<Epoch>) -> Result<After> {
    let filter = RunnerFilter { runners: vec![id.to_owned()], include_ended: true, ..Default::default() };
    let mut changes = Changes::new(app, filter);
    let mut told = None;
    loop {
        let change = changes.next().await?;
        if change.removed.iter().any(|removed| removed == id) {
            return Err(Failure::new(ExitWith::NotFound, format!("{id} is gone"))
                .cause("its record was removed meanwhile")
                .next("stratavore runners --all"));
        }
        let Some(runner) = change.runners.into_iter().find(|changed| changed.id == id) else { continue };
        if view::runner::is_ended(&runner) {
            return Ok(After::Over(runner));
        }
        match runner.state() {
            RunnerState::Pending if told.replace(runner.restarts) != Some(runner.restarts) => tell(&runner),
            RunnerState::Pending | RunnerState::Starting => {}
            _ if newer(runner.epoch.as_ref(), shown.as_ref()) => return Ok(After::Started(runner)),
            _ => {}
        }
    }
}

fn newer(present: Option<&Epoch>, shown: Option<&Epoch>) -> bool {
    let key = |epoch: &Epoch| (epoch.incarnation, epoch.index);
    present.map(key) > shown.map(key)
}

fn tell(runner: &Runner) {
    let name = &runner.name;
    let text = match (runner.not_before_unix_ms, runner.reason.as_str()) {
        (0, "") => format!("{name} is started again"),
        (0, reason) => format!("{name} is to be started again and waits: {reason}"),
        _ => format!("{name} {}; Ctrl-C leaves it to that", view::runner::next_start(runner)),
    };
    view::tell(&filter::one_line(&text));
}

#[cfg(test)]
mod tests {
    use stratavore_proto::v1::RunnerSpec;

    use super::*;

    #[test]
    fn a_policy_or_a_restart_by_hand_may_be_followed() {
        let with = |policy: RestartPolicy| Runner {
            spec: Some(RunnerSpec { restart: policy.into(), ..Default::default() }),
            ..Default::default()
        };
        let exit = |reason: &str| Exit { reason: reason.to_owned(), ..Default::default() };
        assert!(!may_follow(&with(RestartPolicy::Never), &exit("exited")));
        assert!(!may_follow(&Runner::default(), &exit("exited")));
        assert!(may_follow(&with(RestartPolicy::Never), &exit("restarted")));
        assert!(may_follow(&with(RestartPolicy::Always), &exit("exited")));
    }

    #[test]
    fn a_start_is_newer_by_incarnation_and_then_by_index() {
        let epoch = |incarnation, index| Epoch { incarnation, index };
        assert!(newer(Some(&epoch(1, 5)), Some(&epoch(1, 4))));
        assert!(newer(Some(&epoch(2, 1)), Some(&epoch(1, 4))));
        assert!(!newer(Some(&epoch(1, 4)), Some(&epoch(1, 4))));
        assert!(newer(Some(&epoch(1, 4)), None) && !newer(None, None));
    }
}
