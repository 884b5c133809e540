//! The client's side: is this really a node of our cluster?

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::credentials::Credentials;
use crate::error::Error;
use crate::identity::Identity;
use crate::spki::SpkiHash;
use crate::tls::{Peer, provider};

/// Why a server with a good chain is still not the one to talk to. Found in the chain of sources of a failed handshake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServerError {
    #[error("the server showed a certificate that names no party of a cluster: {detail}")]
    Unreadable { detail: String },
    #[error("the server is {found}, not a node of cluster {cluster}")]
    NotANode { found: String, cluster: String },
    #[error("the server is node {found}, but node {expected} was dialled; check its advertised address")]
    OtherNode { expected: u64, found: u64 },
    #[error("node {id} is not in the last list of trusted nodes: it was removed, or this list is old")]
    Untrusted { id: u64 },
    #[error(
        "the server showed no CA with the pinned key {pin}: it is another cluster, or somebody in between; nothing was sent to it"
    )]
    Pin { pin: SpkiHash },
}

impl From<ServerError> for rustls::Error {
    fn from(error: ServerError) -> Self {
        CertificateError::Other(OtherError(Arc::new(error))).into()
    }
}

/// Signature checks of the one provider; both verifiers use them.
#[derive(Debug, Clone, Copy)]
struct Algorithms(WebPkiSupportedAlgorithms);

impl Algorithms {
    fn ours() -> Self {
        Self(provider().signature_verification_algorithms)
    }

    fn check_chain(
        &self,
        server: &CertificateDer<'_>,
        roots: &RootCertStore,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        // Our CA issues leaves only, so there are no intermediates to consider.
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(server)?,
            roots,
            &[],
            now,
            self.0.all,
        )
    }
}

fn node_of(
    server: &CertificateDer<'_>,
    is_ours: impl Fn(&str) -> bool,
    cluster: &str,
) -> Result<(u64, SpkiHash), ServerError> {
    let peer = Peer::of_certificate(server)
        .map_err(|error| ServerError::Unreadable { detail: error.to_string() })?;
    match peer.identity {
        Identity::Node { cluster, id } if is_ours(&cluster) => Ok((id, peer.spki)),
        found => Err(ServerError::NotANode { found: found.to_string(), cluster: cluster.to_owned() }),
    }
}

/// A node of the own cluster, perhaps a certain one, perhaps one of a list of keys.
#[derive(Debug)]
pub(super) struct NodeServer {
    algorithms: Algorithms,
    roots: Arc<RootCertStore>,
    cluster: String,
    id: Option<u64>,
    keys: Option<Vec<SpkiHash>>,
}

impl NodeServer {
    pub(super) fn of_cluster(own: &Credentials) -> Result<Self, Error> {
        let cluster = own.cluster().to_owned();
        Ok(Self { algorithms: Algorithms::ours(), roots: own.roots()?, cluster, id: None, keys: None })
    }

    pub(super) fn with_id(mut self, id: u64) -> Self {
        self.id = Some(id);
        self
    }

    pub(super) fn with_keys(mut self, keys: Vec<SpkiHash>) -> Self {
        self.keys = Some(keys);
        self
    }

    fn judge(&self, server: &CertificateDer<'_>) -> Result<(), ServerError> {
        let (id, spki) = node_of(server, |cluster| cluster == self.cluster, &self.cluster)?;
        match (self.id, &self.keys) {
            (Some(expected), _) if expected != id => Err(ServerError::OtherNode { expected, found: id }),
            (_, Some(keys)) if !keys.contains(&spki) => Err(ServerError::Untrusted { id }),
            _ => Ok(()),
        }
    }
}

/// A node of the cluster whose CA key a token pins; the CA itself comes with the handshake.
#[derive(Debug)]
pub(super) struct PinnedServer {
    algorithms: Algorithms,
    pin: SpkiHash,
    cluster_prefix: String,
}

impl PinnedServer {
    pub(super) fn new(pin: SpkiHash, cluster_prefix: &str) -> Self {
        Self { algorithms: Algorithms::ours(), pin, cluster_prefix: cluster_prefix.to_owned() }
    }

    fn pinned_root(&self, chain: &[CertificateDer<'_>]) -> Result<RootCertStore, rustls::Error> {
        let is_pinned =
            |ca: &&CertificateDer<'_>| SpkiHash::of_certificate(ca).is_ok_and(|hash| hash == self.pin);
        let ca = chain.iter().find(is_pinned).ok_or(ServerError::Pin { pin: self.pin })?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        Ok(roots)
    }
}

impl ServerCertVerifier for NodeServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.algorithms.check_chain(end_entity, &self.roots, now)?;
        self.judge(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.0.supported_schemes()
    }
}

impl ServerCertVerifier for PinnedServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let root = self.pinned_root(intermediates)?;
        self.algorithms.check_chain(end_entity, &root, now)?;
        node_of(end_entity, |cluster| cluster.starts_with(&self.cluster_prefix), &self.cluster_prefix)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.0.supported_schemes()
    }
}
