//! API clients with a certificate, and joiners without one.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use stratavore_certs::{Credentials, JoinToken, KeyPair, Role, tls};
use stratavore_proto::v1;
use stratavore_proto::v1::cluster_service_client::ClusterServiceClient;
use stratavore_proto::v1::event_service_client::EventServiceClient;
use stratavore_proto::v1::host_service_client::HostServiceClient;
use stratavore_proto::v1::join_service_client::JoinServiceClient;
use stratavore_proto::v1::project_service_client::ProjectServiceClient;
use stratavore_proto::v1::runner_service_client::RunnerServiceClient;
use stratavore_proto::v1::terminal_service_client::TerminalServiceClient;
use stratavore_proto::v1::token_service_client::TokenServiceClient;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Error};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::harness::Node;

pub(crate) fn request_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// A channel over our own TLS.
pub(crate) async fn channel(at: SocketAddr, config: Arc<rustls::ClientConfig>) -> Result<Channel, Error> {
    let connector = tower::service_fn(move |_| {
        let tls = TlsConnector::from(config.clone());
        async move {
            let tcp = TcpStream::connect(at).await?;
            tcp.set_nodelay(true)?;
            tls.connect(tls::server_name(), tcp).await.map(TokioIo::new)
        }
    });
    Endpoint::from_static("http://node").connect_with_connector(connector).await
}

/// All services on one connection.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) projects: ProjectServiceClient<Channel>,
    pub(crate) runners: RunnerServiceClient<Channel>,
    pub(crate) hosts: HostServiceClient<Channel>,
    pub(crate) tokens: TokenServiceClient<Channel>,
    pub(crate) events: EventServiceClient<Channel>,
    pub(crate) cluster: ClusterServiceClient<Channel>,
    pub(crate) terminal: TerminalServiceClient<Channel>,
}

impl Client {
    pub(crate) async fn admin(node: &Node) -> Self {
        Self::with(node, &node.admin()).await
    }

    pub(crate) async fn with(node: &Node, credentials: &Credentials) -> Self {
        let channel = channel(node.at.grpc, tls::grpc_client(credentials).unwrap()).await.unwrap();
        Self {
            projects: ProjectServiceClient::new(channel.clone()),
            runners: RunnerServiceClient::new(channel.clone()),
            hosts: HostServiceClient::new(channel.clone()),
            tokens: TokenServiceClient::new(channel.clone()),
            events: EventServiceClient::new(channel.clone()),
            cluster: ClusterServiceClient::new(channel.clone()),
            terminal: TerminalServiceClient::new(channel),
        }
    }

    pub(crate) async fn status(&mut self) -> v1::GetStatusResponse {
        self.cluster.get_status(v1::GetStatusRequest::default()).await.unwrap().into_inner()
    }

    pub(crate) async fn project(&mut self, name: &str) -> v1::Project {
        let request = v1::CreateProjectRequest {
            request_id: request_id(),
            name: name.into(),
            path: "/tmp".into(),
            max_runners: 100,
            command: vec!["sleep".into(), "1000".into()],
        };
        self.projects.create_project(request).await.unwrap().into_inner().project.unwrap()
    }

    pub(crate) async fn launch(&mut self, project: &str, count: u32) -> v1::LaunchRunnersResponse {
        let request = launch(project, count);
        self.runners.launch_runners(request).await.unwrap().into_inner()
    }

    pub(crate) async fn runner(&mut self, id: &str) -> v1::Runner {
        let request = v1::GetRunnerRequest { runner: id.into(), read: None };
        self.runners.get_runner(request).await.unwrap().into_inner().runner.unwrap()
    }

    /// Makes a token; the secret never leaves this side.
    pub(crate) async fn token(&mut self, role: Role, ttl_ms: u64) -> JoinToken {
        let status = self.status().await;
        let proto_role = match role {
            Role::Node => v1::Role::Node,
            Role::Host => v1::Role::Host,
            Role::User => v1::Role::User,
        };
        let pin = self.pin().await;
        let token = JoinToken::generate(role, &status.cluster_id, pin).unwrap();
        let request = v1::CreateTokenRequest {
            request_id: request_id(),
            role: proto_role as i32,
            ttl_ms,
            labels: Default::default(),
            token_id: token.id().to_owned(),
            secret_sha256: token.secret_hash().to_vec().into(),
        };
        self.tokens.create_token(request).await.unwrap();
        token
    }

    /// The CA pin, as the answer to any new token says it.
    async fn pin(&mut self) -> stratavore_certs::SpkiHash {
        let request = v1::CreateTokenRequest {
            request_id: request_id(),
            role: v1::Role::User as i32,
            token_id: random_id(),
            secret_sha256: vec![1; 32].into(),
            ..Default::default()
        };
        let response = self.tokens.create_token(request).await.unwrap().into_inner();
        stratavore_certs::SpkiHash(response.ca_pin.as_ref().try_into().unwrap())
    }
}

pub(crate) fn random_id() -> String {
    let random = uuid::Uuid::new_v4().into_bytes();
    let digits = b"0123456789abcdefghjkmnpqrstvwxyz";
    random.iter().take(10).map(|byte| char::from(digits[usize::from(byte & 31)])).collect()
}

pub(crate) fn launch(project: &str, count: u32) -> v1::LaunchRunnersRequest {
    v1::LaunchRunnersRequest {
        request_id: request_id(),
        project: project.into(),
        count,
        spec: Some(v1::RunnerSpec { slots: 1, ..Default::default() }),
        ..Default::default()
    }
}

/// A join with a key, as a program of ours does it.
pub(crate) fn join_request(token: &JoinToken, key: &KeyPair) -> v1::JoinRequest {
    let role = match token.role() {
        Role::Node => v1::Role::Node,
        Role::Host => v1::Role::Host,
        Role::User => v1::Role::User,
    };
    v1::JoinRequest {
        role: role as i32,
        cluster_id: token.cluster_prefix().to_owned(),
        token_id: token.id().to_owned(),
        secret: token.secret().reveal().to_vec().into(),
        csr_der: key.csr_der().unwrap().into(),
        ..Default::default()
    }
}

pub(crate) async fn join(
    node: &Node,
    token: &JoinToken,
    request: v1::JoinRequest,
) -> Result<v1::JoinResponse, Status> {
    let config = tls::join_client(token.pin(), token.cluster_prefix()).unwrap();
    let channel =
        channel(node.at.join, config).await.map_err(|error| Status::unavailable(format!("{error:?}")))?;
    JoinServiceClient::new(channel).join(request).await.map(tonic::Response::into_inner)
}

/// A new member with its certificate.
pub(crate) async fn joined(node: &Node, role: Role, name: &str) -> (v1::JoinResponse, Credentials) {
    let token = Client::admin(node).await.token(role, 0).await;
    let key = KeyPair::generate().unwrap();
    let request = v1::JoinRequest { name: name.into(), ..join_request(&token, &key) };
    let response = join(node, &token, request).await.unwrap();
    let credentials = Credentials::new(&response.ca_der, &response.certificate_der, key).unwrap();
    (response, credentials)
}

/// A refusal's stable reason, which must come with a code and a next step that fit.
pub(crate) fn reason(status: &Status) -> String {
    assert_ne!(status.code(), Code::Unknown, "{status:?}");
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("no details: {status:?}"));
    assert_eq!(info.domain, "stratavore");
    info.reason
}
