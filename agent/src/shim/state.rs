//! What the shim says of its epoch: state, `rev`, exit. `rev` is counted here because the shim outlives the agent (P15).

use stratavore_proto::v1;

use super::ended::Ended;
use super::identity::Identity;
use super::log::wall_ms;
use super::wire::Record;

/// The observation under construction.
#[derive(Debug)]
pub(super) struct State {
    record: Record,
    stop_reason: Option<String>,
}

/// What is known when the tree is gone.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) ended: Option<Ended>,
    pub(super) oom_killed: bool,
    pub(super) leftovers: Vec<String>,
    pub(super) dropped_bytes: u64,
}

impl State {
    /// Starting: `rev` 1.
    pub(super) fn starting(runner: String, epoch: Option<v1::Epoch>, boot_id: String) -> Self {
        let observation = v1::Observation {
            runner,
            epoch,
            rev: 1,
            state: v1::RunnerState::Starting.into(),
            ..Default::default()
        };
        let record = Record { observation: Some(observation), boot_id, ..Default::default() };
        Self { record, stop_reason: None }
    }

    pub(super) const fn record(&self) -> &Record {
        &self.record
    }

    /// The command runs.
    pub(super) fn running(&mut self, identity: &Identity, command: i32) {
        let (pid, fence) = (u32::try_from(command).unwrap_or(0), identity.fence.clone());
        let started = identity.started_at_unix_ms;
        self.advance(v1::RunnerState::Running, |observation| {
            observation.pid = pid;
            observation.fence = fence;
            observation.started_at_unix_ms = started;
        });
    }

    /// Somebody asked for the end; the first reason stays.
    pub(super) fn stopping(&mut self, reason: &str) {
        if self.stop_reason.is_some() {
            return;
        }
        let reason = if reason.is_empty() { "stopped" } else { reason };
        self.stop_reason = Some(reason.to_owned());
        self.advance(v1::RunnerState::Stopping, |observation| reason.clone_into(&mut observation.reason));
    }

    /// The command never ran.
    pub(super) fn failed(&mut self, reason: &str, message: String) {
        self.record.message = message;
        let exit = v1::Exit { reason: reason.to_owned(), ..Default::default() };
        self.end(v1::RunnerState::Failed, exit, 0);
    }

    /// The tree is gone (or cannot be ended: then `leftovers` says so).
    pub(super) fn ended(&mut self, outcome: Outcome, log_end: u64) {
        self.record.dropped_bytes = outcome.dropped_bytes;
        let code = outcome.ended.and_then(|ended| ended.code());
        let signal = outcome.ended.and_then(|ended| ended.signal());
        let reason = match &self.stop_reason {
            Some(reason) => reason.clone(),
            None if outcome.oom_killed && signal.is_some() => "oom".into(),
            None if signal.is_some() => "signaled".into(),
            None if code.is_some() => "exited".into(),
            None => "unkillable".into(),
        };
        let state = if reason == "oom" { v1::RunnerState::Failed } else { v1::RunnerState::Terminated };
        let usage = outcome.ended;
        let exit = v1::Exit {
            code,
            signal,
            reason,
            core_dumped: usage.is_some_and(|ended| ended.core_dumped()),
            oom_killed: outcome.oom_killed,
            user_cpu_ms: usage.map_or(0, |ended| ended.user_us / 1000),
            system_cpu_ms: usage.map_or(0, |ended| ended.system_us / 1000),
            max_rss_bytes: usage.map_or(0, |ended| ended.max_rss_bytes),
            leftovers: outcome.leftovers,
        };
        self.end(state, exit, log_end);
    }

    /// Output offset and viewers now; no new `rev`, since the state is the same.
    pub(super) fn refresh(&mut self, log_end: u64, viewers: usize) {
        if let Some(observation) = &mut self.record.observation {
            observation.log_end = log_end;
            observation.viewers = u32::try_from(viewers).unwrap_or(u32::MAX);
        }
    }

    fn end(&mut self, state: v1::RunnerState, exit: v1::Exit, log_end: u64) {
        self.advance(state, |observation| {
            observation.reason.clone_from(&exit.reason);
            observation.exit = Some(exit);
            observation.log_end = log_end;
            observation.ended_at_unix_ms = i64::try_from(wall_ms()).unwrap_or(i64::MAX);
        });
    }

    fn advance(&mut self, state: v1::RunnerState, change: impl FnOnce(&mut v1::Observation)) {
        if let Some(observation) = &mut self.record.observation {
            observation.rev += 1;
            observation.state = state.into();
            change(observation);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State::starting("r".into(), None, "boot".into())
    }

    fn observation(state: &State) -> &v1::Observation {
        state.record.observation.as_ref().unwrap()
    }

    fn outcome(status: i32) -> Outcome {
        let ended = Ended { status, user_us: 5000, system_us: 0, max_rss_bytes: 4096 };
        Outcome { ended: Some(ended), ..Default::default() }
    }

    #[test]
    fn codes_and_signals_are_told_apart() {
        let mut exited = state();
        exited.ended(outcome(7 << 8), 10);
        let exit = observation(&exited).exit.as_ref().unwrap();
        assert_eq!(
            (exit.code, exit.signal, exit.reason.as_str(), exit.user_cpu_ms),
            (Some(7), None, "exited", 5)
        );
        let mut killed = state();
        killed.ended(outcome(9), 10);
        let exit = observation(&killed).exit.as_ref().unwrap();
        assert_eq!((exit.code, exit.signal, exit.reason.as_str()), (None, Some(9), "signaled"));
    }

    #[test]
    fn the_first_stop_reason_stays_and_every_transition_counts() {
        let mut state = state();
        state.stopping("host_stopped");
        state.stopping("later");
        state.ended(outcome(15), 3);
        assert_eq!(observation(&state).reason, "host_stopped");
        assert_eq!(observation(&state).rev, 3);
        assert_eq!(observation(&state).state, i32::from(v1::RunnerState::Terminated));
    }

    #[test]
    fn memory_is_named_as_the_cause() {
        let mut state = state();
        state.ended(Outcome { oom_killed: true, ..outcome(9) }, 0);
        assert_eq!(observation(&state).reason, "oom");
        assert_eq!(observation(&state).state, i32::from(v1::RunnerState::Failed));
    }
}
