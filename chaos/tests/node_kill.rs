//! Survival 3: `kill -9` of the node and of everything. What was acknowledged is there; runners live through the node's death.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use stratavore_chaos::eventually::{SOON, eventually_true};
use stratavore_chaos::farm::{LocalFarm, text};
use stratavore_chaos::numbered::assert_whole;
use stratavore_chaos::processes::{is_alive, kill_family_of};

/// How often the node dies under load.
const ROUNDS: u32 = 3;

fn ids(items: &[Value]) -> BTreeSet<String> {
    items.iter().map(|i| text(i, "id")).collect()
}

fn names(items: &[Value]) -> BTreeSet<String> {
    items.iter().map(|i| text(i, "name")).collect()
}

/// Everything a client was told is done.
#[derive(Default)]
struct Acknowledged {
    projects: BTreeSet<String>,
    runners: BTreeSet<String>,
    events: Vec<Value>,
}

impl Acknowledged {
    /// Creates projects and launches runners until `enough`; only what was acknowledged is remembered.
    fn work(farm: &LocalFarm, round: u32, enough: &AtomicBool) -> Self {
        let mut done = Self::default();
        let mut number = 0;
        while !enough.load(Ordering::Acquire) {
            number += 1;
            let project = format!("p{round}-{number}");
            let made = farm.cli(&["new", &project, "--path", "/tmp", "--timeout", "10s", "-o", "json"]);
            if made.code != Some(0) {
                continue;
            }
            let launched =
                farm.cli(&["launch", &project, "--detach", "--timeout", "10s", "-o", "json", "--", "true"]);
            if launched.code == Some(0) {
                done.runners.extend(ids(&launched.items("RunnerList")));
            }
            done.projects.insert(project);
        }
        done
    }

    fn extend(&mut self, more: Self) {
        self.projects.extend(more.projects);
        self.runners.extend(more.runners);
    }

    fn check(&self, farm: &LocalFarm) {
        let projects = names(&farm.cli_until_ok(&["projects", "-o", "json"]).items("ProjectList"));
        let runners = ids(&farm.cli_until_ok(&["runners", "--all", "-o", "json"]).items("RunnerList"));
        let lost: Vec<_> = self.projects.difference(&projects).collect();
        assert!(lost.is_empty(), "acknowledged projects are lost: {lost:?}");
        let lost: Vec<_> = self.runners.difference(&runners).collect();
        assert!(lost.is_empty(), "acknowledged runners are lost: {lost:?}");
        let events = farm.events();
        assert!(
            events.len() >= self.events.len(),
            "{} events of {} are left",
            events.len(),
            self.events.len()
        );
        for (before, after) in self.events.iter().zip(&events) {
            assert_eq!(before, after, "an event that was shown has changed");
        }
    }
}

#[test]
fn acknowledged_work_survives_kills_of_the_node_under_load() {
    let mut farm = LocalFarm::start();
    let mut all = Acknowledged::default();
    for round in 0..ROUNDS {
        let enough = AtomicBool::new(false);
        let done = std::thread::scope(|scope| {
            // The node's process is taken out so that the worker may use the farm meanwhile.
            let mut node = farm.nodes[0].process.take().expect("the node runs");
            let worker = scope.spawn(|| Acknowledged::work(&farm, round, &enough));
            let started = Instant::now();
            let busy_for = Duration::from_millis(1500 + u64::from(round) * 700);
            eventually_true("some load", SOON, || started.elapsed() > busy_for);
            node.kill9();
            enough.store(true, Ordering::Release);
            worker.join().expect("the worker")
        });
        assert!(!done.projects.is_empty(), "nothing was acknowledged before the kill, so nothing is tested");
        all.extend(done);
        farm.start_node();
        all.check(&farm);
        all.events = farm.events();
        assert!(!all.events.is_empty());
    }
    // And it goes on: what was accepted before is carried out, new work too.
    farm.project("after");
    let runner = farm.launch("after", &[], &["true"]);
    farm.await_runner(&text(&runner, "id"), "terminated");
    for runner in all.runners.clone() {
        farm.await_runner_that(&runner, "to have run", |r| {
            r["state"] == "terminated" && r["exit"]["code"] == 0
        });
    }
}

#[test]
fn runners_live_and_write_through_the_death_of_the_node() {
    let mut farm = LocalFarm::start();
    farm.project("demo");
    let (go, stop) = (farm.path("go"), farm.path("stop"));
    let command = farm.probe(&["lines", &go.to_string_lossy(), &stop.to_string_lossy(), "2000", "5"]);
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let runner = farm.running("demo", &[], &command);
    let before = farm.runner(&runner);
    let pid = farm.pid_of(&runner);
    let shims = farm.shims().len();
    fs::write(&go, "").unwrap();
    farm.kill_node();
    assert!(is_alive(pid), "the runner died with the node");
    farm.start_node();
    farm.await_host("host-0", "ready");
    let after = farm.await_runner(&runner, "running");
    assert_eq!((&after["pid"], &after["epoch"]), (&before["pid"], &before["epoch"]));
    assert_eq!(farm.shims().len(), shims, "a second shim was started");
    fs::write(&stop, "").unwrap();
    let ended = farm.await_runner(&runner, "terminated");
    assert_eq!(ended["exit"]["code"], 5);
    assert_whole(farm.cli(&["logs", &runner]).ok().stdout.as_bytes());
}

#[test]
fn an_exit_while_no_node_runs_arrives_at_the_next_one() {
    let mut farm = LocalFarm::start();
    farm.project("demo");
    let stop = farm.path("stop");
    let runner = farm.running(
        "demo",
        &[],
        &["sh", "-c", &format!("until [ -e {} ]; do sleep 0.05; done; exit 9", stop.display())],
    );
    let pid = farm.pid_of(&runner);
    farm.kill_node();
    fs::write(&stop, "").unwrap();
    eventually_true("the runner to end", SOON, || !is_alive(pid));
    farm.start_node();
    let ended = farm.await_runner(&runner, "terminated");
    assert_eq!(ended["exit"]["code"], 9, "{ended}");
}

#[test]
fn after_a_kill_of_everything_every_record_is_there_and_no_runner_is_shown_alive() {
    let mut farm = LocalFarm::start();
    farm.project("demo");
    let held = farm.running("demo", &["--name", "held"], &["sleep", "100000"]);
    let done = farm.launch("demo", &["--name", "done"], &["true"]);
    farm.await_runner(&text(&done, "id"), "terminated");
    let events = farm.events();
    kill_family_of(&farm.root().to_string_lossy());
    farm.kill_node();
    farm.kill_agent(0);
    farm.start_node();
    farm.start_agent(0);
    let held = farm
        .await_runner_that(&held, "to be ended", |r| r["state"] == "failed" || r["state"] == "terminated");
    // Which of the two died first is chance: the shim may have seen its command die.
    assert!(matches!(held["exit"]["reason"].as_str(), Some("shim_lost" | "signaled")), "{held}");
    let done = farm.runner(&text(&done, "id"));
    assert_eq!((&done["state"], &done["exit"]["code"]), (&"terminated".into(), &0.into()));
    let after = farm.events();
    assert_eq!(events[..], after[..events.len()], "events changed or vanished");
    farm.running("demo", &[], &["sleep", "100000"]);
}

#[test]
fn two_nodes_on_one_data_directory_is_refused() {
    let farm = LocalFarm::start();
    let second = farm.run_node_to_end(&[]);
    assert_ne!(second.code, Some(0), "{second}");
    second.says(&["another", "data"]);
    farm.cli(&["status"]).ok();
}

#[test]
fn sigterm_ends_node_and_agent_cleanly_and_runners_stay() {
    let mut farm = LocalFarm::start();
    farm.project("demo");
    let runner = farm.running("demo", &[], &["sleep", "100000"]);
    let pid = farm.pid_of(&runner);
    let node = farm.nodes[0].process.as_mut().unwrap().stop();
    assert!(node.success(), "the node ended with {node}");
    let agent = farm.agents[0].process.as_mut().unwrap().stop();
    assert!(agent.success(), "the agent ended with {agent}");
    assert!(is_alive(pid), "a stopped agent must not stop its runners");
    farm.start_node();
    farm.start_agent(0);
    farm.await_runner(&runner, "running");
    assert_eq!(farm.pid_of(&runner), pid);
}
