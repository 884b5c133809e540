//! Survival 5 of the cluster: the leader is frozen for 20 s and thawed. The others go on under a new term; when it is back it
//! commits nothing of its old term, and its late grants move no deadline: what may be replaced runs on, once.

use std::time::{Duration, Instant};

use stratavore_chaos::eventually::{SOON, eventually_true};
use stratavore_chaos::farm::{Flood, Plan, text};

/// As the promise says; longer than the default lease.
const FROZEN_FOR: Duration = Duration::from_secs(20);

const LINES_PER_SECOND: u32 = 1_000;

/// Events are ordered by the log; what a client saw once stays where it was.
fn ids(events: &[serde_json::Value]) -> Vec<String> {
    events.iter().map(|event| text(event, "id")).collect()
}

#[test]
fn p7_a_thawed_leader_commits_nothing_and_grants_nothing_of_its_old_term() {
    let farm = Plan::default().nodes(3).agents(2).start();
    farm.project("demo");
    let floods: Vec<Flood> = ["keep", "stop"]
        .iter()
        .map(|policy| Flood::start(&farm, "demo", &["--on-disconnect", policy], LINES_PER_SECOND))
        .collect();
    floods.iter().for_each(Flood::go);
    let before: Vec<_> = floods.iter().map(|flood| farm.runner(&flood.runner)).collect();
    let old = farm.leader();
    let term = |at: usize| {
        let nodes = farm.node_statuses().expect("cluster status");
        nodes.iter().find(|(position, _)| *position == at).and_then(|(_, node)| node["term"].as_u64())
    };
    let old_term = term(old).expect("a term");
    farm.freeze_node(old);
    let frozen = Instant::now();
    let new = farm.await_another_leader(old);
    assert!(term(new) > Some(old_term), "a new leader has a new term");
    let accepted = farm.launch("demo", &["--name", "meanwhile"], &["true"]);
    farm.await_runner(&text(&accepted, "id"), "terminated");
    let seen = ids(&farm.events());
    eventually_true("the time to pass", SOON, || frozen.elapsed() > FROZEN_FOR);
    farm.thaw_node(old);
    farm.await_voters(3);
    let nodes = farm.node_statuses().expect("cluster status");
    let leaders: Vec<_> = nodes.iter().filter(|(_, node)| node["role"] == "leader").collect();
    assert_eq!(leaders.len(), 1, "{nodes:?}");
    for at in 0..3 {
        let ran = farm.cli_through(at, &["events", "--since", "0", "--no-follow", "-o", "json"]).ok();
        let now = ids(&ran.json_lines());
        assert_eq!(seen[..], now[..seen.len()], "node {at} tells another story");
    }
    for (flood, before) in floods.iter().zip(&before) {
        let after = farm.await_runner(&flood.runner, "running");
        assert_eq!((&after["pid"], &after["epoch"]), (&before["pid"], &before["epoch"]));
        flood.end(&farm);
    }
}
