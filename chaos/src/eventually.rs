//! Polling with a bound: the only way a test waits.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Bound for anything that normally takes milliseconds; generous, because test machines stall.
pub const SOON: Duration = Duration::from_secs(60);
/// Between two looks: short against every figure a test may observe, long against a look's own cost.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Repeats `look` until it gives a value.
///
/// # Panics
/// When `bound` passes first, with `what` and the last reason that `look` gave.
#[track_caller]
pub fn eventually<T, E: Display>(what: &str, bound: Duration, mut look: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + bound;
    loop {
        match look() {
            Ok(value) => return value,
            Err(reason) if Instant::now() >= deadline => {
                panic!("waited {} s for: {what}; last seen: {reason}", bound.as_secs())
            }
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}

/// Repeats `condition` until it holds.
///
/// # Panics
/// When `bound` passes first.
#[track_caller]
pub fn eventually_true(what: &str, bound: Duration, mut condition: impl FnMut() -> bool) {
    eventually(what, bound, || if condition() { Ok(()) } else { Err("not yet") });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_first_value() {
        let mut looks = 0;
        let value = eventually("three looks", SOON, || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err("too early") }
        });
        assert_eq!(value, 3);
    }

    #[test]
    #[should_panic(expected = "waited 0 s for: pigs that fly; last seen: they walk")]
    fn a_passed_bound_says_what_was_awaited() {
        eventually("pigs that fly", Duration::ZERO, || Err::<(), _>("they walk"));
    }
}
