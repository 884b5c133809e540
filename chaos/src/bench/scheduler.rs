//! Placement by itself, in memory: what the leader's loop does between two commits.

use std::time::{Duration, Instant};

use stratavore_model::command::{Assign, Placement};
use stratavore_model::{Command, State};
use stratavore_scheduler::{Plan, View, plan};

use crate::bench::Figure;
use crate::bench::lab::Lab;
use crate::bench::samples::Samples;

/// The farm that the aim is about.
const HOSTS: usize = 5_000;
/// Slots of each host: twice what is placed below, so that planning never runs out of room.
const SLOTS: u32 = 20;
/// Runners that are placed, over several projects that share fairly.
const RUNNERS: usize = 50_000;
const PROJECTS: usize = 10;
/// Runners of one launch, at most what one entry carries.
const PER_LAUNCH: usize = 1_000;
/// Single placements, for the percentile.
const SINGLES: usize = 500;
/// Queued runners that no host takes.
const STUCK: usize = 95_000;

/// Decisions a second over a long queue, and how long one decision takes alone.
#[must_use]
pub fn decisions() -> Vec<Figure> {
    let mut lab = farm();
    for at in 0..RUNNERS / PER_LAUNCH {
        lab.launch(&format!("p{}", at % PROJECTS), PER_LAUNCH);
    }
    let (mut placed, mut took) = (0, Duration::ZERO);
    loop {
        let (plan, round) = timed(&lab.state);
        took += round;
        placed += plan.assign.len();
        commit(&mut lab, &plan);
        if !plan.more {
            break;
        }
    }
    assert_eq!(placed, RUNNERS, "there was room for all");
    let mut single = Samples::default();
    for _ in 0..SINGLES {
        lab.launch("p0", 1);
        let (plan, took) = timed(&lab.state);
        assert_eq!(plan.assign.len(), 1);
        commit(&mut lab, &plan);
        single.push(took);
    }
    vec![
        Figure::new("scheduler_decisions", placed as f64 / took.as_secs_f64(), "1/s", ">= 100,000/s"),
        Figure::new("scheduler_single_p99", single.p99(), "ms", "<= 1 ms"),
        Figure::new("scheduler_full_cluster_plan", full_cluster().p50(), "ms", "<= 1 ms"),
        Figure::new("scheduler_misfits_plan", misfits().p50(), "ms", ""),
    ]
}

fn farm() -> Lab {
    let mut lab = Lab::new();
    lab.checked = false;
    for at in 0..HOSTS {
        lab.host(&format!("h{at}"), SLOTS);
    }
    for at in 0..PROJECTS {
        lab.create_project(&format!("p{at}"), 100_000).expect("a project");
    }
    lab
}

fn timed(state: &State) -> (Plan, Duration) {
    let started = Instant::now();
    let plan = plan(&View::of(state), state.now());
    (plan, started.elapsed())
}

fn commit(lab: &mut Lab, plan: &Plan) {
    let placements = plan.assign.iter().map(|(runner, host)| Placement { runner: *runner, host: *host });
    lab.system(Command::Assign(Assign { placements: placements.collect() })).expect("placements");
}

/// One plan while every slot is taken and a long queue waits.
fn full_cluster() -> Samples {
    let mut lab = Lab::new();
    lab.checked = false;
    lab.host("only", 1);
    lab.create_project("p0", 100_000).expect("a project");
    for _ in 0..STUCK / PER_LAUNCH {
        lab.launch("p0", PER_LAUNCH);
    }
    let (plan, _) = timed(&lab.state);
    commit(&mut lab, &plan);
    samples(&lab.state)
}

/// One plan while there is room, but for nobody in a long queue.
fn misfits() -> Samples {
    let mut lab = Lab::new();
    lab.checked = false;
    lab.host("only", SLOTS);
    lab.create_project("p0", 100_000).expect("a project");
    for _ in 0..STUCK / PER_LAUNCH {
        let mut launch = lab.launch_command("p0", PER_LAUNCH);
        launch.spec.labels.insert("gpu".into(), "yes".into());
        lab.user(Command::Launch(launch)).expect("a launch");
    }
    samples(&lab.state)
}

fn samples(state: &State) -> Samples {
    let mut samples = Samples::default();
    for _ in 0..20 {
        let (plan, took) = timed(state);
        assert!(plan.assign.is_empty());
        samples.push(took);
    }
    samples
}
