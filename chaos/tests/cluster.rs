//! Several nodes and agents as one cluster: what `cluster status` says, whoever is asked, and what the admin commands do.

use stratavore_chaos::eventually::{SOON, eventually};
use stratavore_chaos::farm::{LocalFarm, Plan};

fn shown(farm: &LocalFarm, at: usize) -> serde_json::Value {
    let nodes = farm.node_statuses().expect("cluster status");
    nodes.into_iter().find(|(position, _)| *position == at).map(|(_, node)| node).expect("the node is listed")
}

#[test]
fn every_node_tells_the_same_and_a_silent_one_is_shown_as_not_reachable() {
    let mut farm = Plan::default().nodes(3).agents(2).start();
    let leader = farm.leader();
    for through in 0..3 {
        let ran = farm.cli_through(through, &["cluster", "status", "-o", "json"]).ok();
        let nodes = ran.items("NodeList");
        assert_eq!(nodes.len(), 3, "{ran}");
        let leaders: Vec<_> = nodes.iter().filter(|node| node["role"] == "leader").collect();
        assert_eq!(leaders.len(), 1, "{ran}");
        assert_eq!(leaders[0]["address"], farm.nodes[leader].endpoint().as_str());
        assert!(nodes.iter().all(|node| node["reachable"] == true && node["voter"] == true), "{ran}");
        assert!(
            nodes
                .iter()
                .all(|node| node["term"].as_u64() >= Some(1) && node["last_applied"].as_u64() >= Some(1))
        );
        let hosts = farm.cli_through(through, &["hosts", "-o", "json"]).ok().items("HostList");
        assert!(
            hosts.iter().all(|host| host["state"] == "ready" && host["gateway"].is_string()),
            "{hosts:?}"
        );
    }
    farm.cli(&["cluster", "status"]).ok();

    let follower = farm.follower();
    farm.freeze_node(follower);
    eventually("the frozen node to be shown as not reachable", SOON, || {
        let ran = farm.cli_through(leader, &["cluster", "status", "-o", "json"]);
        let nodes = ran.items("NodeList");
        let frozen = nodes.iter().find(|node| node["address"] == farm.nodes[follower].endpoint().as_str());
        if frozen.is_some_and(|node| node["reachable"] == false) { Ok(()) } else { Err(ran.stdout) }
    });
    farm.thaw_node(follower);
    farm.await_voters(3);

    farm.kill_node_at(follower);
    assert!(!farm.nodes[follower].is_running());
    assert_eq!(shown(&farm, follower)["reachable"], false);
    farm.start_node_at(follower);
    farm.await_voters(3);
}

#[test]
fn p13_without_quorum_status_still_answers_and_changes_end_with_8() {
    let mut farm = Plan::default().nodes(3).agents(1).start();
    farm.project("demo");
    let left = farm.follower();
    (0..3).filter(|at| *at != left).for_each(|at| farm.kill_node_at(at));
    let ran = farm.cli_through(left, &["cluster", "status", "-o", "json"]).ok();
    assert_eq!(ran.json()["cluster"]["quorum"], false, "{ran}");
    let table = farm.cli_through(left, &["cluster", "status"]).ok();
    assert!(table.stdout.contains("no quorum"), "{table}");
    farm.cli_through(left, &["runners", "--stale"]).ok();
    let refused = farm.cli(&["--timeout", "3s", "launch", "demo", "--detach", "--", "true"]);
    refused.refused(8, &["--request-id"]);
}

#[test]
fn a_dead_first_endpoint_costs_no_time_worth_naming() {
    let mut farm = Plan::default().nodes(3).agents(0).start();
    let follower = farm.follower();
    farm.kill_node_at(follower);
    let endpoints: Vec<String> = (0..3).map(|at| farm.nodes[(follower + at) % 3].endpoint()).collect();
    let dead = ["--cluster", &endpoints.join(","), "projects"];
    let began = std::time::Instant::now();
    stratavore_chaos::ran::run(&mut farm.cli_command_as(&farm.admin_context(), &dead)).ok();
    assert!(began.elapsed() < std::time::Duration::from_secs(2), "{:?}", began.elapsed());
}

#[test]
fn leadership_is_handed_over_through_any_node() {
    let farm = Plan::default().nodes(3).agents(0).start();
    let (leader, follower) = (farm.leader(), farm.follower());
    let id = farm.node_id(follower);
    let ran = farm.cli_through(follower, &["cluster", "transfer-leader", &id, "-o", "json"]).ok();
    let said = ran.json();
    assert_eq!((&said["kind"], said["leader"].to_string()), (&"Leader".into(), id.clone()), "{ran}");
    assert_eq!(farm.await_another_leader(leader), follower);
    farm.cli(&["cluster", "transfer-leader", &id]).ok();
    farm.cli(&["cluster", "transfer-leader", "99"]).refused(3, &["99", "cluster status"]);
    let table = farm.cli_through(leader, &["cluster", "transfer-leader"]).ok();
    assert!(table.stdout.contains("leads"), "{table}");
    farm.await_another_leader(follower);
}

#[test]
fn admin_commands_answer_in_both_shapes_and_refuse_with_three_lines() {
    let farm = Plan::default().nodes(1).agents(1).start();
    farm.project("demo");
    farm.cli(&["cluster", "remove", "1"]).refused(5, &["last"]);
    farm.cli(&["cluster", "remove", "9"]).refused(3, &["9"]);
    let version = farm.cli(&["cluster", "finalize", "-o", "json"]).ok().json();
    assert_eq!(version["kind"], "ClusterVersion", "{version}");
    farm.cli(&["cluster", "finalize", "--version", "1"]).refused(2, &["older"]);
    farm.cli(&["cluster", "finalize", "--version", "4000000"]).refused(5, &["4000000"]);
    farm.cli(&["cluster", "maintenance", "--for", "2h"]).refused(2, &["30m"]);
    let on = farm.cli(&["cluster", "maintenance", "--for", "20m", "-o", "json"]).ok().json();
    assert!(on["kind"] == "Maintenance" && on["until"].is_string(), "{on}");
    let shown = farm.cli(&["cluster", "status"]).ok();
    assert!(shown.stdout.contains("maintenance until"), "{shown}");
    let off = farm.cli(&["cluster", "maintenance", "--end"]).ok();
    assert!(off.stdout.contains("no maintenance"), "{off}");
    farm.cli(&["cluster", "clock", "reset"]).refused(2, &["moves forward"]);

    let runner = farm.running("demo", &[], &["sleep", "100000"]);
    farm.cli(&["runners", "declare-dead", &runner]).refused(5, &["kill"]);
    farm.cli(&["runners", "declare-dead", "nosuch"]).refused(3, &["nosuch"]);
    farm.cli(&["hosts", "declare-dead", "host-0"]).refused(5, &["drain"]);
    let drained = farm.cli(&["hosts", "drain", "host-0", "-o", "json"]).ok().items("HostList");
    assert!(drained[0]["draining"] == true && drained[0]["cordoned"] == true, "{drained:?}");
    let back = farm.cli(&["hosts", "uncordon", "host-0", "-o", "json"]).ok().items("HostList");
    assert!(back[0]["draining"] == false && back[0]["cordoned"] == false, "{back:?}");
    assert_eq!(farm.runner(&runner)["state"], "running", "a kept runner is not moved by a drain");
}

#[test]
fn a_lost_runner_and_its_host_are_declared_dead() {
    let mut farm = Plan::default().agents(1).start();
    farm.project("demo");
    let (one, two) =
        (farm.running("demo", &[], &["sleep", "100000"]), farm.running("demo", &[], &["sleep", "100000"]));
    farm.kill_agent(0);
    farm.await_runner(&one, "lost");
    farm.await_runner(&two, "lost");
    let dead = farm.cli(&["runners", "declare-dead", &one, "-o", "json"]).ok().items("RunnerList");
    assert_eq!(
        (&dead[0]["state"], &dead[0]["reason"]),
        (&"failed".into(), &"declared_dead".into()),
        "{dead:?}"
    );
    assert_eq!(farm.runner(&two)["state"], "lost");
    farm.cli(&["hosts", "declare-dead", "host-0"]).ok();
    let two = farm.await_runner(&two, "failed");
    assert_eq!(two["reason"], "declared_dead", "{two}");
}

#[test]
fn p9_a_hold_is_taken_shown_and_bounded() {
    let farm = Plan::default().agents(1).start();
    farm.project("demo");
    let flags = ["--on-disconnect", "stop", "--hold", "90s"];
    let launched = farm.launch("demo", &flags, &["sleep", "100000"]);
    assert_eq!(
        (&launched["on_disconnect"], &launched["hold_ms"]),
        (&"stop".into(), &90_000.into()),
        "{launched}"
    );
    let id = stratavore_chaos::farm::text(&launched, "id");
    let described = farm.cli(&["describe", &id]).ok();
    assert!(described.stdout.contains("stop"), "{described}");
    let too_long = ["launch", "demo", "--detach", "--on-disconnect", "stop", "--hold", "48h", "--", "true"];
    farm.cli(&too_long).refused(2, &["hold"]);
    let plain = farm.launch("demo", &[], &["true"]);
    assert_eq!((&plain["on_disconnect"], &plain["hold_ms"]), (&"keep".into(), &serde_json::Value::Null));
}

#[test]
fn a_snapshot_is_a_private_file_from_any_node_and_overwrites_nothing() {
    let farm = Plan::default().nodes(3).agents(0).start();
    farm.project("demo");
    let file = farm.path("backup");
    let name = file.to_string_lossy().into_owned();
    let follower = farm.follower();
    let said = farm.cli_through(follower, &["cluster", "snapshot", &name, "-o", "json"]).ok().json();
    assert_eq!(said["kind"], "Snapshot", "{said}");
    let metadata = std::fs::metadata(&file).expect("the file");
    assert_eq!(Some(metadata.len()), said["bytes"].as_u64());
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777, 0o600);
    farm.cli(&["cluster", "snapshot", &name]).refused(5, &["exists"]);
    farm.cli(&["cluster", "snapshot", "/nonexistent/x"]).refused(1, &["directory"]);
    for node in &farm.nodes {
        let left: Vec<_> = std::fs::read_dir(&node.data).expect("the data directory").flatten().collect();
        assert!(
            left.iter().all(|entry| !entry.file_name().to_string_lossy().starts_with("backup")),
            "{left:?}"
        );
    }
}
