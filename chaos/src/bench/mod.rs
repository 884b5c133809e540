//! Figures from outside, each as `name value unit` on stdout, its aim beside it on stderr.

#[path = "../../../model/tests/lab/mod.rs"]
mod lab;
pub mod launch;
pub mod memory;
pub mod output;
pub mod samples;
pub mod scheduler;
pub mod status;

/// One measured figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Stable name, unit not included.
    pub name: &'static str,
    /// Value in `unit`.
    pub value: f64,
    /// Unit: ms, 1/s, ratio, MiB, KiB, MB/s.
    pub unit: &'static str,
    /// What it should be, in words; empty for peers and references.
    pub aim: &'static str,
}

impl Figure {
    /// A figure with its aim.
    #[must_use]
    pub const fn new(name: &'static str, value: f64, unit: &'static str, aim: &'static str) -> Self {
        Self { name, value, unit, aim }
    }
}

/// A benchmark: what it is called on the command line, and how it is run.
#[derive(Clone, Copy, Debug)]
pub struct Benchmark {
    /// Name for `--only`.
    pub name: &'static str,
    /// Runs it on a cluster of its own.
    pub run: fn() -> Vec<Figure>,
}

/// Every benchmark, cheapest and least noisy first.
pub const ALL: [Benchmark; 9] = [
    Benchmark { name: "scheduler", run: scheduler::decisions },
    Benchmark { name: "idle", run: memory::idle },
    Benchmark { name: "status", run: status::wall },
    Benchmark { name: "launch-cli", run: launch::through_the_cli },
    Benchmark { name: "launch-api", run: launch::through_the_api },
    Benchmark { name: "launch-rate", run: launch::sustained },
    Benchmark { name: "echo", run: output::echo },
    Benchmark { name: "output", run: output::flood },
    Benchmark { name: "runners", run: memory::per_runner },
];
