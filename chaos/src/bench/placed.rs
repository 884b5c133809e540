//! How many launches a second are committed, placed and ordered, with simulated agents that start nothing.

use std::time::{Duration, Instant};

use crate::api;
use crate::bench::sides::{SET_UP, runtime};
use crate::bench::{Effort, Figure, launch};
use crate::farm::{LocalFarm, Node, Plan};
use crate::swarm::{Behaviour, Counters, Swarm, Wish, join};

const HOSTS: usize = 100;
/// More in all than are ever waiting here.
const SLOTS: u32 = 1000;
/// Launches of a short run: some seconds of work at the aim.
const LAUNCHES: u32 = 30_000;
/// Runners of one request.
const BATCH: u32 = 100;
/// As agents do.
const RENEW: Duration = Duration::from_secs(2);
/// A hundredth of the rate that is expected.
const BOUND: Duration = Duration::from_secs(300);

/// From the first request until the last start order has reached its agent.
#[must_use]
pub fn launches(effort: Effort) -> Vec<Figure> {
    let total = u32::try_from(effort.seconds(LAUNCHES.into())).unwrap_or(LAUNCHES);
    let farm = Plan::default().nodes(3).agents(0).start();
    let runtime = runtime();
    let measured = runtime.block_on(measure(&farm, total)).expect("launch with simulated agents");
    let rate = f64::from(total) / measured.as_secs_f64();
    vec![Figure::new("launches_placed", rate, "1/s", ">= 10,000/s")]
}

async fn measure(farm: &LocalFarm, total: u32) -> anyhow::Result<Duration> {
    let context = farm.admin_context();
    let servers: Vec<String> = farm.nodes.iter().map(Node::join_server).collect();
    let hosts = join::hosts(&context, &servers, "agent", HOSTS, SLOTS).await?;
    let nodes: Vec<_> = farm.nodes.iter().map(Node::quic).collect();
    let wish = Wish { node: None, renew: RENEW };
    let swarm = Swarm::start(hosts, &nodes, Behaviour::Ends, wish, SET_UP).await?;
    let channel = api::connect(&context).await?;
    launch::project(&channel, "/tmp").await?;
    let began = Instant::now();
    launch::submit(&channel, total, BATCH).await;
    let all = |counters: &Counters| Counters::read(&counters.starts) >= u64::from(total);
    swarm.until("all start orders", BOUND, all).await?;
    Ok(began.elapsed())
}
