//! A cluster of one fake node, and the real `stratavore-agent` against it.

mod gateway;
mod join;
mod process;

pub(crate) use gateway::{Control, Gateway};
pub(crate) use join::{Answer, JoinServer};
pub(crate) use process::{Agent, join as join_with, program, stop};

use std::future::Future;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stratavore_certs::{Ca, Credentials, Identity, JoinToken, KeyPair, Role, Validity};
use stratavore_proto::v1;

pub(crate) const CLUSTER: &str = "0123456789abcdef";

/// Far beyond what anything here takes, even on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Fails the test instead of hanging it.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {PATIENCE:?}: {what}"),
    }
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    within(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

pub(crate) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A CA with two nodes.
pub(crate) struct Authority {
    pub(crate) ca: Ca,
    pub(crate) node: Credentials,
    pub(crate) second: Credentials,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let ca = Ca::generate(CLUSTER, now_s()).unwrap();
        let [node, second] = [1, 2].map(|id| {
            let key = KeyPair::generate().unwrap();
            let identity = Identity::Node { cluster: CLUSTER.into(), id };
            let validity = Validity::for_identity(&identity, now_s());
            let certificate = ca.issue(&key.public(), &identity, &[], validity).unwrap();
            Credentials::new(ca.certificate_der(), &certificate, key).unwrap()
        });
        Self { ca, node, second }
    }

    pub(crate) fn token(&self) -> JoinToken {
        JoinToken::generate(Role::Host, CLUSTER, self.ca.pin()).unwrap()
    }
}

/// Ten characters that no other test has.
pub(crate) fn unique_id() -> String {
    let digits = b"0123456789abcdefghjkmnpqrstvwxyz";
    let mut bytes = [0; 10];
    getrandom::fill(&mut bytes).unwrap();
    bytes.iter().map(|byte| char::from(digits[usize::from(byte & 31)])).collect()
}

/// An order to run `script` in a shell with pipes.
pub(crate) fn run_order(runner: &str, index: u64, script: &str) -> v1::DesiredRunner {
    let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    order(
        runner,
        index,
        v1::Want::Run,
        Some(v1::RunnerStart { command, workdir: "/".into(), ..Default::default() }),
    )
}

pub(crate) fn order(
    runner: &str,
    index: u64,
    want: v1::Want,
    start: Option<v1::RunnerStart>,
) -> v1::DesiredRunner {
    v1::DesiredRunner {
        runner: runner.into(),
        epoch: Some(epoch(index)),
        want: want.into(),
        start,
        stop_reason: "stopped".into(),
        ..Default::default()
    }
}

pub(crate) fn epoch(index: u64) -> v1::Epoch {
    v1::Epoch { incarnation: 1, index }
}

/// One host that has joined: its authority, its gateway, its data directory.
pub(crate) struct Farm {
    pub(crate) gateway: Gateway,
    pub(crate) host_id: String,
    pub(crate) dir: tempfile::TempDir,
}

impl Farm {
    /// Joins over a real join server.
    pub(crate) async fn joined() -> Self {
        Self::joined_in(tempfile::tempdir().unwrap()).await
    }

    pub(crate) async fn joined_in(dir: tempfile::TempDir) -> Self {
        Self::join(&Authority::new(), dir, None).await
    }

    pub(crate) async fn join(
        authority: &Authority,
        dir: tempfile::TempDir,
        validity: Option<Validity>,
    ) -> Self {
        let gateway = Gateway::start(&authority.node);
        let host_id = unique_id();
        let server = JoinServer::start(authority, &host_id, gateway.address(), vec![], validity).await;
        let token = authority.token();
        let joined = process::join(&dir.path().join("data"), &server.address(), &token.reveal(), &[]).await;
        assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
        Self { gateway, host_id, dir }
    }

    /// Joined at the first of two gateways; the agent learns of the second by its first welcome.
    pub(crate) async fn with_two_gateways() -> (Self, Gateway) {
        let authority = Authority::new();
        let second = Gateway::start(&authority.second);
        (Self::join(&authority, tempfile::tempdir().unwrap(), None).await, second)
    }

    pub(crate) fn data_dir(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn agent(&self) -> Agent {
        Agent::run(&self.data_dir())
    }

    /// Starts the agent and welcomes it with `desired` at `index`.
    pub(crate) async fn agent_with(&self, index: u64, desired: Vec<v1::DesiredRunner>) -> (Agent, Control) {
        let agent = self.agent();
        let mut control = self.gateway.accept().await;
        control.welcome(index, desired).await;
        (agent, control)
    }

    pub(crate) fn runner_dir(&self, runner: &str, index: u64) -> std::path::PathBuf {
        self.data_dir().join(format!("runners/{runner}-1.{index}"))
    }
}

impl Drop for Farm {
    /// Leaves no process behind, whatever the test did.
    fn drop(&mut self) {
        process::stop_everything(&self.data_dir());
    }
}

/// Processes that name `runner` in their arguments: its shim and what belongs to that.
pub(crate) fn shims_of(runner: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(runner)).count()
}

pub(crate) fn alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}
