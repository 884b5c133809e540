//! A disk that takes no more: the node ends with the reason, and nothing acknowledged is lost (P26).

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::cluster::{self, create_project, open};
use crate::crash::{DIR, child_arguments, said};
use crate::{done, has_project};

/// Runs the proposing child under a shell line that ends in `exec "$@"`.
fn run_child(dir: &Path, shell: &str) -> Vec<String> {
    let (program, arguments) = child_arguments();
    let Output { stdout, .. } = Command::new("sh")
        .args(["-c", shell, "sh"])
        .arg(program)
        .args(arguments)
        .env(DIR, dir)
        .output()
        .unwrap();
    String::from_utf8_lossy(&stdout).lines().map(str::to_owned).collect()
}

async fn all_acknowledged_are_there(dir: &Path, lines: &[String]) {
    let acknowledged = said(lines, "acked");
    assert!(!acknowledged.is_empty(), "it worked for a while: {lines:?}");
    let (handle, server) = open(dir).await.unwrap();
    for name in acknowledged {
        assert!(has_project(&handle, name), "{name} was acknowledged");
    }
    done(&handle, create_project("afterwards")).await;
    drop(server);
    handle.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_write_ends_the_node() {
    let dir = tempfile::tempdir().unwrap();
    cluster::founded(dir.path()).await.shutdown().await;
    // 512-byte blocks; the signal is ignored so that the write fails instead of killing.
    let lines = run_child(dir.path(), "trap '' XFSZ; ulimit -f 600; exec \"$@\"");
    assert_eq!(said(&lines, "fatal").len(), 1, "{:?}", lines.last());
    all_acknowledged_are_there(dir.path(), &lines).await;
}

/// A small file system of its own, unmounted at the end.
struct Mount(PathBuf);

impl Mount {
    /// `None` where this user may not mount.
    fn new(path: &Path) -> Option<Self> {
        fs::create_dir(path).unwrap();
        let options = ["-t", "tmpfs", "-o", "size=64m", "stratavore-test"];
        let mounted = Command::new("mount").args(options).arg(path).output().ok()?;
        mounted.status.success().then(|| Self(path.to_path_buf()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        Command::new("umount").arg(&self.0).status().ok();
    }
}

/// Writes until nothing fits any more.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    let block = vec![0; 64 << 10];
    while file.write_all(&block).is_ok() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p26_the_reserve_is_freed_on_a_full_disk_and_the_node_starts_again() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::new(&dir.path().join("disk")) else {
        eprintln!("not allowed to mount: skipped");
        return;
    };
    let node = mount.0.join("node");
    let handle = cluster::founded(&node).await;
    done(&handle, create_project("before")).await;
    assert!(handle.metrics().reserve_present);
    fill(&mount.0.join("filler"));
    let mut acknowledged = vec!["before".to_owned()];
    let fatal = handle.fatal();
    let proposing = async {
        for n in 0.. {
            let mut entry = create_project(&format!("p{n}"));
            if let stratavore_model::Command::CreateProject(create) = &mut entry.command {
                create.path = format!("/{}", "x".repeat(4000));
            }
            if handle.propose(entry).await.is_ok_and(|applied| applied.reply.rejected().is_none()) {
                acknowledged.push(format!("p{n}"));
            } else {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let reason = tokio::select! {
        () = proposing => unreachable!("it waits for the failure"),
        reason = fatal => reason,
    };
    assert!(reason.contains("No space left") && reason.contains("reserve file was freed"), "{reason}");
    assert!(!node.join("reserve").exists());
    handle.shutdown().await;

    // Still full but for the reserve: the node opens, knows everything, and takes a little more.
    let (handle, server) = open(&node).await.unwrap();
    assert!(!handle.metrics().reserve_present);
    for name in &acknowledged {
        assert!(has_project(&handle, name), "{name} was acknowledged");
    }
    done(&handle, create_project("afterwards")).await;
    drop(server);
    handle.shutdown().await;
    drop(mount);
}
