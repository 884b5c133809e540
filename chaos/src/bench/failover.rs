//! `kill -9` of the leader until the next accepted write at a node that is left, and whether any acknowledged write is
//! gone. Writes are of keys of their own, so that each can be looked for afterwards.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use stratavore_proto::v1;
use stratavore_proto::v1::project_service_client::ProjectServiceClient;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;

use crate::api;
use crate::bench::samples::Samples;
use crate::bench::sides::{project, runtime};
use crate::bench::{Effort, Figure};
use crate::etcd::EtcdCluster;
use crate::etcd::wire::EtcdClient;
use crate::farm::{LocalFarm, Plan};

const KILLS: u64 = 15;
/// Between two probes of a node that is left.
const PROBE_EVERY: Duration = Duration::from_millis(10);
/// Load before the kill, at every node.
const LOADED: Duration = Duration::from_millis(500);
const LOAD_PAUSE: Duration = Duration::from_millis(20);
/// A probe that was not answered for so long is no more waited for.
const PROBE_BOUND: Duration = Duration::from_secs(30);
const KEY_PREFIX: &str = "ack-";

/// One side.
trait Cluster {
    type Writer: Write;
    fn leader(&mut self, runtime: &Runtime) -> usize;
    fn writers(&self, runtime: &Runtime) -> Vec<Self::Writer>;
    fn kill(&mut self, at: usize);
    /// Until it takes part again.
    fn restart(&mut self, at: usize, runtime: &Runtime);
    /// Every key that is there, read linearizably.
    fn keys(&self, runtime: &Runtime) -> Vec<String>;
}

/// Writes a key through one node.
trait Write: Clone + Send + Sync + 'static {
    fn write(&self, key: String) -> impl Future<Output = bool> + Send;
}

/// Every write that a node acknowledged.
#[derive(Clone, Debug, Default)]
struct Acknowledged {
    keys: Arc<Mutex<Vec<String>>>,
    next: Arc<AtomicU64>,
}

impl Acknowledged {
    async fn write(&self, writer: &impl Write) -> bool {
        let key = format!("{KEY_PREFIX}{}", self.next.fetch_add(1, Ordering::AcqRel));
        let done = timeout(PROBE_BOUND, writer.write(key.clone())).await == Ok(true);
        if done {
            self.keys.lock().unwrap_or_else(PoisonError::into_inner).push(key);
        }
        done
    }
}

/// Fifteen kills of each side.
#[must_use]
pub fn kills(effort: Effort) -> Vec<Figure> {
    let runtime = runtime();
    let kills = effort.seconds(KILLS);
    let mut farm = Plan::default().nodes(3).agents(0).start();
    let mut peer = EtcdCluster::start(&runtime);
    let (mut mine, mut theirs) = (Samples::default(), Samples::default());
    let (acknowledged, acknowledged_by_peer) = (Acknowledged::default(), Acknowledged::default());
    for _ in 0..kills {
        mine.push(kill(&mut farm, &runtime, &acknowledged));
        if let Some(peer) = &mut peer {
            theirs.push(kill(peer, &runtime, &acknowledged_by_peer));
        }
    }
    let mut figures = vec![
        Figure::new("failover_median", mine.p50(), "ms", ""),
        Figure::new("failover_max", mine.max(), "ms", ""),
        Figure::new("failover_lost_writes", lost(&farm, &runtime, &acknowledged), "count", "0"),
    ];
    if let Some(peer) = &peer {
        figures.extend([
            Figure::new("peer_etcd_failover_median", theirs.p50(), "ms", ""),
            Figure::new("peer_etcd_failover_max", theirs.max(), "ms", ""),
            Figure::new(
                "peer_etcd_failover_lost_writes",
                lost(peer, &runtime, &acknowledged_by_peer),
                "count",
                "",
            ),
            Figure::new("failover_median_vs_etcd", mine.p50() / theirs.p50(), "ratio", "<= 0.6x"),
            Figure::new("failover_max_vs_etcd", mine.max() / theirs.max(), "ratio", "<= 0.5x"),
        ]);
    }
    figures
}

/// Load, kill, and the time until the first write is acknowledged; the node is back when this returns.
fn kill<C: Cluster>(cluster: &mut C, runtime: &Runtime, acknowledged: &Acknowledged) -> Duration {
    let leader = cluster.leader(runtime);
    let writers = cluster.writers(runtime);
    let mut load = JoinSet::new();
    for writer in writers.clone() {
        let acknowledged = acknowledged.clone();
        let writing = async move {
            loop {
                acknowledged.write(&writer).await;
                sleep(LOAD_PAUSE).await;
            }
        };
        load.spawn_on(writing, runtime.handle());
    }
    std::thread::sleep(LOADED);
    // Begun before the kill, so that no write of the old leader's time is taken for one of the new one's.
    cluster.kill(leader);
    let began = Instant::now();
    load.abort_all();
    let left = writers.into_iter().enumerate().filter(|(at, _)| *at != leader).map(|(_, writer)| writer);
    let took = runtime.block_on(first_accepted(left.collect(), acknowledged, began));
    cluster.restart(leader, runtime);
    took
}

/// Probes every node that is left each 10 ms; from the kill to the first acknowledgement.
async fn first_accepted<W: Write>(writers: Vec<W>, acknowledged: &Acknowledged, began: Instant) -> Duration {
    let mut probes = JoinSet::new();
    let mut ticks = tokio::time::interval(PROBE_EVERY);
    loop {
        tokio::select! {
            _ = ticks.tick() => for writer in &writers {
                let (writer, acknowledged) = (writer.clone(), acknowledged.clone());
                probes.spawn(async move { acknowledged.write(&writer).await });
            },
            Some(Ok(true)) = probes.join_next() => break,
        }
        assert!(began.elapsed() < PROBE_BOUND, "no write is accepted {PROBE_BOUND:?} after the kill");
    }
    let took = began.elapsed();
    // The others are waited for: what they are told counts as well.
    while probes.join_next().await.is_some() {}
    took
}

#[allow(clippy::cast_precision_loss)]
fn lost(cluster: &impl Cluster, runtime: &Runtime, acknowledged: &Acknowledged) -> f64 {
    let found: std::collections::BTreeSet<String> = cluster.keys(runtime).into_iter().collect();
    let written = acknowledged.keys.lock().unwrap_or_else(PoisonError::into_inner);
    assert!(!written.is_empty(), "nothing was acknowledged");
    written.iter().filter(|key| !found.contains(*key)).count() as f64
}

#[derive(Clone)]
struct ProjectWriter(ProjectServiceClient<Channel>);

impl Write for ProjectWriter {
    async fn write(&self, key: String) -> bool {
        self.0.clone().create_project(project(&key)).await.is_ok()
    }
}

impl Cluster for LocalFarm {
    type Writer = ProjectWriter;

    fn leader(&mut self, _: &Runtime) -> usize {
        Self::leader(self)
    }

    fn writers(&self, runtime: &Runtime) -> Vec<ProjectWriter> {
        let context = self.admin_context();
        let dial = |node: &crate::farm::Node| {
            let channel = runtime.block_on(api::connect_to(&context, node.endpoint()));
            ProjectWriter(ProjectServiceClient::new(channel.expect("connect to a node")))
        };
        self.nodes.iter().map(dial).collect()
    }

    fn kill(&mut self, at: usize) {
        self.kill_node_at(at);
    }

    fn restart(&mut self, at: usize, _: &Runtime) {
        self.start_node_at(at);
        self.await_voters(3);
    }

    fn keys(&self, runtime: &Runtime) -> Vec<String> {
        let listed = async {
            let channel = api::connect(&self.admin_context()).await?;
            let mut client = ProjectServiceClient::new(channel).max_decoding_message_size(usize::MAX);
            anyhow::Ok(client.list_projects(v1::ListProjectsRequest::default()).await?.into_inner())
        };
        let listed = runtime.block_on(listed).expect("list the projects");
        listed.projects.into_iter().map(|project| project.name).collect()
    }
}

#[derive(Clone)]
struct KeyWriter(EtcdClient);

impl Write for KeyWriter {
    async fn write(&self, key: String) -> bool {
        let value = key.clone().into_bytes();
        self.0.clone().put(key.into_bytes(), value).await.is_ok()
    }
}

impl Cluster for EtcdCluster {
    type Writer = KeyWriter;

    fn leader(&mut self, runtime: &Runtime) -> usize {
        Self::leader(self, runtime)
    }

    fn writers(&self, runtime: &Runtime) -> Vec<KeyWriter> {
        let dial =
            |at| KeyWriter(EtcdClient::new(runtime.block_on(self.connect(at)).expect("connect to etcd")));
        (0..self.len()).map(dial).collect()
    }

    fn kill(&mut self, at: usize) {
        Self::kill(self, at);
    }

    fn restart(&mut self, at: usize, runtime: &Runtime) {
        self.spawn(at);
        self.await_all(runtime);
    }

    fn keys(&self, runtime: &Runtime) -> Vec<String> {
        let listed = async {
            let channel = self.connect(0).await?;
            anyhow::Ok(EtcdClient::new(channel).keys(KEY_PREFIX).await?)
        };
        let keys = runtime.block_on(listed).expect("list etcd's keys");
        keys.into_iter().map(|key| String::from_utf8_lossy(&key).into_owned()).collect()
    }
}
