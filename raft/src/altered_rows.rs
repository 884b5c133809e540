//! Tests: state that was changed behind the program's back is found and rebuilt (P24), backups and their restore (P1).

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use stratavore_model as model;
use stratavore_model::NodeId;

use crate::backup::BackupHeader;
use crate::conformance::identity;
use crate::error::{BackupError, OpenError};
use crate::fault::{AlteredDigest, alter_rows};
use crate::lost_quorum::recover_lost_quorum;
use crate::open::{OpenParams, open};
use crate::recover::{RecoverParams, recover_accept_loss};
use crate::restore::{RestoreParams, read_backup_header, restore_from_file};
use crate::three_nodes::{Node, agree, cluster, project, propose};
use crate::timings::RaftTimings;

fn set(ids: &[u64]) -> BTreeSet<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p24_altered_rows_are_found_and_the_state_is_rebuilt_from_a_peer() {
    let mut nodes = cluster().await;
    let last = propose(nodes[&1].handle(), 10..80).await;
    agree(&nodes[&1], &nodes[&2], last).await;
    agree(&nodes[&1], &nodes[&3], last).await;
    let sound = nodes[&2].handle().compare_digests().await;
    assert_eq!((sound.agree, sound.differ, sound.disputed), (set(&[1, 2, 3]), set(&[]), false));
    assert_eq!(nodes[&3].handle().scrub().await.unwrap(), None);

    nodes.get_mut(&3).unwrap().stop().await;
    alter_rows(nodes[&3].data_dir(), AlteredDigest::Kept).unwrap();
    propose(nodes[&1].handle(), 80..120).await;
    nodes.get_mut(&3).unwrap().restart().await;
    // By itself, from what was written with the rows.
    assert!(nodes[&3].handle().state_damage().is_some_and(|damage| damage.contains("digest")));
    // And by the majority, on every node.
    let last = propose(nodes[&1].handle(), 120..160).await;
    for id in 1..=3 {
        crate::three_nodes::reaches(&nodes[&id], last).await;
    }
    for id in 1..=3 {
        let found = nodes[&id].handle().compare_digests().await;
        assert!(found.index > 0);
        assert_eq!((found.agree, found.differ), (set(&[1, 2]), set(&[3])), "asked of node {id}");
    }

    let unknown = nodes[&3].handle().rebuild_state_from(NodeId(9)).await.unwrap_err();
    assert!(unknown.to_string().contains("node 9"), "{unknown}");
    let mut changes = nodes[&3].handle().changes();
    nodes[&3].handle().rebuild_state_from(NodeId(2)).await.unwrap();
    assert!(changes.recv().await.unwrap().jumped, "watchers read everything again (P16)");
    assert_eq!(nodes[&3].handle().state_damage(), None);
    assert_eq!(nodes[&3].handle().scrub().await.unwrap(), None);
    let last = propose(nodes[&3].handle(), 160..200).await;
    agree(&nodes[&1], &nodes[&3], last).await;
    assert_eq!(nodes[&1].handle().compare_digests().await.differ, set(&[]));

    // It stays so over a restart.
    nodes.get_mut(&3).unwrap().stop().await;
    nodes.get_mut(&3).unwrap().restart().await;
    assert_eq!(nodes[&3].handle().state_damage(), None);
    agree(&nodes[&1], &nodes[&3], last).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p24_a_state_is_rebuilt_while_entries_go_on() {
    let nodes = cluster().await;
    let writer = {
        let handle = nodes[&1].handle().clone();
        tokio::spawn(async move { propose(&handle, 1000..1300).await })
    };
    for _ in 0..5 {
        nodes[&2].handle().rebuild_state_from(NodeId(3)).await.unwrap();
    }
    let last = writer.await.unwrap();
    agree(&nodes[&1], &nodes[&2], last).await;
    assert_eq!(nodes[&2].handle().scrub().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p19_a_lost_quorum_is_recovered_from_one_node_under_a_raised_incarnation() {
    let mut nodes = cluster().await;
    let last = propose(nodes[&1].handle(), 10..60).await;
    crate::three_nodes::reaches(&nodes[&2], last).await;
    for id in 1..=3 {
        nodes.get_mut(&id).unwrap().stop().await;
    }
    let recover = |node: u64| RecoverParams {
        node_id: NodeId(node),
        cluster_id: identity().cluster_id,
        nonce: [3; 16],
        at: model::Millis(9000),
    };
    let dir = nodes[&2].data_dir().to_path_buf();
    let wrong = recover_accept_loss(&dir, recover(2)).await.unwrap_err();
    assert!(wrong.to_string().contains("3 voters"), "{wrong}");
    let recovered = recover_lost_quorum(&dir, recover(2)).await.unwrap();
    assert_eq!(recovered.incarnation, 2);
    assert!(recovered.last_kept >= last);
    assert!(recovered.dropped.iter().any(|line| line.contains("1, 3")), "{:?}", recovered.dropped);

    nodes.get_mut(&2).unwrap().restart().await;
    let alone = nodes[&2].handle();
    assert_eq!(alone.membership().voters().collect::<Vec<_>>(), [NodeId(2)]);
    assert_eq!(alone.read(|state| state.projects().len()), 60);
    propose(alone, 60..65).await;
    // It grows again, from a snapshot: the log begins behind what was recovered.
    let fresh = Node::start(4).await;
    alone.add_learner(&alone.membership(), NodeId(4), fresh.address.to_string()).await.unwrap();
    let last = propose(alone, 65..70).await;
    agree(&nodes[&2], &fresh, last).await;
}

fn params(node: u64) -> RestoreParams {
    RestoreParams {
        node_id: NodeId(node),
        cluster_id: Some(identity().cluster_id),
        raft_address: "127.0.0.1:1".into(),
        nonce: [9; 16],
        incarnation_min: 0,
        at: model::Millis(5000),
        then: vec![project(700)],
    }
}

async fn backup_of(node: &Node, path: &Path) -> BackupHeader {
    node.handle().snapshot_to_file(path, None).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_a_backup_restores_everything_under_a_raised_incarnation() {
    let nodes = cluster().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("backup");
    let last = propose(nodes[&1].handle(), 10..60).await;
    // Through a follower: what was acknowledged before is inside.
    let header = backup_of(&nodes[&3], &file).await;
    assert!(header.index >= last && header.incarnation == 1 && header.node_id == NodeId(3), "{header:?}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    assert_eq!(read_backup_header(&file).unwrap(), header);
    propose(nodes[&1].handle(), 60..70).await;
    assert!(backup_of(&nodes[&1], &file).await.index > header.index, "an older one is replaced");

    let target = dir.path().join("restored");
    let (restored, ()) = restore_from_file(&file, &target, |_, _| Ok((params(7), ()))).await.unwrap();
    assert_eq!(restored.incarnation, 2);
    let again = restore_from_file(&file, &target, |_, _| Ok((params(7), ()))).await.unwrap_err();
    assert!(matches!(again, BackupError::Open(OpenError::AlreadyInitialized { .. })), "{again}");

    let open_params = OpenParams {
        data_dir: target,
        node_id: NodeId(7),
        cluster_id: identity().cluster_id,
        timings: RaftTimings::default(),
        connector: None,
    };
    let (handle, _server) = open(open_params).await.unwrap();
    assert_eq!(handle.read(model::State::incarnation), 2);
    // 10 at the start of the cluster, 60 more, and the one that the restore was given.
    assert_eq!(handle.read(|state| state.projects().len()), 71);
    assert_eq!(handle.state_damage(), None);
    assert_eq!(handle.membership().voters().collect::<Vec<_>>(), [NodeId(7)]);
    let applied = handle.propose(project(800)).await.unwrap();
    assert!(applied.reply.rejected().is_none() && applied.index > restored.backup.index);
    let events = handle.events_after(None, 1000).unwrap();
    assert!(events.len() > 60, "the history came along: {}", events.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_or_foreign_backup_is_refused_and_leaves_nothing() {
    let node = Node::start(1).await;
    propose(node.handle(), 0..20).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("backup");
    backup_of(&node, &file).await;
    let whole = fs::read(&file).unwrap();
    let target = dir.path().join("target");

    let mut foreign = params(7);
    foreign.cluster_id = Some("fedcba9876543210".parse().unwrap());
    let other = restore_from_file(&file, &target, |_, _| Ok((foreign, ()))).await.unwrap_err();
    assert!(matches!(other, BackupError::OtherCluster { .. }), "{other}");

    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for broken in [&whole[..whole.len() - 1], &whole[..30], &flipped, b"something else entirely"] {
        fs::write(&file, broken).unwrap();
        let refused = restore_from_file(&file, &target, |_, _| Ok((params(7), ()))).await.unwrap_err();
        assert!(matches!(refused, BackupError::Damaged { .. }), "{refused}");
        let left = fs::read_dir(&target).map_or(0, Iterator::count);
        assert_eq!(left, 0, "a refused restore leaves nothing behind");
    }
    fs::write(&file, &whole).unwrap();
    restore_from_file(&file, &target, |_, _| Ok((params(7), ()))).await.unwrap();
}
