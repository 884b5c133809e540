//! `--restart`: a command that fails is started again up to the limit, one that ends is started again for good, and
//! nobody is ever started twice at once, whoever dies in between.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use stratavore_chaos::eventually::{SOON, eventually_true};
use stratavore_chaos::farm::{LocalFarm, Plan, text};

/// Above the longest wait that these tests see (8 s), so that a further start would have shown.
const A_FURTHER_START: Duration = Duration::from_secs(12);

/// Restarts in a row that on-failure allows, as users know it.
const LIMIT: usize = 3;

/// A script that notes each start with its epoch, and anything that runs at the same time.
fn script(notes: &Path, then: &str) -> String {
    let notes = notes.display();
    format!(
        "mkdir {notes}.lock || echo DOUBLE >> {notes}; echo $STRATAVORE_EPOCH >> {notes}; echo start-$STRATAVORE_EPOCH; \
         sleep 0.2; rmdir {notes}.lock; {then}"
    )
}

fn notes(farm: &LocalFarm) -> PathBuf {
    farm.path("starts")
}

/// The epochs of all starts so far, each of which must be another one, later than those before.
fn starts(notes: &Path) -> Vec<u64> {
    let text = fs::read_to_string(notes).unwrap_or_default();
    assert!(!text.contains("DOUBLE"), "two starts at once: {text}");
    let index = |line: &str| line.split('.').nth(1).and_then(|index| index.parse().ok());
    let epochs: Vec<u64> =
        text.lines().map(|line| index(line).unwrap_or_else(|| panic!("{line:?}"))).collect();
    let sorted: BTreeSet<u64> = epochs.iter().copied().collect();
    assert_eq!(
        epochs,
        sorted.into_iter().collect::<Vec<_>>(),
        "an epoch was started twice, or after a later one"
    );
    epochs
}

fn restarted(farm: &LocalFarm, runner: &str) -> Vec<Value> {
    let of = |event: &Value| event["type"] == "runner.restarted" && event["runner"] == runner;
    farm.events().into_iter().filter(of).collect()
}

fn launch(farm: &LocalFarm, policy: &str, then: &str) -> String {
    let script = script(&notes(farm), then);
    text(&farm.launch("demo", &["--restart", policy], &["sh", "-c", &script]), "id")
}

#[test]
fn on_failure_restarts_up_to_the_limit_and_then_has_failed() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let runner = launch(&farm, "on-failure", "exit 7");
    let waiting = farm.await_runner_that(&runner, "to wait for its third restart", |r| {
        r["state"] == "pending" && r["restart_attempts"] == 3
    });
    assert_eq!(waiting["reason"], "restart_backoff", "{waiting}");
    assert_eq!(
        (&waiting["restart"], &waiting["restart_limit"]),
        (&"on-failure".into(), &3.into()),
        "{waiting}"
    );
    assert_eq!(waiting["last_exit"]["code"], 7, "{waiting}");
    assert!(waiting["not_before"].is_string() && waiting["on_disconnect"] == "stop", "{waiting}");
    let why = farm.cli(&["explain", &runner]).ok().stdout;
    assert!(why.contains("restart_backoff: its last start exited with 7; restart 3 of 3 comes in"), "{why}");
    // What the last start wrote is to be had while the next one is waited for.
    let wrote = farm.cli(&["logs", &runner]).ok().stdout;
    assert_eq!(wrote.matches("start-").count(), 1, "{wrote}");

    farm.cli(&["wait", &runner, "--timeout", "60s"]).ok();
    let failed = farm.runner(&runner);
    assert_eq!(
        (&failed["state"], &failed["reason"]),
        (&"failed".into(), &"restart_limit".into()),
        "{failed}"
    );
    assert_eq!((&failed["exit"]["code"], &failed["restarts"]), (&7.into(), &LIMIT.into()), "{failed}");
    let epochs = starts(&notes(&farm));
    assert_eq!(epochs.len(), 1 + LIMIT, "{epochs:?}");
    let reasons: Vec<String> = restarted(&farm, &runner).iter().map(|event| text(event, "reason")).collect();
    assert_eq!(reasons.len(), LIMIT, "{reasons:?}");
    assert_eq!(reasons[2], "on-failure: exited with 7; restart 3 of 3 in 4 s");
    // The last start and the one before it can both be read.
    let log = |flags: &[&str]| farm.cli(&[&["logs", &runner], flags].concat()).ok().stdout;
    assert!(log(&[]).contains(&format!(".{}", epochs[3])), "{}", log(&[]));
    assert!(log(&["--previous"]).contains(&format!(".{}", epochs[2])), "{}", log(&["--previous"]));

    // Asking for it begins anew.
    farm.cli(&["restart", &runner]).ok();
    farm.await_runner_that(&runner, "to be tried again", |r| r["restart_attempts"] == 1);
    farm.cli(&["kill", &runner]).ok();
    assert_eq!(farm.runner(&runner)["state"], "terminated");
}

#[test]
fn on_failure_leaves_success_alone_and_keep_contradicts_it() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let runner = launch(&farm, "on-failure", "exit 0");
    farm.await_runner(&runner, "terminated");
    assert_eq!(starts(&notes(&farm)).len(), 1);
    let asked = ["launch", "demo", "-d", "--restart", "always", "--on-disconnect", "keep", "--", "true"];
    farm.cli(&asked).refused(2, &["keep", "--restart"]);
}

#[test]
fn always_restarts_success_until_it_is_killed() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let stay = farm.path("stay");
    let then = format!("while [ -e {} ]; do sleep 0.1; done; exit 0", stay.display());
    let runner = launch(&farm, "always", &then);
    eventually_true("a third start", SOON, || starts(&notes(&farm)).len() >= 3);
    // Killed while it runs.
    fs::write(&stay, "").unwrap();
    let runs = farm.await_runner_that(&runner, "to run after restarts", |r| {
        r["state"] == "running" && r["restart_attempts"].as_u64() >= Some(2)
    });
    assert_eq!(runs["restart_limit"], Value::Null, "{runs}");
    // A script that is killed while it holds its lock leaves it behind.
    eventually_true("the lock to be free", SOON, || !farm.path("starts.lock").exists());
    farm.cli(&["kill", &runner]).ok();
    fs::remove_file(&stay).unwrap();
    let over = farm.runner(&runner);
    assert_eq!((&over["state"], &over["reason"]), (&"terminated".into(), &"killed".into()), "{over}");
    // And killed while it waits.
    farm.cli(&["restart", &runner]).ok();
    farm.await_runner_that(&runner, "to wait", |r| r["reason"] == "restart_backoff");
    farm.cli(&["kill", &runner]).ok();
    let before = starts(&notes(&farm)).len();
    std::thread::sleep(A_FURTHER_START);
    assert_eq!(starts(&notes(&farm)).len(), before, "it was started after the kill");
    assert_eq!(farm.runner(&runner)["state"], "terminated");
}

#[test]
fn p2_a_killed_leader_doubles_no_start_and_loses_none() {
    let mut farm = Plan::default().nodes(3).agents(2).start();
    farm.project("demo");
    let runner = launch(&farm, "always", "exit 1");
    for round in 1..=3 {
        let before = starts(&notes(&farm)).len();
        eventually_true("a restart", SOON, || starts(&notes(&farm)).len() > before);
        let leader = farm.leader();
        farm.kill_node_at(leader);
        if round < 3 {
            farm.start_node_at(leader);
            farm.await_voters(3);
        }
    }
    let before = starts(&notes(&farm)).len();
    eventually_true("a restart under the new leader", SOON, || starts(&notes(&farm)).len() > before);
    farm.cli(&["kill", &runner]).ok();
    let over = farm.runner(&runner);
    assert_eq!(over["state"], "terminated", "{over}");
    // Every start has an epoch of its own, and every one but the first was a counted restart.
    assert_eq!(over["restarts"].as_u64(), Some(restarted(&farm, &runner).len() as u64), "{over}");
    let counted = over["restarts"].as_u64().unwrap_or_default() as usize;
    let started = starts(&notes(&farm)).len();
    assert!((counted..=counted + 1).contains(&started), "{started} starts and {counted} restarts");
}

#[test]
fn a_drained_host_moves_it_without_a_back_off() {
    let farm = Plan::default().agents(2).start();
    farm.project("demo");
    let runner = launch(&farm, "on-failure", "sleep 100000");
    let first = text(&farm.await_runner(&runner, "running"), "host");
    eventually_true("its start to be noted", SOON, || {
        starts(&notes(&farm)).len() == 1 && !farm.path("starts.lock").exists()
    });
    farm.cli(&["hosts", "drain", &first]).ok();
    let moved = farm.await_runner_that(&runner, "to run on the other host", |r| {
        r["state"] == "running" && r["host"].is_string() && r["host"] != first.as_str()
    });
    assert_eq!((&moved["restarts"], &moved["restart_attempts"]), (&1.into(), &0.into()), "{moved}");
    assert_eq!(starts(&notes(&farm)).len(), 2);
}

#[test]
fn what_its_stopped_host_ended_stays_ended() {
    let mut farm = LocalFarm::start();
    farm.project("demo");
    let runner = launch(&farm, "always", "sleep 100000");
    farm.await_runner(&runner, "running");
    farm.kill_node();
    let mut command = farm.command(&farm.binaries().agent());
    command.arg("stop").arg("--data-dir").arg(&farm.agents[0].data).arg("--runners");
    stratavore_chaos::ran::run(&mut command).ok();
    assert!(farm.agents[0].process.as_mut().unwrap().wait().success());
    farm.start_node();
    farm.start_agent(0);
    let ended = farm.await_runner(&runner, "terminated");
    assert_eq!(ended["exit"]["reason"], "host_stopped", "{ended}");
    std::thread::sleep(A_FURTHER_START);
    let still = farm.runner(&runner);
    assert_eq!((&still["state"], &still["restarts"]), (&"terminated".into(), &0.into()), "{still}");
}

#[test]
fn an_attached_terminal_and_a_followed_log_go_on_with_the_next_start() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let runner = launch(&farm, "on-failure", "read line; echo typed-$line; exit 9");
    let first = text(&farm.await_runner(&runner, "running"), "epoch");
    let mut following = stratavore_chaos::spawned::Spawned::start(
        "logs",
        &mut farm.cli_command(&["logs", "-f", &runner]),
        &farm.path("logs/followed"),
    );
    let mut client = farm.terminal(&["attach", &runner], 24, 100);
    client.shows(&format!("start-{first}"));
    client.type_bytes(b"one\r");
    client.receives("exited with 9; restart 1 of 3 in ");
    let second = farm.await_runner_that(&runner, "to run again", |r| {
        r["state"] == "running" && r["epoch"] != first.as_str()
    });
    client.shows(&format!("start-{}", text(&second, "epoch")));
    client.type_bytes(b"two\r");
    client.receives("typed-two");
    client.receives("restart 2 of 3");
    let said = |farm: &LocalFarm| fs::read_to_string(farm.path("logs/followed")).unwrap_or_default();
    eventually_true("both starts in the log", SOON, || {
        let said = said(&farm);
        said.contains("typed-one") && said.contains("typed-two") && said.contains("restart 1 of 3")
    });
    farm.await_runner_that(&runner, "to run a third time", |r| {
        r["state"] == "running" && r["restart_attempts"] == 2
    });
    farm.cli(&["kill", &runner]).ok();
    assert!(client.wait().success(), "attach ended with a failure");
    assert!(following.wait().success(), "logs -f ended with a failure: {}", said(&farm));
}
