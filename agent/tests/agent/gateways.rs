//! P17, P18: several gateways, and which of them an agent follows.

use std::time::Duration;

use stratavore_proto::v1;
use stratavore_proto::v1::RunnerState::Running;
use stratavore_proto::v1::node_message::Message as Down;
use tokio::time::Instant;

use crate::support::{Agent, Control, Farm, Gateway, alive, run_order, unique_id, until, within};

/// An agent at the first of two gateways, with a runner, that knows both.
async fn linked() -> (Farm, Gateway, Agent, Control, String, u32) {
    let (farm, second) = Farm::with_two_gateways().await;
    let runner = unique_id();
    let agent = farm.agent();
    let mut control = farm.gateway.accept().await;
    control.nodes = vec![farm.gateway.node_address(1), second.node_address(2)];
    control.welcome(10, vec![run_order(&runner, 10, "exec sleep 1000")]).await;
    let pid = control.state_of(&runner, Running).await.pid;
    (farm, second, agent, control, runner, pid)
}

async fn closed(connection: quinn::Connection) {
    drop(connection.closed().await);
}

#[tokio::test]
async fn p17_a_gateway_without_answers_is_left_only_for_one_that_answers() {
    let (_farm, second, _agent, old, runner, pid) = linked().await;
    // The first gateway lives, but has no leader: renewals stay unanswered.
    let mut new = second.accept().await;
    assert!(new.hello.connection > old.hello.connection, "P14");
    assert!(new.hello.runners.iter().any(|report| report.runner == runner && report.pid == pid));
    new.welcome(10, vec![run_order(&runner, 10, "exec sleep 1000")]).await;
    // Welcomed is not enough.
    let still = tokio::time::timeout(Duration::from_millis(500), old.connection.closed()).await;
    assert!(still.is_err(), "the old link was closed before the new one answered");
    new.serve_until("the old link ends", closed(old.connection.clone())).await;
    assert!(alive(pid));
}

#[tokio::test]
async fn p17_a_gateway_that_answers_again_in_time_is_kept() {
    let (_farm, second, agent, mut old, _, _) = linked().await;
    // The second one takes no connection, so nobody else can be greeted.
    agent.says("another link is tried").await;
    old.serve_until("it stays", async {
        agent.says("the present node answers again").await;
    })
    .await;
    old.grants_more(5).await;
    assert!(old.connection.close_reason().is_none());
    drop(second);
}

#[tokio::test]
async fn p17_going_away_is_advice_until_another_node_answers() {
    let (_farm, second, _agent, mut old, runner, _) = linked().await;
    let go = v1::GoAway { reason: "no leader is known".into(), code: "no_leader".into() };
    old.send(Down::GoAway(go)).await;
    let mut new = None;
    old.serve_until("the other is dialled", async { new = Some(second.accept().await) }).await;
    let mut new = new.unwrap();
    old.grants_more(5).await;
    assert!(old.connection.close_reason().is_none(), "advice only");
    new.welcome(10, vec![run_order(&runner, 10, "exec sleep 1000")]).await;
    new.serve_until("the old link ends", closed(old.connection.clone())).await;
}

#[tokio::test]
async fn p17_a_dead_gateway_is_noticed_and_left_within_seconds() {
    let (farm, second, _agent, mut old, runner, pid) = linked().await;
    old.grants_more(3).await;
    let Farm { gateway, .. } = &farm;
    let dead = Instant::now();
    gateway.vanish();
    let mut new = second.accept().await;
    new.welcome(10, vec![run_order(&runner, 10, "exec sleep 1000")]).await;
    new.grants_more(3).await;
    let moved = dead.elapsed();
    eprintln!("gateway_dead_to_answered_elsewhere {} ms", moved.as_millis());
    // QUIC alone would take 45 s.
    assert!(moved < Duration::from_secs(10), "{moved:?}");
    assert!(alive(pid));
}

#[tokio::test]
async fn p17_a_node_that_stops_is_left_at_once() {
    let (_farm, second, _agent, mut old, runner, _) = linked().await;
    let go = v1::GoAway { reason: "the node stops".into(), code: "stopping".into() };
    old.send(Down::GoAway(go)).await;
    let mut new = within("the next is dialled", second.accept()).await;
    new.welcome(10, vec![run_order(&runner, 10, "exec sleep 1000")]).await;
    new.serve_until("the old link ends", closed(old.connection.clone())).await;
}

#[tokio::test]
async fn p18_changes_of_the_bundle_are_kept_on_disk() {
    let (farm, second, agent, mut control, _, _) = linked().await;
    let update = v1::TrustUpdate { trusted: vec![], nodes: vec![second.node_address(2)] };
    control.send(Down::Trust(update)).await;
    let stored = farm.data_dir().join("trust.json");
    let has = |address: String| std::fs::read_to_string(&stored).is_ok_and(|text| text.contains(&address));
    let (first, second_address) = (farm.gateway.address().to_string(), second.address().to_string());
    until("it is stored", || has(second_address.clone()) && !has(first.clone())).await;
    agent.kill().await;
    let _agent = farm.agent();
    second.accept().await;
}
