//! Tests: proposals and reads through nodes that do not lead.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use model::NodeId;
use stratavore_model as model;
use uuid::Uuid;

use crate::error::ProposeError;
use crate::handle::Handle;
use crate::three_nodes::{Node, PATIENCE, agree, cluster, entry, project, propose};

fn knows(handle: &Handle, n: usize) -> bool {
    let name: model::ProjectName = format!("p{n}").parse().unwrap();
    handle.read(|state| state.project(&name).is_some())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_takes_proposals_and_has_applied_what_it_acknowledges() {
    let nodes = cluster().await;
    let mut writers = Vec::new();
    for id in 1..=3_u64 {
        let handle = nodes[&id].handle().clone();
        writers.push(tokio::spawn(async move {
            for n in 0..40 {
                let number = 1000 * usize::try_from(id).unwrap() + n;
                let applied = handle.propose(project(number)).await.unwrap();
                assert_eq!(applied.reply.rejected(), None);
                assert!(knows(&handle, number), "node {id} reads what it just wrote");
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    // Many at once: they share frames and log entries' syncs.
    let follower = nodes[&2].handle();
    let many = futures::future::join_all((5000..5600).map(|n| follower.propose(project(n)))).await;
    assert!(many.iter().all(|applied| applied.as_ref().is_ok_and(|a| a.reply.rejected().is_none())));
    let last = many.iter().map(|applied| applied.as_ref().unwrap().index).max().unwrap();
    agree(&nodes[&1], &nodes[&2], last).await;
    agree(&nodes[&1], &nodes[&3], last).await;

    // A refusal is an answer here too, and says the same as on the leader.
    let refused = follower.propose(project(5000)).await.unwrap().reply;
    let here = nodes[&1].handle().propose(project(5000)).await.unwrap().reply;
    assert!(refused.rejected().is_some());
    assert_eq!(refused, here);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p7_an_entry_of_one_term_is_never_forwarded() {
    let nodes = cluster().await;
    let term = nodes[&1].handle().metrics().term;
    let mut pinned = project(77);
    pinned.term = Some(term);
    let refused = nodes[&2].handle().propose(pinned.clone()).await.unwrap_err();
    assert_eq!(refused, ProposeError::NotLeader { leader: Some(NodeId(1)) });
    assert!(nodes[&1].handle().propose(pinned).await.unwrap().reply.rejected().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_the_leader_stamps_what_others_bring() {
    let nodes = cluster().await;
    nodes[&1].handle().set_stamp(Arc::new(|| model::Millis(777_000)));
    let mut late = project(901);
    late.at = model::Millis(999_999_999);
    nodes[&3].handle().propose(late).await.unwrap();
    assert_eq!(nodes[&3].handle().read(model::State::now), model::Millis(777_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_through_any_node_see_every_write_that_came_before() {
    let nodes = cluster().await;
    for n in 0..30_usize {
        let (writer, reader) = (&nodes[&(n as u64 % 3 + 1)], &nodes[&((n as u64 + 1) % 3 + 1)]);
        writer.handle().propose(project(2000 + n)).await.unwrap();
        reader.handle().linearize().await.unwrap();
        assert!(knows(reader.handle(), 2000 + n), "round {n}");
    }
    let reader = nodes[&3].handle();
    let index = propose(nodes[&1].handle(), 3000..3001).await;
    let reads = futures::future::join_all((0..200).map(|_| reader.linearize())).await;
    assert!(reads.iter().all(|read| *read.as_ref().unwrap() >= index));
    assert!(knows(reader, 3000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p17_a_node_knows_how_fresh_it_is() {
    let mut nodes = cluster().await;
    let fresh = |handle: Handle| async move {
        while !handle.is_fresh() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    for id in 1..=3 {
        let waited = tokio::time::timeout(PATIENCE, fresh(nodes[&id].handle().clone())).await;
        waited.expect("it is confirmed in the background");
        assert!(!nodes[&id].handle().out_of_contact());
    }
    nodes.get_mut(&1).unwrap().stop().await;
    nodes.get_mut(&2).unwrap().stop().await;
    let alone = nodes[&3].handle().clone();
    let cut_off = async {
        while alone.is_fresh() || !alone.out_of_contact() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, cut_off).await.expect("without a quorum nothing is confirmed");
    assert!(alone.linearize().await.is_err());
    let lost = alone.propose(project(1)).await.unwrap_err();
    assert!(!matches!(lost, ProposeError::Stopped(_)), "{lost}");
}

/// Writes through one node until told to stop, each project under one request id, and remembers what was acknowledged.
async fn write_on(handle: Handle, first: usize, stop: Arc<AtomicBool>, done: Arc<AtomicUsize>) -> Vec<usize> {
    let mut acknowledged = Vec::new();
    let mut n = first;
    while !stop.load(Ordering::SeqCst) {
        let mut wish = project(n);
        wish.request_id = Some(Uuid::from_u128(0x4000_0000_8000_0000_0000_0000 + n as u128));
        loop {
            match handle.propose(wish.clone()).await {
                Ok(applied) => {
                    // Done twice it would be refused: the name is taken.
                    assert_eq!(applied.reply.rejected(), None, "project {n}");
                    break;
                }
                Err(ProposeError::Unknown(_) | ProposeError::NotLeader { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        acknowledged.push(n);
        done.fetch_add(1, Ordering::SeqCst);
        n += 1;
    }
    acknowledged
}

async fn more_than(done: &AtomicUsize, count: usize) {
    let waited = async {
        while done.load(Ordering::SeqCst) < count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.expect("writes go on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_killed_under_writes_loses_and_doubles_nothing() {
    let mut nodes: BTreeMap<u64, Node> = cluster().await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut writers = Vec::new();
    for id in [2_u64, 3] {
        for lane in 0..8 {
            let first = usize::try_from(id).unwrap() * 1_000_000 + lane * 10_000;
            let handle = nodes[&id].handle().clone();
            writers.push(tokio::spawn(write_on(handle, first, stop.clone(), done.clone())));
        }
    }
    more_than(&done, 200).await;
    nodes.get_mut(&1).unwrap().stop().await;
    let at_kill = done.load(Ordering::SeqCst);
    more_than(&done, at_kill + 200).await;
    stop.store(true, Ordering::SeqCst);
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    nodes.get_mut(&1).unwrap().restart().await;

    let index = nodes[&2].handle().linearize().await.unwrap();
    agree(&nodes[&2], &nodes[&3], index).await;
    agree(&nodes[&2], &nodes[&1], index).await;
    let reader = nodes[&2].handle();
    for n in &acknowledged {
        assert!(knows(reader, *n), "project {n} was acknowledged");
    }
    // Ten of the cluster's start, and each of these once.
    assert_eq!(reader.read(|state| state.projects().len()), 10 + acknowledged.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_leader_a_proposal_says_so_within_its_bound() {
    let alone = Node::start(2).await;
    let began = std::time::Instant::now();
    let wish = entry(model::Actor::System, model::Command::Batch(Vec::new()));
    let refused = alone.handle().propose(wish).await.unwrap_err();
    assert_eq!(refused, ProposeError::NotLeader { leader: None });
    assert!(began.elapsed() >= crate::propose::LEADER_PATIENCE);
}
