//! Configurations of the node's four ports.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::ClientCertVerifier;

use crate::credentials::Credentials;
use crate::error::Error;
use crate::identity::Identity;
use crate::tls::admission::{Admission, AdmittedClients, Kinds};
use crate::tls::{ALPN_AGENT, ALPN_HTTP2, provider};

/// Users, and nodes that forward for them. Hosts have no business on the API.
///
/// # Errors
/// [`Error::Tls`] or [`Error::Verifier`].
pub fn grpc_server(own: &Credentials, registry: Arc<dyn Admission>) -> Result<Arc<ServerConfig>, Error> {
    mutual(own, registry, |peer| matches!(peer, Identity::User { .. } | Identity::Node { .. }), ALPN_HTTP2)
}

/// Nodes only.
///
/// # Errors
/// As [`grpc_server`].
pub fn raft_server(own: &Credentials, registry: Arc<dyn Admission>) -> Result<Arc<ServerConfig>, Error> {
    mutual(own, registry, |peer| matches!(peer, Identity::Node { .. }), ALPN_HTTP2)
}

/// Hosts only, over QUIC.
///
/// # Errors
/// As [`grpc_server`].
pub fn quic_server(own: &Credentials, registry: Arc<dyn Admission>) -> Result<Arc<ServerConfig>, Error> {
    mutual(own, registry, |peer| matches!(peer, Identity::Host { .. }), ALPN_AGENT)
}

/// Strangers with a token: the only port without client certificates. The chain it shows ends in the CA itself, which
/// is what a token pins.
///
/// # Errors
/// As [`grpc_server`].
pub fn join_server(own: &Credentials) -> Result<Arc<ServerConfig>, Error> {
    finish(own, None, ALPN_HTTP2)
}

fn mutual(
    own: &Credentials,
    registry: Arc<dyn Admission>,
    kinds: Kinds,
    alpn: &[u8],
) -> Result<Arc<ServerConfig>, Error> {
    finish(own, Some(Arc::new(AdmittedClients::new(own, kinds, registry)?)), alpn)
}

fn finish(
    own: &Credentials,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    alpn: &[u8],
) -> Result<Arc<ServerConfig>, Error> {
    let builder =
        ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS13])?;
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let chain = vec![own.certificate_der().clone(), own.ca_der().clone()];
    let mut config = builder.with_single_cert(chain, own.key().to_rustls())?;
    config.alpn_protocols = vec![alpn.to_vec()];
    // A resumed session shows no certificate, so the registry would not be asked: a removed host would come back.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}
