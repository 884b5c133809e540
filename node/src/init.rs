//! `stratavored init`: a cluster of one node, its CA, and the first user. Everything on disk before `node.json`, which
//! makes the directory count.

use std::path::{Path, PathBuf};

use stratavore_certs::{Ca, Credentials, Identity, KeyPair, Validity};
use stratavore_model::command::InitCluster;
use stratavore_model::{Actor, ClusterId, Command, Entry, NodeAddresses, NodeId, SecretBytes, UserName};
use stratavore_raft::BootstrapParams;
use stratavore_settings::context::{Context, Contexts};

use crate::address::{self, Advertise};
use crate::config::Config;
use crate::convert::id;
use crate::data_dir::{DataDir, NodeFile, Ports};
use crate::exit::{Code, Failure};
use crate::link::certificate::server_names;
use crate::storage;

/// The first node's number.
const FIRST_NODE: NodeId = NodeId(1);

/// The first user's name.
const ADMIN: &str = "admin";

/// The context file for the first user, in the data directory.
pub(crate) const ADMIN_FILE: &str = "admin.yaml";

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    pub cluster_id: String,
    pub admin_file: PathBuf,
    pub addresses: NodeAddresses,
}

/// Makes a cluster in `data_dir`.
///
/// # Errors
/// The directory is in use or not empty, or the disk refuses.
pub async fn init(data_dir: &Path, advertise: &Advertise, config: &Config) -> Result<Made, Failure> {
    let ports = address::ports(config, advertise.port, None);
    refuse_zero(ports)?;
    let dir = DataDir::create(data_dir)?;
    let birth = Birth::new(&advertise.host, ports)?;
    dir.save_credentials(&birth.node)?;
    let first = Entry {
        actor: Actor::System,
        request_id: None,
        at: id::now(),
        term: None,
        command: Command::InitCluster(Box::new(birth.command(config)?)),
    };
    let params = BootstrapParams {
        node_id: FIRST_NODE,
        cluster_id: birth.cluster,
        raft_address: birth.addresses.raft.clone(),
        first,
    };
    stratavore_raft::bootstrap(dir.path(), params).await.map_err(|error| storage::failure(&error))?;
    let admin_file = data_dir.join(ADMIN_FILE);
    birth.save_admin(&admin_file)?;
    dir.write_node_file(&NodeFile::new(
        birth.cluster,
        FIRST_NODE,
        &birth.nonce,
        advertise.host.clone(),
        ports,
    ))?;
    Ok(Made { cluster_id: birth.cluster.to_string(), admin_file, addresses: birth.addresses })
}

/// Everything that is random or signed.
struct Birth {
    cluster: ClusterId,
    nonce: [u8; 16],
    ca: Ca,
    node: Credentials,
    admin: Credentials,
    addresses: NodeAddresses,
}

impl Birth {
    fn new(host: &str, ports: Ports) -> Result<Self, Failure> {
        let random = |error: id::NoRandomness| Failure::generic("cannot make a cluster", &error);
        let cluster = ClusterId::from_random(id::random().map_err(random)?);
        let nonce = id::random().map_err(random)?;
        let now_s = id::now().0 / 1000;
        let issue = || {
            let ca = Ca::generate(cluster.as_str(), now_s)?;
            let node = Identity::Node { cluster: cluster.to_string(), id: FIRST_NODE.0 };
            let node = certified(&ca, &node, &server_names(host), now_s)?;
            let admin = Identity::User { cluster: cluster.to_string(), name: ADMIN.to_owned() };
            let admin = certified(&ca, &admin, &[], now_s)?;
            Ok((ca, node, admin))
        };
        let (ca, node, admin) = issue()
            .map_err(|error: stratavore_certs::Error| Failure::generic("cannot make certificates", &error))?;
        Ok(Self { cluster, nonce, ca, node, admin, addresses: address::advertised(host, ports) })
    }

    fn command(&self, config: &Config) -> Result<InitCluster, Failure> {
        let admin: UserName =
            ADMIN.parse().map_err(|error| Failure::generic("the admin's name is not valid", &error))?;
        Ok(InitCluster {
            cluster: self.cluster,
            nonce: self.nonce,
            lease: config.lease.numbers(),
            ca_cert_der: self.ca.certificate_der().to_vec(),
            ca_key_der: SecretBytes::new(self.ca.key_pkcs8_der().to_vec()),
            node: FIRST_NODE,
            node_addresses: self.addresses.clone(),
            node_spki: self.node.spki().0,
            node_version: env!("CARGO_PKG_VERSION").to_owned(),
            admin,
            admin_spki: self.admin.spki().0,
            version: stratavore_model::COMMAND_VERSION,
            node_max_version: stratavore_model::COMMAND_VERSION,
        })
    }

    fn save_admin(&self, path: &Path) -> Result<(), Failure> {
        let context = Context {
            cluster_id: self.cluster.to_string(),
            user: ADMIN.to_owned(),
            endpoints: vec![self.addresses.grpc.clone()],
            ca: self.admin.ca_pem(),
            certificate: self.admin.certificate_pem(),
            key: self.admin.key_pem().to_string(),
        };
        let mut contexts = Contexts::default();
        contexts
            .put(ADMIN, context, true)
            .and_then(|()| contexts.save(path))
            .map_err(|error| Failure::generic(&format!("cannot write {}", path.display()), &error))
    }
}

/// A new key and its certificate.
pub(crate) fn certified(
    ca: &Ca,
    identity: &Identity,
    names: &[String],
    now_s: u64,
) -> Result<Credentials, stratavore_certs::Error> {
    let key = KeyPair::generate()?;
    let certificate = ca.issue(&key.public(), identity, names, Validity::for_identity(identity, now_s))?;
    Credentials::new(ca.certificate_der(), &certificate, key)
}

/// Others dial these ports, so they cannot be "any that is free".
pub(crate) fn refuse_zero(ports: Ports) -> Result<(), Failure> {
    let Ports { grpc, quic, raft, join, metrics } = ports;
    if [grpc, quic, raft, join, metrics].contains(&0) {
        return Err(Failure::new(
            Code::Usage,
            "port 0 cannot be advertised",
            "name the ports that others shall dial",
        ));
    }
    Ok(())
}
