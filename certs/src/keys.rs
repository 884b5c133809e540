//! Key pairs (ECDSA on P-256) and the public halves that arrive in signing requests.

use std::fmt;
use std::path::Path;

use rcgen::{CertificateParams, CertificateSigningRequestParams, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls_pki_types::{CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::error::Error;
use crate::spki::SpkiHash;
use crate::{files, pem};

/// Ours have under 400 bytes; the rest is room for a foreign maker's extensions, all of which are ignored.
const CSR_BYTES_MAX: usize = 4096;

/// A private key with its public half. The stored form is wiped when dropped; `Debug` shows the public half.
pub struct KeyPair {
    inner: Zeroizing<rcgen::KeyPair>,
}

impl KeyPair {
    /// A fresh one.
    ///
    /// # Errors
    /// [`Error::Issue`] when the system has no randomness.
    pub fn generate() -> Result<Self, Error> {
        Ok(Self { inner: Zeroizing::new(rcgen::KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?) })
    }

    /// # Errors
    /// [`Error::Malformed`] unless `pkcs8_der` is a P-256 key in PKCS #8.
    pub fn from_pkcs8_der(pkcs8_der: &[u8]) -> Result<Self, Error> {
        let inner = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(
            &PrivatePkcs8KeyDer::from(pkcs8_der),
            &PKCS_ECDSA_P256_SHA256,
        )
        .map_err(|_| Error::malformed("private key", "expected a P-256 key in PKCS #8"))?;
        Ok(Self { inner: Zeroizing::new(inner) })
    }

    /// # Errors
    /// As [`KeyPair::from_pkcs8_der`].
    pub fn from_pem(text: &str) -> Result<Self, Error> {
        Self::from_pkcs8_der(&pem::private_key(text)?)
    }

    /// The key in `path`, made and stored there (mode 0600) if there is none: whoever joins keeps the key *before* it
    /// spends its token, so that a retry after a crash is the same key asking again.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Exposed`] or [`Error::Malformed`].
    pub fn load_or_generate(path: &Path) -> Result<Self, Error> {
        if path.exists() {
            return Self::from_pem(&files::read_private_text(path)?);
        }
        let key = Self::generate()?;
        files::write_private(path, key.to_pem().as_bytes())?;
        Ok(key)
    }

    /// The secret itself, as PKCS #8.
    #[must_use]
    pub fn pkcs8_der(&self) -> &[u8] {
        self.inner.serialized_der()
    }

    /// The secret itself, as PEM.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(pem::encode("PRIVATE KEY", self.pkcs8_der()))
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey { spki_der: self.inner.subject_public_key_info() }
    }

    /// A signing request that says nothing but the key.
    ///
    /// # Errors
    /// [`Error::Issue`].
    pub fn csr_der(&self) -> Result<Vec<u8>, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        Ok(params.serialize_request(&*self.inner)?.der().to_vec())
    }

    pub(crate) fn signer(&self) -> &rcgen::KeyPair {
        &self.inner
    }

    /// For the TLS library, which keeps its own copy.
    pub(crate) fn to_rustls(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.pkcs8_der().to_vec()).into()
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair").field("public", &self.public().hash()).finish_non_exhaustive()
    }
}

/// What every P-256 SubjectPublicKeyInfo with an uncompressed point begins with; 64 bytes of the point follow.
const P256_SPKI_PREFIX: [u8; 27] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];

/// A P-256 public key in the one encoding that is accepted, so that a key has one hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    spki_der: Vec<u8>,
}

impl PublicKey {
    /// # Errors
    /// [`Error::KeyKind`] for anything but P-256 with an uncompressed point.
    pub fn from_spki(spki_der: &[u8]) -> Result<Self, Error> {
        if spki_der.len() != P256_SPKI_PREFIX.len() + 64 || !spki_der.starts_with(&P256_SPKI_PREFIX) {
            return Err(Error::KeyKind);
        }
        Ok(Self { spki_der: spki_der.to_vec() })
    }

    /// Takes only the key; every other wish in the request is ignored. Its signature proves that the sender holds the
    /// private half.
    ///
    /// # Errors
    /// [`Error::Malformed`] or [`Error::KeyKind`].
    pub fn from_csr(csr_der: &[u8]) -> Result<Self, Error> {
        if csr_der.len() > CSR_BYTES_MAX {
            return Err(Error::malformed("signing request", format!("more than {CSR_BYTES_MAX} bytes")));
        }
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr_der))
            .map_err(|error| Error::malformed("signing request", error))?;
        Self::from_spki(&request.public_key.subject_public_key_info())
    }

    /// Its name in the registry.
    #[must_use]
    pub fn hash(&self) -> SpkiHash {
        SpkiHash::of_spki(&self.spki_der)
    }

    /// The DER-encoded SubjectPublicKeyInfo, 91 bytes.
    #[must_use]
    pub fn spki_der(&self) -> &[u8] {
        &self.spki_der
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_carries_the_key_and_proves_it() {
        let key = KeyPair::generate().unwrap();
        let csr = key.csr_der().unwrap();
        assert_eq!(PublicKey::from_csr(&csr).unwrap(), key.public());
        assert_eq!(SpkiHash::of_csr(&csr).unwrap(), key.public().hash());
        let mut forged = csr.clone();
        *forged.last_mut().unwrap() ^= 1;
        assert!(PublicKey::from_csr(&forged).is_err());
        assert!(PublicKey::from_csr(&csr[..csr.len() - 1]).is_err());
        assert!(PublicKey::from_csr(&vec![0x30; CSR_BYTES_MAX + 1]).is_err());
    }

    #[test]
    fn other_kinds_of_keys_are_refused() {
        let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        assert!(matches!(PublicKey::from_spki(&p384.subject_public_key_info()), Err(Error::KeyKind)));
        let csr = CertificateParams::default().serialize_request(&p384).unwrap();
        assert!(matches!(PublicKey::from_csr(csr.der()), Err(Error::KeyKind)));
        assert!(KeyPair::from_pkcs8_der(p384.serialized_der()).is_err());
    }

    #[test]
    fn pem_round_trips_and_debug_shows_no_secret() {
        let key = KeyPair::generate().unwrap();
        let text = key.to_pem();
        assert_eq!(KeyPair::from_pem(&text).unwrap().pkcs8_der(), key.pkcs8_der());
        let shown = format!("{key:?}");
        for line in text.lines().filter(|line| !line.starts_with('-')) {
            assert!(!shown.contains(line));
        }
        assert!(shown.contains(&key.public().hash().to_string()));
    }

    #[test]
    fn the_stored_key_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("host.key");
        let first = KeyPair::load_or_generate(&path).unwrap();
        assert_eq!(KeyPair::load_or_generate(&path).unwrap().public(), first.public());
    }

    proptest! {
        #[test]
        fn random_bytes_are_no_request(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(PublicKey::from_csr(&bytes).is_err());
        }
    }
}
