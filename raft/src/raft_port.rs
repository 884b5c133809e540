//! Tests of the raft port: what a node refuses while a snapshot comes in (P20), and the two rules that keep append
//! sessions from spinning or starving.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use openraft::entry::RaftEntry;
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::AppendEntriesRequest;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use stratavore_proto::raft as pb;
use stratavore_proto::raft::snapshot_request::Part;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::bootstrap::create_stores;
use crate::conformance::identity;
use crate::db::FORMAT;
use crate::layout::Layout;
use crate::network::Connector;
use crate::network::client::{Client, Network, PeerClient};
use crate::open::{OpenParams, open, open_stores};
use crate::record::position::{log_id_to_pb, stored_membership_to_pb, vote_to_pb};
use crate::reopen::history;
use crate::three_nodes::{Node, PATIENCE, connector};
use crate::timings::RaftTimings;
use crate::types::{LogEntry, Member, Membership, StoredMembership, TypeConfig, Vote, log_id};

fn network(connector: Connector) -> Network {
    Network::new(identity().cluster_id, Some(connector))
}

fn client_of(node: &Node) -> Client {
    network(connector(Arc::default())).client(2, &node.address.to_string())
}

fn leader() -> Vote {
    Vote::new_committed(1, 1)
}

async fn heartbeat(client: &mut Client) -> Result<pb::AppendResponse, Status> {
    let request = pb::AppendRequest { vote: Some(vote_to_pb(&leader())), ..pb::AppendRequest::default() };
    let mut answers = client.append(futures::stream::iter([request])).await?.into_inner();
    answers.message().await?.ok_or_else(|| Status::aborted("not answered"))
}

fn header() -> pb::SnapshotRequest {
    let header = pb::SnapshotHeader {
        vote: Some(vote_to_pb(&leader())),
        last: Some(log_id_to_pb(&log_id(1, 50))),
        membership: Some(stored_membership_to_pb(&StoredMembership::default())),
        row_format: FORMAT,
        ..pb::SnapshotHeader::default()
    };
    pb::SnapshotRequest { part: Some(Part::Header(header)) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p20_no_append_is_taken_between_the_offer_and_the_end_of_a_snapshot() {
    let node = Node::start(2).await;
    let mut client = client_of(&node);
    heartbeat(&mut client).await.expect("an idle follower answers");

    let (parts, receiver) = mpsc::channel(1);
    let mut offering = client_of(&node);
    let transfer = tokio::spawn(async move { offering.snapshot(ReceiverStream::new(receiver)).await });
    parts.send(header()).await.unwrap();
    let busy = async {
        loop {
            match heartbeat(&mut client).await {
                Err(status) if status.message().contains("a snapshot is being installed") => return status,
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let busy = tokio::time::timeout(PATIENCE, busy).await.expect("the follower is busy");
    assert_eq!(busy.code(), Code::Unavailable);
    let second = client.snapshot(futures::stream::iter([header()])).await.unwrap_err();
    assert_eq!(second.code(), Code::Unavailable);
    assert!(second.message().contains("another snapshot"), "{second}");

    // The transfer breaks off: nothing of it stays, and appends are taken again.
    drop(parts);
    let broken = transfer.await.unwrap().unwrap_err();
    assert!(broken.message().contains("broke off"), "{broken}");
    heartbeat(&mut client).await.expect("appends are taken again");
    let left = std::fs::read_dir(node.data_dir().join("state")).unwrap();
    assert!(
        left.filter_map(Result::ok).all(|file| !file.file_name().to_string_lossy().starts_with("incoming"))
    );
}

async fn peer(connector: Connector, address: String) -> PeerClient {
    network(connector).new_client(2, &Member { raft_address: address }).await
}

fn option() -> RPCOption {
    RPCOption::new(PATIENCE)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_answered_everything_ends_without_an_error() {
    let node = Node::start(2).await;
    let mut peer = peer(connector(Arc::default()), node.address.to_string()).await;
    let request = || AppendEntriesRequest::<TypeConfig> {
        vote: leader(),
        prev_log_id: None,
        entries: Vec::new(),
        leader_commit: None,
    };
    for _ in 0..3 {
        let requests = futures::stream::iter([request(), request(), request()]);
        let answers: Vec<_> = peer.stream_append(requests, option()).await.unwrap().collect().await;
        assert_eq!(answers.len(), 3, "{answers:?}");
        assert!(answers.iter().all(|answer| matches!(answer, Ok(Ok(_)))), "{answers:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_peer_is_not_dialled_before_there_is_a_request() {
    let dials = Arc::new(AtomicUsize::new(0));
    // Nobody listens on the discard port.
    let mut peer = peer(connector(dials.clone()), "127.0.0.1:9".into()).await;
    let nothing = futures::stream::pending::<AppendEntriesRequest<TypeConfig>>();
    let session = tokio::time::timeout(Duration::from_millis(200), peer.stream_append(nothing, option()));
    assert!(session.await.is_err(), "it waits for the first request");
    assert_eq!(dials.load(Ordering::Relaxed), 0);
    let one = AppendEntriesRequest::<TypeConfig> {
        vote: leader(),
        prev_log_id: None,
        entries: Vec::new(),
        leader_commit: None,
    };
    assert!(peer.stream_append(futures::stream::iter([one]), option()).await.is_err());
    assert!(dials.load(Ordering::Relaxed) >= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p20_what_is_known_to_be_committed_is_applied_before_the_port_can_open() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path());
    create_stores(&layout, &identity()).unwrap();
    {
        let mut log = open_stores(&layout, identity()).unwrap().log;
        let mut entries = history(12);
        // Two voters, and the other is not there: nobody leads, nothing new is committed.
        let nodes: std::collections::BTreeMap<u64, Member> =
            [1, 2].map(|id| (id, Member { raft_address: "127.0.0.1:9".into() })).into();
        let members = Membership::new(vec![[1, 2].into()], nodes).unwrap();
        entries[0] = LogEntry::new_membership(log_id(1, 0), members);
        log.blocking_append(entries).await.unwrap();
        log.save_vote(&leader()).await.unwrap();
        log.save_committed(Some(log_id(1, 9))).await.unwrap();
        log.close().await.unwrap();
    }
    let params = OpenParams {
        data_dir: dir.path().to_path_buf(),
        node_id: identity().node_id,
        cluster_id: identity().cluster_id,
        timings: RaftTimings::slow(),
        connector: Some(connector(Arc::default())),
    };
    let (handle, _server) = open(params).await.unwrap();
    assert_eq!(*handle.applied().borrow(), 9, "all that was known to be committed, and nothing else");
}
