//! Agents of any node: grants, orders, reports and terminals find their way.

use stratavore_proto::v1::{self, agent_message, attach_response, host_stream_reply, node_message};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::client::{Client, request_id};
use crate::cluster::Cluster;
use crate::fake_agent::{Agent, Host, observation};
use crate::harness::{eventually, soon};
use crate::terminal::{HostStream, input, open};

fn grant(message: node_message::Message) -> Option<v1::Grant> {
    if let node_message::Message::Grant(grant) = message { Some(grant) } else { None }
}

/// Renews until there is an answer, as an agent does.
async fn renewed(agent: &mut Agent, b0_ns: u64) -> v1::Grant {
    for attempt in 0.. {
        let renewal = v1::Renewal { b0_ns: b0_ns + attempt, ..agent.renewal() };
        agent.say(agent_message::Message::Renewal(renewal)).await;
        let wait = std::time::Duration::from_millis(500);
        if let Ok(granted) = tokio::time::timeout(wait, agent.wait_for(grant)).await {
            return granted;
        }
        assert!(attempt < 100, "no grant");
    }
    unreachable!()
}

/// A cluster with a host on a follower and a running runner.
struct Scene {
    cluster: Cluster,
    host: Host,
    agent: Agent,
    gateway: usize,
    order: v1::DesiredRunner,
}

impl Scene {
    async fn new() -> Self {
        // What is sent by and by hides what should have been sent at once.
        let seldom =
            |config: &mut stratavore_node::config::Config| config.daemon.reconcile_interval_seconds = 3600;
        let cluster = Cluster::start_with(3, seldom).await;
        let gateway = cluster.follower().await;
        let host = Host::join(&cluster.nodes[0], "h1").await;
        let mut agent = host.connect(&cluster.nodes[gateway]).await;
        let leader = cluster.leader().await;
        let mut client = cluster.client(leader).await;
        client.project("demo").await;
        let id = client.launch("demo", 1).await.runners[0].id.clone();
        let order = agent.order(&id, v1::Want::Run).await;
        agent.report(vec![observation(&order, 1, v1::RunnerState::Running)]).await;
        agent.acknowledged().await;
        Self { cluster, host, agent, gateway, order }
    }

    /// A node that is neither the gateway nor necessarily the leader.
    async fn elsewhere(&self) -> Client {
        let other = (0..3).find(|index| *index != self.gateway && self.cluster.nodes[*index].is_running());
        self.cluster.client(other.unwrap()).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p6_a_follower_relays_renewals_and_the_grant_echoes_them_exactly() {
    let mut scene = Scene::new().await;
    let sent = v1::Renewal { b0_ns: 77, ..scene.agent.renewal() };
    let granted = renewed(&mut scene.agent, 77).await;
    let renewal = granted.renewal.unwrap();
    assert_eq!((renewal.host_epoch, renewal.boot_id), (sent.host_epoch, sent.boot_id));
    assert!(granted.unbounded, "the only host (P13)");
    let welcome = scene.agent.welcome.clone().unwrap();
    assert_eq!((welcome.nodes.len(), welcome.trusted.len()), (3, 3));
    // A host epoch that never was: the leader's refusal comes back the same way.
    let wrong =
        v1::Renewal { host_epoch: Some(v1::Epoch { incarnation: 1, index: 1 }), ..scene.agent.renewal() };
    scene.agent.say(agent_message::Message::Renewal(wrong)).await;
    let refused = scene
        .agent
        .wait_for(|message| match message {
            node_message::Message::Refused(refused) => Some(refused),
            _ => None,
        })
        .await;
    assert_eq!(refused.code, "fenced");
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_a_leader_without_its_quorum_grants_nothing() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let host = Host::join(&cluster.nodes[0], "h1").await;
    let mut agent = host.connect(&cluster.nodes[leader]).await;
    renewed(&mut agent, 1).await;
    for other in (0..3).filter(|other| *other != leader) {
        cluster.nodes[other].halt().await;
    }
    // It takes itself for the leader still, but nobody confirms that.
    let renewal = v1::Renewal { b0_ns: 7_000, ..agent.renewal() };
    agent.say(agent_message::Message::Renewal(renewal)).await;
    let late = |message| grant(message).filter(|grant| grant.renewal.as_ref().unwrap().b0_ns == 7_000);
    let granted = tokio::time::timeout(std::time::Duration::from_secs(3), agent.wait_for(late)).await;
    assert!(granted.is_err(), "{granted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p16_after_a_jump_of_the_state_the_gateway_sends_the_full_set() {
    let mut scene = Scene::new().await;
    let full = |message| match message {
        node_message::Message::Desired(desired) if desired.full => Some(desired),
        _ => None,
    };
    let peer = stratavore_model::NodeId((scene.gateway as u64 + 1) % 3 + 1);
    scene.cluster.nodes[scene.gateway].raft().rebuild_state_from(peer).await.unwrap();
    let set = scene.agent.wait_for(full).await;
    assert_eq!(set.runners.len(), 1, "{set:?}");
    assert_eq!((&set.runners[0].runner, set.runners[0].epoch), (&scene.order.runner, scene.order.epoch));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_change_breaks_no_agent_connection() {
    let mut scene = Scene::new().await;
    renewed(&mut scene.agent, 100).await;
    let leader = scene.cluster.leader().await;
    scene.cluster.nodes[leader].halt().await;
    let granted = renewed(&mut scene.agent, 10_000).await;
    assert!(granted.renewal.unwrap().b0_ns >= 10_000);
    assert!(scene.agent.quic.close_reason().is_none());
    // Reports go on over the same connection.
    scene.agent.report(vec![observation(&scene.order, 2, v1::RunnerState::Running)]).await;
    assert_eq!(scene.agent.acknowledged().await[0].rev, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_dispatches_to_its_own_hosts_what_any_node_took() {
    let mut scene = Scene::new().await;
    let id = scene.order.runner.clone();
    let mut client = scene.elsewhere().await;
    let kill =
        v1::KillRunnersRequest { request_id: request_id(), runners: vec![id.clone()], ..Default::default() };
    client.runners.kill_runners(kill).await.unwrap();
    scene.agent.order(&id, v1::Want::Stop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_reached_through_any_node() {
    let scene = Scene::new().await;
    let quic = scene.agent.quic.clone();
    let host = tokio::spawn(async move {
        let mut stream = HostStream::accept(&quic).await;
        let ready = v1::AttachReady { driver: true, ..Default::default() };
        stream.attached(attach_response::Message::Ready(ready)).await;
        let typed: v1::AttachRequest = soon("typing", stream.reader.next()).await.unwrap().unwrap();
        assert_eq!(typed, input(b"ls\n"));
        for n in 0..100u64 {
            let data = vec![7; 32 * 1024];
            let output = v1::AttachOutput { data: data.into(), offset: n * 32 * 1024, stderr: false };
            stream.attached(attach_response::Message::Output(output)).await;
        }
        stream.send.finish().unwrap();
        soon("the end", stream.send.stopped()).await.ok();
        let mut screen = HostStream::accept(&quic).await;
        screen.reply(host_stream_reply::Reply::Screen(v1::GetScreenResponse::default())).await;
        screen.send.finish().unwrap();
        let mut refused = HostStream::accept(&quic).await;
        refused.refuse("no_terminal").await;
        refused.send.finish().unwrap();
        soon("the end", refused.send.stopped()).await.ok();
    });
    let mut client = scene.elsewhere().await;
    let (up, requests) = mpsc::channel(4);
    up.send(open(&scene.order.runner)).await.unwrap();
    let mut down = client.terminal.attach(ReceiverStream::new(requests)).await.unwrap().into_inner();
    let ready = soon("ready", down.message()).await.unwrap().unwrap().message.unwrap();
    assert!(matches!(ready, attach_response::Message::Ready(ready) if ready.driver));
    up.send(input(b"ls\n")).await.unwrap();
    let mut next = 0;
    while let Some(message) = soon("output", down.message()).await.unwrap() {
        let attach_response::Message::Output(output) = message.message.unwrap() else { continue };
        assert_eq!(output.offset, next);
        next += output.data.len() as u64;
    }
    assert_eq!(next, 100 * 32 * 1024);
    let screen = v1::GetScreenRequest { runner: scene.order.runner.clone() };
    client.terminal.get_screen(screen.clone()).await.unwrap();
    let refused = client.terminal.get_screen(screen).await.unwrap_err();
    assert_eq!(crate::client::reason(&refused), "no_terminal");
    host.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_strangers_may_not_speak_for_nodes() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    let config = stratavore_certs::tls::grpc_client(&node.admin()).unwrap();
    let channel = crate::client::channel(node.at.grpc, config).await.unwrap();
    let mut peer = v1::peer_service_client::PeerServiceClient::new(channel);
    let status = peer.renew(tokio_stream::empty()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn p17_a_gateway_without_quorum_pushes_nothing_and_advises_to_leave() {
    let mut scene = Scene::new().await;
    for index in 0..3 {
        if index != scene.gateway {
            scene.cluster.nodes[index].halt().await;
        }
    }
    let advice = scene
        .agent
        .wait_for(|message| match message {
            node_message::Message::GoAway(go_away) => Some(go_away),
            _ => None,
        })
        .await;
    assert_eq!(advice.code, "no_leader");
    assert!(scene.agent.quic.close_reason().is_none(), "connections stay");
    let mut client = scene.cluster.client(scene.gateway).await;
    let screen = v1::GetScreenRequest { runner: scene.order.runner.clone() };
    client.terminal.get_screen(screen).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn p18_a_removed_host_is_cut_off_wherever_it_is_connected() {
    let mut scene = Scene::new().await;
    let remove = v1::RemoveHostRequest { request_id: request_id(), host: "h1".into(), force: true };
    scene.elsewhere().await.hosts.remove_host(remove).await.unwrap();
    let removed = scene
        .agent
        .wait_for(|message| match message {
            node_message::Message::Removed(removed) => Some(removed),
            _ => None,
        })
        .await;
    assert!(!removed.reason.is_empty());
    eventually("the refusal everywhere", || async {
        for node in scene.cluster.running() {
            // The handshake may succeed on this side before the verdict arrives.
            if let Ok(quic) = scene.host.quic(node.at.quic).await
                && tokio::time::timeout(std::time::Duration::from_secs(5), quic.closed()).await.is_err()
            {
                return None;
            }
        }
        Some(())
    })
    .await;
}
