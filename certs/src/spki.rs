//! The name of a key: SHA-256 over its SubjectPublicKeyInfo.

use std::fmt;
use std::str::FromStr;

use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::keys::PublicKey;
use crate::{base32, identity};

/// What the registry lists, and what a join token pins. Text form: 52 digits of base32.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpkiHash(pub [u8; 32]);

impl SpkiHash {
    /// Of a DER-encoded SubjectPublicKeyInfo.
    #[must_use]
    pub fn of_spki(spki_der: &[u8]) -> Self {
        Self(Sha256::digest(spki_der).into())
    }

    /// Of the key in a certificate.
    ///
    /// # Errors
    /// [`Error::Malformed`] for bytes that are no certificate.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self, Error> {
        Ok(Self::of_spki(identity::parse(certificate)?.tbs_certificate.subject_pki.raw))
    }

    /// Of the key in a certificate signing request, whose signature (the proof that the sender holds the key) is
    /// checked.
    ///
    /// # Errors
    /// As [`PublicKey::from_csr`].
    pub fn of_csr(csr_der: &[u8]) -> Result<Self, Error> {
        Ok(PublicKey::from_csr(csr_der)?.hash())
    }
}

impl fmt::Display for SpkiHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32::encode(&self.0))
    }
}

impl fmt::Debug for SpkiHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpkiHash({self})")
    }
}

impl FromStr for SpkiHash {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        base32::decode(text)
            .map(Self)
            .ok_or_else(|| Error::malformed("key hash", "expected 52 digits of base32"))
    }
}
