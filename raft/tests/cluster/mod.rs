//! A founded one-node cluster in a directory, and entries for it.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stratavore_model::command::{CreateProject, InitCluster, SetQuota};
use stratavore_model::{
    Actor, ClusterId, Command, Entry, LeaseNumbers, Millis, NodeAddresses, NodeId, SecretBytes,
};
use stratavore_raft::{BootstrapParams, Handle, OpenError, OpenParams, RaftServer, RaftTimings};

pub(crate) const NODE: NodeId = NodeId(1);

pub(crate) fn cluster_id() -> ClusterId {
    "0123456789abcdef".parse().expect("a valid fixture")
}

pub(crate) fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn entry(actor: Actor, command: Command) -> Entry {
    Entry { actor, request_id: None, at: now(), term: None, command }
}

fn by_admin(command: Command) -> Entry {
    entry(Actor::User("admin".parse().expect("a valid fixture")), command)
}

pub(crate) fn init_cluster() -> Entry {
    entry(
        Actor::System,
        Command::InitCluster(Box::new(InitCluster {
            cluster: cluster_id(),
            nonce: [7; 16],
            lease: LeaseNumbers::default(),
            ca_cert_der: vec![1; 300],
            ca_key_der: SecretBytes::new(vec![2; 100]),
            node: NODE,
            node_addresses: NodeAddresses::default(),
            node_spki: [3; 32],
            node_version: "0.1.0".into(),
            admin: "admin".parse().expect("a valid fixture"),
            admin_spki: [4; 32],
            version: stratavore_model::COMMAND_VERSION,
            node_max_version: stratavore_model::COMMAND_VERSION,
        })),
    )
}

pub(crate) fn create_project(name: &str) -> Entry {
    by_admin(Command::CreateProject(CreateProject {
        name: name.parse().expect("a valid fixture"),
        path: "/tmp".into(),
        command: vec!["/bin/true".into()],
        max_runners: 0,
    }))
}

pub(crate) fn set_quota(name: &str, max_runners: u32) -> Entry {
    by_admin(Command::SetQuota(SetQuota { project: name.parse().expect("a valid fixture"), max_runners }))
}

pub(crate) fn bootstrap_params() -> BootstrapParams {
    BootstrapParams {
        node_id: NODE,
        cluster_id: cluster_id(),
        raft_address: "127.0.0.1:1".into(),
        first: init_cluster(),
    }
}

pub(crate) fn open_params(dir: &Path) -> OpenParams {
    OpenParams {
        data_dir: dir.to_path_buf(),
        node_id: NODE,
        cluster_id: cluster_id(),
        timings: RaftTimings::default(),
        connector: None,
    }
}

pub(crate) async fn open(dir: &Path) -> Result<(Handle, RaftServer), OpenError> {
    stratavore_raft::open(open_params(dir)).await
}

/// Founds a cluster in `dir` and opens its node.
pub(crate) async fn founded(dir: &Path) -> Handle {
    stratavore_raft::bootstrap(dir, bootstrap_params()).await.expect("a valid fixture");
    open(dir).await.expect("a valid fixture").0
}
