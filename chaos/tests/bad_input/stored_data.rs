//! Damaged, foreign and cut data: a node refuses to start, names the file and the way out; the intact copy has everything.

use std::fs;
use std::path::{Path, PathBuf};

use stratavore_chaos::eventually::{SOON, eventually_true};
use stratavore_chaos::farm::{LocalFarm, Plan, text};
use stratavore_chaos::ran::run;

/// Enough work that the log's file has a middle.
const PROJECTS: usize = 24;
/// Exit code of a node whose log ends below what it once acknowledged.
const BELOW_MARK: i32 = 11;
/// Exit code of a node whose data is damaged.
const CORRUPT: i32 = 10;

fn farm_with_work() -> LocalFarm {
    let farm = Plan::default().agents(0).start();
    for number in 0..PROJECTS {
        farm.project(&format!("p{number}"));
    }
    farm
}

fn projects(farm: &LocalFarm) -> usize {
    farm.cli_until_ok(&["projects", "-o", "json"]).items("ProjectList").len()
}

fn copy(farm: &LocalFarm, from: &Path, to: &Path) {
    run(farm.command(Path::new("cp")).arg("-a").arg(from).arg(to)).ok();
}

/// The newest write-ahead log of the log database: the acknowledged tail lies in it.
fn wal(farm: &LocalFarm) -> PathBuf {
    let directory = farm.node_data().join("raft-log");
    let logs = fs::read_dir(&directory).expect("list the log database").flatten().map(|e| e.path());
    let mut logs: Vec<PathBuf> = logs.filter(|p| p.extension().is_some_and(|e| e == "log")).collect();
    logs.sort_by_key(|p| fs::metadata(p).map(|m| m.len()).unwrap_or(0));
    logs.pop().expect("a write-ahead log")
}

/// What a file holds before the zeros that were reserved behind it.
fn used(file: &Path) -> usize {
    let bytes = fs::read(file).expect("read the log");
    bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1)
}

#[test]
fn a_flipped_bit_in_the_log_stops_the_start_and_names_file_and_way_out() {
    let mut farm = farm_with_work();
    farm.kill_node();
    let intact = farm.path("intact");
    copy(&farm, farm.node_data(), &intact);
    let wal = wal(&farm);
    let mut bytes = fs::read(&wal).unwrap();
    let middle = used(&wal) / 2;
    bytes[middle] ^= 0x10;
    fs::write(&wal, &bytes).unwrap();
    let ran = farm.run_node_to_end(&[]).exits(CORRUPT);
    ran.says(&["raft-log", "recover --accept-loss"]);
    // Nothing was made worse: the intact copy serves everything that was acknowledged.
    fs::remove_dir_all(farm.node_data()).unwrap();
    copy(&farm, &intact, farm.node_data());
    farm.start_node();
    assert_eq!(projects(&farm), PROJECTS);
}

/// Clean stop, a copy of the state, more work, clean stop, and the old state again: what a power loss may leave of a
/// database that is not synced at every step.
fn with_state_behind_log(more: usize) -> LocalFarm {
    let mut farm = farm_with_work();
    assert!(farm.nodes[0].process.as_mut().expect("a node").stop().success());
    copy(&farm, &farm.node_data().join("state"), &farm.path("old-state"));
    farm.start_node();
    for number in 0..more {
        farm.project(&format!("late{number}"));
    }
    assert!(farm.nodes[0].process.as_mut().expect("a node").stop().success());
    fs::remove_dir_all(farm.node_data().join("state")).expect("take the state away");
    copy(&farm, &farm.path("old-state"), &farm.node_data().join("state"));
    farm
}

#[test]
fn a_state_that_fell_back_is_brought_forward_from_the_log() {
    let mut farm = with_state_behind_log(20);
    farm.start_node();
    assert_eq!(projects(&farm), PROJECTS + 20);
}

#[test]
fn a_cut_tail_is_noticed_and_recover_raises_the_incarnation() {
    let mut farm = with_state_behind_log(20);
    let wal = wal(&farm);
    let length = used(&wal);
    assert!(length > 2000, "no tail to cut: {} holds {length} bytes", wal.display());
    fs::File::options().write(true).open(&wal).unwrap().set_len(length as u64 - 600).unwrap();
    let ran = farm.run_node_to_end(&[]).exits(BELOW_MARK);
    ran.says(&["recover --accept-loss"]);
    let recover = |accept: &[&str]| {
        let mut command = farm.command(&farm.binaries().node());
        run(command.arg("recover").args(accept).arg("--data-dir").arg(farm.node_data()))
    };
    assert_ne!(recover(&[]).code, Some(0), "recover without --accept-loss must not proceed");
    recover(&["--accept-loss"]).ok();
    farm.start_node();
    let after = farm.cli_until_ok(&["status", "-o", "json"]).json();
    assert_eq!(after["cluster"]["incarnation"], 2, "{after}");
    let left = projects(&farm);
    assert!((PROJECTS..PROJECTS + 20).contains(&left), "{left} projects are left");
    farm.project("after");
    let events = farm.events();
    assert!(events.iter().any(|e| e["type"] == "cluster.recovered"), "no event tells of the recovery");
    assert!(
        text(events.last().unwrap(), "id").starts_with("2."),
        "event ids do not carry the new incarnation"
    );
}

#[test]
fn a_lost_log_beside_a_living_state_is_noticed() {
    let mut farm = farm_with_work();
    farm.nodes[0].process.as_mut().unwrap().stop();
    fs::rename(farm.node_data().join("raft-log"), farm.path("stolen")).unwrap();
    let ran = farm.run_node_to_end(&[]);
    assert!(matches!(ran.code, Some(BELOW_MARK | CORRUPT)), "{ran}");
    fs::remove_dir_all(farm.node_data().join("raft-log")).ok();
    fs::rename(farm.path("stolen"), farm.node_data().join("raft-log")).unwrap();
    farm.start_node();
    assert_eq!(projects(&farm), PROJECTS);
}

#[test]
fn a_lost_state_is_rebuilt_from_the_log_or_refused_but_never_served_empty() {
    let mut farm = farm_with_work();
    farm.kill_node();
    fs::rename(farm.node_data().join("state"), farm.path("stolen")).unwrap();
    let mut command = farm.command(&farm.binaries().node());
    command.arg("run").arg("--data-dir").arg(farm.node_data());
    let mut node =
        stratavore_chaos::spawned::Spawned::start("node", &mut command, &farm.path("logs/node-2.log"));
    let mut served = None;
    eventually_true("the node to serve or to refuse", SOON, || {
        let ran = farm.cli(&["--timeout", "2s", "projects", "-o", "json"]);
        if ran.code == Some(0) {
            served = Some(ran.items("ProjectList").len());
        }
        served.is_some() || node.ended().is_some()
    });
    node.kill9();
    assert!(served.is_none_or(|n| n == PROJECTS), "{served:?} of {PROJECTS} projects are served");
}

#[test]
fn data_of_another_cluster_is_refused() {
    let mut farm = farm_with_work();
    let mut other = Plan::default().agents(0).start();
    farm.nodes[0].process.as_mut().unwrap().stop();
    other.nodes[0].process.as_mut().unwrap().stop();
    for name in ["raft-log", "state"] {
        fs::rename(farm.node_data().join(name), farm.path(name)).unwrap();
        copy(&farm, &other.node_data().join(name), &farm.node_data().join(name));
    }
    let ran = farm.run_node_to_end(&[]);
    assert!(matches!(ran.code, Some(5 | 10)), "{ran}");
    ran.says(&["raft-log", "belongs to node 1 of cluster", "next:"]);
    for name in ["raft-log", "state"] {
        fs::remove_dir_all(farm.node_data().join(name)).unwrap();
        fs::rename(farm.path(name), farm.node_data().join(name)).unwrap();
    }
    farm.start_node();
    assert_eq!(projects(&farm), PROJECTS);
}

#[test]
fn a_damaged_identity_file_is_named() {
    let mut farm = Plan::default().agents(0).start();
    farm.nodes[0].process.as_mut().unwrap().stop();
    for file in ["node.json", "pki/node.key", "pki/node.crt"] {
        let path = farm.node_data().join(file);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let ran = farm.run_node_to_end(&[]);
        let ran = ran.exits(CORRUPT);
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        ran.says(&[&name, "next: restore"]);
        fs::write(&path, &whole).unwrap();
    }
    farm.start_node();
}
