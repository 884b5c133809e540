//! Thousands of agents that move to one node at once, as after the death of another: how long until each has a lease
//! through it, and whether the kernel dropped any datagram.

use std::sync::PoisonError;
use std::time::Duration;

use crate::bench::samples::{Samples, median};
use crate::bench::sides::{SET_UP, runtime};
use crate::bench::{Effort, Figure};
use crate::farm::{LocalFarm, Node, Plan};
use crate::processes::udp_drops;
use crate::swarm::{Behaviour, Counters, Swarm, Wish, join};

const AGENTS: usize = 2000;
const SLOTS: u32 = 10;
const RENEW: Duration = Duration::from_secs(2);
/// There and back; each is one figure.
const MOVES: usize = 4;
/// Between two: the farewells of the one before.
const REST: Duration = Duration::from_secs(2);
const BOUND: Duration = Duration::from_secs(60);

/// Two thousand agents move between two followers.
#[must_use]
pub fn to_one_node(_: Effort) -> Vec<Figure> {
    let farm = Plan::default().nodes(3).agents(0).start();
    let leader = farm.leader();
    let followers: Vec<usize> = (0..farm.nodes.len()).filter(|at| *at != leader).collect();
    let drops = udp_drops();
    let runtime = runtime();
    let (times, handshakes) = runtime.block_on(moves(&farm, &followers)).expect("move the agents");
    let dropped = udp_drops().saturating_sub(drops);
    let worst = times.iter().copied().fold(0.0, f64::max);
    vec![
        Figure::new("rehome_2000", median(times), "s", "<= 2.5 s"),
        Figure::new("rehome_2000_worst", worst, "s", ""),
        Figure::new("rehome_handshake_p99", handshakes.p99(), "ms", "<= 100 ms"),
        Figure::new("rehome_udp_drops", f64::from(u32::try_from(dropped).unwrap_or(u32::MAX)), "count", "0"),
    ]
}

async fn moves(farm: &LocalFarm, followers: &[usize]) -> anyhow::Result<(Vec<f64>, Samples)> {
    let servers: Vec<String> = farm.nodes.iter().map(Node::join_server).collect();
    let hosts = join::hosts(&farm.admin_context(), &servers, "agent", AGENTS, SLOTS).await?;
    let nodes: Vec<_> = farm.nodes.iter().map(Node::quic).collect();
    let wish = |at: usize| Wish { node: Some(followers[at % followers.len()]), renew: RENEW };
    let swarm = Swarm::start(hosts, &nodes, Behaviour::Runs, wish(0), SET_UP).await?;
    let (mut times, mut handshakes) = (Vec::new(), Samples::default());
    for at in 1..=MOVES {
        tokio::time::sleep(REST).await;
        swarm.wish(wish(at));
        let wanted = (at * AGENTS) as u64;
        let all = |counters: &Counters| Counters::read(&counters.moved) >= wanted;
        times.push(swarm.until("all agents to have moved", BOUND, all).await?.as_secs_f64());
        let moved = std::mem::take(&mut *swarm.counters.moves.lock().unwrap_or_else(PoisonError::into_inner));
        moved.iter().for_each(|moved| handshakes.push(moved.handshake));
    }
    Ok((times, handshakes))
}
