//! Quota and capacity: queued with a reason, never an error, unless the caller asked for one.

use std::time::Duration;

use stratavore_chaos::eventually::{SOON, eventually};
use stratavore_chaos::farm::{LocalFarm, Plan, text};

/// A program that runs until it is killed.
const FOREVER: [&str; 2] = ["sleep", "100000"];

fn explains(farm: &LocalFarm, runner: &str, words: &[&str]) {
    eventually("explain to say why", SOON, || {
        let ran = farm.cli(&["explain", runner]).ok();
        let said = ran.stdout.to_lowercase();
        if words.iter().all(|w| said.contains(w)) { Ok(()) } else { Err(ran.to_string()) }
    });
}

#[test]
fn over_quota_is_queued_explained_and_started_when_there_is_room() {
    let farm = LocalFarm::start();
    let work = farm.work();
    farm.cli(&["new", "small", "--path", &work.to_string_lossy(), "--max-runners", "1"]).ok();
    let first = farm.running("small", &[], &FOREVER);
    let queued = farm.cli(&["launch", "small", "--detach", "-o", "json", "--", "sleep", "100000"]).ok();
    let waiting = text(&queued.items("RunnerList")[0], "id");
    assert_eq!(farm.runner(&waiting)["state"], "pending");
    explains(&farm, &waiting, &["quota"]);
    assert!(farm.runner(&waiting)["reason"].as_str().unwrap_or_default().contains("quota"));

    farm.cli(&["launch", "small", "--detach", "--no-queue", "--", "true"])
        .refused(6, &["quota", "quotas set"]);
    assert_eq!(farm.runners().len(), 2, "a refused launch left a runner");

    farm.cli(&["kill", &first]).ok();
    farm.await_runner(&waiting, "running");
    let third = farm.launch("small", &[], &FOREVER);
    farm.cli(&["quotas", "set", "small", "max-runners", "2"]).ok();
    farm.await_runner(&text(&third, "id"), "running");
    let quotas = farm.cli(&["quotas"]).ok();
    assert!(quotas.stdout.contains("small") && quotas.stdout.contains('2'), "{quotas}");
}

#[test]
fn a_full_host_queues_in_order_and_no_queue_is_exit_6() {
    let farm = Plan::default().slots(2).start();
    farm.project("demo");
    let wide = farm.running("demo", &["--slots", "2"], &FOREVER);
    let second = text(&farm.launch("demo", &[], &FOREVER), "id");
    let third = text(&farm.launch("demo", &[], &FOREVER), "id");
    explains(&farm, &second, &["slot"]);
    assert_eq!(farm.runner(&second)["state"], "pending");
    farm.cli(&["launch", "demo", "--detach", "--no-queue", "--", "true"]).refused(6, &["slot"]);
    farm.cli(&["kill", &wide]).ok();
    farm.await_runner(&second, "running");
    farm.await_runner(&third, "running");
    let host = &farm.cli(&["hosts", "-o", "json"]).ok().items("HostList")[0];
    assert_eq!((&host["slots"], &host["slots_used"]), (&2.into(), &2.into()), "{host}");
}

#[test]
fn a_runner_that_fits_nowhere_says_what_is_missing() {
    let farm = Plan::default().slots(2).label("zone=a").start();
    farm.project("demo");
    for (flags, words) in [
        (&["--label", "zone=b"][..], &["zone"][..]),
        (&["--slots", "3"], &["slot"]),
        (&["--cpu", "4000"], &["cpu"]),
        (&["--memory", "900000G"], &["memory"]),
    ] {
        let runner = text(&farm.launch("demo", flags, &FOREVER), "id");
        explains(&farm, &runner, words);
        assert_eq!(farm.runner(&runner)["state"], "pending");
        let mut arguments = vec!["launch", "demo", "--detach", "--no-queue"];
        arguments.extend_from_slice(flags);
        arguments.extend(["--", "true"]);
        farm.cli(&arguments).refused(6, &[]);
        // What waits can be killed without ever having run.
        farm.cli(&["kill", &runner]).ok();
        assert_eq!(farm.runner(&runner)["state"], "terminated");
    }
    farm.cli(&["launch", "demo", "--detach", "--host", "nosuch", "--", "true"]).refused(3, &["nosuch"]);
    let placed = farm.running("demo", &["--label", "zone=a", "--host", "host-0"], &FOREVER);
    explains(&farm, &placed, &["host-0"]);
}

#[test]
fn without_any_host_a_launch_waits_and_says_so() {
    let farm = Plan::default().agents(0).start();
    farm.project("demo");
    let runner = text(&farm.launch("demo", &[], &FOREVER), "id");
    explains(&farm, &runner, &["no host"]);
    farm.cli(&["launch", "demo", "--detach", "--no-queue", "--", "true"]).refused(6, &["host"]);
    let ran = farm.cli(&["wait", &runner, "--for", "running", "--timeout", "1s"]);
    ran.refused(8, &["pending"]);
}

#[test]
fn a_cordoned_host_takes_nothing_new_and_keeps_what_it_has() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let before = farm.running("demo", &[], &FOREVER);
    farm.cli(&["hosts", "cordon", "host-0"]).ok();
    let waiting = text(&farm.launch("demo", &[], &FOREVER), "id");
    explains(&farm, &waiting, &["cordon"]);
    assert_eq!(farm.runner(&waiting)["state"], "pending");
    assert_eq!(farm.runner(&before)["state"], "running");
    farm.cli(&["hosts", "uncordon", "host-0"]).ok();
    farm.await_runner(&waiting, "running");
    farm.cli(&["hosts", "cordon", "nosuch"]).refused(3, &["nosuch"]);
}

#[test]
fn a_label_set_later_lets_a_waiting_runner_start() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let waiting = text(&farm.launch("demo", &["--label", "gpu=yes"], &FOREVER), "id");
    explains(&farm, &waiting, &["gpu"]);
    farm.cli(&["hosts", "label", "host-0", "gpu=yes"]).ok();
    farm.await_runner(&waiting, "running");
    farm.cli(&["hosts", "label", "host-0", "gpu-"]).ok();
    let host = &farm.cli(&["hosts", "-o", "json"]).ok().items("HostList")[0];
    assert!(host["labels"]["gpu"].is_null(), "{host}");
    assert_eq!(farm.runner(&waiting)["state"], "running", "a label taken away stops nothing");
}

#[test]
fn quota_holds_under_a_burst() {
    let farm = LocalFarm::start();
    let work = farm.work();
    farm.cli(&["new", "tight", "--path", &work.to_string_lossy(), "--max-runners", "3"]).ok();
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                farm.cli(&["launch", "tight", "--count", "2", "--detach", "--", "sleep", "0.05"]).ok()
            });
        }
    });
    let mut worst = 0;
    eventually("all twenty to have run", SOON + Duration::from_secs(60), || {
        let runners = farm.runners();
        let live = |s: &str| matches!(s, "starting" | "running" | "stopping");
        worst = worst.max(runners.iter().filter(|r| r["state"].as_str().is_some_and(live)).count());
        let ended = runners.iter().filter(|r| r["state"] == "terminated").count();
        if ended == 20 { Ok(()) } else { Err(format!("{ended} of {}", runners.len())) }
    });
    assert!(worst <= 3, "{worst} runners were live at once over a quota of 3");
}
