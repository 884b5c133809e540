//! A data directory on a full disk.

use stratavore_proto::v1;
use stratavore_proto::v1::RunnerState::{Running, Starting, Terminated};

use crate::support::{Farm, order, run_order, unique_id, within};

/// A file system of its own, where this user may mount one.
struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=16m,mode=0700", "tmpfs"])
            .arg(dir.path())
            .output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self { dir })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _left = std::process::Command::new("umount").arg("-l").arg(self.dir.path()).output();
    }
}

#[tokio::test]
async fn a_full_disk_holds_starts_and_loses_nothing() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("skipped: this user cannot mount a tmpfs");
        return;
    };
    let farm = Farm::joined_in(tempfile::tempdir_in(disk.dir.path()).unwrap()).await;
    let (early, late) = (unique_id(), unique_id());
    let run_early = run_order(&early, 10, "read never");
    let (agent, mut control) = farm.agent_with(10, vec![run_early.clone()]).await;
    control.state_of(&early, Running).await;

    let filler = disk.dir.path().join("filler");
    fill(&filler);
    within("the load report says so", async {
        while !control.loads.last().is_some_and(|load| load.disk_full) {
            control.next_reports().await;
        }
    })
    .await;
    let run_late = run_order(&late, 11, "exec sleep 1000");
    control.desire(11, vec![run_late.clone()]).await;
    let held = control.state_of(&late, Starting).await;
    assert!(held.reason.starts_with("disk_full"), "{held:?}");

    // An end is still recorded, and survives a crash of the agent.
    control.desire(12, vec![order(&early, 10, v1::Want::Stop, None)]).await;
    let ended = control.state_of(&early, Terminated).await;
    agent.kill().await;
    let _agent = farm.agent();
    let mut control = farm.gateway.accept().await;
    let told = control.hello.runners.iter().find(|report| report.runner == early).unwrap();
    assert_eq!((told.state(), told.rev), (Terminated, ended.rev));
    assert!(control.hello.seen.unwrap().index < 11, "an order without directory is not durably seen");
    control.welcome(12, vec![run_late]).await;

    std::fs::remove_file(&filler).unwrap();
    control.state_of(&late, Running).await;
}

/// Writes until nothing fits any more.
fn fill(path: &std::path::Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(path).unwrap();
    for size in [1 << 20, 4096, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}
