//! How long a person waits for `stratavore status`.

use crate::bench::Figure;
use crate::bench::samples::{Samples, monotonic};
use crate::farm::LocalFarm;
use crate::ran::run;

/// Runs of the command.
const RUNS: usize = 100;

/// Wall time of `stratavore status`, exec to exit.
#[must_use]
pub fn wall() -> Vec<Figure> {
    let farm = LocalFarm::start();
    let mut samples = Samples::default();
    for _ in 0..RUNS {
        let before = monotonic();
        run(&mut farm.cli_command(&["status"])).ok();
        samples.push(monotonic().saturating_sub(before));
    }
    vec![
        Figure::new("status_wall_p50", samples.p50(), "ms", "< 30 ms"),
        Figure::new("status_wall_p99", samples.p99(), "ms", ""),
    ]
}
