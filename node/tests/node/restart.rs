//! What was acknowledged is there after a restart, and agents find the node again.

use stratavore_proto::v1;

use crate::client::Client;
use crate::fake_agent::{Host, observation};
use crate::harness::Node;

#[tokio::test(flavor = "multi_thread")]
async fn projects_runners_hosts_events_and_people_are_still_there() {
    let mut node = Node::start().await;
    let host = Host::join(&node, "h1").await;
    let mut agent = host.connect(&node).await;
    let mut client = Client::admin(&node).await;
    client.project("demo").await;
    let id = client.launch("demo", 1).await.runners[0].id.clone();
    let order = agent.order(&id, v1::Want::Run).await;
    agent.report(vec![observation(&order, 1, v1::RunnerState::Running)]).await;
    agent.acknowledged().await;
    let before = client.status().await;

    node.stop().await;
    node.start_again().await;
    let mut client = Client::admin(&node).await;
    let after = client.status().await;
    assert_eq!((after.cluster_id, after.incarnation), (before.cluster_id, before.incarnation));
    assert_eq!((after.projects, after.hosts.len()), (1, 1));
    assert!(after.nodes[0].term > before.nodes[0].term, "a new term after every start");
    let runner = client.runner(&id).await;
    assert_eq!((runner.state(), runner.pid), (v1::RunnerState::Running, 4242));

    let hello = v1::Hello {
        runners: vec![observation(&order, 1, v1::RunnerState::Running)],
        host_epoch: agent.host_epoch,
        seen: Some(v1::Epoch { incarnation: 1, index: order.epoch.unwrap().index }),
        ..host.hello()
    };
    let again = host.connect_as(&node, hello).await;
    assert_eq!(again.host_epoch, agent.host_epoch, "the host epoch outlives the node (P3)");
    assert_eq!(client.runner(&id).await.epoch, order.epoch);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_addresses_are_told_to_the_cluster() {
    let mut node = Node::start().await;
    node.stop().await;
    let port = crate::harness::config().daemon.grpc_port;
    node.config.daemon.grpc_port = port;
    node.start_again().await;
    let wanted = format!("127.0.0.1:{}", port.unwrap());
    crate::harness::eventually("the new address", || async {
        let status = Client::admin(&node).await.status().await;
        (status.nodes[0].address == wanted).then_some(())
    })
    .await;
}
