//! Survival 2: after `kill` no process of a runner's tree remains, whatever it did to get away.

use std::path::Path;
use std::time::Duration;

use stratavore_chaos::eventually::{SOON, eventually_true};
use stratavore_chaos::farm::LocalFarm;
use stratavore_chaos::processes::with_argument;

/// A word that no other process of the machine has among its arguments.
fn unique() -> String {
    format!("tree-{}", uuid::Uuid::new_v4().simple())
}

/// A shell script that daemonises `probe hold WORD` twice, with an empty environment, in `/`, deaf to every polite
/// signal, its streams closed, and then holds on itself, just as deaf.
fn escape_artist(probe: &Path, word: &str) -> String {
    let probe = probe.display();
    format!(
        "trap '' TERM INT HUP QUIT
         cd /
         (setsid env -i sh -c '(trap \"\" TERM INT HUP QUIT; setsid env -i {probe} hold {word} <&- >&- 2>&- &)' &)
         exec {probe} hold {word}"
    )
}

fn count(word: &str) -> usize {
    with_argument(word).len()
}

fn escaped(farm: &LocalFarm, flags: &[&str], word: &str) -> String {
    let script = escape_artist(&farm.binaries().probe(), word);
    let runner = farm.running("demo", flags, &["sh", "-c", &script]);
    eventually_true("command and daemon to run", SOON, || count(word) >= 2);
    runner
}

#[test]
fn a_twice_daemonised_deaf_child_without_environment_is_gone_when_kill_returns() {
    let farm = LocalFarm::start();
    farm.project("demo");
    for flags in [&[][..], &["--no-tty"]] {
        let word = unique();
        let runner = escaped(&farm, flags, &word);
        farm.cli(&["kill", &runner]).ok();
        assert_eq!(count(&word), 0, "kill returned before the tree was gone ({flags:?})");
        let ended = farm.runner(&runner);
        assert_eq!(ended["state"], "terminated", "{ended}");
    }
}

#[test]
fn force_needs_no_grace_period() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let word = unique();
    let runner = escaped(&farm, &[], &word);
    let polite = farm.cli(&["kill", &runner, "--force"]).ok();
    assert_eq!(count(&word), 0);
    assert!(polite.took < Duration::from_secs(30), "{polite}");
    assert_eq!(farm.runner(&runner)["exit"]["signal"], 9, "a deaf command ends by KILL");
}

#[test]
fn processes_that_restart_each_other_are_gone_too() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let word = unique();
    let probe = farm.binaries().probe();
    // Two deaf loops, each in a session of its own, each starting a new holder as soon as one dies.
    let watcher = format!("trap \"\" TERM INT HUP; while :; do {} hold {word}; done", probe.display());
    let script = format!(
        "(setsid env -i sh -c '{watcher}' &); (setsid env -i sh -c '{watcher}' &); exec sleep 100000"
    );
    let runner = farm.running("demo", &[], &["sh", "-c", &script]);
    eventually_true("both watchers to run", SOON, || count(&word) >= 2);
    farm.cli(&["kill", &runner]).ok();
    assert_eq!(count(&word), 0);
    // What the watchers would have started again by now.
    let script = with_argument(&watcher);
    assert!(script.is_empty(), "watchers left: {script:?}");
}

#[test]
fn what_a_finished_command_leaves_behind_is_swept() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let word = unique();
    let probe = farm.binaries().probe();
    let script = format!("(setsid env -i {} hold {word} <&- >&- 2>&- &); sleep 0.3; exit 7", probe.display());
    let runner = farm.launch("demo", &[], &["sh", "-c", &script]);
    let id = stratavore_chaos::farm::text(&runner, "id");
    let ended = farm.await_runner(&id, "terminated");
    assert_eq!(ended["exit"]["code"], 7, "{ended}");
    assert_eq!(count(&word), 0, "the end was reported before the tree was swept (P15)");
}

#[test]
fn a_tree_is_gone_although_agent_and_node_died_before_the_kill() {
    let mut farm = LocalFarm::start();
    farm.project("demo");
    let word = unique();
    let runner = escaped(&farm, &[], &word);
    farm.kill_agent(0);
    farm.kill_node();
    farm.start_node();
    farm.start_agent(0);
    farm.cli_until_ok(&["kill", &runner]);
    assert_eq!(count(&word), 0);
}

#[test]
fn a_shim_that_dies_takes_its_tree_along_or_the_agent_does() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let word = unique();
    let runner = escaped(&farm, &[], &word);
    let described = farm.cli(&["describe", &runner]).ok().stdout;
    let weak = described.lines().any(|l| l.split_whitespace().eq(["fence", "weak"]));
    let shims: Vec<i32> = farm.shims().iter().map(|p| p.pid).collect();
    assert!(!shims.is_empty(), "no shim found");
    for shim in shims {
        stratavore_chaos::processes::signal(shim, rustix::process::Signal::KILL);
    }
    let ended = farm
        .await_runner_that(&runner, "to be ended", |r| r["state"] == "failed" || r["state"] == "terminated");
    assert_eq!(ended["exit"]["reason"], "shim_lost", "{ended}");
    if weak {
        // P11: without cgroup v2 and PID namespaces nothing ties an escaped process to its dead shim; this host says so.
        // The test ends what it started.
        for left in with_argument(&word) {
            stratavore_chaos::processes::signal(left.pid, rustix::process::Signal::KILL);
        }
        return eprintln!("not tested: this host's fence is weak (stratavore doctor says why)");
    }
    eventually_true("the tree to be gone", SOON, || count(&word) == 0);
}
