//! Figures from outside, each as `name value unit` on stdout, its aim beside it on stderr.

use std::borrow::Cow;

pub mod batched;
pub mod control_rss;
pub mod durable;
pub mod failover;
pub mod handover;
pub mod idle_agents;
#[path = "../../../model/tests/lab/mod.rs"]
mod lab;
pub mod launch;
pub mod memory;
pub mod output;
pub mod placed;
pub mod reads;
pub mod rehome;
pub mod samples;
pub mod scheduler;
pub mod sides;
pub mod status;

/// One measured figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Stable name, unit not included.
    pub name: Cow<'static, str>,
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
    pub fn new(
        name: impl Into<Cow<'static, str>>,
        value: f64,
        unit: &'static str,
        aim: &'static str,
    ) -> Self {
        Self { name: name.into(), value, unit, aim }
    }
}

/// How long to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Seconds each: for every day.
    Short,
    /// Several times as long: for figures that are to be published.
    Long,
}

impl Effort {
    /// Seconds of one measurement that takes `short` seconds in a short run.
    #[must_use]
    pub const fn seconds(self, short: u64) -> u64 {
        match self {
            Self::Short => short,
            Self::Long => 4 * short,
        }
    }
}

/// A benchmark: what it is called on the command line, and how it is run.
#[derive(Clone, Copy, Debug)]
pub struct Benchmark {
    /// Name for `--only`.
    pub name: &'static str,
    /// Runs it on a cluster of its own.
    pub run: fn(Effort) -> Vec<Figure>,
}

/// Every benchmark, cheapest and least noisy first; those of a cluster of three nodes behind those of one.
pub const ALL: [Benchmark; 18] = [
    Benchmark { name: "scheduler", run: |_| scheduler::decisions() },
    Benchmark { name: "idle", run: |_| memory::idle() },
    Benchmark { name: "status", run: |_| status::wall() },
    Benchmark { name: "launch-cli", run: |_| launch::through_the_cli() },
    Benchmark { name: "launch-api", run: |_| launch::through_the_api() },
    Benchmark { name: "launch-rate", run: |_| launch::sustained() },
    Benchmark { name: "echo", run: |_| output::echo() },
    Benchmark { name: "output", run: |_| output::flood() },
    Benchmark { name: "runners", run: |_| memory::per_runner() },
    Benchmark { name: "durable", run: durable::writes },
    Benchmark { name: "batched", run: batched::reports },
    Benchmark { name: "reads", run: reads::linearizable },
    Benchmark { name: "control-rss", run: control_rss::after_writes },
    Benchmark { name: "failover", run: failover::kills },
    Benchmark { name: "handover", run: handover::planned },
    Benchmark { name: "placed", run: placed::launches },
    Benchmark { name: "rehome", run: rehome::to_one_node },
    Benchmark { name: "agents-idle", run: idle_agents::many },
];
