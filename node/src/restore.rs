//! `stratavored restore`: one node with everything that a backup has, under the next incarnation (P1, P30). The old nodes
//! are out of it: this one is another node, with another key.

use std::fmt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use stratavore_certs::{Ca, Credentials, Identity, KeyPair, Validity};
use stratavore_model::command::{
    CUT_KEYS_MAX, CreateToken, CutKeys, Joiner, RedeemToken, RemoveNode, SetNodeAddress,
};
use stratavore_model::{
    Actor, COMMAND_VERSION, ClusterId, Command, Entry, HostState, NodeAddresses, NodeId, Role, State,
    TokenId, UserName,
};
use stratavore_raft::{BackupError, BackupHeader, ReservedNode, RestoreParams};
use stratavore_settings::context::{Context, Contexts};

use crate::address::{self, Advertise};
use crate::config::{Config, daemon};
use crate::convert::id;
use crate::data_dir::{DataDir, NodeFile, Ports};
use crate::exit::{Code, Failure, chain};
use crate::init::{ADMIN_FILE, certified, refuse_zero};
use crate::link::certificate::server_names;
use crate::removed_keys::{self, RemovedKey};
use crate::storage;

/// How long the tokens of the restore itself live: they are used by the next entry.
const TOKEN_TTL_MS: u64 = 60_000;

/// What was asked for on the command line.
#[derive(Debug)]
pub struct Request {
    pub file: PathBuf,
    /// None: in the place of the node that made the backup.
    pub advertise: Option<Advertise>,
    /// P30: the list of removed keys that some node of the old cluster kept.
    pub removed_keys: Option<PathBuf>,
    /// P1: where the old cluster is known to have gone further than one above the backup; 0 = it is not.
    pub incarnation_min: u64,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    pub cluster_id: String,
    pub data_dir: PathBuf,
    pub node_id: u64,
    pub incarnation: u64,
    /// Everything up to here was in the backup.
    pub index: u64,
    /// Whether agents that were connected when the backup was made know this node by now.
    pub known_to_agents: bool,
    /// Hosts whose list is waited for.
    pub hosts: usize,
    pub admin: String,
    pub admin_file: PathBuf,
    pub addresses: NodeAddresses,
}

impl fmt::Display for Restored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster_id, node_id, incarnation, index, admin, hosts, addresses, .. } = self;
        writeln!(
            f,
            "cluster {cluster_id} is restored up to index {index}: node {node_id}, incarnation {incarnation}"
        )?;
        writeln!(f, "run: stratavored run --data-dir {}", self.data_dir.display())?;
        writeln!(f, "admin context: {} (user {admin})", self.admin_file.display())?;
        writeln!(
            f,
            "users: their contexts go on; name the node with --cluster {} if it moved",
            addresses.grpc
        )?;
        writeln!(f, "nodes: never start the old ones again with their old directories; let new ones join")?;
        writeln!(
            f,
            "hosts: nothing that the backup has waiting is placed before all of its {hosts} have said what they run"
        )?;
        if self.known_to_agents {
            writeln!(f, "agents: those that know {} come by themselves", addresses.quic)?;
        } else {
            writeln!(f, "agents: each has to be told, since the backup has no key that they know")?;
        }
        writeln!(f, "agents that do not come: stratavore-agent trust --data-dir D --node {}", addresses.quic)
    }
}

/// Restores `request.file` into an empty `data_dir`.
///
/// # Errors
/// [`Code::Conflict`] for a directory in use, [`Code::Corrupt`] for a damaged backup, [`Code::Usage`] for one that this
/// program cannot use.
pub async fn restore(data_dir: &Path, request: Request, config: &Config) -> Result<Restored, Failure> {
    let Request { file, advertise, removed_keys: list, incarnation_min } = request;
    let header = stratavore_raft::read_backup_header(&file).map_err(|error| refused(&error))?;
    let removed = list.as_deref().map(removed_keys::read).transpose()?.unwrap_or_default();
    let dir = DataDir::create(data_dir).map_err(|failure| other_directory(failure, &header))?;
    let nonce = id::random().map_err(|error| Failure::generic("cannot restore", &error))?;
    let plan = Plan { config: config.clone(), advertise, nonce, incarnation_min, removed: removed.clone() };
    let (restored, birth) = stratavore_raft::restore_from_file(&file, dir.path(), move |header, state| {
        plan.decide(header, state)
    })
    .await
    .map_err(|error| refused(&error))?;
    dir.save_credentials(&birth.node)?;
    removed_keys::begin(dir.path(), &removed)
        .map_err(|error| Failure::generic("cannot keep the list of removed keys", &error))?;
    let admin_file = data_dir.join(ADMIN_FILE);
    birth.save_admin(&admin_file)?;
    let Place { host, ports, addresses } = birth.place;
    dir.write_node_file(&NodeFile::new(birth.cluster, birth.id, &nonce, host, ports))?;
    Ok(Restored {
        cluster_id: birth.cluster.to_string(),
        data_dir: data_dir.to_owned(),
        node_id: birth.id.0,
        incarnation: restored.incarnation,
        index: restored.backup.index,
        known_to_agents: restored.backup.reserved.is_some(),
        hosts: birth.hosts,
        admin: birth.admin_name.to_string(),
        admin_file,
        addresses,
    })
}

/// What is known before the backup is read.
struct Plan {
    config: Config,
    advertise: Option<Advertise>,
    nonce: [u8; 16],
    incarnation_min: u64,
    removed: Vec<RemovedKey>,
}

/// Everything that is random or signed.
struct Birth {
    cluster: ClusterId,
    id: NodeId,
    place: Place,
    node: Credentials,
    admin_name: UserName,
    admin: Credentials,
    hosts: usize,
}

impl Plan {
    /// Who the restored cluster begins with: a node under the id and key that were reserved for it, or else the next id
    /// and a new key; and a user of its own, since nobody may have kept the context of another.
    fn decide(self, header: &BackupHeader, state: &State) -> Result<(RestoreParams, Birth), String> {
        let birth = self.birth(header, state).map_err(|error| chain(&*error))?;
        let params = RestoreParams {
            node_id: birth.id,
            cluster_id: Some(birth.cluster),
            raft_address: birth.place.addresses.raft.clone(),
            nonce: self.nonce,
            incarnation_min: self.incarnation_min,
            at: id::now(),
            then: self.entries(state, &birth).map_err(|error| chain(&*error))?,
        };
        Ok((params, birth))
    }

    /// Agents look for nodes where they know them, so an old node's host keeps its ports, and without any word the new
    /// node stands where the one was that made the backup.
    fn place(&self, header: &BackupHeader, state: &State) -> Result<Place, AnyError> {
        let mut old: Vec<_> = state.nodes().filter(|node| !node.removed).collect();
        old.sort_by_key(|node| node.id != header.node_id);
        let mut old = old.into_iter().filter_map(|node| recorded(&node.addresses));
        let (host, known) = match &self.advertise {
            Some(advertise) => (advertise.host.clone(), old.find(|(host, _)| *host == advertise.host)),
            None => {
                let found = old.next().ok_or("the backup names no address; say --advertise HOST")?;
                (found.0.clone(), Some(found))
            }
        };
        let grpc = self.advertise.as_ref().and_then(|advertise| advertise.port);
        let ports = address::ports(&self.config, grpc, known.map(|(_, ports)| ports));
        refuse_zero(ports)?;
        let addresses = address::advertised(&host, ports);
        Ok(Place { host, ports, addresses })
    }

    fn birth(&self, header: &BackupHeader, state: &State) -> Result<Birth, AnyError> {
        let cluster = state.cluster().ok_or("the backup holds no cluster")?;
        let ca = Ca::from_parts(&cluster.ca_cert_der, cluster.ca_key_der.reveal())?;
        let now_s = id::now().0 / 1000;
        let place = self.place(header, state)?;
        let (id, key) = match &header.reserved {
            Some(ReservedNode { node, key }) => (*node, KeyPair::from_pkcs8_der(key.reveal())?),
            None => (cluster.next_node, KeyPair::generate()?),
        };
        let identity = Identity::Node { cluster: cluster.id.to_string(), id: id.0 };
        let validity = Validity::for_identity(&identity, now_s);
        let certificate = ca.issue(&key.public(), &identity, &server_names(&place.host), validity)?;
        let node = Credentials::new(ca.certificate_der(), &certificate, key)?;
        let raised = (cluster.incarnation.n + 1).max(self.incarnation_min);
        let admin_name = free_name(state, raised)?;
        let identity = Identity::User { cluster: cluster.id.to_string(), name: admin_name.to_string() };
        let admin = certified(&ca, &identity, &[], now_s)?;
        let hosts = state.hosts().filter(|host| host.state != HostState::Removed).count();
        Ok(Birth { cluster: cluster.id, id, place, node, admin_name, admin, hosts })
    }

    /// What follows the raised incarnation. The last of the old nodes goes when the new one is there, and moves to its
    /// address before: members that could not dial each other are refused (P21).
    fn entries(&self, state: &State, birth: &Birth) -> Result<Vec<Entry>, AnyError> {
        let mut commands: Vec<Command> = self
            .removed
            .chunks(CUT_KEYS_MAX)
            .map(|keys| Command::CutKeys(CutKeys { keys: keys.to_vec() }))
            .collect();
        let mut old: Vec<NodeId> = state.nodes().filter(|node| !node.removed).map(|node| node.id).collect();
        let last = old.pop().ok_or("the backup holds no node")?;
        let remove = |node| Command::RemoveNode(RemoveNode { node });
        commands.extend(old.into_iter().map(remove));
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let (addresses, max_version) = (birth.place.addresses.clone(), COMMAND_VERSION);
        commands.push(Command::SetNodeAddress(SetNodeAddress {
            node: last,
            addresses: addresses.clone(),
            version: version.clone(),
            max_version,
        }));
        let node = Joiner::Node { addresses, version, max_version };
        commands.extend(admit(Role::Node, birth.node.spki().0, node)?);
        commands.push(remove(last));
        let user = Joiner::User { name: Some(birth.admin_name.clone()) };
        commands.extend(admit(Role::User, birth.admin.spki().0, user)?);
        let at = id::now();
        let entry = |command| Entry { actor: Actor::System, request_id: None, at, term: None, command };
        Ok(commands.into_iter().map(entry).collect())
    }
}

/// Where the node is reached.
struct Place {
    host: String,
    ports: Ports,
    addresses: NodeAddresses,
}

/// Host and ports of a node as the cluster knew it.
fn recorded(addresses: &NodeAddresses) -> Option<(String, Ports)> {
    let split = |text: &str| -> Option<(String, u16)> {
        let (host, port) = text.rsplit_once(':')?;
        Some((host.trim_start_matches('[').trim_end_matches(']').to_owned(), port.parse().ok()?))
    };
    let NodeAddresses { grpc, quic, raft, join } = addresses;
    let (host, grpc) = split(grpc)?;
    let (quic, raft, join) = (split(quic)?.1, split(raft)?.1, split(join)?.1);
    Some((host, Ports { grpc, quic, raft, join, metrics: daemon::METRICS_PORT }))
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// A token, and its redemption: as everybody else is admitted.
fn admit(role: Role, spki: [u8; 32], joiner: Joiner) -> Result<[Command; 2], AnyError> {
    let token = TokenId::from_random(id::random()?);
    let secret: [u8; 32] = id::random()?;
    let secret_sha256 = Sha256::digest(secret).into();
    let labels = std::collections::BTreeMap::new();
    let create = CreateToken { id: token, role, ttl_ms: TOKEN_TTL_MS, labels, secret_sha256 };
    let redeem = RedeemToken { token, secret_sha256, spki, joiner };
    Ok([Command::CreateToken(create), Command::RedeemToken(redeem)])
}

/// `admin-2` in incarnation 2, unless somebody has that name.
fn free_name(state: &State, incarnation: u64) -> Result<UserName, AnyError> {
    let first = format!("admin-{incarnation}");
    let others = (2..1000).map(|n| format!("{first}-{n}"));
    for name in std::iter::once(first.clone()).chain(others) {
        let name: UserName = name.parse()?;
        if state.user(&name).is_none() {
            return Ok(name);
        }
    }
    Err(format!("every name like {first} is taken").into())
}

impl Birth {
    fn save_admin(&self, path: &Path) -> Result<(), Failure> {
        let context = Context {
            cluster_id: self.cluster.to_string(),
            user: self.admin_name.to_string(),
            endpoints: vec![self.place.addresses.grpc.clone()],
            ca: self.admin.ca_pem(),
            certificate: self.admin.certificate_pem(),
            key: self.admin.key_pem().to_string(),
        };
        let mut contexts = Contexts::default();
        contexts
            .put(self.admin_name.as_str(), context, true)
            .and_then(|()| contexts.save(path))
            .map_err(|error| Failure::generic(&format!("cannot write {}", path.display()), &error))
    }
}

/// A directory that is in use, beside what the backup is of.
fn other_directory(failure: Failure, header: &BackupHeader) -> Failure {
    if failure.code != Code::Conflict {
        return failure;
    }
    let message = format!("{}; the backup is of cluster {}", failure.message, header.cluster_id);
    Failure::new(failure.code, message, "restore into an empty directory: nothing is ever overwritten")
}

fn refused(error: &BackupError) -> Failure {
    let message = chain(error);
    match error {
        BackupError::Damaged { .. } => Failure::new(
            Code::Corrupt,
            message,
            "take another copy of this backup, or an older one; nothing was restored",
        ),
        BackupError::Newer { .. } => Failure::new(
            Code::Usage,
            message,
            "install the version that made it; `cluster finalize` cannot be taken back (P22)",
        ),
        BackupError::Open(error) => storage::failure(error),
        BackupError::OtherCluster { .. } | BackupError::Refused(_) => {
            Failure::new(Code::Usage, message, "nothing was restored; name another backup")
        }
        BackupError::Read(_) => Failure::new(Code::Generic, message, ""),
        BackupError::Io { .. } => Failure::new(
            Code::Usage,
            message,
            "check the name of the backup, and that the disk has room and the directory is writable",
        ),
    }
}
