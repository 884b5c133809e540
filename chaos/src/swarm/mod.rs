//! Simulated agents: hosts that joined with tokens, real QUIC links with their own keys and the real protocol, but no
//! shims. A start order is answered with a report at once. Thousands of them fit one process.

pub mod agent;
pub mod join;
pub mod link;
pub mod socket;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use agent::Agent;
use join::Joined;
use link::Host;

/// Agents that share one UDP socket on this side; real ones have their own, thousands of which would cost more memory
/// than their connections.
const AGENTS_PER_SOCKET: usize = 64;

/// Agents are started as hosts that boot one after the other: a thousand a second.
const STARTED_AT_ONCE: usize = 50;
const START_PAUSE: Duration = Duration::from_millis(50);

/// Between two looks of [`Swarm::until`].
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What a simulated agent says to a start order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// It runs.
    Runs,
    /// It has run and ended well.
    Ends,
}

/// What an agent counts, over all of them.
#[derive(Default)]
pub struct Counters {
    /// Agents that have held a grant.
    pub ready: AtomicU64,
    /// Links that were welcomed.
    pub welcomed: AtomicU64,
    /// Renewals sent.
    pub renewals: AtomicU64,
    /// Grants received.
    pub grants: AtomicU64,
    /// Links that ended without this side's doing.
    pub lost: AtomicU64,
    /// Tries that did not get as far as a welcome.
    pub refused: AtomicU64,
    /// Start orders received.
    pub starts: AtomicU64,
    /// Moves to another node that ended with an answered renewal there.
    pub moved: AtomicU64,
    /// Those moves.
    pub moves: Mutex<Vec<Moved>>,
}

impl std::fmt::Debug for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counters")
            .field("ready", &self.ready)
            .field("welcomed", &self.welcomed)
            .field("renewals", &self.renewals)
            .field("grants", &self.grants)
            .field("lost", &self.lost)
            .field("refused", &self.refused)
            .field("starts", &self.starts)
            .field("moved", &self.moved)
            .finish_non_exhaustive()
    }
}

/// One move to another node.
#[derive(Clone, Copy, Debug)]
pub struct Moved {
    /// From the wish to the answered renewal.
    pub whole: Duration,
    /// From the last dial to the QUIC connection.
    pub handshake: Duration,
}

impl Counters {
    /// The value of one.
    #[must_use]
    pub fn read(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Acquire)
    }

    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::AcqRel);
    }
}

/// What all agents of a swarm are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Node to be linked to, as a position; `None` = the own one, agents spread evenly.
    pub node: Option<usize>,
    /// Time between two renewals.
    pub renew: Duration,
}

/// Running agents; they end when it is dropped.
#[derive(Debug)]
pub struct Swarm {
    /// What they saw.
    pub counters: Arc<Counters>,
    agents: usize,
    wish: watch::Sender<Wish>,
    tasks: JoinSet<()>,
}

impl Swarm {
    /// Starts an agent for every host and waits until all are welcomed and hold a grant.
    ///
    /// # Errors
    /// No socket, or not all are there within `bound`.
    pub async fn start(
        hosts: Vec<Joined>,
        nodes: &[SocketAddr],
        behaviour: Behaviour,
        wish: Wish,
        bound: Duration,
    ) -> anyhow::Result<Self> {
        let (sender, _) = watch::channel(wish);
        let counters = Arc::new(Counters::default());
        let mut swarm = Self { counters, agents: hosts.len(), wish: sender, tasks: JoinSet::new() };
        let mut endpoint = socket::endpoint()?;
        for (at, joined) in hosts.into_iter().enumerate() {
            if at % AGENTS_PER_SOCKET == AGENTS_PER_SOCKET - 1 {
                endpoint = socket::endpoint()?;
            }
            let agent = Agent {
                host: Host::new(joined)?,
                endpoint: endpoint.clone(),
                nodes: nodes.to_vec(),
                home: at % nodes.len(),
                behaviour,
                counters: swarm.counters.clone(),
            };
            swarm.tasks.spawn(agent.run(swarm.wish.subscribe()));
            if at % STARTED_AT_ONCE == STARTED_AT_ONCE - 1 {
                tokio::time::sleep(START_PAUSE).await;
            }
        }
        let agents = swarm.agents as u64;
        swarm.until("all agents to hold a grant", bound, |c| Counters::read(&c.ready) >= agents).await?;
        Ok(swarm)
    }

    /// Tells all of them something else.
    pub fn wish(&self, wish: Wish) {
        self.wish.send_replace(wish);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.agents
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.agents == 0
    }

    /// Waits until `condition` holds; how long that took.
    ///
    /// # Errors
    /// It does not within `bound`.
    pub async fn until(
        &self,
        what: &str,
        bound: Duration,
        condition: impl Fn(&Counters) -> bool,
    ) -> anyhow::Result<Duration> {
        let began = Instant::now();
        while !condition(&self.counters) {
            anyhow::ensure!(
                began.elapsed() < bound,
                "waited {bound:?} for: {what}; seen: {:?}",
                self.counters
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(began.elapsed())
    }
}
