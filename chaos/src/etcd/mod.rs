//! Three etcd members on loopback, as Debian's `etcd-server` has them: default fsync, plain HTTP/2.

pub mod wire;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use crate::eventually::{SOON, eventually};
use crate::ports::Ports;
use crate::processes;
use crate::spawned::Spawned;
use wire::EtcdClient;

const MEMBERS: usize = 3;

/// A member on this machine answers at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Of a look at a member's state.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// Room for the longest run: the default of 2 GiB would end one.
const QUOTA_BYTES: &str = "8589934592";

#[derive(Debug)]
struct Member {
    ports: Ports,
    process: Option<Spawned>,
}

/// Three members; everything of them is killed and removed when it is dropped.
#[derive(Debug)]
pub struct EtcdCluster {
    directory: tempfile::TempDir,
    members: Vec<Member>,
}

impl EtcdCluster {
    /// Whether the program is there.
    #[must_use]
    pub fn is_installed() -> bool {
        Command::new("etcd").arg("--version").output().is_ok_and(|output| output.status.success())
    }

    /// Starts all members and waits for a leader; `None`, said on stderr, where the program is not installed.
    ///
    /// # Panics
    /// When no leader is there within a minute.
    #[must_use]
    pub fn start(runtime: &tokio::runtime::Runtime) -> Option<Self> {
        if !Self::is_installed() {
            eprintln!(
                "  note: etcd is not installed, so only our own figures follow; `deploy/packages.sh bench`"
            );
            return None;
        }
        let directory = tempfile::Builder::new().prefix("svx-etcd-").tempdir_in("/tmp");
        let directory = directory.expect("make a temporary directory");
        let members = (0..MEMBERS).map(|_| Member { ports: Ports::free(), process: None }).collect();
        let mut cluster = Self { directory, members };
        (0..MEMBERS).for_each(|at| cluster.spawn(at));
        cluster.leader(runtime);
        Some(cluster)
    }

    /// Starts a member, the first time or again with its data.
    pub fn spawn(&mut self, at: usize) {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let name = |at: usize| format!("e{at}");
        let peer = |(at, member): (usize, &Member)| format!("{}={}", name(at), url(member.ports.raft));
        let all: Vec<String> = self.members.iter().enumerate().map(peer).collect();
        let Ports { grpc, raft, .. } = self.members[at].ports;
        let mut command = Command::new("etcd");
        // Nothing of the caller but where the program is: its flags can also come from variables.
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .arg("--name")
            .arg(name(at))
            .arg("--data-dir")
            .arg(self.data(at));
        for flag in ["--listen-client-urls", "--advertise-client-urls"] {
            command.arg(flag).arg(url(grpc));
        }
        for flag in ["--listen-peer-urls", "--initial-advertise-peer-urls"] {
            command.arg(flag).arg(url(raft));
        }
        command.args(["--initial-cluster-state", "new", "--initial-cluster"]).arg(all.join(","));
        command.args(["--quota-backend-bytes", QUOTA_BYTES]);
        let log = self.directory.path().join(format!("e{at}.log"));
        self.members[at].process = Some(Spawned::start(&name(at), &mut command, &log));
    }

    fn data(&self, at: usize) -> PathBuf {
        self.directory.path().join(format!("e{at}"))
    }

    /// SIGKILL to a member.
    ///
    /// # Panics
    /// When it was not started.
    pub fn kill(&mut self, at: usize) {
        self.members[at].process.as_mut().expect("a started member").kill9();
    }

    /// How many members.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Never.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Resident memory of each member in KiB.
    #[must_use]
    pub fn memory_kib(&self) -> Vec<u64> {
        let pids = self.members.iter().filter_map(|member| member.process.as_ref().map(Spawned::pid));
        pids.map(|pid| processes::memory_kib(pid).0).collect()
    }

    /// An open connection to a member.
    ///
    /// # Errors
    /// Nobody listens there.
    pub async fn connect(&self, at: usize) -> Result<Channel, tonic::transport::Error> {
        let url = format!("http://127.0.0.1:{}", self.members[at].ports.grpc);
        Endpoint::from_shared(url)?.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true).connect().await
    }

    async fn status(&self, at: usize) -> Result<(u64, u64), String> {
        let asked = async {
            let channel = self.connect(at).await.map_err(|error| error.to_string())?;
            EtcdClient::new(channel).status().await.map_err(|status| status.to_string())
        };
        tokio::time::timeout(STATUS_TIMEOUT, asked).await.map_err(|_| "no answer".to_owned())?
    }

    /// Position of the member that leads and says so itself.
    ///
    /// # Panics
    /// When none does within a minute.
    #[track_caller]
    pub fn leader(&self, runtime: &tokio::runtime::Runtime) -> usize {
        eventually("an etcd leader", SOON, || {
            let mut seen = Vec::new();
            for at in 0..self.members.len() {
                let status = runtime.block_on(self.status(at));
                if status.as_ref().is_ok_and(|(me, leader)| me == leader) {
                    return Ok(at);
                }
                seen.push(status);
            }
            Err(format!("{seen:?}"))
        })
    }

    /// Waits until every member follows or leads; their ids.
    ///
    /// # Panics
    /// When one does not within a minute.
    #[track_caller]
    pub fn await_all(&self, runtime: &tokio::runtime::Runtime) -> Vec<u64> {
        eventually("all etcd members", SOON, || {
            let statuses = (0..self.members.len()).map(|at| runtime.block_on(self.status(at)));
            let statuses: Vec<_> = statuses.collect();
            let ids: Vec<u64> =
                statuses.iter().flatten().filter(|(_, leader)| *leader != 0).map(|(me, _)| *me).collect();
            if ids.len() == self.members.len() { Ok(ids) } else { Err(format!("{statuses:?}")) }
        })
    }
}

impl Drop for EtcdCluster {
    fn drop(&mut self) {
        self.members.iter_mut().filter_map(|member| member.process.as_mut()).for_each(Spawned::kill9);
    }
}
