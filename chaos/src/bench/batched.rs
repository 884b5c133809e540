//! Durable commands many at a time: what agents report. Each observation is a command of its own (another revision and
//! state of a runner, with 256 bytes of reason, a row and an event); a frame carries 64 of them on the agent's open QUIC
//! stream, and gateways put many frames into one log entry. Beside etcd's puts of 512 clients, which has no such way.

use std::sync::Arc;
use std::time::Duration;

use stratavore_proto::v1;
use stratavore_proto::v1::agent_message::Message as Up;
use stratavore_proto::v1::node_message::Message as Down;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::api;
use crate::bench::sides::{Aims, REPETITIONS, Runs, SET_UP, compared, etcd, etcd_writers, runtime};
use crate::bench::{Effort, Figure, launch};
use crate::farm::{LocalFarm, Node, Plan};
use crate::load::{Operation, Span, closed_loop};
use crate::swarm::join;
use crate::swarm::link::{Host, Link, running};
use crate::swarm::socket;

/// Agents, each with one frame on its way.
const AGENTS: usize = 48;
/// Runners of an agent, hence observations of a frame.
const RUNNERS: u32 = 64;
const REASON_BYTES: usize = 256;
const PEER_CLIENTS: usize = 512;
/// As agents do.
const RENEW_EVERY: Duration = Duration::from_secs(2);

/// Observations a second, beside etcd's puts.
#[must_use]
pub fn reports(effort: Effort) -> Vec<Figure> {
    let runtime = runtime();
    let farm = Plan::default().nodes(3).agents(0).start();
    let set_up = async { timeout(SET_UP, reporters(&farm)).await };
    let reporters = runtime.block_on(set_up).expect("agents in time").expect("start the agents");
    let peer = etcd(&runtime);
    let span = Span::seconds(effort.seconds(2));
    let (mut mine, mut theirs) = (Runs::default(), Runs::default());
    for _ in 0..REPETITIONS {
        mine.push(runtime.block_on(closed_loop(reporters.clone(), span)));
        if let Some(peer) = &peer {
            // Shorter than a lease, so that the agents keep theirs.
            let writers = etcd_writers(peer, &runtime, peer.leader(&runtime), PEER_CLIENTS);
            theirs.push(runtime.block_on(closed_loop(writers, span)));
        }
    }
    compared("batched", &mine, &theirs, Aims { rate: ">= 3.5x", p50: "", p99: "" })
}

/// Agents at all nodes, each with its runners started.
async fn reporters(farm: &LocalFarm) -> anyhow::Result<Vec<Shared>> {
    let context = farm.admin_context();
    let servers: Vec<String> = farm.nodes.iter().map(Node::join_server).collect();
    let joined = join::hosts(&context, &servers, "agent", AGENTS, RUNNERS).await?;
    let endpoint = socket::endpoint()?;
    let mut links = Vec::new();
    for (at, joined) in joined.into_iter().enumerate() {
        let host = Host::new(joined)?;
        links.push(
            Link::open(&endpoint, farm.nodes[at % farm.nodes.len()].quic(), &host, Vec::new(), None).await?,
        );
    }
    let channel = api::connect(&context).await?;
    launch::project(&channel, "/tmp").await?;
    launch::submit(&channel, u32::try_from(AGENTS)? * RUNNERS, RUNNERS).await;
    let mut reporters = Vec::new();
    for link in links {
        reporters.push(Arc::new(Mutex::new(Reporter::start(link).await?)));
    }
    Ok(reporters)
}

/// One agent with its runners.
#[derive(Debug)]
struct Reporter {
    link: Link,
    runners: Vec<v1::DesiredRunner>,
    rev: u64,
    renewed: Instant,
}

impl Reporter {
    /// Takes the start orders of all its runners and says that they run.
    async fn start(mut link: Link) -> anyhow::Result<Self> {
        let mut runners: Vec<v1::DesiredRunner> = Vec::new();
        let mut desired = link.first.take();
        loop {
            let lines = desired.take().into_iter().flat_map(|desired| desired.runners);
            runners.extend(lines.filter(|line| line.start.is_some()));
            if runners.len() == RUNNERS as usize {
                break;
            }
            if let Down::Desired(more) = link.next().await? {
                desired = Some(more);
            }
        }
        let mut reporter = Self { link, runners, rev: 0, renewed: Instant::now() };
        reporter.report().await?;
        Ok(reporter)
    }

    /// One frame about all runners, until all of it is committed.
    async fn report(&mut self) -> anyhow::Result<()> {
        if self.renewed.elapsed() > RENEW_EVERY {
            self.link.renew().await?;
            self.renewed = Instant::now();
        }
        self.rev += 1;
        let runs = self.rev % 2 == 1;
        let state = if runs { v1::RunnerState::Running } else { v1::RunnerState::Paused };
        let reason = "r".repeat(REASON_BYTES);
        let observation = |line: &v1::DesiredRunner| v1::Observation {
            state: state.into(),
            reason: reason.clone(),
            ..running(line, self.rev)
        };
        let runners = self.runners.iter().map(observation).collect();
        self.link.say(Up::Observed(v1::Observed { runners, full: false, seen: None })).await?;
        let mut missing = self.runners.len();
        while missing > 0 {
            match self.link.next().await? {
                Down::ObservedAck(ack) => {
                    missing -= ack.runners.iter().filter(|key| key.rev == self.rev).count().min(missing);
                }
                Down::Refused(refused) => anyhow::bail!("refused: {}", refused.code),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Shared with its owner, because it outlives one load.
type Shared = Arc<Mutex<Reporter>>;

impl Operation for Shared {
    async fn once(&mut self) -> Result<u64, String> {
        self.lock().await.report().await.map_err(|error| error.to_string())?;
        Ok(u64::from(RUNNERS))
    }
}
