//! Hosts by the thousand: a token from the API and a call to the join port for each, as `stratavore-agent join` does it.
//! A node lets 50 strangers a second in after a burst of 200, so 2,000 hosts take about ten seconds over three nodes.
//! Tokens are listed for a day, 10,000 at most: that bounds how many hosts a fresh cluster can be given at once.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use stratavore_certs::{Credentials, JoinToken, KeyPair, Role, tls};
use stratavore_proto::v1;
use stratavore_proto::v1::join_service_client::JoinServiceClient;
use stratavore_proto::v1::token_service_client::TokenServiceClient;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use crate::api;

/// Joins under way at one node.
const WORKERS_PER_NODE: usize = 6;
/// After the node let nobody in.
const PAUSE: Duration = Duration::from_millis(50);
/// For one host, whatever its turn: the whole crowd may be before it.
const BOUND: Duration = Duration::from_secs(240);

/// A host of the cluster, and its key.
#[derive(Debug)]
pub struct Joined {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The cluster.
    pub cluster: String,
    /// Key and certificate.
    pub credentials: Credentials,
}

struct Crowd {
    tokens: Channel,
    admin: Credentials,
    next: AtomicUsize,
    count: usize,
    prefix: String,
    slots: u32,
}

/// Joins `count` hosts `PREFIX-0` and so on, through the join ports `servers`, as the administrator of `context`. They
/// come in the order of their names.
///
/// # Errors
/// A token is refused, or nobody lets one in for minutes.
pub async fn hosts(
    context: &Path,
    servers: &[String],
    prefix: &str,
    count: usize,
    slots: u32,
) -> anyhow::Result<Vec<Joined>> {
    let crowd = Arc::new(Crowd {
        tokens: api::connect(context).await?,
        admin: api::credentials(context)?,
        next: AtomicUsize::new(0),
        count,
        prefix: prefix.to_owned(),
        slots,
    });
    let mut workers = JoinSet::new();
    for server in servers.iter().flat_map(|server| std::iter::repeat_n(server, WORKERS_PER_NODE)) {
        workers.spawn(crowd.clone().work(server.clone()));
    }
    let mut all = Vec::with_capacity(count);
    while let Some(done) = workers.join_next().await {
        all.extend(done??);
    }
    all.sort_by_key(|(at, _)| *at);
    Ok(all.into_iter().map(|(_, joined)| joined).collect())
}

impl Crowd {
    async fn work(self: Arc<Self>, server: String) -> anyhow::Result<Vec<(usize, Joined)>> {
        let mut done = Vec::new();
        loop {
            let at = self.next.fetch_add(1, Ordering::AcqRel);
            if at >= self.count {
                return Ok(done);
            }
            done.push((at, self.join(at, &server).await?));
        }
    }

    async fn join(&self, at: usize, server: &str) -> anyhow::Result<Joined> {
        let token = JoinToken::generate(Role::Host, self.admin.cluster(), self.admin.pin()?)?;
        let request = v1::CreateTokenRequest {
            request_id: uuid::Uuid::now_v7().to_string(),
            role: v1::Role::Host.into(),
            token_id: token.id().to_owned(),
            secret_sha256: token.secret_hash().to_vec().into(),
            ..Default::default()
        };
        TokenServiceClient::new(self.tokens.clone()).create_token(request).await?;
        let key = KeyPair::generate()?;
        let request = v1::JoinRequest {
            role: v1::Role::Host.into(),
            cluster_id: token.cluster_prefix().to_owned(),
            token_id: token.id().to_owned(),
            secret: token.secret().reveal().to_vec().into(),
            csr_der: key.csr_der()?.into(),
            name: format!("{}-{at}", self.prefix),
            slots: self.slots,
            ..Default::default()
        };
        let answer = redeem(server, &token, request).await?;
        let credentials = Credentials::new(&answer.ca_der, &answer.certificate_der, key)?;
        Ok(Joined { id: answer.id, name: answer.name, cluster: answer.cluster_id, credentials })
    }
}

/// Asks until the node lets one in.
async fn redeem(
    server: &str,
    token: &JoinToken,
    request: v1::JoinRequest,
) -> anyhow::Result<v1::JoinResponse> {
    let give_up = Instant::now() + BOUND;
    loop {
        let refused = match connect(server, token).await {
            Ok(channel) => match JoinServiceClient::new(channel).join(request.clone()).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) if status.code() == tonic::Code::Unavailable => status.to_string(),
                Err(status) => return Err(status).context("a host could not join"),
            },
            // It is over its rate.
            Err(error) => error.to_string(),
        };
        anyhow::ensure!(Instant::now() < give_up, "no host can join: {refused}");
        sleep(PAUSE).await;
    }
}

async fn connect(server: &str, token: &JoinToken) -> anyhow::Result<Channel> {
    let connector = TlsConnector::from(tls::join_client(token.pin(), token.cluster_prefix())?);
    let server = server.to_owned();
    let dial = tower::service_fn(move |_: http::Uri| {
        let (server, connector) = (server.clone(), connector.clone());
        async move {
            let tcp = TcpStream::connect(server).await?;
            tcp.set_nodelay(true)?;
            Ok::<_, std::io::Error>(TokioIo::new(connector.connect(tls::server_name(), tcp).await?))
        }
    });
    Ok(Endpoint::from_static("http://join").connect_with_connector(dial).await?)
}
