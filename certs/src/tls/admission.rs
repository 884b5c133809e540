//! The server's side of who may enter: chain, cluster, kind of identity, and then the registry.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::credentials::Credentials;
use crate::error::Error;
use crate::identity::Identity;
use crate::spki::SpkiHash;
use crate::tls::{Peer, provider};

/// The answer of the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// This key is registered for this identity.
    Admit,
    /// It was, and has been removed: the client is told so (alert 44), because an agent that was removed stops its
    /// runners (P18).
    Revoked,
    /// Never heard of it here, which may only mean that this node lags behind (alert 49).
    Unknown,
}

/// Asked in every handshake, from the thread that does it: answer from memory.
pub trait Admission: Send + Sync {
    /// May the holder of the key `spki` act as `identity`? The chain has been verified before.
    fn admit(&self, identity: &Identity, spki: &SpkiHash) -> Verdict;
}

/// Which identities a port is for.
pub(super) type Kinds = fn(&Identity) -> bool;

pub(super) struct AdmittedClients {
    chain: Arc<dyn ClientCertVerifier>,
    cluster: String,
    kinds: Kinds,
    registry: Arc<dyn Admission>,
}

impl AdmittedClients {
    pub(super) fn new(own: &Credentials, kinds: Kinds, registry: Arc<dyn Admission>) -> Result<Self, Error> {
        let chain = WebPkiClientVerifier::builder_with_provider(own.roots()?, provider()).build()?;
        Ok(Self { chain, cluster: own.cluster().to_owned(), kinds, registry })
    }

    fn judge(&self, certificate: &CertificateDer<'_>) -> Result<(), CertificateError> {
        let peer = Peer::of_certificate(certificate).map_err(|_| CertificateError::BadEncoding)?;
        if peer.identity.cluster() != self.cluster {
            return Err(CertificateError::UnknownIssuer);
        }
        if !(self.kinds)(&peer.identity) {
            return Err(CertificateError::InvalidPurpose);
        }
        match self.registry.admit(&peer.identity, &peer.spki) {
            Verdict::Admit => Ok(()),
            Verdict::Revoked => Err(CertificateError::Revoked),
            Verdict::Unknown => Err(CertificateError::ApplicationVerificationFailure),
        }
    }
}

/// A CA of the same name with another key is another CA: the client is to hear that, not "decrypt error".
fn as_foreign(error: rustls::Error) -> rustls::Error {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::BadSignature) => {
            CertificateError::UnknownIssuer.into()
        }
        other => other,
    }
}

impl fmt::Debug for AdmittedClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdmittedClients").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl ClientCertVerifier for AdmittedClients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        // Our CA issues leaves only, so what a peer sends beside its own certificate is not looked at.
        let verified = self.chain.verify_client_cert(end_entity, &[], now).map_err(as_foreign)?;
        self.judge(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
