//! Survival 1 of the cluster: `kill -9` of the leader while a runner writes numbered lines and clients are attached, one
//! through the leader, one through another node. Same child, no line lost or doubled, and the next launch is accepted
//! without anybody doing anything.

use std::time::{Duration, Instant};

use stratavore_chaos::farm::{Flood, LocalFarm, Plan, Viewer, text};
use stratavore_chaos::processes::is_alive;

/// Fast enough that every instant of the outage would show in the output, slow enough to stay in the log.
const LINES_PER_SECOND: u32 = 5_000;

/// Elections take about a second; on a loaded test machine some more. A person would not wait longer than this.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(20);

/// One endpoint list per viewer: its own node first, then the others.
fn endpoints_from(farm: &LocalFarm, first: usize) -> String {
    let count = farm.nodes.len();
    let order = (0..count).map(|at| farm.nodes[(first + at) % count].endpoint());
    order.collect::<Vec<_>>().join(",")
}

#[test]
fn a_killed_leader_takes_no_line_no_child_and_no_launch_with_it() {
    let mut farm = Plan::default().nodes(3).start();
    farm.project("demo");
    let flood = Flood::start(&farm, "demo", &[], LINES_PER_SECOND);
    let before = farm.runner(&flood.runner);
    let viewers: Vec<Viewer> =
        (0..3).map(|node| Viewer::start(&farm, &flood.runner, &endpoints_from(&farm, node))).collect();
    flood.go();
    viewers.iter().for_each(|viewer| viewer.sees_more(20_000));

    let leader = farm.leader();
    farm.kill_node_at(leader);
    let killed = Instant::now();
    let launched = farm.launch("demo", &[], &["true"]);
    assert!(killed.elapsed() < ACCEPTED_WITHIN, "a launch was accepted only after {:?}", killed.elapsed());
    assert!(is_alive(flood.pid), "the runner died with the leader");
    farm.await_runner(&text(&launched, "id"), "terminated");
    farm.await_another_leader(leader);
    viewers.iter().for_each(|viewer| viewer.sees_more(20_000));
    let after = farm.await_runner(&flood.runner, "running");
    assert_eq!((&after["pid"], &after["epoch"]), (&before["pid"], &before["epoch"]));

    // And the dead one comes back as one of three.
    farm.start_node_at(leader);
    farm.await_voters(3);
    viewers.iter().for_each(|viewer| viewer.sees_more(20_000));
    flood.end(&farm);
    viewers.into_iter().for_each(Viewer::saw_everything);
}
