//! `up` and `down`: a whole cluster on this machine, and nothing of it afterwards.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;
use stratavore_chaos::eventually::{SOON, eventually, eventually_true};
use stratavore_chaos::farm::{LocalFarm, text};
use stratavore_chaos::processes::{self, Seen, is_alive, with_argument};
use stratavore_chaos::ran::Ran;

/// `up` with ports of the farm's own, so that tests do not meet.
fn up(farm: &LocalFarm, more: &[&str]) -> Ran {
    let flags = farm.ports().flags();
    let mut arguments = vec!["up"];
    arguments.extend(flags.iter().map(String::as_str));
    arguments.extend_from_slice(more);
    farm.bare(&arguments)
}

fn named(farm: &LocalFarm, program: &str, argument: &str) -> Vec<Seen> {
    let wanted = |p: &Seen| p.is_program(program) && p.arguments.get(1).is_some_and(|a| a == argument);
    farm.processes().into_iter().filter(wanted).collect()
}

fn state(farm: &LocalFarm) -> std::path::PathBuf {
    farm.path("home/.local/state/stratavore/local")
}

/// A cluster with one project and one deaf runner; the runner's id and its unique word.
fn with_runner(farm: &LocalFarm) -> (String, String) {
    up(farm, &[]).ok();
    let work = farm.work().to_string_lossy().into_owned();
    farm.bare(&["new", "demo", "--path", &work]).ok();
    let word = format!("down-{}", uuid::Uuid::new_v4().simple());
    let script = format!(
        "trap '' TERM INT HUP; (setsid {0} hold {word} &); exec {0} hold {word}",
        farm.binaries().probe().display()
    );
    let launched = farm.bare(&["launch", "demo", "--detach", "-o", "json", "--", "sh", "-c", &script]).ok();
    eventually_true("the runner's two processes", SOON, || with_argument(&word).len() == 2);
    (text(&launched.items("RunnerList")[0], "id"), word)
}

fn runner(farm: &LocalFarm, id: &str) -> Value {
    let listed = farm.bare(&["runners", "--all", "-o", "json"]).ok().items("RunnerList");
    listed.into_iter().find(|r| r["id"] == id).unwrap_or_else(|| panic!("{id} is not listed"))
}

#[test]
fn up_twice_down_and_nothing_is_left() {
    let farm = LocalFarm::empty();
    let first = up(&farm, &[]).ok();
    assert!(
        (first.stdout.clone() + &first.stderr).contains("stratavore"),
        "no next command is named: {first}"
    );
    assert!(state(&farm).join("node-1").is_dir() && state(&farm).join("agent-1").is_dir());
    assert!(state(&farm).join("logs").is_dir() && state(&farm).join("processes.json").is_file());
    let contexts = farm.path("home/.config/stratavore/contexts.yaml");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&contexts).unwrap().permissions());
    assert_eq!(mode & 0o077, 0, "a private key that others may read");
    farm.bare(&["status"]).ok();
    let pids = |farm: &LocalFarm| {
        let all = [named(farm, "stratavored", "run"), named(farm, "stratavore-agent", "run")].concat();
        all.iter().map(|p| p.pid).collect::<Vec<_>>()
    };
    let before = pids(&farm);
    assert_eq!(before.len(), 2, "one node and one agent");
    up(&farm, &[]).ok();
    assert_eq!(pids(&farm), before, "a second up restarts what lives");
    farm.bare(&["up", "--agents", "2"]).refused(5, &["another size", "down"]);
    farm.bare(&["up", "--nodes", "2"]).refused(2, &["even", "--allow-even"]);
    farm.bare(&["down"]).ok();
    farm.leaves_no_process();
    farm.bare(&["down"]).ok();
    farm.bare(&["--timeout", "3s", "status"]).refused(7, &["stratavore up"]);
}

#[test]
fn down_ends_deaf_runners_and_the_next_up_shows_why_and_starts_nothing_again() {
    let farm = LocalFarm::empty();
    let (id, word) = with_runner(&farm);
    let before = runner(&farm, &id);
    farm.bare(&["down"]).ok();
    assert!(with_argument(&word).is_empty(), "a runner outlived down");
    farm.leaves_no_process();
    up(&farm, &[]).ok();
    let after = eventually("the runner to be shown ended", SOON, || {
        let after = runner(&farm, &id);
        if after["state"] == "terminated" { Ok(after) } else { Err(after) }
    });
    assert_eq!(after["exit"]["reason"], "host_stopped", "{after}");
    assert_eq!(after["epoch"], before["epoch"], "it was placed again");
    farm.bare(&["launch", "demo", "--detach", "--", "true"]).ok();
    assert!(with_argument(&word).is_empty());
    farm.bare(&["down"]).ok();
    farm.leaves_no_process();
}

#[test]
fn down_works_with_a_dead_node_and_a_dead_supervisor() {
    let farm = LocalFarm::empty();
    let (id, word) = with_runner(&farm);
    // The supervisor first, else it brings the node back.
    for process in farm.processes() {
        if process.is_program("stratavore") && process.arguments.iter().any(|a| a == "supervise") {
            processes::signal(process.pid, Signal::KILL);
        }
    }
    for node in named(&farm, "stratavored", "run") {
        processes::signal(node.pid, Signal::KILL);
    }
    eventually_true("the node to be dead", SOON, || named(&farm, "stratavored", "run").is_empty());
    farm.bare(&["down"]).ok();
    assert!(with_argument(&word).is_empty());
    farm.leaves_no_process();
    up(&farm, &[]).ok();
    eventually("the runner to be shown ended", SOON, || {
        let after = runner(&farm, &id);
        if after["state"] == "terminated" && after["exit"]["reason"] == "host_stopped" {
            Ok(())
        } else {
            Err(after)
        }
    });
    farm.bare(&["down"]).ok();
}

#[test]
fn the_supervisor_brings_back_node_and_agent() {
    let farm = LocalFarm::empty();
    let (id, word) = with_runner(&farm);
    for (program, what) in [("stratavored", "node"), ("stratavore-agent", "agent")] {
        let old: Vec<i32> = named(&farm, program, "run").iter().map(|p| p.pid).collect();
        assert_eq!(old.len(), 1, "one {what}");
        processes::signal(old[0], Signal::KILL);
        eventually_true(&format!("another {what}"), SOON, || {
            let new = named(&farm, program, "run");
            new.len() == 1 && new[0].pid != old[0]
        });
    }
    eventually("the runner to be shown running", SOON, || {
        let ran = farm.bare(&["runners", "--all", "-o", "json"]);
        if ran.code != Some(0) {
            return Err(ran.to_string());
        }
        let items = ran.items("RunnerList");
        if items.iter().any(|r| r["id"] == id.as_str() && r["state"] == "running") {
            Ok(())
        } else {
            Err(ran.stdout)
        }
    });
    assert_eq!(with_argument(&word).len(), 2);
    farm.bare(&["down"]).ok();
    farm.leaves_no_process();
}

#[test]
fn up_after_a_kill_of_everything_has_all_records() {
    let farm = LocalFarm::empty();
    let (id, word) = with_runner(&farm);
    processes::kill_family_of(&farm.root().to_string_lossy());
    assert!(with_argument(&word).is_empty());
    up(&farm, &[]).ok();
    eventually("the runner's record, ended", SOON, || {
        let after = runner(&farm, &id);
        if after["state"] == "failed" || after["state"] == "terminated" { Ok(()) } else { Err(after) }
    });
    farm.bare(&["down"]).ok();
    farm.leaves_no_process();
}

#[test]
fn purge_removes_state_and_context() {
    let farm = LocalFarm::empty();
    let (_, word) = with_runner(&farm);
    farm.bare(&["down", "--purge"]).ok();
    assert!(with_argument(&word).is_empty());
    farm.leaves_no_process();
    assert!(!state(&farm).exists(), "state is left");
    let contexts = fs::read_to_string(farm.path("home/.config/stratavore/contexts.yaml")).unwrap_or_default();
    assert!(!contexts.contains("local"), "the context is left:\n{contexts}");
    up(&farm, &[]).ok();
    let runners = farm.bare(&["runners", "--all", "-o", "json"]).ok().items("RunnerList");
    assert!(runners.is_empty(), "a purged cluster remembers: {runners:?}");
    farm.bare(&["down"]).ok();
}

#[test]
fn busy_ports_are_moved_past_and_recorded() {
    let farm = LocalFarm::empty();
    let _taken = std::net::TcpListener::bind(("127.0.0.1", farm.ports().grpc)).unwrap();
    farm.bare(&[
        "up",
        "--quic-port",
        &farm.ports().quic.to_string(),
        "--metrics-port",
        &farm.ports().metrics.to_string(),
    ])
    .ok();
    farm.bare(&["status"]).ok();
    farm.bare(&["down"]).ok();
    farm.leaves_no_process();
}

#[test]
fn foreground_ends_everything_on_ctrl_c() {
    let farm = LocalFarm::empty();
    let flags = farm.ports().flags();
    let mut arguments = vec!["up", "--foreground"];
    arguments.extend(flags.iter().map(String::as_str));
    let mut foreground = farm.terminal_of(&farm.bare_command(&arguments), 40, 120);
    eventually("the cluster to answer", SOON, || {
        let ran = farm.bare(&["status"]);
        if ran.code == Some(0) { Ok(()) } else { Err(ran.to_string()) }
    });
    foreground.type_bytes(b"\x03");
    foreground.wait();
    farm.leaves_no_process();
}

#[test]
fn three_nodes_and_two_agents_come_up_restart_and_go_down_with_all_nodes_dead() {
    let farm = LocalFarm::empty();
    let first = up(&farm, &["--nodes", "3", "--agents", "2"]).ok();
    assert!(first.stderr.contains("3 nodes, 2 agents"), "{first}");
    let listed = |command: &[&str], kind: &str| farm.bare(command).ok().items(kind);
    let nodes = listed(&["cluster", "status", "-o", "json"], "NodeList");
    assert!(nodes.len() == 3 && nodes.iter().all(|node| node["voter"] == true), "{nodes:?}");
    let hosts = listed(&["hosts", "-o", "json"], "HostList");
    assert!(hosts.len() == 2 && hosts.iter().all(|host| host["state"] == "ready"), "{hosts:?}");
    let context = &listed(&["context", "list", "-o", "json"], "ContextList")[0];
    assert_eq!(context["endpoints"].as_array().map(Vec::len), Some(3), "{context}");
    let work = farm.work().to_string_lossy().into_owned();
    farm.bare(&["new", "demo", "--path", &work]).ok();
    let word = format!("three-{}", uuid::Uuid::new_v4().simple());
    let probe = farm.binaries().probe().to_string_lossy().into_owned();
    for host in ["agent-1", "agent-2"] {
        farm.bare(&["launch", "demo", "--detach", "--host", host, "--", &probe, "hold", &word]).ok();
    }
    eventually_true("a runner on each host", SOON, || with_argument(&word).len() == 2);
    // Any member that dies is started again.
    for (program, count) in [("stratavored", 3), ("stratavore-agent", 2)] {
        let old = named(&farm, program, "run")[0].pid;
        processes::signal(old, Signal::KILL);
        eventually_true(&format!("another {program}"), SOON, || {
            let new = named(&farm, program, "run");
            new.len() == count && new.iter().all(|process| process.pid != old)
        });
    }
    up(&farm, &[]).ok();
    assert_eq!(with_argument(&word).len(), 2, "a runner died");
    for process in farm.processes() {
        if process.is_program("stratavore") && process.arguments.iter().any(|a| a == "supervise") {
            processes::signal(process.pid, Signal::KILL);
        }
    }
    named(&farm, "stratavored", "run").iter().for_each(|node| processes::signal(node.pid, Signal::KILL));
    farm.bare(&["down", "--purge"]).ok();
    assert!(with_argument(&word).is_empty(), "a runner outlived down");
    farm.leaves_no_process();
    assert!(!state(&farm).exists(), "state is left");
}

#[test]
fn agent_stop_with_runners_needs_no_node() {
    let mut farm = LocalFarm::start();
    farm.project("demo");
    let runner = farm.running("demo", &[], &["sleep", "100000"]);
    let pid = farm.pid_of(&runner);
    farm.kill_node();
    let mut command = farm.command(&farm.binaries().agent());
    command.arg("stop").arg("--data-dir").arg(&farm.agents[0].data).arg("--runners");
    stratavore_chaos::ran::run(&mut command).ok();
    assert!(!is_alive(pid));
    let status = farm.agents[0].process.as_mut().unwrap().wait();
    assert!(status.success(), "the agent ended with {status}");
    farm.start_node();
    farm.start_agent(0);
    let ended = farm.await_runner(&runner, "terminated");
    assert_eq!(ended["exit"]["reason"], "host_stopped", "{ended}");
}
