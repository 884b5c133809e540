//! Makes this host part of a cluster: one token, one call, one key that never leaves the host.
//!
//! The key is on disk before the token is spent, so a retry after a lost answer is the same key and gets the same
//! answer. `agent.json` is written last: it alone says that the host belongs to a cluster.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use stratavore_certs::tls::{self, Refusal};
use stratavore_certs::{Credentials, Identity, JoinToken, KeyPair, Role};
use stratavore_proto::v1;
use stratavore_proto::v1::join_service_client::JoinServiceClient;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use tracing::{debug, warn};

use crate::args;
use crate::data_dir::DataDir;
use crate::failure::{Failure, chain, exit};
use crate::membership::{Gateway, Membership, Trust};

/// TCP and TLS to one server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The whole call: the cluster commits the key before it answers.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Rounds over all servers; between them the answer may only have been lost.
const ROUNDS: u32 = 3;
const ROUND_PAUSE: Duration = Duration::from_secs(1);

/// Name of the key and certificate files below `pki/`.
const CREDENTIALS: &str = "host";

/// Variable with the token, when no file is named.
const TOKEN_VARIABLE: &str = "STRATAVORE_TOKEN";

/// Joins and says what to run next.
pub(crate) async fn join(args: args::Join) -> Result<String, Failure> {
    let token = read_token(args.token_file.as_deref())?;
    if token.role() != Role::Host {
        let cause = format!("this token is for a {}", role_name(token.role()));
        return Err(Failure::new(
            exit::USAGE,
            "cannot join as a host",
            cause,
            "create one with `stratavore token create --role host`",
        ));
    }
    let dir = data_dir(&args.data_dir)?;
    dir.create().map_err(|error| directory_failure(&dir, &error))?;
    let _lock = dir.lock().map_err(|error| Failure::of(exit::CONFLICT, &error, ""))?;
    let host_id = if args.again { known_host(&dir, &token)? } else { refuse_second_cluster(&dir)? };
    let key = KeyPair::load_or_generate(&dir.pki().join(format!("{CREDENTIALS}.key"))).map_err(|error| {
        Failure::of(exit::GENERIC, &error, "check the data directory and its permissions")
    })?;
    let response = redeem(&args, &token, &key, host_id).await?;
    let membership = keep(&dir, &args, &token, key, response)?;
    Ok(format!(
        "joined cluster {} as host {} ({})\nrun: stratavore-agent run --data-dir {}",
        membership.cluster_id,
        membership.name,
        membership.host_id,
        dir.root().display()
    ))
}

pub(crate) fn data_dir(path: &Path) -> Result<DataDir, Failure> {
    DataDir::new(path)
        .map_err(|error| Failure::of(exit::GENERIC, &error, "name the data directory by its full path"))
}

fn directory_failure(dir: &DataDir, error: &std::io::Error) -> Failure {
    let what = format!("cannot make {}", dir.root().display());
    Failure::new(
        exit::GENERIC,
        what,
        error.to_string(),
        "name a --data-dir that this user may write, on a disk with room",
    )
}

fn read_token(file: Option<&Path>) -> Result<JoinToken, Failure> {
    let next = "give the token by --token-file FILE, by stdin with --token-file -, or in STRATAVORE_TOKEN";
    let token = match (file, std::env::var(TOKEN_VARIABLE)) {
        (Some(file), _) => JoinToken::read(file),
        (None, Ok(text)) => JoinToken::parse(text.trim()).map_err(Into::into),
        (None, Err(_)) => return Err(Failure::new(exit::USAGE, "no token", "", next)),
    };
    token.map_err(|error| Failure::of(exit::USAGE, &error, next))
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Node => "control-plane node; use `stratavored join`",
        Role::Host => "host",
        Role::User => "person; use `stratavore login`",
    }
}

/// The id that this host had in the cluster of the token, which a restore made forget it.
fn known_host(dir: &DataDir, token: &JoinToken) -> Result<String, Failure> {
    let found = Membership::load(dir)
        .map_err(|error| Failure::of(exit::USAGE, &error, "join without --again: this host is a new one"))?;
    token.check_cluster(&found.cluster_id).map_err(|error| {
        Failure::of(exit::CONFLICT, &error, "ask for a token of the cluster that this host belongs to")
    })?;
    Ok(found.host_id)
}

/// A host belongs to one cluster for the life of its data directory. A new one has no id yet.
fn refuse_second_cluster(dir: &DataDir) -> Result<String, Failure> {
    let found = Membership::find(dir)
        .map_err(|error| Failure::of(exit::GENERIC, &error, "repair or remove that file"))?;
    let Some(found) = found else { return Ok(String::new()) };
    let cause = format!("{} is host {} of cluster {}", dir.root().display(), found.name, found.cluster_id);
    let next = "run `stratavore-agent run` with it, or join with another --data-dir";
    Err(Failure::new(exit::CONFLICT, "this data directory belongs to a cluster already", cause, next))
}

/// Asks every server in turn until one has answered.
async fn redeem(
    args: &args::Join,
    token: &JoinToken,
    key: &KeyPair,
    host_id: String,
) -> Result<v1::JoinResponse, Failure> {
    let csr_der = key.csr_der().map_err(|error| Failure::of(exit::GENERIC, &error, ""))?;
    let request = v1::JoinRequest {
        role: v1::Role::Host.into(),
        cluster_id: token.cluster_prefix().to_owned(),
        token_id: token.id().to_owned(),
        secret: token.secret().reveal().to_vec().into(),
        csr_der: csr_der.into(),
        name: args.name.clone().unwrap_or_else(host_name),
        labels: args.labels.iter().cloned().collect(),
        slots: args.slots,
        host_id,
        ..Default::default()
    };
    let mut last = None;
    for round in 0..ROUNDS {
        if round > 0 {
            tokio::time::sleep(ROUND_PAUSE).await;
        }
        for server in &args.server {
            match ask(server, token, request.clone()).await {
                Ok(response) => return Ok(response),
                Err(Problem::Final(failure)) => return Err(failure),
                Err(Problem::Again(cause)) => {
                    warn!(server, cause, "no answer");
                    last = Some(format!("{server}: {cause}"));
                }
            }
        }
    }
    let next =
        "check the address and that a node runs there; the same token and data directory can be used again";
    Err(Failure::new(exit::UNREACHABLE, "no node answered the join", last.unwrap_or_default(), next))
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
    let setup = |error: &dyn std::error::Error| Problem::Final(Failure::of(exit::GENERIC, error, ""));
    let config = tls::join_client(token.pin(), token.cluster_prefix()).map_err(|error| setup(&error))?;
    let endpoint =
        Endpoint::from_static("https://join").timeout(CALL_TIMEOUT).connect_timeout(CONNECT_TIMEOUT);
    let server = server.to_owned();
    let connector = tower::service_fn(move |_| dial(server.clone(), Arc::clone(&config)));
    endpoint.connect_with_connector(connector).await.map_err(|error| match Refusal::find(&error) {
        Some(refusal @ (Refusal::Server(_) | Refusal::ForeignServer)) => Problem::Final(Failure::new(
            exit::PERMISSION,
            "this is not the cluster that the token was made for; the secret was not sent",
            refusal.to_string(),
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
    let details = status.get_error_details();
    let info = details.error_info();
    let reason = info.map_or("", |info| info.reason.as_str());
    let told = info.and_then(|info| info.metadata.get("next_step")).cloned();
    let told = told.filter(|_| reason != "id_taken");
    debug!(code = ?status.code(), reason, "the join is answered with an error");
    let (code, next) = match reason {
        "token_expired" | "token_used" | "token_revoked" | "token_unknown" => {
            (exit::PERMISSION, "create a new token with `stratavore token create --role host`")
        }
        "token_foreign" => (exit::PERMISSION, "check --server: the token was made by another cluster"),
        "token_role" => (exit::PERMISSION, "create one with `stratavore token create --role host`"),
        // Of a new host the API node chooses the id, and chooses again.
        "id_taken" => (exit::CONFLICT, "the cluster knows this host: run `stratavore-agent run` with it"),
        "name_taken" | "bad_name" => (exit::CONFLICT, "join with another --name"),
        _ => match status.code() {
            Code::InvalidArgument => (exit::USAGE, ""),
            Code::PermissionDenied | Code::Unauthenticated => (exit::PERMISSION, ""),
            Code::AlreadyExists | Code::FailedPrecondition | Code::ResourceExhausted => (exit::CONFLICT, ""),
            _ => return Problem::Again(status.message().to_owned()),
        },
    };
    let error = if reason.is_empty() {
        "the join was refused".to_owned()
    } else {
        format!("the join was refused: {reason}")
    };
    let next = told.unwrap_or_else(|| next.to_owned());
    Problem::Final(Failure::new(code, error, status.message(), next))
}

/// Checks what the cluster gave and stores it, the membership last.
fn keep(
    dir: &DataDir,
    args: &args::Join,
    token: &JoinToken,
    key: KeyPair,
    response: v1::JoinResponse,
) -> Result<Membership, Failure> {
    let unusable = |cause: String| {
        Failure::new(
            exit::GENERIC,
            "the cluster's answer cannot be used",
            cause,
            "create a new token and join again with another --data-dir",
        )
    };
    token.check_cluster(&response.cluster_id).map_err(|error| unusable(error.to_string()))?;
    let credentials = Credentials::new(&response.ca_der, &response.certificate_der, key)
        .map_err(|error| unusable(chain(&error)))?;
    if credentials.pin().ok() != Some(token.pin()) {
        return Err(unusable("its CA is not the one that the token pins".into()));
    }
    let expected = Identity::Host { cluster: response.cluster_id.clone(), id: response.id.clone() };
    if *credentials.identity() != expected {
        return Err(unusable(format!("the certificate is for {}", credentials.identity())));
    }
    let membership = Membership {
        host_id: response.id,
        name: response.name,
        cluster_id: response.cluster_id,
        incarnation: response.incarnation,
        slots: args.slots,
        labels: args.labels.iter().cloned().collect(),
        nodes: Gateway::of_nodes(&response.nodes),
    };
    let stored = credentials.save(&dir.pki(), CREDENTIALS).map_err(|error| chain(&error));
    // What this host knew of nodes is of the cluster before the restore.
    let forgotten = || if args.again { Trust::first(&membership).save(dir) } else { Ok(()) };
    let stored = stored.and_then(|()| forgotten().map_err(|error| chain(&error)));
    let stored = stored.and_then(|()| membership.save(dir).map_err(|error| chain(&error)));
    stored.map_err(|cause| {
        let next =
            "make room or fix permissions, then run the same line again: the same key gets the same answer";
        Failure::new(exit::GENERIC, "joined, but the data directory cannot be written", cause, next)
    })?;
    Ok(membership)
}

/// The machine's name, as far as it is a legal host name of the cluster; empty lets the cluster choose.
fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let first = name.split('.').next().unwrap_or_default();
    let legal: String =
        first.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(63).collect();
    legal.trim_start_matches('-').to_owned()
}
