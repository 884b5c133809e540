//! `--restart`: what follows when a runner's own command ends. Replicated numbers and nothing else: time is the state's.

use std::sync::Arc;

use serde::Serialize;

use crate::id::{Epoch, HostId};
use crate::runner::{Exit, RestartPolicy, RunnerRecord, RunnerState, Want};
use crate::time::Millis;

/// `on-failure` starts again so often in a row; then the runner has failed. `always` never gives up.
pub const RESTARTS_MAX: u32 = 3;

/// A start that lived so long was a good one: the count begins anew. Milliseconds of state time since its placement.
pub const STABLE_MS: u64 = 10 * 60 * 1000;

/// The wait before the first restart in a row; every further one is twice as long.
pub const BACKOFF_FIRST_MS: u64 = 1000;

/// The longest wait.
pub const BACKOFF_MAX_MS: u64 = 5 * 60 * 1000;

/// Reason of a pending runner that waits before it is started again.
pub const RESTART_BACKOFF: &str = "restart_backoff";

/// Reason of a runner whose command failed too often in a row.
pub const RESTART_LIMIT: &str = "restart_limit";

/// How far a runner with a restart policy is with it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Retry {
    /// Restarts in a row by the policy. A stable start and `stratavore restart` set it back.
    pub attempts: u32,
    /// State time before which it is not placed; 0 = at once, and while it is placed.
    pub not_before: Millis,
    /// State time of its last placement; 0 = never placed.
    pub placed_at: Millis,
    /// The start that the policy last followed.
    pub last: Option<LastStart>,
}

/// A start that is over: where its output is, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastStart {
    pub epoch: Epoch,
    pub host: HostId,
    pub exit: Arc<Exit>,
}

impl Retry {
    /// Of a new runner; none where no policy asks for it.
    #[must_use]
    pub fn of(policy: RestartPolicy) -> Option<Self> {
        (policy != RestartPolicy::Never).then(Self::default)
    }

    pub(crate) fn placed(self, now: Millis) -> Self {
        Self { not_before: Millis(0), placed_at: now, ..self }
    }

    /// Somebody asked for a start: it begins anew.
    pub(crate) fn by_hand(self) -> Self {
        Self { attempts: 0, not_before: Millis(0), ..self }
    }
}

/// What the policy makes of an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// It stays ended.
    Over,
    /// It stays ended, since its command failed too often in a row.
    GaveUp,
    Again {
        /// With this one.
        attempts: u32,
        delay_ms: u64,
    },
}

/// What an exit says about the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Own {
    Success,
    Failure,
    /// Its host had no contact for its hold. No fault of the command: as after a fence it goes on elsewhere (P9).
    Expired,
    /// Somebody ended it.
    Not,
}

fn own(state: RunnerState, exit: Option<&Exit>) -> Own {
    let reason = exit.map_or("", |exit| exit.reason.split(':').next().unwrap_or_default());
    match reason {
        "" | "exited" => match exit.and_then(|exit| exit.code) {
            Some(0) => Own::Success,
            None if state == RunnerState::Terminated => Own::Success,
            _ => Own::Failure,
        },
        "signaled" | "oom" | "shim_lost" | "start_failed" | "workdir_missing" | "program_missing" => {
            Own::Failure
        }
        "lease_expired" => Own::Expired,
        // killed, restarted, host_stopped, host_rebooted, and what is not known: asked for, or another rule's.
        _ => Own::Not,
    }
}

/// What follows when an epoch has ended as its host says and nothing of its tree is left.
pub(crate) fn next(runner: &RunnerRecord, state: RunnerState, exit: Option<&Exit>, now: Millis) -> Next {
    let Some(retry) = runner.retry.as_ref().filter(|_| runner.want == Want::Run) else { return Next::Over };
    let stable = now.since(retry.placed_at) >= STABLE_MS;
    let before = if stable { 0 } else { retry.attempts };
    let again = Next::Again { attempts: before.saturating_add(1), delay_ms: backoff(before) };
    match (runner.spec.restart, own(state, exit)) {
        (RestartPolicy::Never, _) | (_, Own::Not) => Next::Over,
        (_, Own::Expired) => Next::Again { attempts: before, delay_ms: 0 },
        (RestartPolicy::Always, _) => again,
        (RestartPolicy::OnFailure, Own::Success) => Next::Over,
        (RestartPolicy::OnFailure, Own::Failure) if before >= RESTARTS_MAX => Next::GaveUp,
        (RestartPolicy::OnFailure, Own::Failure) => again,
    }
}

/// The wait after so many restarts in a row, in milliseconds.
fn backoff(before: u32) -> u64 {
    let doubled = 1_u64.checked_shl(before).and_then(|times| BACKOFF_FIRST_MS.checked_mul(times));
    doubled.unwrap_or(BACKOFF_MAX_MS).min(BACKOFF_MAX_MS)
}

/// Restarts in a row that the policy allows; none = without limit, or no policy.
#[must_use]
pub fn limit(policy: RestartPolicy) -> Option<u32> {
    (policy == RestartPolicy::OnFailure).then_some(RESTARTS_MAX)
}

/// `restart 2 of 3`, `restart 7`.
#[must_use]
pub fn count_words(policy: RestartPolicy, attempts: u32) -> String {
    match limit(policy) {
        Some(limit) => format!("restart {attempts} of {limit}"),
        None => format!("restart {attempts}"),
    }
}

impl Exit {
    /// How a command ended, for people: `exited with 3`, `ended by signal 9 (oom)`.
    #[must_use]
    pub fn words(&self) -> String {
        let how = match (self.code, self.signal) {
            (_, Some(signal)) => format!("ended by signal {signal}"),
            (Some(code), None) => format!("exited with {code}"),
            (None, None) if self.reason.is_empty() => return "ended".into(),
            (None, None) => return self.reason.clone(),
        };
        match self.reason.as_str() {
            "" | "exited" | "signaled" => how,
            reason => format!("{how} ({reason})"),
        }
    }
}

impl RunnerRecord {
    /// Until when it is not to be placed, at state time `now`; none if it may be. A time further away than any wait is
    /// one of a clock that was set back since (P4), and holds nobody up.
    #[must_use]
    pub fn backs_off(&self, now: Millis) -> Option<Millis> {
        let until = self.retry.as_ref()?.not_before;
        (until > now && until.since(now) <= BACKOFF_MAX_MS).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::{HOLD_WAITED, Lab};
    use crate::query::{DesiredWant, desired};
    use crate::{Code, EventKind, RunnerId, ShownState};

    fn lab() -> (Lab, HostId, HostId) {
        let mut lab = Lab::new();
        lab.create_project("web", 2).unwrap();
        let (a, b) = lab.two_hosts(4);
        (lab, a, b)
    }

    fn exit(code: i32) -> Exit {
        Exit { code: Some(code), reason: "exited".into(), ..Exit::default() }
    }

    /// Placed, and then ended as a host reports it.
    fn run(lab: &mut Lab, runner: RunnerId, host: HostId, exit: Exit) -> Epoch {
        let epoch = lab.assign(runner, host).unwrap();
        lab.report(host, vec![lab.observed(runner, epoch, 1, RunnerState::Running)]).unwrap();
        ends(lab, runner, host, epoch, exit);
        epoch
    }

    fn ends(lab: &mut Lab, runner: RunnerId, host: HostId, epoch: Epoch, exit: Exit) {
        let mut ended = lab.observed(runner, epoch, 5, RunnerState::Terminated);
        ended.exit = Some(exit);
        lab.report(host, vec![ended]).unwrap();
    }

    fn shown(lab: &Lab, runner: RunnerId) -> (ShownState, String) {
        let record = lab.state.runner(runner).unwrap();
        (record.shown_state(), record.reason.clone())
    }

    fn restarted(lab: &Lab) -> Vec<String> {
        let events = lab.changes.events().iter();
        events.filter(|e| e.kind == EventKind::RunnerRestarted).map(|e| e.reason.clone()).collect()
    }

    #[test]
    fn on_failure_goes_on_three_times_in_a_row_and_then_has_failed() {
        let (mut lab, a, b) = lab();
        let runner = lab.launch_policy(RestartPolicy::OnFailure).unwrap();
        let mut last = run(&mut lab, runner, a, exit(7));
        for wait in [1000, 2000, 4000] {
            assert_eq!(shown(&lab, runner), (ShownState::Pending, RESTART_BACKOFF.into()));
            lab.pass(wait - 1);
            assert_eq!(lab.assign(runner, b).unwrap_err(), RESTART_BACKOFF);
            lab.pass(1);
            let next = run(&mut lab, runner, b, exit(7));
            assert!(next > last, "a restart is a new epoch");
            last = next;
        }
        let record = lab.state.runner(runner).unwrap();
        assert_eq!((record.state, record.reason.as_str()), (RunnerState::Failed, RESTART_LIMIT));
        assert_eq!((record.restarts, record.exit.as_ref().unwrap().code), (3, Some(7)));
        assert_eq!(
            restarted(&lab),
            [
                "on-failure: exited with 7; restart 1 of 3 in 1 s",
                "on-failure: exited with 7; restart 2 of 3 in 2 s",
                "on-failure: exited with 7; restart 3 of 3 in 4 s"
            ]
        );
        lab.restart(runner).unwrap();
        run(&mut lab, runner, a, exit(1));
        assert_eq!(lab.state.runner(runner).unwrap().retry.as_ref().unwrap().attempts, 1, "it begins anew");
    }

    #[test]
    fn on_failure_rests_after_success_and_always_does_not_and_never_gives_up() {
        let (mut lab, a, _) = lab();
        let once = lab.launch_policy(RestartPolicy::OnFailure).unwrap();
        run(&mut lab, once, a, exit(0));
        assert_eq!(shown(&lab, once), (ShownState::Terminated, "exited".into()));
        let always = lab.launch_policy(RestartPolicy::Always).unwrap();
        for attempt in 0..12 {
            run(&mut lab, always, a, exit(attempt % 2));
            let record = lab.state.runner(always).unwrap();
            let wait = record.backs_off(lab.state.now()).unwrap().since(lab.state.now());
            assert_eq!(
                wait,
                [1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 128_000, 256_000]
                    .get(attempt as usize)
                    .copied()
                    .unwrap_or(BACKOFF_MAX_MS)
            );
            lab.pass(wait);
        }
    }

    #[test]
    fn a_stable_start_sets_the_count_back() {
        let (mut lab, a, _) = lab();
        let runner = lab.launch_policy(RestartPolicy::OnFailure).unwrap();
        for _ in 0..5 {
            let epoch = lab.assign(runner, a).unwrap();
            lab.pass(STABLE_MS);
            ends(&mut lab, runner, a, epoch, exit(1));
            assert_eq!(lab.state.runner(runner).unwrap().retry.as_ref().unwrap().attempts, 1);
            lab.pass(BACKOFF_FIRST_MS);
        }
        let epoch = lab.assign(runner, a).unwrap();
        lab.pass(STABLE_MS - 1);
        ends(&mut lab, runner, a, epoch, exit(1));
        assert_eq!(lab.state.runner(runner).unwrap().retry.as_ref().unwrap().attempts, 2);
    }

    #[test]
    fn what_somebody_ended_stays_ended() {
        for reason in ["host_stopped", "killed", "host_rebooted", "something new"] {
            let (mut lab, a, _) = lab();
            let runner = lab.launch_policy(RestartPolicy::Always).unwrap();
            run(&mut lab, runner, a, Exit { signal: Some(15), reason: reason.into(), ..Exit::default() });
            assert_eq!(shown(&lab, runner), (ShownState::Terminated, reason.into()));
        }
        let (mut lab, a, _) = lab();
        let runner = lab.launch_policy(RestartPolicy::Always).unwrap();
        let epoch = lab.assign(runner, a).unwrap();
        lab.kill(&[runner], false).unwrap();
        // The command was quicker than the kill.
        ends(&mut lab, runner, a, epoch, exit(1));
        assert_eq!(shown(&lab, runner).0, ShownState::Terminated);
        lab.restart(runner).unwrap();
        run(&mut lab, runner, a, exit(1));
        lab.kill(&[runner], false).unwrap();
        assert_eq!(shown(&lab, runner), (ShownState::Terminated, "killed".into()), "while it backs off");
    }

    #[test]
    fn p8_leftovers_hold_the_restart_back_until_they_are_gone() {
        let (mut lab, a, _) = lab();
        let runner = lab.launch_policy(RestartPolicy::Always).unwrap();
        let leftovers = vec!["12 sleep".to_owned()];
        let epoch = run(&mut lab, runner, a, Exit { leftovers, ..exit(1) });
        assert_eq!(shown(&lab, runner).0, ShownState::Terminated);
        let mut gone = lab.observed(runner, epoch, 6, RunnerState::Terminated);
        gone.exit = Some(exit(1));
        lab.report(a, vec![gone.clone()]).unwrap();
        assert_eq!(shown(&lab, runner), (ShownState::Pending, RESTART_BACKOFF.into()));
        lab.report(a, vec![gone]).unwrap();
        assert_eq!(lab.state.runner(runner).unwrap().restarts, 1, "once");
    }

    #[test]
    fn p15_a_record_that_was_closed_while_lost_is_not_started_again() {
        let (mut lab, a, _) = lab();
        let runner = lab.launch_policy(RestartPolicy::Always).unwrap();
        let epoch = lab.assign(runner, a).unwrap();
        lab.unreachable(a).unwrap();
        lab.kill(&[runner], true).unwrap();
        assert_eq!(desired(&lab.state, a)[0].want, DesiredWant::Gone);
        let mut ended = lab.observed(runner, epoch, 5, RunnerState::Terminated);
        ended.exit = Some(exit(1));
        lab.report(a, vec![ended]).unwrap();
        assert_eq!(shown(&lab, runner).0, ShownState::Failed);
        assert!(lab.state.runner(runner).unwrap().settled);
    }

    #[test]
    fn p9_a_fence_and_an_expired_lease_count_for_nothing() {
        let (mut lab, a, b) = lab();
        let runner = lab.launch_policy(RestartPolicy::OnFailure).unwrap();
        run(&mut lab, runner, a, exit(1));
        lab.pass(1000);
        lab.assign(runner, a).unwrap();
        lab.fence(a, HOLD_WAITED, &[runner]).unwrap();
        let epoch = lab.assign(runner, b).unwrap();
        let expired = Exit { signal: Some(9), reason: "lease_expired".into(), ..Exit::default() };
        ends(&mut lab, runner, b, epoch, expired);
        let retry = lab.state.runner(runner).unwrap().retry.clone().unwrap();
        assert_eq!((retry.attempts, retry.not_before), (1, Millis(0)));
        lab.assign(runner, b).unwrap();
        let said = ["on-failure: exited with 1; restart 1 of 3 in 1 s", "host_fenced"];
        assert_eq!(restarted(&lab)[..2], said);
    }

    #[test]
    fn the_quota_place_is_kept_and_asking_for_a_restart_ends_the_wait() {
        let (mut lab, a, _) = lab();
        let runner = lab.launch_policy(RestartPolicy::Always).unwrap();
        let others = lab.launch("web", 2);
        run(&mut lab, runner, a, exit(0));
        assert!(lab.state.runner(runner).unwrap().admitted);
        assert!(!lab.state.runner(others[1]).unwrap().admitted);
        assert_eq!(lab.state.backing_off(lab.state.now()).count(), 1);
        lab.restart(runner).unwrap();
        assert_eq!(lab.state.backing_off(lab.state.now()).count(), 0);
        assert_eq!(shown(&lab, runner), (ShownState::Pending, String::new()));
        lab.assign(runner, a).unwrap();
    }

    #[test]
    fn p4_a_clock_that_was_set_back_holds_nobody_up() {
        let (mut lab, a, _) = lab();
        let runner = lab.launch_policy(RestartPolicy::Always).unwrap();
        lab.pass(365 * crate::DAY_MS);
        run(&mut lab, runner, a, exit(0));
        let to = lab.state.now().minus(300 * crate::DAY_MS);
        lab.now = to;
        lab.user(crate::Command::ResetClock(crate::command::ResetClock { to })).unwrap();
        assert_eq!(lab.state.backing_off(to).count(), 0);
        lab.assign(runner, a).unwrap();
    }

    #[test]
    fn p22_an_older_cluster_knows_no_policy() {
        let mut lab = crate::lab::founded_at(2);
        lab.create_project("web", 2).unwrap();
        let refused = lab.launch_policy(RestartPolicy::Always).unwrap_err();
        assert_eq!((refused.code, refused.field.as_deref()), (Code::NotFinalized, Some("spec.restart")));
    }
}
