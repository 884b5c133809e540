//! Survival 10 of the cluster: rows of one node's state are altered on its disk. The comparison of digests finds it (P24), the
//! node is quarantined and serves nothing while its log and vote go on, takes another node's state, and serves again.

use std::path::PathBuf;

use serde_json::Value;
use stratavore_chaos::eventually::{SOON, eventually, eventually_true};
use stratavore_chaos::farm::{LocalFarm, Plan, text};
use stratavore_chaos::http;
use stratavore_chaos::processes::is_alive;
use stratavore_chaos::ran::{Ran, run};

const HOST: &str = "host-0";

/// `stratavore-chaos alter-row` on the data of node `at`.
fn alter(farm: &LocalFarm, at: usize, flags: &[&str]) -> Ran {
    let mut command = farm.command(&farm.binaries().chaos());
    command.arg("alter-row").arg("--data-dir").arg(&farm.nodes[at].data);
    run(command.args(flags))
}

/// Something lies where the next state database of node `at` has to be made, so that it stays quarantined until that is
/// taken away.
fn obstruct(farm: &LocalFarm, at: usize) -> PathBuf {
    let state = farm.nodes[at].data.join("state");
    let active = std::fs::read_to_string(state.join("ACTIVE")).expect("the pointer to the state database");
    let number: u64 = active.trim().trim_start_matches("db-").parse().expect("a numbered database");
    let obstacle = state.join(format!("db-{}", number + 1));
    std::fs::write(&obstacle, "in the way").expect("put something in the way");
    obstacle
}

/// The node that the host is connected to, made the leader.
fn leading_gateway(farm: &LocalFarm) -> usize {
    let gateway = farm.gateway(HOST);
    let id = farm.node_id(gateway);
    eventually("the gateway to lead", SOON, || {
        drop(farm.cli(&["cluster", "transfer-leader", &id]));
        if farm.leader() == gateway { Ok(()) } else { Err("another one leads") }
    });
    gateway
}

fn gateways(farm: &LocalFarm, through: usize) -> Vec<Value> {
    let hosts = farm.cli_through(through, &["hosts", "-o", "json"]);
    if hosts.code == Some(0) { hosts.items("HostList") } else { Vec::new() }
}

#[test]
fn p24_altered_rows_are_found_by_the_comparison_quarantined_and_rebuilt_from_a_peer() {
    let mut farm = Plan::default().nodes(3).agents(2).start();
    farm.project("demo");
    let runner = farm.running("demo", &["--host", HOST], &["sleep", "100000"]);
    let pid = farm.pid_of(&runner);
    let bad = leading_gateway(&farm);
    let bad_id = farm.node_id(bad);
    let running = alter(&farm, bad, &[]);
    assert!(running.code != Some(0) && running.stderr.contains("in use"), "it runs: {running}");
    farm.kill_node_at(bad);
    assert!(alter(&farm, bad, &["--fit-digest"]).ok().stdout.contains("demo"));
    let obstacle = obstruct(&farm, bad);
    farm.spawn_node(bad);
    eventually("the node to be quarantined", 2 * SOON, || {
        if farm.metric(bad, "stratavore_quarantined")? == 1.0 { Ok(()) } else { Err("it serves".to_owned()) }
    });
    let leader = farm.await_another_leader(bad);

    is_shown_and_serves_nothing(&farm, bad, leader);
    // No gateway: an agent that was its own before finds another one, and its runner lives.
    farm.kill_agent(0);
    farm.start_agent(0);
    eventually("the host to be connected elsewhere", SOON, || {
        let hosts = gateways(&farm, leader);
        let elsewhere = |host: &Value| host["state"] == "ready" && host["gateway"] != bad_id.as_str();
        if hosts.len() == 2 && hosts.iter().all(elsewhere) { Ok(()) } else { Err(format!("{hosts:?}")) }
    });
    assert!(is_alive(pid));
    // No leadership, but its log and its vote go on: without it there would be no majority now.
    farm.cli(&["cluster", "transfer-leader", &bad_id]).refused(5, &["may not lead"]);
    let other = (0..3).find(|at| *at != bad && *at != leader).expect("a third node");
    farm.kill_node_at(other);
    let accepted = farm.launch("demo", &["--name", "by-two"], &["true"]);
    farm.await_runner(&text(&accepted, "id"), "terminated");
    farm.start_node_at(other);
    assert_eq!(farm.metric(bad, "stratavore_quarantined"), Ok(1.0));
    assert_eq!(farm.metric(bad, "stratavore_state_rebuilds_total"), Ok(0.0));

    std::fs::remove_file(obstacle).expect("clear the way");
    is_sound_again(&mut farm, bad);
    is_told(&farm, &bad_id);
    assert_eq!(farm.pid_of(&runner), pid);
    farm.cli_until_ok(&["cluster", "transfer-leader", &bad_id]);
    assert_eq!(farm.launch("demo", &[], &["true"])["project"], "demo");
}

fn is_shown_and_serves_nothing(farm: &LocalFarm, bad: usize, healthy: usize) {
    let shown = eventually("status to show it", SOON, || {
        let node = farm.node_as_shown(bad, healthy)?;
        if node["quarantined"].is_string() { Ok(node) } else { Err(node.to_string()) }
    });
    assert!(text(&shown, "quarantined").contains("digest"), "{shown}");
    for through in [bad, healthy] {
        let table = farm.cli_through(through, &["cluster", "status"]).ok();
        assert!(table.stdout.contains("alarm: node") && table.stdout.contains("is quarantined"), "{table}");
    }
    assert_eq!(http::get(farm.nodes[bad].ports.metrics, "/readyz").expect("an answer").0, 503);
    let refused = |arguments: &[&str]| {
        let arguments = [&["--timeout", "2s"], arguments].concat();
        farm.cli_through(bad, &arguments).refused(8, &["quarantined"]);
    };
    refused(&["projects"]);
    refused(&["runners", "--stale"]);
    refused(&["events", "--since", "0", "--no-follow"]);
    refused(&["token", "list"]);
    refused(&["launch", "demo", "--detach", "--", "true"]);
    // With the other endpoints at hand nobody notices.
    let paths = farm.cli(&["projects", "-o", "json"]).ok().items("ProjectList");
    assert!(paths.iter().all(|project| !text(project, "path").contains("altered")), "{paths:?}");
}

/// History has it, in order.
fn is_told(farm: &LocalFarm, bad_id: &str) {
    eventually("the events", SOON, || {
        let start = format!("node {bad_id}: ");
        let about = |event: &Value| event["reason"].as_str().is_some_and(|reason| reason.starts_with(&start));
        let events = farm.events();
        let told: Vec<_> =
            events.iter().filter(|event| about(event)).map(|event| text(event, "type")).collect();
        if told == ["node.quarantined", "node.rebuilt"] { Ok(()) } else { Err(format!("{told:?}")) }
    });
}

fn is_sound_again(farm: &mut LocalFarm, bad: usize) {
    eventually("the node to serve again", 2 * SOON, || {
        if farm.metric(bad, "stratavore_quarantined")? == 0.0 {
            Ok(())
        } else {
            Err("quarantined".to_owned())
        }
    });
    farm.await_node_at(bad);
    assert_eq!(farm.metric(bad, "stratavore_state_rebuilds_total"), Ok(1.0));
    farm.await_equal_states(&[0, 1, 2]);
    let paths = farm.cli_through(bad, &["projects", "--stale", "-o", "json"]).ok().items("ProjectList");
    assert!(paths.iter().all(|project| !text(project, "path").contains("altered")), "{paths:?}");
    assert_eq!(farm.node_as_shown(bad, bad).map(|node| node["quarantined"].clone()), Ok(Value::Null));
    let log = farm.nodes[bad].process.as_ref().expect("a started node").log();
    for said in ["quarantined", "the state was rebuilt from a peer", "the quarantine is over"] {
        assert!(log.contains(said), "the log does not say {said:?}:\n{log}");
    }
}

#[test]
fn p24_rows_that_do_not_have_their_digest_are_found_at_the_start_and_never_served() {
    let mut farm = Plan::default().nodes(3).agents(0).start();
    farm.project("demo");
    let bad = farm.follower();
    farm.kill_node_at(bad);
    alter(&farm, bad, &[]).ok();
    farm.spawn_node(bad);
    // Whatever it answers from its first moment on, it is not what was altered.
    eventually_true("an answer", SOON, || {
        let ran = farm.cli_through(bad, &["--timeout", "1s", "projects", "--stale", "-o", "json"]);
        assert!(!ran.stdout.contains("altered"), "{ran}");
        ran.code == Some(0)
    });
    is_sound_again(&mut farm, bad);
}

#[test]
fn alter_row_says_why_it_alters_nothing() {
    let farm = LocalFarm::empty();
    let missing = alter(&farm, 0, &[]);
    assert!(missing.code == Some(1) && missing.stderr.contains("holds no cluster"), "{missing}");
    farm.init_node();
    let empty = alter(&farm, 0, &[]);
    assert!(empty.code == Some(1) && empty.stderr.contains("no project"), "{empty}");
}
