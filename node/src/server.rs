//! A running node: the wiring of its parts, and the order in which they end. Nothing else.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use stratavore_model::NodeId;
use stratavore_raft::{Connector, Handle, OpenParams, RaftServer, RaftTimings};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::address::{self, Advertise};
use crate::admission::{Connections, Registry};
use crate::announce::Announce;
use crate::api::{self, Api};
use crate::clock::{Clock, ClockWatch};
use crate::config::Config;
use crate::data_dir::{self, DataDir, NodeFile};
use crate::dispatch::Dispatch;
use crate::exit::{Code, Failure};
use crate::grpc;
use crate::http::{self, Probes};
use crate::join::{self, Join};
use crate::leader::Leader;
use crate::leader::ahead::Ahead;
use crate::leader::liveness::Renewals;
use crate::leader::placement::PlacementCounters;
use crate::life::{hand_over, removed};
use crate::link::certificate::Issuer;
use crate::link::endpoint::{Farewell, Link};
use crate::link::handshake::Greeter;
use crate::link::hub::Hub;
use crate::link::ingest::Ingest;
use crate::link::trust::TrustUpdates;
use crate::listen::accept::{Acceptor, Admittance};
use crate::listen::bounds::JoinGate;
use crate::listen::sockets::Sockets;
use crate::metrics::{Counted, Metrics};
use crate::own_certificate::{OwnCertificate, TlsPorts};
use crate::peer::channels::Channels;
use crate::peer::contact::Contact;
use crate::peer::dial::{Dialer, Removal};
use crate::peer::renewals::RenewalRelay;
use crate::peer::service::Peers;
use crate::quarantine::{Guard, Quarantine};
use crate::removed_keys;
use crate::storage;
use crate::tasks::{TaskKind, Tasks};
use crate::trust::Trust;
use crate::welcome::Periods;

/// Each step of the drain ends within this time or is left behind: a crash must be as safe as a drain.
const STEP_GRACE: Duration = Duration::from_secs(3);

/// What a node is started with.
#[derive(Debug, Clone)]
pub struct Options {
    pub data_dir: PathBuf,
    pub config: Config,
    /// Another address than `init` recorded; proposed to the cluster.
    pub advertise: Option<Advertise>,
}

/// Where a node listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    pub grpc: SocketAddr,
    pub quic: SocketAddr,
    pub raft: SocketAddr,
    pub join: SocketAddr,
    pub metrics: Option<SocketAddr>,
}

/// The groups of tasks, in the order in which they end.
struct Groups {
    accept: Tasks,
    api: Tasks,
    leader: Tasks,
    link: Tasks,
    loops: Tasks,
    serve: Tasks,
}

/// A running node.
pub struct Server {
    addresses: Addresses,
    raft: Handle,
    groups: Groups,
    farewell: Farewell,
    announced: mpsc::Receiver<String>,
    root: Tasks,
    registry: Arc<Registry>,
    removal: Removal,
    node: NodeId,
    /// Held until the databases are closed.
    data_dir: DataDir,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// What the parts are built from.
struct Parts {
    node: NodeId,
    raft: Handle,
    hub: Hub,
    connections: Connections,
    registry: Arc<Registry>,
    channels: Channels,
    quarantine: Quarantine,
    clock: Clock,
    issuer: Issuer,
    renewals: Renewals,
    counted: Counted,
    placement: PlacementCounters,
    tls: TlsPorts,
    started: Instant,
}

impl Server {
    /// Starts a node. When this returns it answers on all ports.
    ///
    /// # Errors
    /// With the exit code that fits: wrong directory, taken port, damaged storage.
    pub async fn start(options: Options) -> Result<Self, Failure> {
        let started = Instant::now();
        let (data_dir, node) = DataDir::open(&options.data_dir)?;
        let host =
            options.advertise.as_ref().map_or(node.advertise.as_str(), |advertise| advertise.host.as_str());
        let grpc_port = options.advertise.as_ref().and_then(|advertise| advertise.port);
        let ports = address::ports(&options.config, grpc_port, Some(node.ports));
        let credentials = Arc::new(data_dir.credentials(&node)?);
        let sockets = Sockets::bind(&address::binds(&options.config, host, ports).await?)?;
        let addresses =
            sockets.addresses().map_err(|error| Failure::generic("a socket has no address", &error))?;
        let registry = Arc::new(Registry::new(Trust::load(data_dir.path())?));
        let tls = TlsPorts::new(&credentials, registry.clone())?;
        let (dialer, removal) = (Dialer::new(tls.own(), registry.clone()), Removal::new());
        let connector = dialer.connector(removal.clone());
        let timings = options.config.raft.timings();
        let (raft, raft_server) = open_raft(data_dir.path(), &node, timings, connector).await?;
        registry.attach(raft.clone());
        // P4: whoever leads stamps, also what other nodes bring.
        let clock = Clock::new(NodeId(node.node_id));
        raft.set_stamp(Arc::new({
            let clock = clock.clone();
            move || clock.now()
        }));

        let (root, announced) = Tasks::root();
        let groups = Groups::below(&root);
        let parts = Parts::new(&node, raft.clone(), tls, (dialer, registry.clone()), clock, &root, started)?;
        let expires = credentials.validity().map(|validity| validity.not_after_unix_s).unwrap_or(0);
        let secret = credentials.key().pkcs8_der();
        let farewell = parts.start_link(&groups, sockets.quic, secret, periods(&options.config))?;
        parts.start_leader(&groups);
        parts.start_grpc(&groups, sockets.grpc, data_dir.path()).await;
        parts.start_raft(&groups, sockets.raft, raft_server);
        parts.start_join(&groups, sockets.join);
        parts.start_http(&groups, sockets.metrics, data_dir.path(), expires);
        let announce =
            Announce { node: parts.node, addresses: address::advertised(host, ports), raft: raft.clone() };
        groups.loops.spawn(TaskKind::Announce, announce.run(groups.loops.token().clone()));
        removed_keys::start(&groups.loops, parts.raft.clone(), data_dir.path())?;
        let own = OwnCertificate {
            node: parts.node,
            advertised: host.to_owned(),
            pki: data_dir.path().join("pki"),
            credentials,
            issuer: parts.issuer,
            ports: parts.tls,
        };
        groups.loops.spawn(TaskKind::Certificate, own.run(groups.loops.token().clone()));
        tracing::info!(cluster = %node.cluster_id, node = node.node_id, grpc = %addresses.grpc, "node started");
        let node = NodeId(node.node_id);
        Ok(Self { addresses, raft, groups, farewell, announced, root, registry, removal, node, data_dir })
    }

    /// Where the node listens.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Resolves when the node cannot go on, with the reason: the process must exit then, without a drain.
    pub async fn failed(&mut self) -> Failure {
        let Self { raft, removal, announced, .. } = self;
        let (raft, removed) = (raft.clone(), removed(raft.clone(), removal.clone()));
        let reason = tokio::select! {
            reason = raft.fatal() => reason,
            Some(reason) = announced.recv() => reason,
            how = removed => {
                DataDir::mark_removed(self.data_dir.path(), &how);
                return data_dir::removed(self.node.0, &how);
            }
        };
        Failure::new(
            Code::Fatal,
            format!("the node cannot go on: {reason}"),
            "start it again; if the message names a file or a full disk, see to that first",
        )
    }

    /// The consensus that this node takes part in.
    #[must_use]
    pub fn raft(&self) -> Handle {
        self.raft.clone()
    }

    /// Ends at once, handing nothing over: what a crash looks like to the others.
    pub async fn halt(self) {
        let Self { raft, root, registry, farewell, .. } = self;
        root.stop(Duration::ZERO).await;
        farewell.wait().await;
        registry.detach();
        raft.shutdown().await;
    }

    /// Ends in order: no newcomers, viewers, leader loops, agents (which keep their runners), loops, calls in flight,
    /// raft.
    pub async fn drain(self) {
        let Self { raft, groups, farewell, root, registry, .. } = self;
        hand_over(&raft).await;
        for (name, group) in groups.in_order() {
            if !group.stop(STEP_GRACE).await {
                tracing::debug!(group = name, "tasks did not end in time, they are left behind");
            }
            if name == "link" {
                farewell.wait().await;
            }
        }
        root.stop(STEP_GRACE).await;
        registry.detach();
        raft.shutdown().await;
        tracing::info!("node stopped");
    }
}

impl Groups {
    fn below(root: &Tasks) -> Self {
        Self {
            accept: root.group(),
            api: root.group(),
            leader: root.group(),
            link: root.group(),
            loops: root.group(),
            serve: root.group(),
        }
    }

    fn in_order(&self) -> [(&'static str, &Tasks); 6] {
        [
            ("accept", &self.accept),
            ("api", &self.api),
            ("leader", &self.leader),
            ("link", &self.link),
            ("loops", &self.loops),
            ("serve", &self.serve),
        ]
    }
}

async fn open_raft(
    data_dir: &Path,
    node: &NodeFile,
    timings: RaftTimings,
    connector: Connector,
) -> Result<(Handle, RaftServer), Failure> {
    let params = OpenParams {
        data_dir: data_dir.to_owned(),
        node_id: NodeId(node.node_id),
        cluster_id: node.cluster_id,
        timings,
        connector: Some(connector),
    };
    stratavore_raft::open(params).await.map_err(|error| storage::failure(&error))
}

fn periods(config: &Config) -> Periods {
    Periods {
        resync: Duration::from_secs(config.daemon.reconcile_interval_seconds),
        load_report: Duration::from_secs(config.daemon.heartbeat_interval_seconds),
    }
}

impl Parts {
    fn new(
        node: &NodeFile,
        raft: Handle,
        tls: TlsPorts,
        (dialer, registry): (Dialer, Arc<Registry>),
        clock: Clock,
        root: &Tasks,
        started: Instant,
    ) -> Result<Self, Failure> {
        let counted = Counted::new().map_err(|error| Failure::generic("a metric is not valid", &error))?;
        let me = NodeId(node.node_id);
        // P24: known damage is not served for a moment, unless nobody else can serve.
        let damage = raft.state_damage().filter(|_| raft.membership().voters().any(|voter| voter != me));
        Ok(Self {
            node: me,
            hub: Hub::default(),
            connections: Connections::new(root.token().child_token()),
            registry,
            channels: Channels::new(raft.clone(), dialer),
            quarantine: Quarantine::new(damage),
            clock,
            issuer: Issuer::new(raft.clone()),
            renewals: Renewals::new(),
            counted,
            placement: PlacementCounters::default(),
            tls,
            raft,
            started,
        })
    }

    fn start_link(
        &self,
        groups: &Groups,
        socket: std::net::UdpSocket,
        secret: &[u8],
        periods: Periods,
    ) -> Result<Farewell, Failure> {
        let (dispatch, dispatch_handle) = Dispatch::new(self.raft.clone(), periods);
        let (ingest, ingest_handle) = Ingest::new(self.raft.clone());
        let (relay, renewals) = RenewalRelay::new(&self.raft, self.renewals.clone(), self.channels.clone());
        let stop = groups.loops.token();
        groups.loops.spawn(TaskKind::Dispatch, dispatch.run(stop.clone()));
        groups.loops.spawn(TaskKind::Ingest, ingest.run(stop.clone()));
        groups.loops.spawn(TaskKind::Renewals, relay.run(stop.clone()));
        let contact = Contact { raft: self.raft.clone(), hub: self.hub.clone() };
        groups.loops.spawn(TaskKind::Contact, contact.run(stop.clone()));
        let guard = Guard {
            node: self.node,
            raft: self.raft.clone(),
            hub: self.hub.clone(),
            quarantine: self.quarantine.clone(),
        };
        groups.loops.spawn(TaskKind::Quarantine, guard.run(stop.clone()));
        let watch = ClockWatch {
            node: self.node,
            raft: self.raft.clone(),
            channels: self.channels.clone(),
            clock: self.clock.clone(),
        };
        groups.loops.spawn(TaskKind::Clock, watch.run(stop.clone()));
        let trust = TrustUpdates { raft: self.raft.clone(), hub: self.hub.clone() };
        groups.loops.spawn(TaskKind::Trust, trust.run(stop.clone()));
        let sweep = self.connections.clone().run(self.raft.clone(), self.registry.clone(), stop.clone());
        groups.loops.spawn(TaskKind::Sweep, sweep);
        groups.loops.spawn(TaskKind::Count, self.counted.clone().run(self.raft.clone(), stop.clone()));
        let greeter = Greeter {
            node: self.node,
            raft: self.raft.clone(),
            hub: self.hub.clone(),
            connections: self.connections.clone(),
            dispatch: dispatch_handle,
            ingest: ingest_handle,
            renewals,
            issuer: self.issuer.clone(),
            counted: self.counted.clone(),
            tasks: groups.link.clone(),
            quarantine: self.quarantine.clone(),
        };
        let link = Link::new(socket, &self.tls.quic(), greeter, secret, groups.link.clone())?;
        let farewell = link.farewell();
        link.start(self.tls.quic());
        Ok(farewell)
    }

    fn start_leader(&self, groups: &Groups) {
        let leader = Leader {
            node: self.node,
            raft: self.raft.clone(),
            renewals: self.renewals.clone(),
            placement: self.placement.clone(),
            tasks: groups.leader.clone(),
        };
        groups.leader.spawn(TaskKind::Leader, leader.run(groups.leader.token().clone()));
    }

    async fn start_grpc(&self, groups: &Groups, listener: TcpListener, data_dir: &Path) {
        let api = Api {
            node: self.node,
            raft: self.raft.clone(),
            ahead: Ahead::new(self.raft.clone(), self.placement.clone()),
            hub: self.hub.clone(),
            renewals: self.renewals.clone(),
            tasks: groups.api.clone(),
            channels: self.channels.clone(),
            issuer: self.issuer.clone(),
            quarantine: self.quarantine.clone(),
            clock: self.clock.clone(),
            started: self.started,
            data_dir: data_dir.to_path_buf(),
        };
        let peers = Peers {
            raft: self.raft.clone(),
            hub: self.hub.clone(),
            renewals: self.renewals.clone(),
            tasks: groups.api.clone(),
            quarantine: self.quarantine.clone(),
        };
        let routes = api::routes(Arc::new(api), peers).await;
        let acceptor = self.acceptor("grpc", listener, self.tls.grpc(), Admittance::Certified, groups);
        let serving = grpc::api(routes, acceptor.start(), groups.serve.token().clone());
        groups.serve.spawn(TaskKind::Serve, serving);
    }

    fn start_raft(&self, groups: &Groups, listener: TcpListener, server: RaftServer) {
        let acceptor = self.acceptor("raft", listener, self.tls.raft(), Admittance::Certified, groups);
        let serving = grpc::raft(server.into_routes(), acceptor.start(), groups.serve.token().clone());
        groups.serve.spawn(TaskKind::Serve, serving);
    }

    fn start_join(&self, groups: &Groups, listener: TcpListener) {
        let gate = Arc::new(Mutex::new(JoinGate::new(Instant::now())));
        let admittance = Admittance::Stranger { lifetime: join::CONNECTION_LIFETIME, gate };
        let acceptor = self.acceptor("join", listener, self.tls.join(), admittance, groups);
        let join = Join {
            node: self.node,
            raft: self.raft.clone(),
            issuer: self.issuer.clone(),
            quarantine: self.quarantine.clone(),
        };
        let serving = grpc::join(join, acceptor.start(), groups.serve.token().clone());
        groups.serve.spawn(TaskKind::Serve, serving);
    }

    fn start_http(
        &self,
        groups: &Groups,
        listener: Option<TcpListener>,
        data_dir: &Path,
        certificate_expires_unix_s: u64,
    ) {
        let Some(listener) = listener else { return };
        let metrics = Metrics {
            raft: self.raft.clone(),
            hub: self.hub.clone(),
            connections: self.connections.clone(),
            placement: self.placement.clone(),
            counted: self.counted.clone(),
            quarantine: self.quarantine.clone(),
            clock: self.clock.clone(),
            started: self.started,
            certificate_expires_unix_s,
        };
        let (raft, hub, quarantine) = (self.raft.clone(), self.hub.clone(), self.quarantine.clone());
        let probes = Probes { raft, hub, quarantine, data_dir: data_dir.to_owned(), metrics };
        groups.serve.spawn(TaskKind::Http, http::serve(listener, probes, groups.serve.token().clone()));
    }

    fn acceptor(
        &self,
        name: &'static str,
        listener: TcpListener,
        tls: tokio::sync::watch::Receiver<Arc<rustls::ServerConfig>>,
        admittance: Admittance,
        groups: &Groups,
    ) -> Acceptor {
        Acceptor::new(name, listener, tls, admittance, self.connections.clone(), groups.accept.clone())
    }
}
