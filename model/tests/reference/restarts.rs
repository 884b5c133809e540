//! Restart policies, the naive way.

use stratavore_model::{RestartPolicy, RunnerRecord, RunnerState};

use super::{Reference, Runner};

/// The waits of the first restarts in a row, in milliseconds.
const WAITS: [u64; 9] = [1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 128_000, 256_000];

impl Reference {
    /// The host says how the command ended.
    pub(super) fn end_by_itself(&mut self, at: usize, state: RunnerState, now: u64) {
        let runner = &mut self.runners[at];
        let follows = match runner.policy {
            RestartPolicy::Never => false,
            RestartPolicy::OnFailure => state == RunnerState::Failed,
            RestartPolicy::Always => true,
        };
        if runner.again || runner.stop.is_some() || !follows {
            return self.end(at, state, true);
        }
        let before = if now - runner.placed_at >= 600_000 { 0 } else { runner.attempts };
        if runner.policy == RestartPolicy::OnFailure && before == 3 {
            return self.end(at, RunnerState::Failed, true);
        }
        runner.attempts = before + 1;
        runner.not_before = now + WAITS.get(before as usize).copied().unwrap_or(300_000);
        runner.again = true;
        self.end(at, state, true);
    }
}

impl Runner {
    pub(super) fn compare_retry(&self, theirs: &RunnerRecord) {
        assert_eq!(theirs.retry.is_some(), self.policy != RestartPolicy::Never, "runner {}", self.id);
        let Some(retry) = &theirs.retry else { return };
        let theirs = (retry.attempts, retry.not_before.0, retry.placed_at.0);
        assert_eq!(theirs, (self.attempts, self.not_before, self.placed_at), "runner {}", self.id);
    }
}
