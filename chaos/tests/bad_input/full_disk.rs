//! A full disk under the agent and under the node: clear errors, nothing acknowledged lost, and work goes on when there is room.

use stratavore_chaos::eventually::{SOON, eventually, eventually_true};
use stratavore_chaos::farm::{LocalFarm, Plan, text};
use stratavore_chaos::spawned::Spawned;
use stratavore_chaos::tmpfs::Tmpfs;

/// Room for an agent's own files and a little output.
const AGENT_DISK_MIB: u32 = 4;
/// Room for two RocksDB databases, the reserve, and what a ready node wants free.
const NODE_DISK_MIB: u32 = 128;
/// Output of the runner: four times the agent's disk.
const OUTPUT_BYTES: u64 = 16 * 1024 * 1024;
/// An argument that makes a launch's log entry large: the node's reserve is used up by fewer of them.
const LARGE_ARGUMENT_BYTES: usize = 40 * 1024;
/// Exit code of a node whose storage failed while it ran.
const FATAL: i32 = 12;
/// Large launches after which a full disk must have shown: a gigabyte and a half, far above any reserve.
const ATTEMPTS: usize = 4000;

/// A small disk at a place outside every farm, so that it can be mounted before the farm exists.
struct Disk {
    mounted: Option<Tmpfs>,
    directory: tempfile::TempDir,
}

impl Disk {
    fn new(mib: u32) -> Option<Self> {
        let directory = tempfile::Builder::new().prefix("svd-").tempdir_in("/tmp").expect("a directory");
        match Tmpfs::mount(&directory.path().join("d"), mib) {
            Ok(mounted) => Some(Self { mounted: Some(mounted), directory }),
            Err(reason) => {
                eprintln!("not tested: {reason}");
                None
            }
        }
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("d/data")
    }

    fn disk(&self) -> &Tmpfs {
        self.mounted.as_ref().expect("a mounted disk")
    }
}

#[test]
fn a_runner_outlives_a_full_disk_under_its_agent_with_its_true_exit_code() {
    let Some(disk) = Disk::new(AGENT_DISK_MIB) else { return };
    let farm = Plan::default().agent_data(&disk.path()).start();
    farm.project("demo");
    let go = farm.path("go");
    let script = format!(
        "{} flood {} {OUTPUT_BYTES}; echo do''ne; exit 5",
        farm.binaries().probe().display(),
        go.display()
    );
    let runner = farm.running("demo", &[], &["sh", "-c", &script]);
    std::fs::write(&go, "").unwrap();
    let ended = farm.await_runner(&runner, "terminated");
    assert_eq!(ended["exit"]["code"], 5, "{ended}");
    let logs = farm.cli(&["logs", &runner]).ok();
    assert!(
        logs.stdout.contains("done") || logs.stderr.contains("bytes"),
        "dropped output is hidden: {}",
        logs.stderr
    );
    let screen = farm.cli(&["screen", &runner]);
    assert!(screen.code != Some(0) || screen.stdout.contains("done"), "{screen}");
}

#[test]
fn launches_on_a_full_agent_say_so_and_start_when_there_is_room() {
    let Some(disk) = Disk::new(AGENT_DISK_MIB) else { return };
    let mut farm = Plan::default().agent_data(&disk.path()).start();
    farm.project("demo");
    let before = farm.running("demo", &[], &["sleep", "100000"]);
    disk.disk().fill();
    let stuck = text(&farm.launch("demo", &[], &["sleep", "100000"]), "id");
    let shown = farm.await_runner_that(&stuck, "to say that the disk is full", |r| {
        let reason = format!("{} {}", r["reason"], r["exit"]["reason"]);
        reason.contains("disk") || reason.contains("space") || r["state"] == "running"
    });
    assert_eq!(farm.runner(&before)["state"], "running");
    // A full disk does not stop a stop.
    farm.cli(&["kill", &before]).ok();
    // And a restarted agent on a full disk still knows its runners.
    let still = (shown["state"] == "running").then(|| farm.pid_of(&stuck));
    farm.kill_agent(0);
    disk.disk().free();
    farm.start_agent(0);
    if let Some(pid) = still {
        assert_eq!(farm.pid_of(&stuck), pid);
    }
    farm.running("demo", &[], &["sleep", "100000"]);
}

#[test]
fn a_full_disk_under_the_node_loses_nothing_acknowledged() {
    let Some(disk) = Disk::new(NODE_DISK_MIB) else { return };
    let mut farm = Plan::default().agents(0).node_data(&disk.path()).start();
    farm.cli(&["new", "demo", "--path", "/tmp", "--max-runners", "1"]).ok();
    // The administrator's key must stay readable: it lies on the full disk too, but needs no room.
    let mut acknowledged = vec![text(&farm.launch("demo", &[], &["true"]), "id")];
    disk.disk().fill();
    let large = "x".repeat(LARGE_ARGUMENT_BYTES);
    let mut refusal = None;
    for _ in 0..ATTEMPTS {
        let ran =
            farm.cli(&["launch", "demo", "--detach", "-o", "json", "--timeout", "5s", "--", "echo", &large]);
        if ran.code == Some(0) {
            acknowledged.extend(ran.items("RunnerList").iter().map(|r| text(r, "id")));
        } else {
            refusal = Some(ran);
            break;
        }
    }
    let refusal = refusal.expect("a full disk never showed");
    assert!(matches!(refusal.code, Some(1 | 6 | 7 | 8)), "{refusal}");
    let code = refusal.code.unwrap_or(1);
    refusal.refused(code, &[]);
    let said = || {
        let log = farm.nodes[0].process.as_ref().map(Spawned::log).unwrap_or_default().to_lowercase();
        log.contains("no space") || log.contains("disk is full") || log.contains("disk full")
    };
    eventually_true("the node to say that the disk is full", SOON, said);
    // Still full: the node has ended by itself, and says why.
    let status = farm.nodes[0].process.as_mut().expect("a node").wait();
    assert_eq!(status.code(), Some(FATAL), "the node ended with {status}");
    let log = farm.nodes[0].process.as_ref().map(Spawned::log).unwrap_or_default();
    assert!(log.contains("\nnext: "), "{log}");
    disk.disk().free();
    farm.start_node();
    check_all_there(&farm, &acknowledged);
    farm.cli_until_ok(&["launch", "demo", "--detach", "--", "true"]);
}

fn check_all_there(farm: &LocalFarm, acknowledged: &[String]) {
    let listed: Vec<String> = eventually("the list of runners", SOON, || {
        let ran = farm.cli(&["runners", "--all", "-o", "json"]);
        if ran.code == Some(0) { Ok(ran) } else { Err(ran.to_string()) }
    })
    .items("RunnerList")
    .iter()
    .map(|r| text(r, "id"))
    .collect();
    let lost: Vec<&String> = acknowledged.iter().filter(|id| !listed.contains(id)).collect();
    assert!(lost.is_empty(), "{} acknowledged runners of {} are lost", lost.len(), acknowledged.len());
}

#[test]
fn a_node_on_a_full_disk_refuses_to_start_and_says_why() {
    let Some(disk) = Disk::new(NODE_DISK_MIB) else { return };
    let mut farm = Plan::default().agents(0).node_data(&disk.path()).start();
    farm.project("demo");
    farm.kill_node();
    disk.disk().fill();
    let mut command = farm.command(&farm.binaries().node());
    command.arg("run").arg("--data-dir").arg(farm.node_data());
    let mut node = Spawned::start("node", &mut command, &farm.path("logs/full.log"));
    // It may come up on its reserve or refuse; it may not be silent about the disk when it refuses.
    eventually_true("the node to serve or to refuse", SOON, || {
        node.ended().is_some()
            || stratavore_chaos::http::get(farm.ports().metrics, "/readyz").is_ok_and(|(c, _)| c == 200)
    });
    if node.ended().is_some() {
        let log = node.log().to_lowercase();
        assert!(log.contains("space") || log.contains("disk"), "{log}");
    }
    node.kill9();
    disk.disk().free();
    farm.start_node();
    let projects = farm.cli_until_ok(&["projects", "-o", "json"]).items("ProjectList");
    assert_eq!(projects.len(), 1);
}
