//! Survival 8 of the cluster: voters are added, removed and replaced by one with an empty disk, while launches go on. What
//! was acknowledged is there at the end, and every launch ran once.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use stratavore_chaos::eventually::{SOON, eventually};
use stratavore_chaos::farm::{LocalFarm, Plan, text};
use stratavore_chaos::ran::run;

/// Launches until `enough`; the ids of those that were acknowledged.
fn launches(mut command: impl FnMut() -> std::process::Command, enough: &AtomicBool) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    while !enough.load(Ordering::Acquire) {
        let ran = run(&mut command());
        if ran.code == Some(0) {
            ids.extend(ran.items("RunnerList").iter().map(|runner| text(runner, "id")));
        }
    }
    ids
}

/// A launch command over the nodes that are there now; made once, since the farm is changed meanwhile.
fn launcher(farm: &LocalFarm) -> impl FnMut() -> std::process::Command + use<> {
    let template =
        farm.cli_command(&["--timeout", "30s", "launch", "demo", "--detach", "-o", "json", "--", "true"]);
    move || {
        let mut command = std::process::Command::new(template.get_program());
        command.args(template.get_args()).env_clear();
        command.envs(template.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(template.get_current_dir().expect("a work directory"));
        command
    }
}

fn under_launches(farm: &mut LocalFarm, change: impl FnOnce(&mut LocalFarm)) -> BTreeSet<String> {
    let enough = AtomicBool::new(false);
    let command = launcher(farm);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| launches(command, &enough));
        let changed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| change(farm)));
        enough.store(true, Ordering::Release);
        let ids = worker.join().expect("the launching thread");
        changed.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        ids
    })
}

fn remove(farm: &LocalFarm, id: &str, flags: &[&str]) {
    let mut arguments = vec!["cluster", "remove", id];
    arguments.extend_from_slice(flags);
    farm.cli(&arguments).ok();
}

#[test]
fn p21_voters_come_go_and_are_replaced_under_launches() {
    let mut farm = Plan::default().nodes(1).agents(1).start();
    farm.cli(&["new", "demo", "--path", "/tmp", "--max-runners", "10000"]).ok();
    let mut acknowledged = under_launches(&mut farm, |farm| {
        let second = farm.add_node();
        let shown = farm.cli(&["cluster", "status"]).ok();
        assert!(shown.stdout.contains("adds no availability"), "{shown}");
        farm.await_voters(1);
        farm.add_node();
        farm.await_voters(3);
        assert_eq!(second, 1);
    });

    // The disk of one is gone: another one with an empty disk takes its place in one step.
    let lost = farm.follower();
    let lost_id = farm.node_id(lost);
    acknowledged.extend(under_launches(&mut farm, |farm| {
        farm.kill_node_at(lost);
        std::fs::remove_dir_all(&farm.nodes[lost].data).expect("lose a disk");
        farm.cli(&["cluster", "remove", &lost_id]).refused(2, &["--allow-even", "join"]);
        farm.add_node();
        remove(farm, &lost_id, &[]);
        farm.await_voters(3);
    }));

    // The leader itself leaves, and knows it.
    let leader = farm.leader();
    let leader_id = farm.node_id(leader);
    acknowledged.extend(under_launches(&mut farm, |farm| {
        farm.add_node();
        remove(farm, &leader_id, &[]);
        farm.await_voters(3);
        let status = farm.nodes[leader].process.as_mut().expect("a started node").wait();
        assert!(!status.success(), "a removed node must say so: {status}");
        farm.run_node_at_to_end(leader).says(&["removed"]);
    }));

    assert!(acknowledged.len() > 3, "hardly anything was launched: {acknowledged:?}");
    let known: BTreeSet<String> = farm.runners().iter().map(|runner| text(runner, "id")).collect();
    let missing: Vec<_> = acknowledged.difference(&known).collect();
    assert!(missing.is_empty(), "acknowledged launches are lost: {missing:?}");
    eventually("every launch to have run", SOON, || {
        let waiting = farm.runners().into_iter().find(|runner| runner["state"] != "terminated");
        waiting.map_or(Ok(()), Err)
    });
}
