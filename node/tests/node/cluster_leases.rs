//! Leases over several nodes: hosts that fall silent are fenced, and what may be replaced is (P7, P8, P13).

use std::time::{Duration, Instant};

use stratavore_proto::frame;
use stratavore_proto::v1::{self, agent_message, node_message};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::client::{Client, request_id};
use crate::cluster::Cluster;
use crate::fake_agent::{Agent, Host, observation};
use crate::harness::{Node, eventually};

/// A lease that a test can wait for.
const TTL_MS: u64 = 3_000;
const HOLD_MS: u64 = 5_000;

fn short(config: &mut stratavore_node::config::Config) {
    config.lease.ttl_ms = TTL_MS;
    config.lease.renew_ms = 500;
    config.lease.kill_grace_ms = 100;
    config.lease.hold_ms = HOLD_MS;
    config.lease.hold_max_ms = 20_000;
}

/// An agent whose shims hold deadlines, as far as its renewals say: they go on until it falls silent.
struct Renewing {
    agent: Agent,
    say: mpsc::Sender<agent_message::Message>,
    renewals: JoinHandle<()>,
}

impl Renewing {
    async fn of(mut agent: Agent) -> Self {
        // The control stream is the renewer's now; nobody sees a stream on which nothing is written.
        let (unused, _) = agent.quic.open_bi().await.unwrap();
        let mut control = std::mem::replace(&mut agent.send, unused);
        let renewal = agent.renewal();
        let (say, mut said) = mpsc::channel(16);
        let renewals = tokio::spawn(async move {
            for n in 0.. {
                let renewal = v1::Renewal { b0_ns: 1_000 + n, bounded: true, ..renewal.clone() };
                let pause = tokio::time::timeout(Duration::from_millis(100), said.recv()).await;
                let message = match pause {
                    Ok(Some(message)) => message,
                    Ok(None) => return,
                    Err(_) => agent_message::Message::Renewal(renewal),
                };
                let message = v1::AgentMessage { message: Some(message) };
                if frame::write(&mut control, &message).await.is_err() {
                    return;
                }
            }
        });
        Self { agent, say, renewals }
    }

    async fn report(&mut self, observation: v1::Observation) {
        let observed = v1::Observed { runners: vec![observation], full: false, seen: None };
        self.say.send(agent_message::Message::Observed(observed)).await.unwrap();
        self.agent.acknowledged().await;
    }

    /// From here on nothing is heard of it, though it still listens.
    fn fall_silent(&self) -> Instant {
        self.renewals.abort();
        Instant::now()
    }
}

fn launch(project: &str) -> v1::LaunchRunnersRequest {
    let spec = v1::RunnerSpec {
        slots: 1,
        on_disconnect: v1::OnDisconnect::Stop as i32,
        hold_ms: HOLD_MS,
        ..Default::default()
    };
    v1::LaunchRunnersRequest { spec: Some(spec), ..crate::client::launch(project, 1) }
}

async fn bounded(node: &Node, host: &str) {
    eventually("the bounded lease (P13)", || async {
        let bound = node.raft().read(|state| {
            state.hosts().find(|record| record.name.to_string() == host).map(|record| record.lease.bound)
        });
        (bound == Some(stratavore_model::LeaseBound::Bounded)).then_some(())
    })
    .await;
}

/// Whether `others` takes anything new, so that what is launched goes elsewhere.
async fn only(client: &mut Client, others: &str, cordoned: bool) {
    let request = v1::SetHostCordonRequest { request_id: request_id(), host: others.into(), cordoned };
    client.hosts.set_host_cordon(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p7_p8_a_silent_host_is_fenced_after_its_hold_and_its_stop_runner_placed_under_a_higher_epoch() {
    let cluster = Cluster::start_with(3, short).await;
    let mut client: Client = cluster.client(1).await;
    client.project("demo").await;
    let one = Host::join(&cluster.nodes[0], "h1").await;
    let two = Host::join(&cluster.nodes[0], "h2").await;
    let mut first = Renewing::of(one.connect(&cluster.nodes[0]).await).await;
    let second = Renewing::of(two.connect(&cluster.nodes[2]).await).await;
    bounded(&cluster.nodes[0], "h1").await;
    bounded(&cluster.nodes[0], "h2").await;
    only(&mut client, "h2", true).await;
    let launched = client.runners.launch_runners(launch("demo")).await.unwrap().into_inner();
    let id = launched.runners[0].id.clone();
    let order = first.agent.order(&id, v1::Want::Run).await;
    let start = order.start.clone().unwrap();
    assert_eq!((start.keep, start.hold_ms), (false, HOLD_MS));
    first.report(observation(&order, 1, v1::RunnerState::Running)).await;
    only(&mut client, "h2", false).await;
    let silent = first.fall_silent();
    let replaced = eventually("the replacement", || async {
        let runner = cluster.client(1).await.runner(&id).await;
        (runner.host == "h2").then_some(runner)
    })
    .await;
    assert!(silent.elapsed().as_millis() >= u128::from(HOLD_MS), "{:?}", silent.elapsed());
    assert!(replaced.epoch.unwrap().index > order.epoch.unwrap().index, "{replaced:?}");

    // P3: the fenced host is told what is covered, and gets a new epoch only when that is dead.
    let alive = v1::Hello { runners: vec![observation(&order, 2, v1::RunnerState::Running)], ..one.hello() };
    let mut again = one.greet(&cluster.nodes[1], alive).await;
    match again.next().await {
        node_message::Message::Refused(refused) => {
            assert_eq!((refused.code.as_str(), refused.covered.len()), ("fenced", 1));
            assert_eq!(refused.covered[0].runner, id);
        }
        other => panic!("taken with a covered runner alive: {other:?}"),
    }
    let welcomed = one.connect(&cluster.nodes[1]).await;
    let index = |epoch: Option<v1::Epoch>| epoch.map(|epoch| epoch.index);
    assert!(index(welcomed.host_epoch) > index(first.agent.host_epoch), "{:?}", welcomed.host_epoch);
    second.fall_silent();
}

#[tokio::test(flavor = "multi_thread")]
async fn p9_a_kept_runner_of_a_silent_host_is_lost_and_never_replaced() {
    let cluster = Cluster::start_with(1, short).await;
    let mut client = cluster.client(0).await;
    client.project("demo").await;
    let one = Host::join(&cluster.nodes[0], "h1").await;
    let mut first = Renewing::of(one.connect(&cluster.nodes[0]).await).await;
    let id = client.launch("demo", 1).await.runners[0].id.clone();
    let order = first.agent.order(&id, v1::Want::Run).await;
    first.report(observation(&order, 1, v1::RunnerState::Running)).await;
    let two = Host::join(&cluster.nodes[0], "h2").await;
    let second = Renewing::of(two.connect(&cluster.nodes[0]).await).await;
    bounded(&cluster.nodes[0], "h1").await;
    let silent = first.fall_silent();
    eventually("the loss, for longer than a hold", || async {
        let lost = client.clone().runner(&id).await.state() == v1::RunnerState::Lost;
        (lost && silent.elapsed() > Duration::from_millis(2 * HOLD_MS)).then_some(())
    })
    .await;
    assert_eq!(client.runner(&id).await.host, "h1");
    let back = v1::Hello {
        runners: vec![observation(&order, 1, v1::RunnerState::Running)],
        host_epoch: first.agent.host_epoch,
        ..one.hello()
    };
    let again = Renewing::of(one.connect_as(&cluster.nodes[0], back).await).await;
    assert_eq!(again.agent.host_epoch, first.agent.host_epoch, "nothing was covered, so it lives on (P7)");
    eventually("the return", || async {
        (client.clone().runner(&id).await.state() == v1::RunnerState::Running).then_some(())
    })
    .await;
    again.fall_silent();
    second.fall_silent();
}
