//! Survival 9 of the cluster: every node is gone, an older backup is restored while agents run newer work. Nothing is
//! killed, nothing is run twice, what the backup does not know is listed as orphaned, and what the backup has waiting is
//! placed only when every host has said what it runs. And the other way out: one node of three goes on alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use stratavore_chaos::eventually::{SOON, eventually, eventually_true};
use stratavore_chaos::farm::{LocalFarm, Plan, text};
use stratavore_chaos::processes::is_alive;
use stratavore_chaos::ran::{Ran, run};

/// Exit code of a node that learns that it was removed.
const REMOVED: i32 = 13;

/// A runner that writes down each of its starts, and stays.
struct Starts(PathBuf);

impl Starts {
    fn new(farm: &LocalFarm) -> Self {
        Self(farm.path("starts"))
    }

    fn script(&self) -> String {
        format!("echo $STRATAVORE_RUNNER_ID >>{}; exec sleep 1000000", self.0.display())
    }

    fn launch(&self, farm: &LocalFarm, flags: &[&str]) -> String {
        text(&farm.launch("demo", flags, &["sh", "-c", &self.script()]), "id")
    }

    fn running(&self, farm: &LocalFarm, flags: &[&str]) -> String {
        let id = self.launch(farm, flags);
        farm.await_runner(&id, "running");
        id
    }

    /// How often each runner was started.
    fn counted(&self) -> BTreeMap<String, usize> {
        let mut counted = BTreeMap::new();
        for id in fs::read_to_string(&self.0).unwrap_or_default().lines() {
            *counted.entry(id.to_owned()).or_default() += 1;
        }
        counted
    }

    #[track_caller]
    fn none_ran_twice(&self) {
        let twice: Vec<_> = self.counted().into_iter().filter(|(_, starts)| *starts != 1).collect();
        assert!(twice.is_empty(), "these ran more than once: {twice:?}");
    }
}

/// `cluster snapshot`, and until every agent knows what it changed.
fn backup(farm: &LocalFarm, name: &str) -> PathBuf {
    let file = farm.path(name);
    farm.cli(&["cluster", "snapshot", &file.to_string_lossy()]).ok();
    let node_keys = |agent: &Path| -> usize {
        let trust = fs::read_to_string(agent.join("trust.json")).unwrap_or_default();
        let trust: Value = serde_json::from_str(&trust).unwrap_or_default();
        trust["trusted"].as_array().map_or(0, Vec::len)
    };
    let nodes = farm.nodes.len();
    eventually_true("the agents to know the backup's node", SOON, || {
        farm.agents.iter().all(|agent| node_keys(&agent.data) > nodes)
    });
    file
}

/// Every node dies, and its disk is put out of reach.
fn lose_all_nodes(farm: &mut LocalFarm) -> Vec<PathBuf> {
    (0..farm.nodes.len()).for_each(|at| farm.kill_node_at(at));
    let lost = farm.nodes.iter().map(|node| {
        let lost = node.data.with_extension("lost");
        fs::rename(&node.data, &lost).expect("lose a disk");
        lost
    });
    lost.collect()
}

/// `stratavored restore` in the place of the first node.
fn restore(farm: &LocalFarm, file: &Path, more: &[&str]) -> Ran {
    let mut command = farm.node_command(0, "restore");
    command.arg("--from").arg(file).args(["--advertise", "127.0.0.1"]).args(more);
    run(command.args(farm.nodes[0].ports.flags()))
}

fn shown(farm: &LocalFarm, id: &str) -> Value {
    farm.runner(id)
}

fn pids(farm: &LocalFarm, ids: &[&String]) -> Vec<i32> {
    ids.iter().map(|id| farm.pid_of(id)).collect()
}

#[test]
fn p30_an_older_backup_is_restored_while_agents_run_newer_work() {
    let mut farm = Plan::default().nodes(3).agents(2).start();
    farm.project("demo");
    let starts = Starts::new(&farm);
    let before = starts.running(&farm, &["--host", "host-0"]);
    let killed = starts.running(&farm, &["--host", "host-0"]);
    let placed_later = starts.launch(&farm, &["--label", "late=yes"]);
    let waiting = starts.launch(&farm, &["--label", "never=yes"]);
    let unused = farm.token("host", &[]);
    let file = backup(&farm, "backup");

    // All of this the backup does not know.
    let newer = [starts.running(&farm, &["--host", "host-0"]), starts.running(&farm, &["--host", "host-1"])];
    farm.cli(&["kill", &killed]).ok();
    farm.cli(&["hosts", "label", "host-1", "late=yes"]).ok();
    farm.await_runner(&placed_later, "running");
    let alive = pids(&farm, &[&before, &newer[0], &newer[1], &placed_later]);
    let agents: Vec<i32> = farm.agents.iter().map(stratavore_chaos::farm::Agent::pid).collect();

    farm.freeze_agent(1);
    lose_all_nodes(&mut farm);
    farm.nodes.truncate(1);
    let made = restore(&farm, &file, &[]).ok();
    for word in ["incarnation 2", "admin-2", "come by themselves", "stratavored run"] {
        assert!(made.stdout.contains(word), "no word of '{word}': {made}");
    }
    farm.start_node();
    farm.await_host("host-0", "ready");

    // One host has not said what it runs: one of its runners is what the backup has waiting.
    farm.cli(&["hosts", "label", "host-0", "late=yes", "never=yes"]).ok();
    let fresh = starts.running(&farm, &["--label", "late=yes"]);
    for id in [&placed_later, &waiting] {
        assert_eq!(shown(&farm, id)["state"], "pending", "it was placed before every host had listed");
        let why = farm.cli(&["explain", id]).ok();
        assert!(why.stdout.contains("recovery") && why.stdout.contains("host-1"), "{why}");
    }
    let status = farm.cli(&["cluster", "status"]).ok();
    assert!(
        status.stdout.contains("nothing from before is placed") && status.stdout.contains("host-1"),
        "{status}"
    );

    farm.thaw_agent(1);
    farm.await_host("host-1", "ready");
    let adopted = farm.await_runner(&placed_later, "running");
    assert_eq!((&adopted["host"], adopted["pid"].as_i64()), (&"host-1".into(), Some(alive[3].into())));
    assert_eq!(farm.await_runner(&waiting, "running")["host"], "host-0");
    for (id, pid) in newer.iter().zip(&alive[1..]) {
        let orphan = farm.await_runner(id, "running");
        assert_eq!((&orphan["project"], orphan["pid"].as_i64()), (&"orphaned".into(), Some((*pid).into())));
    }
    // It was ended in the lost history, which its host still knows.
    assert_eq!(farm.await_runner(&killed, "terminated")["reason"], "killed");
    assert_eq!(farm.await_runner(&before, "running")["pid"].as_i64(), Some(alive[0].into()));
    assert!(alive.iter().chain(&agents).all(|pid| is_alive(*pid)), "something was killed");
    starts.none_ran_twice();
    assert_eq!(starts.counted().len(), 7, "{:?}", starts.counted());

    // An orphan is an operator's to adopt or to kill; a token of before admits nobody.
    let adopted =
        farm.cli(&["runners", "adopt", &newer[1], "--project", "demo", "--name", "found", "-o", "json"]);
    let adopted = adopted.ok().items("RunnerList").swap_remove(0);
    assert_eq!((&adopted["project"], adopted["pid"].as_i64()), (&"demo".into(), Some(alive[2].into())));
    farm.cli(&["runners", "adopt", "found", "--project", "demo"])
        .refused(2, &["already", "--project orphaned"]);
    farm.cli(&["kill", &newer[0]]).ok();
    eventually_true("the killed orphan to be gone", SOON, || !is_alive(alive[1]));
    farm.try_join("intruder", &farm.path("intruder"), &unused, &[]).says(&["token"]).refused(4, &["revoked"]);
    farm.cli(&["kill", &fresh, &before]).ok();
}

#[test]
fn p1_what_is_left_of_the_old_cluster_gets_no_host_and_learns_that_it_is_out() {
    let mut farm = Plan::default().nodes(3).agents(1).start();
    farm.project("demo");
    let starts = Starts::new(&farm);
    let runner = starts.running(&farm, &[]);
    let pid = farm.pid_of(&runner);
    let file = backup(&farm, "backup");
    let lost = lose_all_nodes(&mut farm);
    restore(&farm, &file, &[]).ok();
    farm.start_node();
    farm.await_host("host-0", "ready");

    // Two old voters are a majority of the old cluster, and lead it.
    for at in [1, 2] {
        fs::rename(&lost[at], &farm.nodes[at].data).expect("bring a disk back");
        farm.spawn_node(at);
    }
    let old = |farm: &LocalFarm| {
        let ran = farm.cli_through(1, &["status", "-o", "json"]);
        (ran.code == Some(0)).then(|| ran.json())
    };
    let incarnation = eventually("the old majority to answer", SOON, || {
        let status = old(&farm).ok_or("no answer")?;
        if status["cluster"]["quorum"] == true {
            Ok(status["cluster"]["incarnation"].clone())
        } else {
            Err("no quorum")
        }
    });
    assert_eq!(incarnation, 1);
    eventually("the old cluster to hear nothing of the host", SOON, || {
        let hosts = farm.cli_through(1, &["hosts", "-o", "json"]);
        if hosts.code != Some(0) {
            return Err(hosts.to_string());
        }
        let state = hosts.items("HostList")[0]["state"].clone();
        if state == "unreachable" { Ok(()) } else { Err(state.to_string()) }
    });
    let here = farm.cli_through(0, &["runners", "-o", "json"]).ok().items("RunnerList");
    assert_eq!((here.len(), here[0]["pid"].as_i64()), (1, Some(pid.into())));
    assert!(is_alive(pid), "the host followed the old cluster");
    starts.none_ran_twice();
}

#[test]
fn p1_two_restores_of_one_backup_are_two_clusters_and_the_agent_stays_with_the_first() {
    let mut farm = Plan::default().nodes(1).agents(1).start();
    farm.project("demo");
    let pid = farm.pid_of(&farm.running("demo", &[], &["sleep", "1000000"]));
    let file = backup(&farm, "backup");
    lose_all_nodes(&mut farm);
    restore(&farm, &file, &[]).ok();
    farm.start_node();
    farm.await_host("host-0", "ready");
    farm.kill_node();
    fs::rename(farm.node_data(), farm.path("first")).unwrap();
    restore(&farm, &file, &[]).ok();
    farm.start_node();
    let log = farm.path("logs/agent-0.log");
    eventually_true("the agent to refuse the second", SOON, || {
        fs::read_to_string(&log).unwrap_or_default().contains("restored twice")
    });
    assert!(is_alive(pid));
    // Its operator may choose otherwise.
    let agent = |farm: &LocalFarm, words: &[&str]| {
        let mut command = farm.command(&farm.binaries().agent());
        run(command.args(words).arg("--data-dir").arg(&farm.agents[0].data))
    };
    let node = format!("127.0.0.1:{}", farm.ports().quic);
    agent(&farm, &["trust", "--node", &node]).refused(5, &["stop it first", "live on"]);
    agent(&farm, &["stop"]).ok();
    agent(&farm, &["trust", "--node", &node]).ok();
    farm.start_agent(0);
    assert!(is_alive(pid), "the change of clusters cost a runner");
}

#[test]
fn p14_a_host_that_joined_after_the_backup_joins_again_with_all_it_runs() {
    let mut farm = Plan::default().nodes(1).agents(1).start();
    farm.project("demo");
    let file = backup(&farm, "backup");
    let data = farm.path("a1");
    farm.join_agent("host-1", &data);
    farm.start_agent(1);
    let runner = farm.running("demo", &["--host", "host-1"], &["sleep", "1000000"]);
    let pid = farm.pid_of(&runner);
    lose_all_nodes(&mut farm);
    restore(&farm, &file, &[]).ok();
    farm.start_node();
    farm.await_host("host-0", "ready");
    let token = farm.token("host", &[]);
    farm.try_join("host-1", &data, &token, &["--again"]).refused(5, &["held by another process"]);
    farm.kill_agent(1);
    farm.try_join("host-1", &data, &token, &[]).refused(5, &["belongs to a cluster already"]);
    farm.try_join("host-1", &data, &token, &["--again"]).ok();
    farm.start_agent(1);
    let orphan = farm.await_runner(&runner, "running");
    assert_eq!((&orphan["host"], orphan["pid"].as_i64()), (&"host-1".into(), Some(pid.into())));
    assert!(is_alive(pid), "the host lost its runner");
    let token = farm.token("host", &[]);
    farm.kill_agent(1);
    farm.try_join("host-1", &data, &token, &["--again"])
        .refused(5, &["exists", "the cluster knows this host"]);
}

#[test]
fn p19_one_node_of_three_goes_on_alone_and_grows_again() {
    let mut farm = Plan::default().nodes(3).agents(1).start();
    farm.project("demo");
    let starts = Starts::new(&farm);
    let runners: Vec<String> = (0..3).map(|_| starts.running(&farm, &[])).collect();
    let alive = pids(&farm, &runners.iter().collect::<Vec<_>>());
    eventually("every node to have applied all of it", SOON, || {
        let applied: Vec<_> =
            farm.node_statuses()?.iter().map(|(_, node)| node["last_applied"].as_u64()).collect();
        if applied.windows(2).all(|two| two[0] == two[1]) { Ok(()) } else { Err(format!("{applied:?}")) }
    });
    (0..3).for_each(|at| farm.kill_node_at(at));
    fs::remove_dir_all(&farm.nodes[1].data).expect("lose a disk");
    fs::rename(&farm.nodes[2].data, farm.path("old")).expect("lose another");

    let recover = |farm: &LocalFarm, more: &[&str]| {
        run(farm.node_command(0, "recover").arg("--accept-loss").args(more))
    };
    recover(&farm, &[]).refused(5, &["3 voters", "--lost-quorum", "cluster remove"]);
    let done = recover(&farm, &["--lost-quorum"]).ok();
    assert!(done.stdout.contains("incarnation 2") && done.stdout.contains("members 2, 3"), "{done}");
    farm.start_node();
    let old = farm.nodes.split_off(1);
    farm.await_host("host-0", "ready");
    for (id, pid) in runners.iter().zip(&alive) {
        assert_eq!(farm.await_runner(id, "running")["pid"].as_i64(), Some((*pid).into()));
    }
    assert!(alive.iter().all(|pid| is_alive(*pid)), "a runner died");
    starts.running(&farm, &[]);
    starts.none_ran_twice();

    // An old disk that turns up again is told, and new nodes make the cluster whole.
    let mut late = farm.command(&farm.binaries().node());
    let late = late.arg("run").arg("--data-dir").arg(farm.path("old"));
    run(late).exits(REMOVED).says(&["removed", "join again"]);
    drop(old);
    farm.add_node();
    farm.add_node();
    farm.await_voters(3);
    starts.running(&farm, &[]);
    starts.none_ran_twice();
}
