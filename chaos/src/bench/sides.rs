//! Both sides of a comparison: three nodes of ours with mTLS, three members of etcd without, the same keys on each.
//!
//! Our write is `LabelHost`: the only public mutation of a fixed row that carries a value of 256 bytes (four labels);
//! dedup row, event and audit come with it. Our read is `ListProjects` of one name, whose record has a path of 256
//! bytes. etcd's are `Put` and `Range` of one key, with values of 256 bytes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use stratavore_proto::v1;
use stratavore_proto::v1::host_service_client::HostServiceClient;
use stratavore_proto::v1::project_service_client::ProjectServiceClient;
use tokio::runtime::Runtime;
use tonic::transport::Channel;

use crate::api;
use crate::bench::Figure;
use crate::bench::samples::median;
use crate::etcd::EtcdCluster;
use crate::etcd::wire::EtcdClient;
use crate::farm::{LocalFarm, Plan};
use crate::load::{Load, Operation};
use crate::swarm::join;

/// Keys of either side.
pub const KEYS: usize = 200;
/// Bytes of a value.
const VALUE_BYTES: usize = 256;
/// Keys and values of four labels together are one value.
const LABELS: [&str; 4] = ["a", "b", "c", "d"];
const LABEL_BYTES: usize = VALUE_BYTES / LABELS.len() - 1;

/// Setting up takes seconds.
pub const SET_UP: Duration = Duration::from_secs(120);

/// Repetitions of a short measurement; the middle one counts.
pub const REPETITIONS: usize = 3;

/// Clients and the connections that they share, as etcd's own benchmark is run.
#[must_use]
pub fn connections(clients: usize) -> usize {
    match clients {
        0..=8 => clients.max(1),
        9..=64 => 8,
        _ => 32,
    }
}

/// Our three nodes, and keys.
#[derive(Debug)]
pub struct Ours {
    /// The processes.
    pub farm: LocalFarm,
    /// Ids of the hosts that are labelled.
    pub hosts: Vec<String>,
}

impl Ours {
    /// Three voters and [`KEYS`] hosts and projects.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start(runtime: &Runtime) -> Self {
        let farm = Plan::default().nodes(3).agents(0).start();
        let servers: Vec<String> = farm.nodes.iter().map(crate::farm::Node::join_server).collect();
        let context = farm.admin_context();
        let made = async {
            let joined = join::hosts(&context, &servers, "key", KEYS, 1).await?;
            let mut client = ProjectServiceClient::new(api::connect(&context).await?);
            for at in 0..KEYS {
                client.create_project(project(&project_name(at))).await?;
            }
            anyhow::Ok(joined.into_iter().map(|joined| joined.id).collect())
        };
        let made = runtime.block_on(async { tokio::time::timeout(SET_UP, made).await });
        let hosts = made.expect("keys in time").expect("make the keys");
        Self { farm, hosts }
    }

    fn context(&self) -> PathBuf {
        self.farm.admin_context()
    }

    /// Connections to the node at that position.
    ///
    /// # Panics
    /// When it cannot be reached.
    #[must_use]
    pub fn channels(&self, runtime: &Runtime, at: usize, count: usize) -> Vec<Channel> {
        let (context, endpoint) = (self.context(), self.farm.nodes[at].endpoint());
        let dial = || runtime.block_on(api::connect_to(&context, endpoint.clone()));
        (0..count).map(|_| dial().expect("connect to a node")).collect()
    }

    /// Writing clients of the node at that position.
    #[must_use]
    pub fn writers(&self, runtime: &Runtime, at: usize, clients: usize) -> Vec<LabelWriter> {
        let channels = self.channels(runtime, at, connections(clients));
        let writer = |client: usize| {
            let channel = channels[client % channels.len()].clone();
            LabelWriter::new(channel, self.hosts[client % KEYS].clone())
        };
        (0..clients).map(writer).collect()
    }

    /// Reading clients of the node at that position.
    #[must_use]
    pub fn readers(&self, runtime: &Runtime, at: usize, clients: usize) -> Vec<ProjectReader> {
        let channels = self.channels(runtime, at, connections(clients));
        let reader = |client: usize| ProjectReader {
            client: ProjectServiceClient::new(channels[client % channels.len()].clone()),
            name: project_name(client % KEYS),
        };
        (0..clients).map(reader).collect()
    }
}

fn project_name(at: usize) -> String {
    format!("key-{at}")
}

/// A project with [`VALUE_BYTES`] in it.
#[must_use]
pub fn project(name: &str) -> v1::CreateProjectRequest {
    v1::CreateProjectRequest {
        request_id: uuid::Uuid::now_v7().to_string(),
        name: name.to_owned(),
        path: format!("/{name:x<width$}", width = VALUE_BYTES - 1),
        ..Default::default()
    }
}

/// Sets 256 bytes of labels of one host, others each time.
#[derive(Clone, Debug)]
pub struct LabelWriter {
    client: HostServiceClient<Channel>,
    host: String,
}

impl LabelWriter {
    /// Over that connection.
    #[must_use]
    pub fn new(channel: Channel, host: String) -> Self {
        Self { client: HostServiceClient::new(channel), host }
    }
}

impl Operation for LabelWriter {
    async fn once(&mut self) -> Result<u64, String> {
        let value = uuid::Uuid::new_v4().simple().to_string().repeat(2);
        let value = &value[..LABEL_BYTES];
        let request = v1::LabelHostRequest {
            request_id: uuid::Uuid::now_v7().to_string(),
            host: self.host.clone(),
            set: LABELS.iter().map(|key| ((*key).to_owned(), value.to_owned())).collect(),
            remove: Vec::new(),
        };
        self.client.label_host(request).await.map(|_| 1).map_err(|status| status.to_string())
    }
}

/// Reads one project.
#[derive(Clone, Debug)]
pub struct ProjectReader {
    client: ProjectServiceClient<Channel>,
    name: String,
}

impl Operation for ProjectReader {
    async fn once(&mut self) -> Result<u64, String> {
        let request = v1::ListProjectsRequest { read: None, name: self.name.clone() };
        let answer = self.client.list_projects(request).await.map_err(|status| status.to_string())?;
        let found = answer.into_inner().projects.len();
        if found == 1 { Ok(1) } else { Err(format!("{found} projects are called {}", self.name)) }
    }
}

/// etcd with its keys; `None` where it is not installed.
#[must_use]
pub fn etcd(runtime: &Runtime) -> Option<EtcdCluster> {
    let cluster = EtcdCluster::start(runtime)?;
    let leader = cluster.leader(runtime);
    let mut puts = etcd_writers(&cluster, runtime, leader, 1);
    let mut put = puts.remove(0);
    for at in 0..KEYS {
        put.key = etcd_key(at);
        runtime.block_on(put.once()).expect("put a key");
    }
    Some(cluster)
}

fn etcd_key(at: usize) -> Vec<u8> {
    format!("key-{at}").into_bytes()
}

/// Puts 256 bytes under one key, others each time.
#[derive(Clone, Debug)]
pub struct EtcdWriter {
    client: EtcdClient,
    key: Vec<u8>,
}

impl EtcdWriter {
    /// Over that connection.
    #[must_use]
    pub fn new(channel: Channel, key: Vec<u8>) -> Self {
        Self { client: EtcdClient::new(channel), key }
    }
}

impl Operation for EtcdWriter {
    async fn once(&mut self) -> Result<u64, String> {
        let value = uuid::Uuid::new_v4().simple().to_string().repeat(VALUE_BYTES / 32).into_bytes();
        self.client.put(self.key.clone(), value).await.map(|()| 1).map_err(|status| status.to_string())
    }
}

/// Reads one key.
#[derive(Clone, Debug)]
pub struct EtcdReader {
    client: EtcdClient,
    key: Vec<u8>,
}

impl Operation for EtcdReader {
    async fn once(&mut self) -> Result<u64, String> {
        let answer = self.client.get(self.key.clone()).await.map_err(|status| status.to_string())?;
        if answer.kvs.len() == 1 { Ok(1) } else { Err("the key is not there".to_owned()) }
    }
}

fn etcd_channels(cluster: &EtcdCluster, runtime: &Runtime, at: usize, clients: usize) -> Vec<Channel> {
    let dial = || runtime.block_on(cluster.connect(at)).expect("connect to etcd");
    (0..connections(clients)).map(|_| dial()).collect()
}

/// Writing clients of the member at that position.
#[must_use]
pub fn etcd_writers(cluster: &EtcdCluster, runtime: &Runtime, at: usize, clients: usize) -> Vec<EtcdWriter> {
    let channels = etcd_channels(cluster, runtime, at, clients);
    (0..clients).map(|n| EtcdWriter::new(channels[n % channels.len()].clone(), etcd_key(n % KEYS))).collect()
}

/// Reading clients of the member at that position.
#[must_use]
pub fn etcd_readers(cluster: &EtcdCluster, runtime: &Runtime, at: usize, clients: usize) -> Vec<EtcdReader> {
    let channels = etcd_channels(cluster, runtime, at, clients);
    let client = |n: usize| EtcdClient::new(channels[n % channels.len()].clone());
    (0..clients).map(|n| EtcdReader { client: client(n), key: etcd_key(n % KEYS) }).collect()
}

/// What repeated runs of one side gave.
#[derive(Clone, Debug, Default)]
pub struct Runs(Vec<Load>);

impl Runs {
    /// One more.
    pub fn push(&mut self, load: Load) {
        self.0.push(load);
    }

    /// The middle of one figure; `None` when nothing was run.
    #[must_use]
    pub fn middle(&self, of: impl Fn(&Load) -> f64) -> Option<f64> {
        (!self.0.is_empty()).then(|| median(self.0.iter().map(of)))
    }
}

/// What a comparison should give; empty = said only.
#[derive(Clone, Copy, Debug, Default)]
pub struct Aims {
    /// Of our rate to theirs.
    pub rate: &'static str,
    /// Of our median time to theirs.
    pub p50: &'static str,
    /// Of our 99th percentile to theirs.
    pub p99: &'static str,
}

/// Figures of both sides under one name, and their ratios.
#[must_use]
pub fn compared(name: &str, ours: &Runs, etcd: &Runs, aims: Aims) -> Vec<Figure> {
    type Of = fn(&Load) -> f64;
    let parts: [(&str, &str, Of, &str); 3] = [
        ("rate", "1/s", |load| load.rate, aims.rate),
        ("p50", "ms", |load| load.p50, aims.p50),
        ("p99", "ms", |load| load.p99, aims.p99),
    ];
    let mut figures = Vec::new();
    for (part, unit, of, aim) in parts {
        let (mine, theirs) = (ours.middle(of), etcd.middle(of));
        figures.extend(mine.map(|value| Figure::new(format!("{name}_{part}"), value, unit, "")));
        figures.extend(theirs.map(|value| Figure::new(format!("peer_etcd_{name}_{part}"), value, unit, "")));
        if let (Some(mine), Some(theirs)) = (mine, theirs.filter(|theirs| *theirs > 0.0)) {
            figures.push(Figure::new(format!("{name}_{part}_vs_etcd"), mine / theirs, "ratio", aim));
        }
    }
    figures
}

/// A runtime that both sides are driven from.
#[must_use]
pub fn runtime() -> Arc<Runtime> {
    api::runtime()
}
