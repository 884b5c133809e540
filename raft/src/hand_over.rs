//! Tests: planned hand-over of leadership, refusal to lead, and the changes of P21.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use stratavore_model::NodeId;

use crate::error::{MembershipError, TransferError};
use crate::three_nodes::{Node, PATIENCE, agree, cluster, project, propose, reaches};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_under_writes() {
    let nodes = cluster().await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (handle, stop) = (nodes[&3].handle().clone(), stop.clone());
        tokio::spawn(async move {
            let (mut longest, mut n) = (Duration::ZERO, 500);
            while !stop.load(Ordering::SeqCst) {
                let began = Instant::now();
                let applied = handle.propose(project(n)).await.unwrap();
                assert!(applied.reply.rejected().is_none());
                longest = longest.max(began.elapsed());
                n += 1;
            }
            longest
        })
    };
    let term = nodes[&1].handle().metrics().term;
    let leader = nodes[&1].handle().transfer_leadership(Some(NodeId(2))).await.unwrap();
    assert_eq!(leader, NodeId(2));
    for id in 1..=3 {
        let mut leadership = nodes[&id].handle().leadership();
        let seen = leadership.wait_for(|now| now.leader == Some(NodeId(2)) && now.term > term);
        tokio::time::timeout(PATIENCE, seen).await.expect("every node learns of it").unwrap();
    }
    let last = propose(nodes[&1].handle(), 100..140).await;
    stop.store(true, Ordering::SeqCst);
    let longest = writer.await.unwrap();
    println!("the longest write during the hand-over took {longest:?}");
    // An election would have needed the lease of three seconds: this was none.
    assert!(longest < Duration::from_secs(3), "{longest:?}");
    reaches(&nodes[&2], last).await;
    let not_mine = nodes[&1].handle().transfer_leadership(None).await.unwrap_err();
    assert_eq!(not_mine, TransferError::NotLeader { leader: Some(NodeId(2)) });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p24_a_node_that_may_not_lead_is_handed_nothing_and_does_not_campaign() {
    let mut nodes = cluster().await;
    nodes[&2].handle().set_may_lead(false);
    let named = nodes[&1].handle().transfer_leadership(Some(NodeId(2))).await.unwrap_err();
    assert!(matches!(&named, TransferError::Refused(reason) if reason.contains("may not lead")), "{named}");
    // Refused before anything was given away: it still leads.
    propose(nodes[&1].handle(), 50..55).await;
    assert_eq!(nodes[&1].handle().transfer_leadership(None).await.unwrap(), NodeId(3));

    // The same in an election: only node 1 is left as a candidate, which it can be with all that is committed only.
    let last = propose(nodes[&3].handle(), 55..60).await;
    agree(&nodes[&1], &nodes[&2], last).await;
    nodes.get_mut(&3).unwrap().stop().await;
    let mut leadership = nodes[&2].handle().leadership();
    let elected = leadership.wait_for(|now| now.leader == Some(NodeId(1)));
    tokio::time::timeout(PATIENCE, elected).await.expect("the other is elected").unwrap();
    propose(nodes[&2].handle(), 60..65).await;
}

/// Polls until a learner may get a vote.
async fn caught_up(leader: &Node, node: u64) {
    let waited = async {
        while !leader.handle().is_caught_up(NodeId(node)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.expect("the learner catches up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p21_a_dead_voter_is_replaced_in_one_joint_change() {
    let mut nodes = cluster().await;
    nodes.get_mut(&3).unwrap().stop().await;
    let fourth = Node::start(4).await;
    let leader = nodes[&1].handle();
    let seen = leader.membership();
    let votes = [1, 2, 4].map(NodeId);
    let early = leader.set_votes(&seen, votes).await.unwrap_err();
    assert!(matches!(early, MembershipError::Conflict(_)), "not a learner yet: {early}");
    leader.add_learner(&seen, NodeId(4), fourth.address.to_string()).await.unwrap();
    caught_up(&nodes[&1], 4).await;
    assert!(leader.set_votes(&seen, votes).await.is_err(), "an old view is refused");
    let seen = leader.membership();
    leader.set_votes(&seen, votes).await.unwrap();
    leader.remove_learner(&leader.membership(), NodeId(3)).await.unwrap();
    let now = leader.membership();
    assert_eq!(now.voters().collect::<Vec<_>>(), [1, 2, 4].map(NodeId));
    assert!(!now.joint && now.members.iter().all(|member| member.node != NodeId(3)), "{now:?}");
    let last = propose(fourth.handle(), 20..40).await;
    agree(&nodes[&1], &fourth, last).await;

    // The one that came back too late is told, and keeps nobody from working.
    nodes.get_mut(&3).unwrap().restart().await;
    let mut removed = nodes[&3].handle().removed();
    tokio::time::timeout(PATIENCE, removed.wait_for(|removed| *removed)).await.expect("it is told").unwrap();
    propose(nodes[&2].handle(), 40..45).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_notices_and_the_rest_goes_on() {
    let nodes = cluster().await;
    let leader = nodes[&1].handle();
    let progress = leader.progress();
    assert_eq!(progress.len(), 3);
    assert!(progress.iter().all(|member| member.voter && member.lag <= 100), "{progress:?}");
    assert!(nodes[&2].handle().progress().is_empty(), "only the leader knows");
    let voter = leader.remove_learner(&leader.membership(), NodeId(2)).await.unwrap_err();
    assert!(matches!(voter, MembershipError::Conflict(_)), "it has a vote: {voter}");
    let mut removed = nodes[&2].handle().removed();
    assert!(!*removed.borrow());
    leader.set_votes(&leader.membership(), [1, 3].map(NodeId)).await.unwrap();
    assert!(!*removed.borrow(), "without a vote it is a member still");
    leader.remove_learner(&leader.membership(), NodeId(2)).await.unwrap();
    tokio::time::timeout(PATIENCE, removed.wait_for(|removed| *removed)).await.expect("it notices").unwrap();
    assert!(!*nodes[&3].handle().removed().borrow());
    propose(nodes[&3].handle(), 30..40).await;
}
