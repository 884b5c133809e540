//! P19 under fire: a child process dies at each place where the storage writes, syncs or renames. Whatever it
//! acknowledged before must be there when the directory is opened again.
//!
//! The child is this test binary, told by its environment to run one of the scripts below. It writes a line to its
//! journal after each acknowledgement; the parent reads the journal and checks the directory against it.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use futures::stream;
use openraft::LogIdOptionExt;
use openraft::storage::{
    RaftLogReader, RaftLogStorage, RaftLogStorageExt, RaftSnapshotBuilder, RaftStateMachine,
};

use crate::bootstrap::create_stores;
use crate::conformance::identity;
use crate::layout::Layout;
use crate::open::{Stores, open_stores};
use crate::reopen::{blanks, history};
use crate::state_machine::StateMachine;
use crate::sync_point;
use crate::types::{LogEntry, Vote, log_id};

const DIR: &str = "STRATAVORE_CRASH_DIR";
const POINT: &str = "STRATAVORE_CRASH_POINT";

/// Far more than any script reaches: the loop below must end by itself.
const POINTS_MAX: u64 = 400;

struct Script {
    layout: Layout,
    journal: File,
}

impl Script {
    fn acknowledged(&mut self, what: &str) {
        // One write: the page cache outlives the process.
        self.journal.write_all(format!("{what}\n").as_bytes()).unwrap();
    }

    fn open(&self) -> Stores {
        open_stores(&self.layout, identity()).unwrap()
    }

    async fn log(&mut self) {
        let mut log = self.open().log;
        log.blocking_append(blanks(1, 0..10)).await.unwrap();
        self.acknowledged("last 1 9");
        log.save_vote(&Vote::new_committed(2, 1)).await.unwrap();
        self.acknowledged("vote 2");
        log.blocking_append(blanks(2, 10..20)).await.unwrap();
        self.acknowledged("last 2 19");
        log.close().await.unwrap();
        // From here on the end may be either; behind it, the new one.
        self.acknowledged("truncating 2 14");
        log.truncate_after(Some(log_id(2, 14))).await.unwrap();
        self.acknowledged("last 2 14");
        log.save_vote(&Vote::new_committed(5, 1)).await.unwrap();
        self.acknowledged("vote 5");
        log.blocking_append(blanks(5, 15..30)).await.unwrap();
        self.acknowledged("last 5 29");
        log.save_committed(Some(log_id(5, 25))).await.unwrap();
        self.acknowledged("purging 12");
        log.purge(log_id(2, 12)).await.unwrap();
        log.close().await.unwrap();
        self.acknowledged("purged 12");
        log.blocking_append(blanks(5, 30..33)).await.unwrap();
        self.acknowledged("last 5 32");
    }

    async fn build(&mut self) {
        let stores = self.open();
        let mut machine = StateMachine::new(stores.state.clone());
        for (from, upto) in [(0, 6), (7, 12)] {
            let last = format!("applied {upto}");
            apply(&mut machine, history(upto).split_off(from)).await;
            self.acknowledged(&last);
            machine.build_snapshot().await.unwrap();
            self.acknowledged(&format!("snapshot {upto}"));
        }
    }

    async fn install(&mut self) {
        let giver = open_stores(&Layout::new(&self.layout.root().join("giver")), identity()).unwrap();
        let given = StateMachine::new(giver.state).get_current_snapshot().await.unwrap().unwrap();
        let stores = self.open();
        let mut machine = StateMachine::new(stores.state.clone());
        apply(&mut machine, history(5)).await;
        self.acknowledged("applied 5");
        machine.install_snapshot(&given.meta, given.snapshot).await.unwrap();
        self.acknowledged("applied 12");
        self.acknowledged("snapshot 12");
        apply(&mut machine, history(14).split_off(13)).await;
        self.acknowledged("applied 14");
    }
}

async fn apply(machine: &mut StateMachine, entries: Vec<LogEntry>) {
    machine.apply(stream::iter(entries.into_iter().map(|entry| Ok((entry, None))))).await.unwrap();
}

/// The child's side of the tests below; by itself it has nothing to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run as a child process by the crash point tests"]
async fn child() {
    let dir = PathBuf::from(std::env::var_os(DIR).expect("started by a crash point test"));
    let (kind, point) = std::env::var(POINT).ok().and_then(|at| Some(owned(at.split_once(' ')?))).unwrap();
    let journal = OpenOptions::new().append(true).create(true).open(dir.join("journal")).unwrap();
    let mut script = Script { layout: Layout::new(&dir), journal };
    sync_point::arm(point.parse().unwrap());
    match kind.as_str() {
        "log" => script.log().await,
        "build" => script.build().await,
        "install" => script.install().await,
        other => panic!("no script {other}"),
    }
    sync_point::arm(u64::MAX);
    script.acknowledged("end");
}

fn owned((kind, point): (&str, &str)) -> (String, String) {
    (kind.to_string(), point.to_string())
}

/// Runs the child until it dies or is done; its journal, one line each.
fn run_child(dir: &Path, kind: &str, point: u64) -> Vec<String> {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["crash_points::child", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .env(POINT, format!("{kind} {point}"))
        .output()
        .unwrap();
    let journal = fs::read_to_string(dir.join("journal")).unwrap_or_default();
    let journal: Vec<String> = journal.lines().map(str::to_string).collect();
    let ended = journal.last().is_some_and(|line| line == "end");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.success(), ended, "{kind} {point}: {said}");
    assert!(!said.contains("panicked"), "{kind} {point}: {said}");
    journal
}

/// What the journal says must be there, newest last.
fn numbers<'a>(journal: &'a [String], what: &str) -> Vec<Vec<u64>> {
    let lines = journal.iter().filter_map(|line: &'a String| line.strip_prefix(what)?.strip_prefix(' '));
    lines.map(|rest| rest.split(' ').map(|n| n.parse().unwrap()).collect()).collect()
}

fn newest(journal: &[String], what: &str) -> Option<Vec<u64>> {
    numbers(journal, what).pop()
}

/// Dies at point 1, 2, 3 ... until the script gets through; checks the directory after each death.
async fn at_every_point(
    kind: &str,
    prepare: impl Fn(&Layout),
    check: impl AsyncFn(&Stores, &[String]),
) -> u64 {
    for point in 1..POINTS_MAX {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        create_stores(&layout, &identity()).unwrap();
        prepare(&layout);
        let journal = run_child(dir.path(), kind, point);
        let stores = open_stores(&layout, identity())
            .unwrap_or_else(|error| panic!("{kind} {point}: {error}; journal {journal:?}"));
        check(&stores, &journal).await;
        if journal.last().is_some_and(|line| line == "end") {
            return point;
        }
    }
    panic!("{kind}: the script never got through");
}

async fn check_log(stores: &Stores, journal: &[String]) {
    let mut log = stores.log.clone();
    let state = log.get_log_state().await.unwrap();
    let vote = log.read_vote().await.unwrap().map_or(0, |vote| vote.leader_id.term);
    if let Some(given) = newest(journal, "vote") {
        assert!(vote >= given[0], "voted in term {given:?}, found {vote}: {journal:?}");
    }
    let last = state.last_log_id;
    let needed = newest(journal, "last").map(|at| log_id(at[0], at[1]));
    let cutting = journal.last().is_some_and(|line| line.starts_with("truncating"));
    let cut = newest(journal, "truncating").map(|at| log_id(at[0], at[1])).filter(|_| cutting);
    // Between the order and the end of a truncation both ends are right.
    let needed = if last < needed && cut.is_some() { needed.min(cut) } else { needed };
    assert!(last >= needed, "acknowledged {needed:?}, found {last:?}: {journal:?}");
    if let Some(purged) = newest(journal, "purged") {
        assert!(state.last_purged_log_id.next_index() > purged[0], "{journal:?}");
    }
    let order = newest(journal, "purging").map_or(0, |purging| purging[0] + 1);
    let first = state.last_purged_log_id.next_index();
    assert!(first <= order, "nothing is purged unasked: {first}, {journal:?}");
    // What is there can be read, without a hole.
    let entries = log.try_get_log_entries(0..).await.unwrap();
    assert!(entries.iter().map(|entry| entry.log_id.index()).eq(first..last.next_index()), "{journal:?}");
    // And it goes on.
    let next = last.next_index();
    log.blocking_append(blanks(9, next..next + 3)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p19_a_death_at_any_point_of_the_log_loses_nothing_acknowledged() {
    let points = at_every_point("log", |_| {}, check_log).await;
    assert!(points > 20, "only {points} points: the scripts or the places are gone");
}

async fn check_state(stores: &Stores, journal: &[String]) {
    let image_at = |stores: &Stores| stores.state.image().applied.map_or(0, |id| id.index());
    let applied = image_at(stores);
    // A process that dies leaves the page cache: the write-ahead log of the state is whole.
    if let Some(acknowledged) = newest(journal, "applied") {
        assert!(applied >= acknowledged[0], "applied {acknowledged:?}, found {applied}: {journal:?}");
    }
    {
        let image = stores.state.image();
        assert_eq!(image.state.digest(), image.state.recomputed_digest());
    }
    let mut machine = StateMachine::new(stores.state.clone());
    let snapshot = machine.get_current_snapshot().await.unwrap();
    let found = snapshot.as_ref().and_then(|snapshot| snapshot.meta.last_log_id).map_or(0, |id| id.index());
    if let Some(reported) = newest(journal, "snapshot") {
        assert!(found >= reported[0], "snapshot {reported:?}, found {found}: {journal:?}");
    }
    if found > applied {
        // Kept, and the pointer not switched yet: the core installs it again when it starts.
        let snapshot = snapshot.unwrap();
        machine.install_snapshot(&snapshot.meta, snapshot.snapshot).await.unwrap();
        assert_eq!(image_at(stores), found, "{journal:?}");
    }
    // Equal histories give equal states, whatever happened on the way.
    let other = tempfile::tempdir().unwrap();
    let layout = Layout::new(other.path());
    create_stores(&layout, &identity()).unwrap();
    let clean = open_stores(&layout, identity()).unwrap();
    let mut twin = StateMachine::new(clean.state.clone());
    apply(&mut twin, history(20)).await;
    let from = usize::try_from(stores.state.image().applied.next_index()).unwrap();
    apply(&mut machine, history(20).split_off(from)).await;
    assert_eq!(stores.state.image().state.digest(), clean.state.image().state.digest(), "{journal:?}");
    machine.build_snapshot().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p19_a_death_at_any_point_of_a_snapshot_leaves_the_old_or_the_new_one() {
    let points = at_every_point("build", |_| {}, check_state).await;
    assert!(points > 8, "only {points} points");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p19_a_death_at_any_point_of_an_install_leaves_the_old_or_the_new_state() {
    // One giver serves every run: its snapshot is only read.
    let source = tempfile::tempdir().unwrap();
    let giver = Layout::new(source.path());
    create_stores(&giver, &identity()).unwrap();
    {
        let stores = open_stores(&giver, identity()).unwrap();
        let mut machine = StateMachine::new(stores.state.clone());
        apply(&mut machine, history(12)).await;
        machine.build_snapshot().await.unwrap();
        stores.log.close().await.unwrap();
    }
    let lend = |layout: &Layout| copy_tree(source.path(), &layout.root().join("giver"));
    let points = at_every_point("install", lend, check_state).await;
    assert!(points > 8, "only {points} points");
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let path = file.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_tree(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}
