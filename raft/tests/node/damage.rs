//! Damaged and shortened data: refused with the file and the way out, recovered only when asked (P19).

use std::fs;
use std::path::{Path, PathBuf};

use stratavore_model::EventKind;
use stratavore_raft::{OpenError, RecoverParams, Recovered};
use tempfile::TempDir;

use crate::cluster::{NODE, cluster_id, create_project, founded, now, open};
use crate::{create_projects, directory, done, has_project, project_names};

/// A stopped node with ten projects, and a copy from before the last five.
struct Stopped {
    dir: TempDir,
}

impl Stopped {
    async fn new() -> Self {
        let this = Self { dir: tempfile::tempdir().unwrap() };
        let handle = founded(&this.node()).await;
        create_projects(&handle, (0..5).map(|n| format!("p{n}"))).await;
        handle.shutdown().await;
        directory::copy(&this.node(), &this.before());
        let (handle, server) = open(&this.node()).await.unwrap();
        create_projects(&handle, (5..10).map(|n| format!("p{n}"))).await;
        drop(server);
        handle.shutdown().await;
        this
    }

    fn node(&self) -> PathBuf {
        self.dir.path().join("node")
    }

    fn before(&self) -> PathBuf {
        self.dir.path().join("before")
    }

    fn fresh_copy(&self) -> PathBuf {
        let copy = self.dir.path().join("copy");
        if copy.exists() {
            fs::remove_dir_all(&copy).unwrap();
        }
        directory::copy(&self.node(), &copy);
        copy
    }
}

async fn recover(dir: &Path) -> Recovered {
    let params = RecoverParams { node_id: NODE, cluster_id: cluster_id(), nonce: [9; 16], at: now() };
    stratavore_raft::recover_accept_loss(dir, params).await.unwrap()
}

/// Opens a recovered node and expects the new incarnation, and that it works.
async fn works_in_incarnation(dir: &Path, n: u64) {
    let (handle, server) = open(dir).await.unwrap();
    assert_eq!(handle.read(stratavore_model::State::incarnation), n);
    let events = handle.events_after(None, 1000).unwrap();
    assert!(events.iter().any(|event| event.kind == EventKind::ClusterRecovered));
    done(&handle, create_project("afterwards")).await;
    assert_eq!(handle.newest_event().unwrap().unwrap().incarnation, n);
    drop(server);
    handle.shutdown().await;
    let (handle, server) = open(dir).await.unwrap();
    assert!(has_project(&handle, "afterwards"));
    drop(server);
    handle.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p19_a_torn_tail_is_the_end_of_a_crash() {
    let stopped = Stopped::new().await;
    let length = fs::metadata(directory::wal(&stopped.node())).unwrap().len();
    let mut seen = Vec::new();
    for cut in (1..length).step_by(usize::try_from(length / 24).unwrap()) {
        let copy = stopped.fresh_copy();
        // The crash came before the mark was written again, and state lies behind the log.
        directory::restore("high-water-mark", &stopped.before(), &copy);
        directory::restore("state", &stopped.before(), &copy);
        let wal = fs::OpenOptions::new().write(true).open(directory::wal(&copy)).unwrap();
        wal.set_len(length - cut).unwrap();
        let (handle, server) = open(&copy).await.unwrap();
        let names = project_names(&handle);
        let expected: Vec<String> = (0..names.len()).map(|n| format!("p{n}")).collect();
        assert_eq!(names, expected, "a prefix, without a hole");
        assert!(names.len() >= 5, "what the mark covers is there");
        done(&handle, create_project("afterwards")).await;
        seen.push(names.len());
        drop(server);
        handle.shutdown().await;
    }
    assert!(
        seen.contains(&5) && seen.contains(&9),
        "the cuts reached from the last entry to the first: {seen:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p19_a_cut_that_loses_acknowledged_entries_is_below_the_mark() {
    let stopped = Stopped::new().await;
    let copy = stopped.fresh_copy();
    directory::restore("raft-log", &stopped.before(), &copy);
    directory::restore("state", &stopped.before(), &copy);
    match open(&copy).await {
        Err(error @ OpenError::BelowHighWaterMark { .. }) => {
            assert!(error.to_string().contains("recover --accept-loss"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    let recovered = recover(&copy).await;
    assert_eq!(recovered.incarnation, 2);
    assert!(!recovered.dropped.is_empty());
    works_in_incarnation(&copy, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p19_a_flipped_bit_anywhere_in_the_log_never_loses_silently() {
    let stopped = Stopped::new().await;
    let length = fs::metadata(directory::wal(&stopped.node())).unwrap().len();
    let length = usize::try_from(length).unwrap();
    let mut corrupt = 0;
    for byte in (0..length).step_by(length / 40) {
        let copy = stopped.fresh_copy();
        let wal = directory::wal(&copy);
        directory::flip_bit(&wal, byte);
        match open(&copy).await {
            Err(OpenError::Corrupt { file, way_out, .. }) => {
                corrupt += 1;
                assert!(file.starts_with(copy.join("raft-log")), "{}", file.display());
                assert!(way_out.contains("recover --accept-loss"), "{way_out}");
            }
            // A broken length looks like the end of the file: the mark knows better.
            Err(OpenError::BelowHighWaterMark { .. }) => {}
            Err(other) => panic!("byte {byte}: {other:?}"),
            Ok((handle, _)) => panic!("byte {byte}: opened with {} projects", project_names(&handle).len()),
        }
    }
    assert!(corrupt > 20, "{corrupt} of 40 flips were called damage");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recovery_of_a_damaged_log_keeps_applied_state_and_raises_the_incarnation() {
    let stopped = Stopped::new().await;
    let copy = stopped.fresh_copy();
    let wal = directory::wal(&copy);
    let middle = usize::try_from(fs::metadata(&wal).unwrap().len() / 2).unwrap();
    directory::flip_bit(&wal, middle);
    let error = open(&copy).await.unwrap_err();
    assert!(matches!(&error, OpenError::Corrupt { file, .. } if *file == wal), "{error:?}");

    let recovered = recover(&copy).await;
    assert_eq!(recovered.incarnation, 2);
    let (handle, server) = open(&copy).await.unwrap();
    assert_eq!(project_names(&handle).len(), 10, "applied state was kept");
    drop(server);
    handle.shutdown().await;
    works_in_incarnation(&copy, 2).await;
    // Once more: the incarnation only ever rises.
    assert_eq!(recover(&copy).await.incarnation, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_or_missing_state_database_is_rebuilt_from_the_log() {
    let stopped = Stopped::new().await;
    let damages: [fn(&Path); 3] = [
        |copy| fs::write(copy.join("state/db-1/CURRENT"), "nonsense\n").unwrap(),
        |copy| fs::remove_file(copy.join("state/ACTIVE")).unwrap(),
        |copy| fs::remove_dir_all(copy.join("state")).unwrap(),
    ];
    for damage in damages {
        let copy = stopped.fresh_copy();
        damage(&copy);
        assert!(matches!(open(&copy).await, Err(OpenError::Corrupt { .. })));
        let recovered = recover(&copy).await;
        assert_eq!(recovered.dropped.len(), 1, "{:?}", recovered.dropped);
        let (handle, server) = open(&copy).await.unwrap();
        assert_eq!(project_names(&handle).len(), 10);
        drop(server);
        handle.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_part_is_named() {
    let stopped = Stopped::new().await;
    for part in ["high-water-mark", "raft-log", "state/ACTIVE"] {
        let copy = stopped.fresh_copy();
        let path = copy.join(part);
        if path.is_dir() {
            fs::remove_dir_all(&path).unwrap()
        } else {
            fs::remove_file(&path).unwrap()
        }
        let error = open(&copy).await.unwrap_err();
        let message = error.to_string();
        assert!(message.contains(part) && message.contains("recover --accept-loss"), "{message}");
    }
}
