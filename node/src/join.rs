//! The join port: one unary call. Everything about the token is decided in apply; here the request is only bounded,
//! and the certificate is issued for the key that apply has registered. The same key asking again gets an equivalent
//! answer, so a lost acknowledgement costs nothing.

use std::net::IpAddr;
use std::time::Duration;

use stratavore_certs::{PublicKey, Secret};
use stratavore_model::command::Joiner;
use stratavore_model::{Actor, Code, Command, Entry, NodeId, Rejected, Reply};
use stratavore_proto::v1::join_service_server::JoinService;
use stratavore_proto::v1::{JoinRequest, JoinResponse};
use stratavore_raft::{Handle, ReadError};
use tonic::{Request, Response, Status};

use crate::api::status::ApiError;
use crate::convert::{command, id};
use crate::link::certificate::{IssueError, Issuer, server_names};
use crate::listen::stream::ConnectionInfo;
use crate::quarantine::Quarantine;
use crate::{reachable, welcome};

/// A join is small: a CSR, a few labels.
pub(crate) const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// One join: an entry, and a signature.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The whole life of a connection to the join port: a handshake, one call, its answer.
pub(crate) const CONNECTION_LIFETIME: Duration = Duration::from_secs(15);

/// `JoinService` of one node.
pub(crate) struct Join {
    pub(crate) node: NodeId,
    pub(crate) raft: Handle,
    pub(crate) issuer: Issuer,
    /// P24: what this node would answer from may be wrong.
    pub(crate) quarantine: Quarantine,
}

#[tonic::async_trait]
impl JoinService for Join {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let from = request.extensions().get::<ConnectionInfo>().map(|info| info.address);
        let request = request.into_inner();
        let (role, token) = (request.role, request.token_id.clone());
        match self.redeem(request, from.map(|from| from.ip())).await {
            Ok(response) => {
                tracing::info!(token = %token.escape_debug(), id = %response.id, ?from, "joined");
                Ok(Response::new(response))
            }
            Err(error) => {
                tracing::warn!(token = %token.escape_debug(), role, ?from, %error, "join refused");
                Err(error.into())
            }
        }
    }
}

impl Join {
    async fn redeem(&self, request: JoinRequest, from: Option<IpAddr>) -> Result<JoinResponse, ApiError> {
        self.quarantine.check().map_err(ReadError::Unavailable)?;
        self.check_cluster(&request.cluster_id)?;
        let key = PublicKey::from_csr(&request.csr_der).map_err(|error| {
            Rejected::bad_argument("csr_der", error.to_string(), "join with an agent or CLI of ours")
        })?;
        // A secret of another length cannot be right: its hash is that of nothing.
        let secret_sha256 = Secret::from_bytes(&request.secret).map_or([0; 32], |secret| secret.hash());
        let command = command::redeem(request, secret_sha256, key.hash().0)?;
        self.check_reachable(&command, from)?;
        let entry =
            Entry { actor: Actor::Node(self.node), request_id: None, at: id::now(), term: None, command };
        let reply = self.raft.propose(entry).await?.reply.into_result()?;
        self.raft.linearize().await?;
        match reply {
            Reply::Redeemed { identity, name } => self.respond(&identity, name, &key),
            other => Err(ApiError::Internal(format!("unexpected reply {other:?}"))),
        }
    }

    /// P21. The same key that asks again has a record of its own by now, which agrees with itself.
    fn check_reachable(&self, command: &Command, from: Option<IpAddr>) -> Result<(), Rejected> {
        let Command::RedeemToken(redeem) = command else { return Ok(()) };
        let Joiner::Node { addresses, .. } = &redeem.joiner else { return Ok(()) };
        self.raft.read(|state| reachable::check(state, addresses, from))
    }

    /// The joiner sends the cluster (or its beginning) that its token names.
    fn check_cluster(&self, named: &str) -> Result<(), Rejected> {
        let own =
            self.raft.read(|state| state.cluster().map(|cluster| cluster.id.to_string())).unwrap_or_default();
        if named.is_empty() || own.starts_with(named) {
            return Ok(());
        }
        Err(Rejected::new(
            Code::TokenForeign,
            format!("the token belongs to another cluster, this one is {own}"),
            "join at the address that was printed with the token",
        )
        .field("cluster_id"))
    }

    fn respond(&self, identity: &Actor, name: String, key: &PublicKey) -> Result<JoinResponse, ApiError> {
        let issued = self.issuer.issue(identity, key, &self.names(identity))?;
        let (cluster_id, incarnation, nodes, trusted) = self.raft.read(|state| {
            let cluster = state.cluster().map(|cluster| cluster.id.to_string()).unwrap_or_default();
            (cluster, state.incarnation(), welcome::nodes(state), welcome::trusted(state))
        });
        let id = match identity {
            Actor::Host(id) => id.to_string(),
            Actor::Node(id) => id.to_string(),
            Actor::User(name) => name.to_string(),
            Actor::System => return Err(ApiError::Internal("a token made a system identity".to_owned())),
        };
        Ok(JoinResponse {
            id,
            name,
            cluster_id,
            certificate_der: issued.certificate_der.into(),
            ca_der: issued.ca_der.into(),
            nodes,
            incarnation,
            trusted,
        })
    }
}

impl Join {
    /// Nodes are servers: their certificate says where they are.
    fn names(&self, identity: &Actor) -> Vec<String> {
        let Actor::Node(id) = identity else { return Vec::new() };
        let grpc = self.raft.read(|state| state.node(*id).map(|node| node.addresses.grpc.clone()));
        let host = grpc.as_deref().and_then(|grpc| grpc.rsplit_once(':')).map(|(host, _)| host);
        host.map(|host| server_names(host.trim_matches(['[', ']']))).unwrap_or_default()
    }
}

impl From<IssueError> for ApiError {
    fn from(error: IssueError) -> Self {
        match error {
            IssueError::Refused(rejected) => rejected.into(),
            IssueError::NotCommitted(error) => error.into(),
            IssueError::Stale => ReadError::Unavailable(error.to_string()).into(),
            IssueError::Request(_) | IssueError::Ca(_) | IssueError::NoCluster => {
                Self::Internal(error.to_string())
            }
        }
    }
}
