//! Nodes join, vote in odd numbers, serve every request, come and go (P21).

use stratavore_certs::{Credentials, KeyPair, Role};
use stratavore_model::command::RemoveNode;
use stratavore_model::{Actor, Command, Entry, Millis, NodeId};
use stratavore_node::exit::Code;
use stratavore_node::server::Server;
use stratavore_node::{config, joining};
use stratavore_proto::v1;

use crate::client::{Client, join, join_request, reason, request_id};
use crate::cluster::Cluster;
use crate::harness::{Node, eventually, options, soon};

#[tokio::test(flavor = "multi_thread")]
async fn p21_a_second_node_learns_and_a_third_makes_both_voters() {
    let mut cluster = Cluster { nodes: vec![Node::start().await] };
    let second = cluster.add().await;
    let learner = |node: &Node| {
        let view = node.raft().membership();
        let voters: Vec<NodeId> = view.voters().collect();
        (view.members.len(), voters)
    };
    eventually("the learner", || async {
        (learner(&cluster.nodes[second]) == (2, vec![NodeId(1)])).then_some(())
    })
    .await;
    // It serves already, though it has no vote.
    cluster.client(second).await.project("early").await;
    assert_eq!(learner(&cluster.nodes[0]), (2, vec![NodeId(1)]));
    let third = cluster.add().await;
    cluster.await_voters(&[1, 2, 3]).await;
    let digests = eventually("equal digests", || async {
        let all: Vec<_> = cluster.running().map(|node| node.raft().digest()).collect();
        all.iter().all(|digest| *digest == all[0]).then_some(all.len())
    })
    .await;
    assert_eq!((third, digests), (2, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn any_node_serves_any_request_and_reads_what_another_wrote() {
    let cluster = Cluster::start(3).await;
    for index in 0..3 {
        let name = format!("p{index}");
        cluster.client(index).await.project(&name).await;
        for other in 0..3 {
            let list = v1::ListProjectsRequest::default();
            let listed = cluster.client(other).await.projects.list_projects(list).await.unwrap().into_inner();
            assert!(listed.projects.iter().any(|project| project.name == name), "{name} through {other}");
        }
    }
    let follower = cluster.follower().await;
    let token = cluster.client(follower).await.token(Role::Host, 0).await;
    let key = KeyPair::generate().unwrap();
    // A lost answer, asked for again at another node.
    let first = join(&cluster.nodes[follower], &token, join_request(&token, &key)).await.unwrap();
    let leader = cluster.leader().await;
    let again = join(&cluster.nodes[leader], &token, join_request(&token, &key)).await.unwrap();
    assert_eq!(first.id, again.id);
    Credentials::new(&again.ca_der, &again.certificate_der, key).unwrap();
    assert_eq!(again.trusted.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mutation_outlives_the_death_of_the_leader_under_one_request_id() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    let mut client = cluster.client(follower).await;
    client.project("demo").await;
    cluster.nodes[leader].halt().await;
    let request = crate::client::launch("demo", 1);
    let first =
        soon("the launch", client.runners.launch_runners(request.clone())).await.unwrap().into_inner();
    let again = client.runners.launch_runners(request).await.unwrap().into_inner();
    assert_eq!(first.runners[0].id, again.runners[0].id);
    assert_ne!(cluster.leader().await, leader);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_stop_hands_leadership_over() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let term = cluster.nodes[leader].raft().leadership().borrow().term;
    cluster.nodes[leader].stop().await;
    let next = cluster.leader().await;
    let now = *cluster.nodes[next].raft().leadership().borrow();
    assert_eq!(now.term, term + 1, "one hand-over, no rounds of elections");
    cluster.client(next).await.project("demo").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_quorum_status_and_stale_reads_answer_and_say_so() {
    let mut cluster = Cluster::start(3).await;
    cluster.client(0).await.project("demo").await;
    cluster.nodes[1].halt().await;
    cluster.nodes[2].halt().await;
    let mut client = cluster.client(0).await;
    let status = client.status().await;
    assert!(!status.quorum && status.info.unwrap().stale);
    let list = v1::ListRunnersRequest { read: Some(v1::ReadOptions { stale: true }), ..Default::default() };
    assert!(client.runners.list_runners(list).await.unwrap().into_inner().info.unwrap().stale);
    let refused = client.runners.list_runners(v1::ListRunnersRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable);
}

async fn remove(cluster: &Cluster, node: u64) {
    let leader = cluster.leader().await;
    let entry = Entry {
        actor: Actor::User("admin".parse().unwrap()),
        request_id: Some(uuid::Uuid::now_v7()),
        at: Millis(u64::try_from(uuid_millis()).unwrap()),
        term: None,
        command: Command::RemoveNode(RemoveNode { node: NodeId(node) }),
    };
    let applied = cluster.nodes[leader].raft().propose(entry).await.unwrap();
    assert_eq!(applied.reply.rejected(), None);
}

fn uuid_millis() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis()
}

#[tokio::test(flavor = "multi_thread")]
async fn p21_a_dead_voter_is_exchanged_for_a_learner_and_a_removed_node_says_so_and_ends() {
    let mut cluster = Cluster::start(3).await;
    let fourth = cluster.add().await;
    eventually("the learner", || async {
        (cluster.nodes[fourth].raft().membership().members.len() == 4).then_some(())
    })
    .await;
    cluster.nodes[2].halt().await;
    remove(&cluster, 3).await;
    cluster.await_voters(&[1, 2, 4]).await;
    // Started again, it learns it from the others: its certificate is refused.
    cluster.nodes[2].start_again().await;
    let failure = soon("the end of the removed node", cluster.nodes[2].failed()).await;
    assert_eq!(failure.code, Code::Removed, "{failure}");
    cluster.nodes[2].halt().await;
    let dir = cluster.nodes[2].dir.path();
    let again = Server::start(options(dir, &cluster.nodes[2].config)).await.unwrap_err();
    assert_eq!(again.code, Code::Removed, "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_living_node_that_is_removed_leaves_and_ends() {
    let mut cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    let id = follower as u64 + 1;
    remove(&cluster, id).await;
    let failure = soon("the end of the removed node", cluster.nodes[follower].failed()).await;
    assert_eq!(failure.code, Code::Removed, "{failure}");
    cluster.nodes[follower].halt().await;
    let leader = cluster.leader().await;
    cluster.await_voters(&[leader as u64 + 1]).await;
    cluster.client(leader).await.project("demo").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p21_loopback_and_other_addresses_do_not_mix() {
    let node = Node::start().await;
    let token = Client::admin(&node).await.token(Role::Node, 0).await;
    let key = KeyPair::generate().unwrap();
    let address = v1::NodeAddress { raft: "10.1.2.3:50053".into(), ..Default::default() };
    let request = v1::JoinRequest { node: Some(address), ..join_request(&token, &key) };
    let status = join(&node, &token, request).await.unwrap_err();
    assert!(["bad_argument", "loopback_address"].contains(&reason(&status).as_str()), "{status:?}");
    assert!(status.message().contains("127.0.0.1"), "{}", status.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_something_else_or_a_directory_in_use_is_refused() {
    let node = Node::start().await;
    let request = |token| joining::Request {
        servers: vec![node.at.join.to_string()],
        token,
        advertise: "127.0.0.1".parse().unwrap(),
    };
    let mut admin = Client::admin(&node).await;
    let dir = tempfile::tempdir().unwrap();
    let config = config::Config::default();
    let host = admin.token(Role::Host, 0).await;
    let failure = joining::join(dir.path(), request(host), &config).await.unwrap_err();
    assert_eq!(failure.code, Code::Usage, "{failure}");
    let token = admin.token(Role::Node, 0).await;
    let failure = joining::join(node.dir.path(), request(token), &config).await.unwrap_err();
    assert_eq!(failure.code, Code::Conflict, "{failure}");
    let spent = admin.token(Role::Node, 0).await;
    let revoke = v1::RevokeTokenRequest { request_id: request_id(), token_id: spent.id().to_owned() };
    admin.tokens.revoke_token(revoke).await.unwrap();
    let failure = joining::join(dir.path(), request(spent), &config).await.unwrap_err();
    assert_eq!(failure.code, Code::Permission, "{failure}");
}

/// One node's certificate at another one's address: whoever dials must not take it for the node that is meant.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_dialled_under_a_wrong_identity_is_refused() {
    let cluster = Cluster::start(3).await;
    let credentials = Credentials::load(&cluster.nodes[0].dir.path().join("pki"), "node").unwrap();
    let config = stratavore_certs::tls::raft_client(&credentials, 3).unwrap();
    let error = crate::client::channel(cluster.nodes[1].at.raft, config).await.unwrap_err();
    let refusal = stratavore_certs::tls::Refusal::find(&error).unwrap().to_string();
    assert!(refusal.contains("node 2") && refusal.contains("node 3"), "{refusal}");
}
