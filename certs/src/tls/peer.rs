//! Who is at the other end of a finished handshake.

use rustls_pki_types::CertificateDer;

use crate::error::Error;
use crate::identity::Identity;
use crate::spki::SpkiHash;

/// Identity and key of a peer whose handshake was verified.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Peer {
    pub identity: Identity,
    pub spki: SpkiHash,
}

impl Peer {
    /// From what the TLS library kept: `connection.peer_certificates()` of rustls, or the `Vec<CertificateDer>` in
    /// `connection.peer_identity()` of quinn.
    ///
    /// # Errors
    /// [`Error::Malformed`] without a certificate, which only the join port allows.
    pub fn of_chain(chain: Option<&[CertificateDer<'_>]>) -> Result<Self, Error> {
        match chain {
            Some([certificate, ..]) => Self::of_certificate(certificate),
            _ => Err(Error::malformed("peer", "it showed no certificate")),
        }
    }

    pub(crate) fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self, Error> {
        Ok(Self {
            identity: Identity::from_certificate(certificate)?,
            spki: SpkiHash::of_certificate(certificate)?,
        })
    }
}
