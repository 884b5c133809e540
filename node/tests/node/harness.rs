//! A node that a test starts, stops and starts again.

use std::future::Future;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use stratavore_certs::{Credentials, Role};
use stratavore_node::config::Config;
use stratavore_node::exit::{Code, Failure};
use stratavore_node::server::{Addresses, Options, Server};
use stratavore_node::{init, joining};
use stratavore_raft::Handle;
use stratavore_settings::context::{Context, Contexts};

use crate::client::Client;

/// Far beyond what a loaded machine needs; reached only by a test that fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Ports of tests lie below the ephemeral range.
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

fn free_port() -> u16 {
    loop {
        let base = 10_000 + u16::try_from(std::process::id() % 200).unwrap() * 100;
        let port = base + NEXT_PORT.fetch_add(1, Ordering::Relaxed) % 2_000;
        let at = SocketAddr::from(([127, 0, 0, 1], port));
        if port < 32_768 && TcpListener::bind(at).is_ok() && UdpSocket::bind(at).is_ok() {
            return port;
        }
    }
}

/// A node with its directory.
pub(crate) struct Node {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) config: Config,
    server: Option<Server>,
    pub(crate) at: Addresses,
}

/// A configuration with free ports.
pub(crate) fn config() -> Config {
    let mut config = Config::default();
    let daemon = &mut config.daemon;
    for port in [
        &mut daemon.grpc_port,
        &mut daemon.quic_port,
        &mut daemon.raft_port,
        &mut daemon.join_port,
        &mut daemon.metrics_port,
    ] {
        *port = Some(free_port());
    }
    config
}

pub(crate) fn options(dir: &Path, config: &Config) -> Options {
    Options { data_dir: dir.to_owned(), config: config.clone(), advertise: None }
}

/// A cluster on free ports, not running. Another test may take a port in between, so this may have to be repeated.
pub(crate) async fn made(config: &Config) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    init::init(dir.path(), &"127.0.0.1".parse().unwrap(), config).await.unwrap();
    dir
}

impl Node {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// As [`Node::start`], with changes of the configuration.
    pub(crate) async fn start_with(change: impl Fn(&mut Config)) -> Self {
        loop {
            let mut config = config();
            change(&mut config);
            let dir = made(&config).await;
            match Server::start(options(dir.path(), &config)).await {
                Ok(server) => return Self { at: server.addresses(), dir, config, server: Some(server) },
                Err(Failure { code: Code::Conflict, .. }) => {}
                Err(failure) => panic!("{failure}"),
            }
        }
    }

    /// A node that has joined the cluster of `first` by way of `through`, and runs.
    pub(crate) async fn joined(first: &Self, through: &Self) -> Self {
        let mut config = Config { lease: first.config.lease.clone(), ..config() };
        config.daemon.reconcile_interval_seconds = first.config.daemon.reconcile_interval_seconds;
        let dir = tempfile::tempdir().unwrap();
        let token = Client::with(through, &first.admin()).await.token(Role::Node, 0).await;
        let request = joining::Request {
            servers: vec![through.at.join.to_string()],
            token,
            advertise: "127.0.0.1".parse().unwrap(),
        };
        joining::join(dir.path(), request, &config).await.unwrap();
        let mut node = Self { at: first.at, dir, config, server: None };
        node.start_again().await;
        // Until it has some state it knows nobody, and nobody is admitted.
        eventually("the first state", || async {
            let raft = node.raft();
            (raft.is_fresh() && raft.read(|state| state.cluster().is_some())).then_some(())
        })
        .await;
        node
    }

    pub(crate) fn raft(&self) -> Handle {
        self.server.as_ref().unwrap().raft()
    }

    /// Resolves when the node gives up by itself.
    pub(crate) async fn failed(&mut self) -> Failure {
        self.server.as_mut().unwrap().failed().await
    }

    /// As a crash looks to the others.
    pub(crate) async fn halt(&mut self) {
        self.server.take().unwrap().halt().await;
    }

    pub(crate) fn is_running(&self) -> bool {
        self.server.is_some()
    }

    pub(crate) async fn stop(&mut self) {
        self.server.take().unwrap().drain().await;
    }

    pub(crate) async fn start_again(&mut self) {
        // The UDP socket is closed by a task of quinn's, a moment after the drain.
        let server = eventually("the start on the same ports", || async {
            match Server::start(options(self.dir.path(), &self.config)).await {
                Ok(server) => Some(server),
                Err(Failure { code: Code::Conflict, .. }) => None,
                Err(failure) => panic!("{failure}"),
            }
        })
        .await;
        self.at = server.addresses();
        self.server = Some(server);
    }

    pub(crate) fn admin_context(&self) -> Context {
        let contexts = Contexts::load(&self.dir.path().join("admin.yaml")).unwrap();
        contexts.get(None).unwrap().1.clone()
    }

    pub(crate) fn admin(&self) -> Credentials {
        let context = self.admin_context();
        Credentials::from_pem(&context.ca, &context.certificate, &context.key).unwrap()
    }
}

/// Asks until there is an answer.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("{what} did not happen"))
}

/// Bounds a wait for something that a test expects.
pub(crate) async fn soon<T>(what: &str, wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what} did not happen"))
}
