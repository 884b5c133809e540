//! The control-plane nodes of a farm: their lives, one by one.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::eventually::{SOON, eventually};
use crate::http;
use crate::ports::Ports;
use crate::ran::{Ran, run};
use crate::spawned::Spawned;

use super::LocalFarm;

/// A port on this machine answers at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// One node of a farm.
#[derive(Debug)]
pub struct Node {
    /// Its data directory.
    pub data: PathBuf,
    /// Where it listens.
    pub ports: Ports,
    /// The address it is reached at.
    pub address: IpAddr,
    /// Member of the farm's network, if there is one.
    pub place: Option<String>,
    /// How far its clock is ahead of this machine's, in milliseconds; only a debug build can be told so.
    pub clock_ahead_ms: i64,
    /// The process, once started.
    pub process: Option<Spawned>,
}

impl Node {
    pub(super) fn new(data: PathBuf, address: IpAddr) -> Self {
        Self { data, ports: Ports::free(), address, place: None, clock_ahead_ms: 0, process: None }
    }

    pub(super) fn place(&mut self, (place, address): (String, IpAddr)) {
        (self.place, self.address) = (Some(place), address);
    }

    /// Where clients reach it.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("{}:{}", self.address, self.ports.grpc)
    }

    /// Where agents connect.
    #[must_use]
    pub fn quic(&self) -> SocketAddr {
        (self.address, self.ports.quic).into()
    }

    /// Where others join through it.
    #[must_use]
    pub fn join_server(&self) -> String {
        format!("{}:{}", self.address, self.ports.join)
    }

    /// Whether its process runs (a frozen one does).
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.ended().is_none())
    }
}

impl LocalFarm {
    /// `stratavored init` with the first node's ports.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn init_node(&self) {
        let first = &self.nodes[0];
        let mut command = self.node_command(0, "init");
        command.arg("--advertise").arg(first.address.to_string());
        run(command.args(first.ports.flags())).ok();
        std::fs::copy(first.data.join("admin.yaml"), self.path("admin.yaml"))
            .expect("copy the admin's context");
    }

    /// `stratavored WHAT --data-dir …` of node `at`, with the farm's configuration.
    #[must_use]
    pub fn node_command(&self, at: usize, what: &str) -> Command {
        let node = &self.nodes[at];
        let mut command = self.command_at(node.place.as_deref(), &self.binaries.node());
        command.arg(what).arg("--data-dir").arg(&node.data);
        if node.clock_ahead_ms != 0 {
            command.env("STRATAVORE_TEST_CLOCK_AHEAD_MS", node.clock_ahead_ms.to_string());
        }
        if self.configuration().exists() {
            command.arg("--config").arg(self.configuration());
        }
        command
    }

    /// One more node: a token, `stratavored join`, `stratavored run`; its position. It is waited for until it serves,
    /// not until it is a voter.
    ///
    /// # Panics
    /// When it cannot join or does not come up.
    #[track_caller]
    pub fn add_node(&mut self) -> usize {
        let at = self.prepare_node();
        let token = self.token("node", &[]);
        self.try_join_node(at, &token).ok();
        self.start_node_at(at);
        at
    }

    /// The place of one more node, which has not joined yet.
    pub fn prepare_node(&mut self) -> usize {
        let at = self.nodes.len();
        let mut node = Node::new(self.path(&format!("n{at}")), [127, 0, 0, 1].into());
        if let Some(network) = &mut self.network {
            node.place(network.join(&format!("n{at}")));
        }
        self.nodes.push(node);
        at
    }

    /// `stratavored join` of node `at` with a token file, whatever comes of it. All nodes that run are its servers.
    #[must_use]
    #[track_caller]
    pub fn try_join_node(&mut self, at: usize, token: &std::path::Path) -> Ran {
        let servers = self.join_servers();
        let node = &self.nodes[at];
        let mut command = self.node_command(at, "join");
        command.arg("--server").arg(servers).arg("--token-file").arg(token);
        run(command.arg("--advertise").arg(node.address.to_string()).args(node.ports.flags()))
    }

    /// Join addresses of all nodes that run.
    #[must_use]
    pub fn join_servers(&mut self) -> String {
        let running = self.nodes.iter_mut().filter_map(|node| node.is_running().then(|| node.join_server()));
        running.collect::<Vec<_>>().join(",")
    }

    /// `stratavored run` of the first node, waited for until it serves.
    ///
    /// # Panics
    /// When it does not come up.
    #[track_caller]
    pub fn start_node(&mut self) {
        self.start_node_at(0);
    }

    /// `stratavored run` of node `at`, waited for until it serves.
    ///
    /// # Panics
    /// When it does not come up.
    #[track_caller]
    pub fn start_node_at(&mut self, at: usize) {
        self.spawn_node(at);
        self.await_node_at(at);
    }

    /// `stratavored run` of node `at`, not waited for.
    pub fn spawn_node(&mut self, at: usize) {
        self.spawn_node_with(at, &[]);
    }

    /// The same with more flags.
    pub fn spawn_node_with(&mut self, at: usize, flags: &[String]) {
        let mut command = self.node_command(at, "run");
        command.args(flags);
        let (name, log) = if at == 0 {
            ("node".to_owned(), "logs/node.log".to_owned())
        } else {
            (format!("node-{at}"), format!("logs/node-{at}.log"))
        };
        self.nodes[at].process = Some(Spawned::start(&name, &mut command, &self.path(&log)));
    }

    /// Waits until the first node serves.
    ///
    /// # Panics
    /// When the node exits or does not become ready; shows its log.
    #[track_caller]
    pub fn await_node(&mut self) {
        self.await_node_at(0);
    }

    /// Waits until node `at` serves: `/readyz` says yes, or, in a namespace where that page is out of reach, its API
    /// port takes connections.
    ///
    /// # Panics
    /// When the node exits or does not become ready; shows its log.
    #[track_caller]
    pub fn await_node_at(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        eventually(&format!("node {at} to be ready"), SOON, || {
            if let Some(status) = node.process.as_mut().and_then(Spawned::ended) {
                let log = node.process.as_ref().map(Spawned::log).unwrap_or_default();
                panic!("node {at} exited with {status}:\n{log}");
            }
            if node.place.is_some() {
                let api = (node.address, node.ports.grpc).into();
                return TcpStream::connect_timeout(&api, CONNECT_TIMEOUT)
                    .map(drop)
                    .map_err(|e| e.to_string());
            }
            match http::get(node.ports.metrics, "/readyz") {
                Ok((200, _)) => Ok(()),
                Ok((code, body)) => Err(format!("/readyz answers {code}: {body}")),
                Err(error) => Err(error.to_string()),
            }
        });
    }

    /// `stratavored run` of the first node that is expected to refuse: runs to its end.
    #[must_use]
    #[track_caller]
    pub fn run_node_to_end(&self, more: &[&str]) -> Ran {
        run(self.node_command(0, "run").args(more))
    }

    /// `stratavored run` of node `at` that is expected to refuse: runs to its end.
    #[must_use]
    #[track_caller]
    pub fn run_node_at_to_end(&self, at: usize) -> Ran {
        run(&mut self.node_command(at, "run"))
    }

    /// SIGKILL to the first node.
    ///
    /// # Panics
    /// When none was started.
    pub fn kill_node(&mut self) {
        self.kill_node_at(0);
    }

    /// SIGKILL to node `at`.
    ///
    /// # Panics
    /// When it was not started.
    pub fn kill_node_at(&mut self, at: usize) {
        self.nodes[at].process.as_mut().expect("a started node").kill9();
    }

    /// SIGTERM to node `at`, waited for.
    ///
    /// # Panics
    /// When it was not started, or does not end well.
    #[track_caller]
    pub fn stop_node_at(&mut self, at: usize) {
        let status = self.nodes[at].process.as_mut().expect("a started node").stop();
        assert!(status.success(), "node {at} ended with {status}");
    }

    /// SIGSTOP to node `at`: it holds its connections and says nothing.
    ///
    /// # Panics
    /// When it was not started.
    pub fn freeze_node(&self, at: usize) {
        self.nodes[at].process.as_ref().expect("a started node").signal(Signal::STOP);
    }

    /// SIGCONT to node `at`.
    ///
    /// # Panics
    /// When it was not started.
    pub fn thaw_node(&self, at: usize) {
        self.nodes[at].process.as_ref().expect("a started node").signal(Signal::CONT);
    }
}
