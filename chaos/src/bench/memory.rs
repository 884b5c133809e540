//! Memory of idle programs and of idle runners, as the kernel counts it.

use std::time::Duration;

use crate::bench::Figure;
use crate::eventually::{SOON, eventually};
use crate::farm::LocalFarm;
use crate::processes::memory_kib;

/// Idle runners of the per-runner figure.
const RUNNERS: u32 = 200;
const KIB_PER_MIB: f64 = 1024.0;

fn kib(value: u64) -> f64 {
    f64::from(u32::try_from(value).unwrap_or(u32::MAX))
}

/// Resident memory of node and agent of a farm, in KiB.
fn programs(farm: &LocalFarm) -> (f64, f64) {
    let node = farm.nodes[0].process.as_ref().map_or(0, |p| memory_kib(p.pid()).0);
    let agent = farm.agents.first().and_then(|a| a.process.as_ref()).map_or(0, |p| memory_kib(p.pid()).0);
    (kib(node), kib(agent))
}

/// Resident memory of an idle node and an idle agent.
#[must_use]
pub fn idle() -> Vec<Figure> {
    let farm = LocalFarm::start();
    // Past the first renewals and the first load report, so that every part has run once.
    std::thread::sleep(Duration::from_secs(12));
    let (node, agent) = programs(&farm);
    vec![
        Figure::new("node_idle_rss", node / KIB_PER_MIB, "MiB", "< 60 MiB"),
        Figure::new("agent_idle_rss", agent / KIB_PER_MIB, "MiB", "< 20 MiB"),
    ]
}

/// Memory of a shim, and everything that one more idle runner costs, with 200 of them.
#[must_use]
pub fn per_runner() -> Vec<Figure> {
    let farm = LocalFarm::start();
    let work = farm.work().to_string_lossy().into_owned();
    farm.cli(&["new", "bench", "--path", &work, "--max-runners", "1000"]).ok();
    let before = programs(&farm);
    let count = RUNNERS.to_string();
    let command = farm.probe(&["hold"]);
    let mut arguments = vec!["launch", "bench", "--detach", "--count", &count, "--"];
    arguments.extend(command.iter().map(String::as_str));
    farm.cli(&arguments).ok();
    eventually("all runners to run", SOON, || {
        let listed = farm.cli(&["runners", "-o", "json"]).ok().items("RunnerList");
        let running = listed.iter().filter(|r| r["state"] == "running").count();
        if running == RUNNERS as usize { Ok(()) } else { Err(running) }
    });
    // Idle means past the half second in which shims keep what their start needed.
    std::thread::sleep(Duration::from_secs(3));
    let shims = farm.shims();
    let sizes: Vec<(u64, u64)> = shims.iter().map(|p| memory_kib(p.pid)).collect();
    let shares: u64 = sizes.iter().map(|s| s.1).sum();
    let residents: u64 = sizes.iter().map(|s| s.0).sum();
    let largest = sizes.iter().map(|s| s.0).max().unwrap_or(0);
    let after = programs(&farm);
    let growth = (after.0 - before.0 + after.1 - before.1).max(0.0);
    let runners = f64::from(RUNNERS);
    let processes = f64::from(u32::try_from(shims.len()).unwrap_or(1).max(1));
    vec![
        Figure::new("shim_rss_mean", kib(residents) / processes / KIB_PER_MIB, "MiB", "< 3 MiB"),
        Figure::new("shim_rss_max", kib(largest) / KIB_PER_MIB, "MiB", "< 3 MiB"),
        Figure::new("shim_processes_per_runner", processes / runners, "ratio", ""),
        Figure::new("runner_shim_pss_mean", kib(shares) / runners, "KiB", ""),
        Figure::new("runner_memory_all_in", (kib(shares) + growth) / runners, "KiB", ""),
    ]
}
