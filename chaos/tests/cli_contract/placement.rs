//! Where runners go: labels, slots, hosts, cordon, over two agents on one machine.

use std::collections::BTreeMap;

use stratavore_chaos::eventually::{SOON, eventually, eventually_true};
use stratavore_chaos::farm::{LocalFarm, Plan, text};

fn two_hosts() -> LocalFarm {
    let farm = Plan::default().slots(4).agents(2).start();
    farm.project("demo");
    farm.cli(&["hosts", "label", "host-1", "zone=b", "gpu=yes"]).ok();
    farm
}

fn host_of(farm: &LocalFarm, flags: &[&str]) -> String {
    let id = farm.running("demo", flags, &["sleep", "100000"]);
    text(&farm.runner(&id), "host")
}

#[test]
fn labels_and_host_choose_and_both_bind() {
    let farm = two_hosts();
    assert_eq!(host_of(&farm, &["--label", "gpu=yes"]), "host-1");
    assert_eq!(host_of(&farm, &["--host", "host-0"]), "host-0");
    let both = farm.launch("demo", &["--host", "host-0", "--label", "gpu=yes"], &["true"]);
    assert_eq!(farm.runner(&text(&both, "id"))["state"], "pending");
    let explained = farm.cli(&["explain", &text(&both, "id")]).ok().stdout;
    assert!(
        explained.contains("host-0") && explained.contains("host-1") && explained.contains("gpu"),
        "{explained}"
    );
}

#[test]
fn no_host_is_ever_given_more_than_its_slots() {
    let farm = two_hosts();
    farm.cli(&["launch", "demo", "--count", "12", "--detach", "--", "sleep", "100000"]).ok();
    let running = eventually("eight to run", SOON, || {
        let runners = farm.runners();
        let running: Vec<_> = runners.into_iter().filter(|r| r["state"] == "running").collect();
        if running.len() >= 8 { Ok(running) } else { Err(running.len()) }
    });
    let mut per_host: BTreeMap<String, usize> = BTreeMap::new();
    for runner in &running {
        *per_host.entry(text(runner, "host")).or_default() += 1;
    }
    assert_eq!(
        per_host.into_iter().collect::<Vec<_>>(),
        [("host-0".to_owned(), 4), ("host-1".to_owned(), 4)]
    );
    let pending = farm.runners().iter().filter(|r| r["state"] == "pending").count();
    assert_eq!(pending, 4);
}

#[test]
fn a_dead_host_takes_nothing_and_its_runners_stay_its_own() {
    let mut farm = two_hosts();
    let kept = farm.running("demo", &["--host", "host-1"], &["sleep", "100000"]);
    let pid = farm.pid_of(&kept);
    farm.kill_agent(1);
    farm.await_host("host-1", "unreachable");
    assert_eq!(farm.await_runner(&kept, "lost")["host"], "host-1");
    for _ in 0..4 {
        assert_eq!(host_of(&farm, &[]), "host-0");
    }
    assert!(stratavore_chaos::processes::is_alive(pid));
    farm.start_agent(1);
    assert_eq!(farm.await_runner(&kept, "running")["host"], "host-1");
    assert_eq!(farm.pid_of(&kept), pid);
}

#[test]
fn kill_of_a_lost_runner_waits_for_its_host_and_force_closes_the_record() {
    let mut farm = two_hosts();
    let kept = farm.running("demo", &["--host", "host-1"], &["sleep", "100000"]);
    let pid = farm.pid_of(&kept);
    farm.kill_agent(1);
    farm.await_runner(&kept, "lost");
    farm.cli(&["kill", &kept, "--timeout", "1s"]).exits(8);
    let forced = farm.cli(&["kill", &kept, "--force", "--timeout", "20s"]).ok();
    assert!(
        (forced.stdout + &forced.stderr).contains("host"),
        "it must say that the process dies when the host returns"
    );
    assert_ne!(farm.runner(&kept)["state"], "lost");
    farm.start_agent(1);
    eventually_true("the process to die at its host's return", SOON, || {
        !stratavore_chaos::processes::is_alive(pid)
    });
}
