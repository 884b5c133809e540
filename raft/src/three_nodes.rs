//! Tests: three nodes over real sockets, with the transport that an injected connector gives.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt;
use stratavore_model as model;
use stratavore_model::NodeId;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;

use crate::bootstrap::{BootstrapParams, bootstrap, prepare_learner};
use crate::conformance::identity;
use crate::handle::Handle;
use crate::network::{Connector, Peer, Transport};
use crate::open::{OpenParams, open};
use crate::timings::RaftTimings;

/// Far above what any step takes; a test that reaches it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Attempts to reach a dead peer: replication's own and those of heartbeats.
const DIALS_PER_SECOND_MAX: usize = 20;

pub(crate) struct Node {
    id: u64,
    dir: TempDir,
    pub(crate) address: SocketAddr,
    handle: Option<Handle>,
    server: JoinHandle<()>,
    pub(crate) dials: Arc<AtomicUsize>,
    connections: Connections,
}

/// What a node has accepted: cut when it is stopped, as the end of a process would.
type Connections = Arc<Mutex<Vec<std::net::TcpStream>>>;

pub(crate) fn connector(dials: Arc<AtomicUsize>) -> Connector {
    Arc::new(move |peer: Peer| {
        dials.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            let stream = TcpStream::connect(&peer.address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Transport>)
        })
    })
}

impl Node {
    /// Starts node `id`; the first founds the cluster, the others wait to be added.
    pub(crate) async fn start(id: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cluster_id = identity().cluster_id;
        if id == 1 {
            let first = entry(model::Actor::System, init());
            let raft_address = address.to_string();
            bootstrap(dir.path(), BootstrapParams { node_id: NodeId(1), cluster_id, raft_address, first })
                .await
                .unwrap();
        } else {
            prepare_learner(dir.path(), NodeId(id), cluster_id).unwrap();
        }
        let dials = Arc::new(AtomicUsize::new(0));
        let connections = Connections::default();
        let (handle, server) = serve(id, dir.path(), listener, dials.clone(), &connections).await;
        Self { id, dir, address, handle: Some(handle), server, dials, connections }
    }

    /// Starts again on the same address, after [`Self::stop`].
    pub(crate) async fn restart(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        let (handle, server) =
            serve(self.id, self.dir.path(), listener, self.dials.clone(), &self.connections).await;
        (self.handle, self.server) = (Some(handle), server);
    }

    pub(crate) fn handle(&self) -> &Handle {
        self.handle.as_ref().unwrap()
    }

    pub(crate) fn data_dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// As a process that is killed: nothing is handed over.
    pub(crate) async fn stop(&mut self) {
        self.server.abort();
        (&mut self.server).await.ok();
        for connection in self.connections.lock().unwrap().drain(..) {
            connection.shutdown(std::net::Shutdown::Both).ok();
        }
        self.handle.take().unwrap().shutdown().await;
    }
}

async fn serve(
    id: u64,
    dir: &std::path::Path,
    listener: TcpListener,
    dials: Arc<AtomicUsize>,
    connections: &Connections,
) -> (Handle, JoinHandle<()>) {
    let params = OpenParams {
        data_dir: dir.to_path_buf(),
        node_id: NodeId(id),
        cluster_id: identity().cluster_id,
        timings: RaftTimings::slow(),
        connector: Some(connector(dials)),
    };
    let (handle, server) = open(params).await.unwrap();
    let kept = connections.clone();
    let incoming = TcpListenerStream::new(listener).map(move |stream| {
        let stream = stream?.into_std()?;
        kept.lock().unwrap().push(stream.try_clone()?);
        TcpStream::from_std(stream)
    });
    let serving =
        tonic::transport::Server::builder().add_routes(server.into_routes()).serve_with_incoming(incoming);
    (handle, tokio::spawn(async move { serving.await.unwrap() }))
}

pub(crate) fn entry(actor: model::Actor, command: model::Command) -> model::Entry {
    model::Entry { actor, request_id: None, at: model::Millis(1000), term: None, command }
}

fn init() -> model::Command {
    model::Command::InitCluster(Box::new(model::command::InitCluster {
        cluster: identity().cluster_id,
        nonce: [1; 16],
        lease: model::LeaseNumbers::default(),
        ca_cert_der: Vec::new(),
        ca_key_der: model::SecretBytes::new(vec![1]),
        node: NodeId(1),
        node_addresses: model::NodeAddresses::default(),
        node_spki: [1; 32],
        node_version: String::new(),
        admin: "admin".parse().unwrap(),
        admin_spki: [2; 32],
        version: model::COMMAND_VERSION,
        node_max_version: model::COMMAND_VERSION,
    }))
}

pub(crate) fn project(n: usize) -> model::Entry {
    let create = model::command::CreateProject {
        name: format!("p{n}").parse().unwrap(),
        path: "/tmp".into(),
        command: Vec::new(),
        max_runners: 0,
    };
    entry(model::Actor::User("admin".parse().unwrap()), model::Command::CreateProject(create))
}

pub(crate) async fn propose(handle: &Handle, numbers: std::ops::Range<usize>) -> u64 {
    let mut last = 0;
    for n in numbers {
        let applied = handle.propose(project(n)).await.unwrap();
        assert!(applied.reply.rejected().is_none(), "{:?}", applied.reply);
        last = applied.index;
    }
    last
}

/// Waits until `node` has applied `index`.
pub(crate) async fn reaches(node: &Node, index: u64) {
    let mut applied = node.handle().applied();
    let waited = tokio::time::timeout(PATIENCE, applied.wait_for(|applied| *applied >= index)).await;
    waited.expect("the node catches up").unwrap();
}

/// Equal state at equal index, on both.
pub(crate) async fn agree(a: &Node, b: &Node, index: u64) {
    reaches(a, index).await;
    reaches(b, index).await;
    // An election on a busy machine puts an entry of its own behind that, which one of them may not have yet.
    let equally_far = async {
        loop {
            let ((at_a, digest_a), (at_b, digest_b)) = (a.handle().digest(), b.handle().digest());
            if at_a == at_b {
                return (digest_a, digest_b);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let (digest_a, digest_b) = tokio::time::timeout(PATIENCE, equally_far).await.expect("equal positions");
    assert_eq!(digest_a, digest_b);
    assert_eq!(a.handle().events_after(None, 1000).unwrap(), b.handle().events_after(None, 1000).unwrap());
}

pub(crate) async fn cluster() -> BTreeMap<u64, Node> {
    let mut nodes = BTreeMap::new();
    for id in 1..=3 {
        nodes.insert(id, Node::start(id).await);
    }
    let leader = nodes[&1].handle();
    propose(leader, 0..10).await;
    for id in 2..=3 {
        let seen = leader.membership();
        leader.add_learner(&seen, NodeId(id), nodes[&id].address.to_string()).await.unwrap();
        // A second change with what was seen before the first is refused.
        assert!(leader.add_learner(&seen, NodeId(9), "127.0.0.1:1".into()).await.is_err());
    }
    let seen = leader.membership();
    leader.set_votes(&seen, [1, 2, 3].map(NodeId)).await.unwrap();
    assert_eq!(leader.membership().voters().count(), 3);
    nodes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_voters_agree_and_survive_their_leader() {
    let mut nodes = cluster().await;
    let last = propose(nodes[&1].handle(), 10..60).await;
    agree(&nodes[&1], &nodes[&2], last).await;
    agree(&nodes[&1], &nodes[&3], last).await;

    nodes.get_mut(&1).unwrap().stop().await;
    let mut leadership = nodes[&2].handle().leadership();
    let new = tokio::time::timeout(PATIENCE, async {
        let other = |id: NodeId| id != NodeId(1);
        leadership.wait_for(|now| now.leader.is_some_and(other)).await.unwrap().leader.unwrap()
    });
    let new = new.await.expect("another leads");
    let last = propose(nodes[&new.0].handle(), 60..70).await;
    agree(&nodes[&2], &nodes[&3], last).await;
    nodes[&new.0].handle().linearize().await.unwrap();

    // The dead peer is dialled with back-off, not in a loop; how often depends on how long the writes take.
    let dials = nodes[&new.0].dials.clone();
    let (before, began) = (dials.load(Ordering::Relaxed), Instant::now());
    propose(nodes[&new.0].handle(), 70..200).await;
    let (more, took) = (dials.load(Ordering::Relaxed) - before, began.elapsed());
    let bound = 100 + DIALS_PER_SECOND_MAX * usize::try_from(took.as_secs()).unwrap();
    assert!(more < bound, "{more} connection attempts in {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_node_is_fed_by_snapshot_and_comes_back_with_it() {
    let first = Node::start(1).await;
    let leader = first.handle();
    let last = propose(leader, 0..50).await;
    // The whole log goes, so that only a snapshot can help.
    leader.raft().trigger().snapshot().await.unwrap();
    let built = leader.raft().wait(Some(PATIENCE));
    built.metrics(|metrics| metrics.snapshot.is_some_and(|id| id.index() >= last), "snapshot").await.unwrap();
    leader.raft().trigger().purge_log(last).await.unwrap();
    let purged = leader.raft().wait(Some(PATIENCE));
    purged.metrics(|metrics| metrics.purged.is_some_and(|id| id.index() >= last), "purged").await.unwrap();

    let mut second = Node::start(2).await;
    let mut changes = second.handle().changes();
    let seen = leader.membership();
    leader.add_learner(&seen, NodeId(2), second.address.to_string()).await.unwrap();
    let last = propose(leader, 50..60).await;
    agree(&first, &second, last).await;
    assert!(changes.recv().await.unwrap().jumped, "it began with a snapshot");

    let digest = second.handle().digest();
    second.stop().await;
    let params = OpenParams {
        data_dir: second.dir.path().to_path_buf(),
        node_id: NodeId(2),
        cluster_id: identity().cluster_id,
        timings: RaftTimings::slow(),
        connector: None,
    };
    let (handle, _server) = open(params).await.unwrap();
    assert_eq!(handle.digest(), digest);
    assert_eq!(handle.metrics().role, crate::Role::Learner);
}
