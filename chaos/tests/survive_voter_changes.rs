//! Survival 8 of the cluster: voters are added, removed and replaced by one with an empty disk, and one is away for longer
//! than the log is kept, while launches go on. What was acknowledged is there at the end, and every launch ran once.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use stratavore_chaos::api;
use stratavore_chaos::eventually::{SOON, eventually};
use stratavore_chaos::farm::{LocalFarm, Plan, text};
use stratavore_chaos::ran::run;
use stratavore_proto::v1::SetQuotaRequest;
use stratavore_proto::v1::project_service_client::ProjectServiceClient;

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

    all_ran(&farm, &acknowledged);
}

/// The fewest entries that a log may keep.
const KEPT: u64 = 1_000;

/// Writes entries, many at once, until `enough`.
fn write_entries(farm: &LocalFarm, mut enough: impl FnMut() -> bool) {
    let runtime = api::runtime();
    let channel = runtime.block_on(api::connect(&farm.admin_context())).expect("connect to the API");
    let client = ProjectServiceClient::new(channel);
    let mut number = 0;
    while !enough() {
        let set = (0..64).map(|_| {
            number += 1;
            let request_id = uuid::Uuid::now_v7().to_string();
            let request =
                SetQuotaRequest { request_id, project: "demo".to_owned(), max_runners: 10_000 + number % 2 };
            let mut client = client.clone();
            runtime.spawn(async move { client.set_quota(request).await })
        });
        for written in set.collect::<Vec<_>>() {
            runtime.block_on(written).expect("a call").expect("a written entry");
        }
    }
}

#[test]
fn p19_p20_a_follower_that_was_away_for_longer_than_the_log_is_kept_gets_a_snapshot_under_launches() {
    let mut farm = Plan::default().nodes(3).agents(1).kept_log_entries(KEPT).start();
    farm.cli(&["new", "demo", "--path", "/tmp", "--max-runners", "10000"]).ok();
    let leader = farm.leader();
    // Not the first: that is the one that the entries are written through.
    let away = (1..3).find(|at| *at != leader).expect("a follower");
    let figure = |farm: &LocalFarm, at: usize, name: &str| farm.metric(at, name).expect("a metric");
    let acknowledged = under_launches(&mut farm, |farm| {
        let known = figure(farm, away, "stratavore_raft_last_log_index");
        farm.kill_node_at(away);
        // Purged on both: whichever leads when it comes back has no entries for it.
        let present: Vec<usize> = (0..3).filter(|at| *at != away).collect();
        write_entries(farm, || {
            present.iter().all(|at| figure(farm, *at, "stratavore_raft_purged_index") > known + 1.0)
        });
        farm.start_node_at(away);
        farm.await_voters(3);
        let written = figure(farm, leader, "stratavore_raft_last_log_index");
        eventually("the follower to catch up", SOON, || {
            let applied = farm.metric(away, "stratavore_raft_last_applied_index")?;
            if applied >= written { Ok(()) } else { Err(format!("{applied} of {written}")) }
        });
    });
    assert!(figure(&farm, away, "stratavore_raft_snapshots_installed_total") >= 1.0);
    for at in (0..3).filter(|at| *at != away) {
        assert_eq!(
            figure(&farm, at, "stratavore_raft_snapshots_installed_total"),
            0.0,
            "node {at} was not away"
        );
    }
    all_ran(&farm, &acknowledged);
    farm.await_equal_states(&[0, 1, 2]);
}

fn all_ran(farm: &LocalFarm, acknowledged: &BTreeSet<String>) {
    assert!(acknowledged.len() > 3, "hardly anything was launched: {acknowledged:?}");
    let known: BTreeSet<String> = farm.runners().iter().map(|runner| text(runner, "id")).collect();
    let missing: Vec<_> = acknowledged.difference(&known).collect();
    assert!(missing.is_empty(), "acknowledged launches are lost: {missing:?}");
    eventually("every launch to have run", SOON, || {
        let waiting = farm.runners().into_iter().find(|runner| runner["state"] != "terminated");
        waiting.map_or(Ok(()), Err)
    });
}
