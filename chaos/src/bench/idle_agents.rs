//! What ten thousand idle agents cost the nodes, and a change of leader under them.

use std::time::Duration;

use stratavore_proto::v1;
use stratavore_proto::v1::cluster_service_client::ClusterServiceClient;
use tokio::time::sleep;

use crate::api;
use crate::bench::sides::runtime;
use crate::bench::{Effort, Figure};
use crate::farm::{LocalFarm, Node, Plan};
use crate::processes::{cpu_time, memory_kib};
use crate::swarm::{Behaviour, Counters, Swarm, Wish, join};

/// As many as the tokens of one day allow ([`join`]), and those of the nodes.
const AGENTS: usize = 9_990;
const SLOTS: u32 = 10;
const RELAXED: Duration = Duration::from_secs(10);
const BRISK: Duration = Duration::from_secs(2);
/// Until the costs of connecting are over.
const SETTLE: Duration = Duration::from_secs(5);
/// After a change of leader: every agent has renewed several times.
const AFTER: Duration = Duration::from_secs(6);
const CONNECT_BOUND: Duration = Duration::from_secs(120);

/// Memory, processor time and broken links of nearly ten thousand agents.
#[must_use]
pub fn many(effort: Effort) -> Vec<Figure> {
    let farm = Plan::default().nodes(3).agents(0).start();
    let runtime = runtime();
    runtime.block_on(measure(&farm, Duration::from_secs(effort.seconds(10)))).expect("idle agents")
}

fn pids(farm: &LocalFarm) -> Vec<i32> {
    farm.nodes.iter().filter_map(|node| node.process.as_ref().map(crate::spawned::Spawned::pid)).collect()
}

fn resident_kib(farm: &LocalFarm) -> f64 {
    pids(farm).into_iter().map(|pid| f64::from(u32::try_from(memory_kib(pid).0).unwrap_or(u32::MAX))).sum()
}

/// Percent of one core that all nodes together take.
async fn cpu_percent(farm: &LocalFarm, span: Duration) -> f64 {
    let used = || pids(farm).into_iter().map(cpu_time).sum::<Duration>();
    let before = used();
    sleep(span).await;
    used().saturating_sub(before).as_secs_f64() / span.as_secs_f64() * 100.0
}

async fn measure(farm: &LocalFarm, span: Duration) -> anyhow::Result<Vec<Figure>> {
    let context = farm.admin_context();
    let servers: Vec<String> = farm.nodes.iter().map(Node::join_server).collect();
    let hosts = join::hosts(&context, &servers, "agent", AGENTS, SLOTS).await?;
    let nodes: Vec<_> = farm.nodes.iter().map(Node::quic).collect();
    let before = resident_kib(farm);
    let wish = Wish { node: None, renew: RELAXED };
    let swarm = Swarm::start(hosts, &nodes, Behaviour::Runs, wish, CONNECT_BOUND).await?;
    sleep(SETTLE).await;
    let agents = f64::from(u32::try_from(swarm.len())?);
    let each = (resident_kib(farm) - before) / agents;
    let relaxed = cpu_percent(farm, span).await;
    swarm.wish(Wish { renew: BRISK, ..wish });
    sleep(SETTLE).await;
    let brisk = cpu_percent(farm, span).await;
    let lost = Counters::read(&swarm.counters.lost);
    let granted = Counters::read(&swarm.counters.grants);
    let mut cluster = ClusterServiceClient::new(api::connect(&context).await?);
    cluster.transfer_leader(v1::TransferLeaderRequest { node: 0 }).await?;
    sleep(AFTER).await;
    let broken = Counters::read(&swarm.counters.lost) - lost;
    let granted = Counters::read(&swarm.counters.grants) - granted;
    anyhow::ensure!(granted >= swarm.len() as u64, "only {granted} grants behind the change of leader");
    Ok(vec![
        Figure::new("agents_idle", agents, "count", ""),
        Figure::new("agent_connection_rss", each, "KiB", "<= 60 KiB"),
        Figure::new("agents_idle_cpu_renew_10s", relaxed, "% of a core", "<= 10 %"),
        Figure::new("agents_idle_cpu_renew_2s", brisk, "% of a core", ""),
        Figure::new(
            "agents_broken_by_leader_change",
            f64::from(u32::try_from(broken).unwrap_or(u32::MAX)),
            "count",
            "0",
        ),
    ])
}
