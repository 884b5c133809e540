//! How long to wait before the next round of dialling: doubling, capped, with full jitter, so that the hosts of a node
//! that died do not come back together.

use std::time::Duration;

/// Shortest and longest wait.
const WAIT_MIN: Duration = Duration::from_millis(200);
const WAIT_MAX: Duration = Duration::from_secs(15);

/// A link that held this long counts as good: the next loss starts from the shortest wait again.
pub(super) const GOOD_AFTER: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The next wait, between [`WAIT_MIN`] and twice the one before, at most [`WAIT_MAX`].
    pub(super) fn next(&mut self) -> Duration {
        let ceiling = WAIT_MIN.saturating_mul(2_u32.saturating_pow(self.failures.min(16))).min(WAIT_MAX);
        self.failures = self.failures.saturating_add(1);
        let spread = ceiling.saturating_sub(WAIT_MIN);
        WAIT_MIN + spread.mul_f64(f64::from(random()) / f64::from(u32::MAX))
    }
}

/// Without randomness the middle will do: this is no secret.
fn random() -> u32 {
    getrandom::u32().unwrap_or(u32::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_bound_and_start_over() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next(), WAIT_MIN);
        for _ in 0..100 {
            let wait = backoff.next();
            assert!((WAIT_MIN..=WAIT_MAX).contains(&wait), "{wait:?}");
        }
        backoff.reset();
        assert_eq!(backoff.next(), WAIT_MIN);
    }
}
