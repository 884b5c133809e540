//! `stratavored join`: one token, one call, one key that never leaves this machine; then `run` makes it a learner.
//!
//! The key is on disk before the token is spent, so a retry after a lost answer is the same key and gets the same
//! answer. `node.json` is written last: it alone says that the directory holds a node.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use stratavore_certs::tls::{self, Refusal};
use stratavore_certs::{Credentials, Identity, JoinToken, KeyPair, Role};
use stratavore_model::{ClusterId, NodeAddresses, NodeId};
use stratavore_proto::v1;
use stratavore_proto::v1::join_service_client::JoinServiceClient;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tonic_types::StatusExt;

use crate::address::{self, Advertise};
use crate::config::Config;
use crate::data_dir::{DataDir, NodeFile};
use crate::exit::{Code, Failure, chain};
use crate::init::refuse_zero;
use crate::storage;
use crate::trust::Trust;

/// TCP and TLS to one server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The whole call: the cluster commits the key before it answers.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Rounds over all servers: an election between two of them is over.
const ROUNDS: u32 = 5;
const ROUND_PAUSE: Duration = Duration::from_secs(1);

/// What was asked for on the command line.
#[derive(Debug)]
pub struct Request {
    /// `HOST:PORT` of join ports; any of them will do.
    pub servers: Vec<String>,
    pub token: JoinToken,
    pub advertise: Advertise,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    pub cluster_id: String,
    pub node_id: u64,
}

/// Joins the cluster of the token with an empty `data_dir`.
///
/// # Errors
/// [`Code::Permission`] for a token that is not taken, [`Code::Conflict`] for a directory in use,
/// [`Code::Unreachable`] when nobody answers.
pub async fn join(data_dir: &Path, request: Request, config: &Config) -> Result<Joined, Failure> {
    let Request { servers, token, advertise } = request;
    if token.role() != Role::Node {
        return Err(Failure::new(
            Code::Usage,
            format!("cannot join as a node: this token is for a {}", token.role().as_str()),
            "create one with `stratavore token create --role node`",
        ));
    }
    let ports = address::ports(config, advertise.port, None);
    refuse_zero(ports)?;
    let dir = DataDir::create_joining(data_dir)?;
    let pki = dir.path().join("pki");
    let key = stratavore_certs::files::create_private_dir(&pki)
        .map_err(|error| Failure::generic(&format!("cannot make {}", pki.display()), &error))
        .and_then(|()| {
            KeyPair::load_or_generate(&pki.join("node.key"))
                .map_err(|error| Failure::generic("cannot keep this node's key", &error))
        })?;
    let addresses = address::advertised(&advertise.host, ports);
    let response = redeem(&servers, &token, &key, &addresses).await?;
    let answer = Answer::checked(&token, key, &response)?;
    dir.save_credentials(&answer.credentials)?;
    Trust::of_join(&response.trusted).save(dir.path())?;
    stratavore_raft::prepare_learner(dir.path(), answer.node, answer.cluster)
        .map_err(|error| storage::failure(&error))?;
    dir.joined(&NodeFile::new(answer.cluster, answer.node, &[], advertise.host, ports))?;
    Ok(Joined { cluster_id: answer.cluster.to_string(), node_id: answer.node.0 })
}

/// Asks every server in turn until one has answered.
async fn redeem(
    servers: &[String],
    token: &JoinToken,
    key: &KeyPair,
    addresses: &NodeAddresses,
) -> Result<v1::JoinResponse, Failure> {
    let csr_der = key.csr_der().map_err(|error| Failure::generic("cannot ask for a certificate", &error))?;
    let NodeAddresses { grpc, quic, raft, join } = addresses.clone();
    let request = v1::JoinRequest {
        role: v1::Role::Node.into(),
        cluster_id: token.cluster_prefix().to_owned(),
        token_id: token.id().to_owned(),
        secret: token.secret().reveal().to_vec().into(),
        csr_der: csr_der.into(),
        node: Some(v1::NodeAddress { id: 0, grpc, quic, raft, join }),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        max_version: stratavore_model::COMMAND_VERSION,
        ..Default::default()
    };
    let mut last = String::new();
    for round in 0..ROUNDS {
        if round > 0 {
            tokio::time::sleep(ROUND_PAUSE).await;
        }
        for server in servers {
            match ask(server, token, request.clone()).await {
                Ok(response) => return Ok(response),
                Err(Problem::Final(failure)) => return Err(failure),
                Err(Problem::Again(cause)) => {
                    tracing::warn!(%server, %cause, "no answer");
                    last = format!("{server}: {cause}");
                }
            }
        }
    }
    Err(Failure::new(
        Code::Unreachable,
        format!("no node answered the join: {last}"),
        "check --server (the join port, default 50054); the same token and --data-dir can be used again",
    ))
}

enum Problem {
    Final(Failure),
    /// Another server, or the same one later, may answer.
    Again(String),
}

async fn ask(server: &str, token: &JoinToken, request: v1::JoinRequest) -> Result<v1::JoinResponse, Problem> {
    let channel = connect(server, token).await?;
    match JoinServiceClient::new(channel).join(request).await {
        Ok(response) => Ok(response.into_inner()),
        Err(status) => Err(judge(&status)),
    }
}

/// The pin is verified in the handshake, before the secret is sent.
async fn connect(server: &str, token: &JoinToken) -> Result<Channel, Problem> {
    let config = tls::join_client(token.pin(), token.cluster_prefix())
        .map_err(|error| Problem::Final(Failure::generic("cannot dial", &error)))?;
    let server = server.to_owned();
    let connector = tower::service_fn(move |_| dial(server.clone(), config.clone()));
    let endpoint =
        Endpoint::from_static("http://join.invalid").timeout(CALL_TIMEOUT).connect_timeout(CONNECT_TIMEOUT);
    endpoint.connect_with_connector(connector).await.map_err(|error| match Refusal::find(&error) {
        Some(refusal @ (Refusal::Server(_) | Refusal::ForeignServer)) => Problem::Final(Failure::new(
            Code::Permission,
            format!("this is not the cluster that the token was made for: {refusal}"),
            "check --server; if the address is right, create a new token on that cluster",
        )),
        Some(refusal) => Problem::Again(refusal.to_string()),
        None => Problem::Again(chain(&error)),
    })
}

async fn dial(
    server: String,
    config: Arc<rustls::ClientConfig>,
) -> std::io::Result<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>> {
    let tcp = TcpStream::connect(&server).await?;
    tcp.set_nodelay(true)?;
    Ok(TokioIo::new(TlsConnector::from(config).connect(tls::server_name(), tcp).await?))
}

/// A refusal is final; everything else may have been a lost answer.
fn judge(status: &Status) -> Problem {
    use tonic::Code as Grpc;
    let details = status.get_error_details();
    let next = details.error_info().and_then(|info| info.metadata.get("next_step")).cloned();
    let code = match status.code() {
        Grpc::InvalidArgument => Code::Usage,
        Grpc::PermissionDenied | Grpc::Unauthenticated | Grpc::NotFound => Code::Permission,
        Grpc::AlreadyExists | Grpc::FailedPrecondition | Grpc::ResourceExhausted => Code::Conflict,
        _ => return Problem::Again(status.message().to_owned()),
    };
    Problem::Final(Failure::new(
        code,
        format!("the join was refused: {}", status.message()),
        next.unwrap_or_default(),
    ))
}

/// The cluster's answer, believed only as far as it fits the token and the key.
struct Answer {
    cluster: ClusterId,
    node: NodeId,
    credentials: Credentials,
}

impl Answer {
    fn checked(token: &JoinToken, key: KeyPair, response: &v1::JoinResponse) -> Result<Self, Failure> {
        let unusable = |cause: String| {
            Failure::new(
                Code::Generic,
                format!("the cluster's answer cannot be used: {cause}"),
                "create a new token and join again with another --data-dir",
            )
        };
        token.check_cluster(&response.cluster_id).map_err(|error| unusable(error.to_string()))?;
        let credentials = Credentials::new(&response.ca_der, &response.certificate_der, key)
            .map_err(|error| unusable(chain(&error)))?;
        if credentials.pin().ok() != Some(token.pin()) {
            return Err(unusable("its CA is not the one that the token pins".to_owned()));
        }
        let cluster = response.cluster_id.parse().map_err(|_| unusable("it names no cluster".to_owned()))?;
        let id: u64 = response.id.parse().map_err(|_| unusable("it names no node id".to_owned()))?;
        let expected = Identity::Node { cluster: response.cluster_id.clone(), id };
        if *credentials.identity() != expected {
            return Err(unusable(format!("the certificate is for {}", credentials.identity())));
        }
        Ok(Self { cluster, node: NodeId(id), credentials })
    }
}
