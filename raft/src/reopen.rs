//! Tests: the stores come back as they were after each kind of operation, without a clean stop.

use std::io;
use std::sync::Arc;

use futures::stream;
use openraft::alias::SnapshotOf;
use openraft::entry::RaftEntry;
use openraft::storage::{
    RaftLogReader, RaftLogStorage, RaftLogStorageExt, RaftSnapshotBuilder, RaftStateMachine,
};
use rocksdb::WriteBatch;
use stratavore_model as model;
use tempfile::TempDir;

use crate::bootstrap::create_stores;
use crate::conformance::identity;
use crate::db::{self, LOGS, META, Recovery, family};
use crate::error::OpenError;
use crate::layout::Layout;
use crate::log_store::{Cell, LogStore};
use crate::mark::MarkFile;
use crate::metrics::Counters;
use crate::open::{Stores, open_stores};
use crate::record::encode_entry;
use crate::state_machine::StateMachine;
use crate::state_store::StateStore;
use crate::types::{
    Command, LogEntry, LogId, Member, Membership, StoredMembership, TypeConfig, Vote, log_id,
};

struct Node {
    _dir: TempDir,
    layout: Layout,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        create_stores(&layout, &identity()).unwrap();
        Self { _dir: dir, layout }
    }

    fn open(&self) -> Result<Stores, OpenError> {
        open_stores(&self.layout, identity())
    }

    fn log(&self) -> LogStore {
        self.open().unwrap().log
    }

    /// Drops the store as a dying process would, and opens it again.
    fn reopened(&self, log: LogStore) -> LogStore {
        drop(log);
        self.log()
    }

    fn raw_log(&self) -> rocksdb::DB {
        db::open_log(&self.layout.log(), false, Recovery::RefuseDamage).unwrap()
    }
}

pub(crate) fn blanks(term: u64, indexes: std::ops::Range<u64>) -> Vec<LogEntry> {
    indexes.map(|index| LogEntry::new_blank(log_id(term, index))).collect()
}

async fn ids(log: &mut LogStore) -> Vec<LogId> {
    log.try_get_log_entries(0..).await.unwrap().into_iter().map(|entry| entry.log_id).collect()
}

#[tokio::test]
async fn the_log_comes_back_after_each_kind_of_write() {
    let node = Node::new();
    let mut log = node.log();
    log.blocking_append(blanks(1, 0..10)).await.unwrap();
    let mut log = node.reopened(log);
    assert_eq!(ids(&mut log).await.len(), 10);

    let vote = Vote::new_committed(3, 1);
    log.save_vote(&vote).await.unwrap();
    let mut log = node.reopened(log);
    assert_eq!(log.read_vote().await.unwrap(), Some(vote));

    log.save_committed(Some(log_id(1, 7))).await.unwrap();
    let mut log = node.reopened(log);
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(1, 7)));

    log.truncate_after(Some(log_id(1, 7))).await.unwrap();
    let mut log = node.reopened(log);
    assert_eq!(ids(&mut log).await.last(), Some(&log_id(1, 7)));

    log.blocking_append(blanks(3, 8..12)).await.unwrap();
    let mut log = node.reopened(log);
    assert_eq!(ids(&mut log).await.last(), Some(&log_id(3, 11)));

    log.purge(log_id(1, 5)).await.unwrap();
    let mut log = node.reopened(log);
    assert_eq!(ids(&mut log).await.first(), Some(&log_id(1, 6)));
    assert_eq!(log.get_log_state().await.unwrap().last_purged_log_id, Some(log_id(1, 5)));

    log.purge(log_id(3, 20)).await.unwrap();
    let mut log = node.reopened(log);
    assert_eq!(ids(&mut log).await, []);
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(log_id(3, 20)));

    log.blocking_append(blanks(4, 21..23)).await.unwrap();
    let mut log = node.reopened(log);
    assert_eq!(ids(&mut log).await, [log_id(4, 21), log_id(4, 22)]);
}

#[tokio::test]
async fn reads_reach_behind_the_cache_and_appends_never_leave_a_hole() {
    let node = Node::new();
    let mut log = node.log();
    for chunk in 0..6 {
        log.blocking_append(blanks(1, chunk * 1000..(chunk + 1) * 1000)).await.unwrap();
    }
    let all = ids(&mut log).await;
    assert_eq!(all.len(), 6000);
    assert_eq!((all[0].index(), all[5999].index()), (0, 5999));
    assert!(log.blocking_append(blanks(1, 6001..6002)).await.is_err());
    assert!(!log.limited_get_log_entries(10, 20).await.unwrap().is_empty());
}

#[tokio::test]
async fn p19_the_mark_follows_and_is_lowered_before_a_truncation() {
    let node = Node::new();
    let mut log = node.log();
    log.blocking_append(blanks(1, 0..10)).await.unwrap();
    log.close().await.unwrap();
    let last = || MarkFile::open(&node.layout.mark()).unwrap().unwrap().written().last;
    assert_eq!(last(), Some(log_id(1, 9)));
    log.truncate_after(Some(log_id(1, 4))).await.unwrap();
    assert_eq!(last(), Some(log_id(1, 4)), "at once, not within a second");
    log.truncate_after(None).await.unwrap();
    assert_eq!(last(), None);
    drop(log);
    node.open().unwrap();
}

/// Opens the raw database, changes it, and expects the refusal to say `detail`.
async fn refused_after(change: impl FnOnce(&rocksdb::DB, &mut WriteBatch), detail: &str) {
    let node = Node::new();
    let mut log = node.log();
    log.blocking_append(blanks(1, 0..10)).await.unwrap();
    drop(log);
    {
        let raw = node.raw_log();
        let mut batch = WriteBatch::default();
        change(&raw, &mut batch);
        raw.write(batch).unwrap();
        raw.flush_wal(true).unwrap();
    }
    match node.open().map(|_| ()) {
        Err(OpenError::Corrupt { file, detail: found, .. }) => {
            assert!(file.starts_with(node.layout.log()), "{}", file.display());
            assert!(found.contains(detail), "{found}");
        }
        other => panic!("{other:?}"),
    }
}

fn stored(raw: &rocksdb::DB, index: u64) -> Vec<u8> {
    raw.get_cf(family(raw, LOGS).unwrap(), index.to_be_bytes()).unwrap().unwrap()
}

fn logs(raw: &rocksdb::DB) -> &rocksdb::ColumnFamily {
    family(raw, LOGS).unwrap()
}

#[tokio::test]
async fn p19_what_rocksdb_cannot_see_the_chain_sees() {
    refused_after(|raw, batch| batch.delete_cf(logs(raw), 4_u64.to_be_bytes()), "entry 4 is missing").await;
    // An entry of another history, valid by itself.
    refused_after(
        |raw, batch| {
            let other = crate::codec::seal(4, 77, b"").0;
            batch.put_cf(logs(raw), 4_u64.to_be_bytes(), other);
        },
        "entry 4 does not follow",
    )
    .await;
    refused_after(|raw, batch| batch.put_cf(logs(raw), 4_u64.to_be_bytes(), stored(raw, 5)), "belongs at 5")
        .await;
    refused_after(
        |raw, batch| {
            let mut value = stored(raw, 4);
            value[15] ^= 1;
            batch.put_cf(logs(raw), 4_u64.to_be_bytes(), value);
        },
        "checksum mismatch",
    )
    .await;
    refused_after(|raw, batch| batch.put_cf(family(raw, META).unwrap(), Cell::Vote.key(), b"x"), "Vote")
        .await;
}

#[tokio::test]
async fn p22_a_newer_format_opens_nothing() {
    let node = Node::new();
    {
        let raw = node.raw_log();
        let newer = prost::Message::encode_to_vec(&stratavore_proto::raft::StoreIdentity {
            format: db::FORMAT + 1,
            ..identity().to_pb()
        });
        raw.put_cf(family(&raw, META).unwrap(), Cell::Identity.key(), Cell::Identity.seal(&newer)).unwrap();
    }
    assert!(matches!(node.open().map(|_| ()), Err(OpenError::UnknownFormat { found: 2, known: 1, .. })));
}

fn command(n: u64) -> model::Command {
    model::Command::CreateProject(model::command::CreateProject {
        name: format!("p{n}").parse().unwrap(),
        path: "/tmp".into(),
        command: Vec::new(),
        max_runners: 0,
    })
}

fn entry(index: u64, actor: model::Actor, command: model::Command) -> LogEntry {
    let entry =
        model::Entry { actor, request_id: None, at: model::Millis(1000 + index), term: None, command };
    LogEntry::new_normal(log_id(1, index), Command::from_bytes(encode_entry(&entry)))
}

fn init() -> model::Command {
    model::Command::InitCluster(Box::new(model::command::InitCluster {
        cluster: identity().cluster_id,
        nonce: [1; 16],
        lease: model::LeaseNumbers::default(),
        ca_cert_der: Vec::new(),
        ca_key_der: model::SecretBytes::new(vec![1]),
        node: model::NodeId(1),
        node_addresses: model::NodeAddresses::default(),
        node_spki: [1; 32],
        node_version: String::new(),
        admin: "admin".parse().unwrap(),
        admin_spki: [2; 32],
        version: model::COMMAND_VERSION,
        node_max_version: model::COMMAND_VERSION,
    }))
}

/// Membership at 0, a cluster at 1, projects up to `last`.
pub(crate) fn history(last: u64) -> Vec<LogEntry> {
    let members = Membership::new(
        vec![[1].into()],
        [(1, Member::default())].into_iter().collect::<std::collections::BTreeMap<_, _>>(),
    )
    .unwrap();
    let mut entries =
        vec![LogEntry::new_membership(log_id(1, 0), members), entry(1, model::Actor::System, init())];
    entries.extend((2..=last).map(|n| entry(n, model::Actor::User("admin".parse().unwrap()), command(n))));
    entries
}

async fn apply(machine: &mut StateMachine, entries: Vec<LogEntry>) -> io::Result<()> {
    machine.apply(stream::iter(entries.into_iter().map(|entry| Ok((entry, None))))).await
}

type Picture = (Option<LogId>, StoredMembership, [u8; 32], Vec<model::RecordedEvent>);

fn picture(stores: &Stores) -> Picture {
    let events = crate::events::read_after(&stores.state.db(), None, 1000).unwrap();
    let image = stores.state.image();
    assert_eq!(image.state.digest(), image.state.recomputed_digest());
    (image.applied, image.membership.clone(), image.state.digest(), events)
}

#[tokio::test(flavor = "multi_thread")]
async fn state_and_snapshot_come_back() {
    let node = Node::new();
    let stores = node.open().unwrap();
    let mut machine = StateMachine::new(stores.state.clone());
    apply(&mut machine, history(20)).await.unwrap();
    let at_snapshot = picture(&stores);
    let snapshot = machine.build_snapshot().await.unwrap();
    apply(&mut machine, history(30).split_off(21)).await.unwrap();
    let after = picture(&stores);
    assert_ne!(at_snapshot.2, after.2);
    drop((machine, snapshot, stores));

    let stores = node.open().unwrap();
    assert_eq!(picture(&stores), after);
    let mut machine = StateMachine::new(stores.state.clone());
    let current = machine.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(current.meta.last_log_id, at_snapshot.0);

    // Installed on another node, reopened there.
    let other = Node::new();
    let theirs = other.open().unwrap();
    let mut follower = StateMachine::new(theirs.state.clone());
    let mut changes = theirs.state.changes();
    follower.install_snapshot(&current.meta, current.snapshot).await.unwrap();
    assert_eq!(picture(&theirs), at_snapshot);
    assert!(changes.recv().await.unwrap().jumped);
    apply(&mut follower, history(30).split_off(21)).await.unwrap();
    assert_eq!(picture(&theirs), after);
    drop((follower, theirs));
    let theirs = other.open().unwrap();
    assert_eq!(picture(&theirs), after);
    let kept = StateMachine::new(theirs.state).get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(kept.meta.last_log_id, at_snapshot.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_snapshot_replaces_the_older_when_its_last_reader_is_gone() {
    let node = Node::new();
    let stores = node.open().unwrap();
    let mut machine = StateMachine::new(stores.state.clone());
    apply(&mut machine, history(5)).await.unwrap();
    let old: SnapshotOf<TypeConfig, Arc<crate::snapshot::SnapshotDir>> =
        machine.build_snapshot().await.unwrap();
    apply(&mut machine, history(9).split_off(6)).await.unwrap();
    machine.build_snapshot().await.unwrap();
    let path = old.snapshot.path().to_path_buf();
    assert!(path.exists(), "it is still being read");
    drop(old);
    assert!(!path.exists());
    drop((machine, stores));
    // A half-made snapshot of a crash is cleared away.
    std::fs::create_dir(node.layout.snapshots().join("building.tmp")).unwrap();
    node.open().unwrap();
    assert_eq!(std::fs::read_dir(node.layout.snapshots()).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn p22_an_unknown_command_stops_the_node() {
    let node = Node::new();
    let stores = node.open().unwrap();
    let mut machine = StateMachine::new(stores.state.clone());
    apply(&mut machine, history(3)).await.unwrap();
    // Field 900 of the entry: a command of a later version.
    let newer = [encode_entry(&model::Entry {
        actor: model::Actor::System,
        request_id: None,
        at: model::Millis(1),
        term: None,
        command: model::Command::Batch(Vec::new()),
    })
    .to_vec()]
    .concat();
    let cut = newer.len() - 3;
    let unknown = [&newer[..cut], &[0xa2, 0x38, 0x00]].concat();
    let entry = LogEntry::new_normal(log_id(1, 4), Command::from_bytes(unknown.into()));
    assert!(apply(&mut machine, vec![entry]).await.is_err());
    let reason = stores.fatal.get().unwrap();
    assert!(reason.contains("does not know the command"), "{reason}");
}

fn panics_past_the_guard(
    state: &mut model::State,
    changes: &mut model::Changes,
    at: model::LogPosition,
    entry: &model::Entry,
) -> model::Outcome {
    let outcome = model::apply(state, changes, at, entry);
    assert!(at.index < 5, "a defect behind the guard");
    outcome
}

#[tokio::test(flavor = "multi_thread")]
async fn p23_a_panic_past_the_guard_ends_the_node_and_leaves_the_disk_whole() {
    let node = Node::new();
    let fatal = crate::fatal::Fatal::new(node.layout.reserve());
    let store = StateStore::open(
        node.layout.clone(),
        identity(),
        panics_past_the_guard,
        Arc::default(),
        fatal.clone(),
    )
    .unwrap();
    let mut machine = StateMachine::new(store);
    apply(&mut machine, history(4)).await.unwrap();
    assert!(apply(&mut machine, history(9).split_off(5)).await.is_err());
    assert!(fatal.get().unwrap().contains("create_project at log entry 5"), "{:?}", fatal.get());
    drop(machine);

    let stores = node.open().unwrap();
    assert_eq!(stores.state.image().applied, Some(log_id(1, 4)));
    let mut machine = StateMachine::new(stores.state.clone());
    apply(&mut machine, history(9).split_off(5)).await.unwrap();
    assert_eq!(stores.state.image().state.projects().len(), 8);
}

fn refuses_as_a_panic_does(
    _: &mut model::State,
    _: &mut model::Changes,
    _: model::LogPosition,
    _: &model::Entry,
) -> model::Outcome {
    model::Outcome { reply: model::Reply::Rejected(model::Rejected::internal_error()), events: Vec::new() }
}

#[tokio::test]
async fn p23_a_poisoned_command_is_refused_and_counted_and_the_next_goes_on() {
    let node = Node::new();
    let counters = Arc::<Counters>::default();
    let fatal = crate::fatal::Fatal::new(node.layout.reserve());
    let store =
        StateStore::open(node.layout, identity(), refuses_as_a_panic_does, counters.clone(), fatal).unwrap();
    let responses = store.apply(history(3).iter()).unwrap();
    let refusal = responses[1].reply.as_ref().and_then(model::Reply::rejected).unwrap();
    assert_eq!(refusal.code, model::Code::InternalError);
    assert_eq!(Counters::read(&counters.apply_panics), 3);
    assert_eq!(store.image().applied, Some(log_id(1, 3)));
    assert!(store.fatal().get().is_none());
}
