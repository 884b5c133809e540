//! Configurations of those who call nodes.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;

use crate::credentials::Credentials;
use crate::error::Error;
use crate::spki::SpkiHash;
use crate::tls::server_identity::{NodeServer, PinnedServer};
use crate::tls::{ALPN_AGENT, ALPN_HTTP2, provider};

/// For users and forwarding nodes: any node of the own cluster will do.
///
/// # Errors
/// [`Error::Tls`] or [`Error::Verifier`].
pub fn grpc_client(own: &Credentials) -> Result<Arc<ClientConfig>, Error> {
    mutual(own, NodeServer::of_cluster(own)?, ALPN_HTTP2)
}

/// For nodes: the other end must be exactly the node that was dialled, or one group could be taken for another.
///
/// # Errors
/// As [`grpc_client`].
pub fn raft_client(own: &Credentials, node_id: u64) -> Result<Arc<ClientConfig>, Error> {
    mutual(own, NodeServer::of_cluster(own)?.with_id(node_id), ALPN_HTTP2)
}

/// For agents. `trusted` are the keys of the nodes in the last trust bundle (P18); `None` until there is one.
///
/// # Errors
/// As [`grpc_client`].
pub fn quic_client(own: &Credentials, trusted: Option<Vec<SpkiHash>>) -> Result<Arc<ClientConfig>, Error> {
    let mut server = NodeServer::of_cluster(own)?;
    if let Some(keys) = trusted {
        server = server.with_keys(keys);
    }
    mutual(own, server, ALPN_AGENT)
}

/// For those who hold a token and nothing else. The handshake fails unless the CA has the pinned key, issued the
/// server's certificate, and that names a node of the token's cluster: only then may the secret be sent.
///
/// # Errors
/// [`Error::Tls`].
pub fn join_client(pin: SpkiHash, cluster_prefix: &str) -> Result<Arc<ClientConfig>, Error> {
    let verifier = Arc::new(PinnedServer::new(pin, cluster_prefix));
    let config = base(verifier)?.with_no_client_auth();
    Ok(finish(config, ALPN_HTTP2))
}

type Prepared = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn base(verifier: Arc<dyn ServerCertVerifier>) -> Result<Prepared, Error> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        // "Dangerous" is what the library calls any verifier of one's own; ours checks chain, signature and more.
        .dangerous()
        .with_custom_certificate_verifier(verifier))
}

fn mutual(own: &Credentials, server: NodeServer, alpn: &[u8]) -> Result<Arc<ClientConfig>, Error> {
    let chain = vec![own.certificate_der().clone()];
    let config = base(Arc::new(server))?.with_client_auth_cert(chain, own.key().to_rustls())?;
    Ok(finish(config, alpn))
}

fn finish(mut config: ClientConfig, alpn: &[u8]) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    // Servers are known by identity; the placeholder name need not travel.
    config.enable_sni = false;
    Arc::new(config)
}
