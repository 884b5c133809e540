//! What a party needs to prove who it is: its key, its certificate, and the CA it trusts.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};
use zeroize::Zeroizing;

use crate::error::Error;
use crate::identity::Identity;
use crate::keys::KeyPair;
use crate::spki::SpkiHash;
use crate::validity::Validity;
use crate::{files, pem, tls};

/// Checked when made: the key belongs to the certificate, and the CA issued it. `Debug` shows no secret.
pub struct Credentials {
    identity: Identity,
    spki: SpkiHash,
    ca: CertificateDer<'static>,
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl Credentials {
    /// From DER.
    ///
    /// # Errors
    /// [`Error::KeyMismatch`], [`Error::ForeignCertificate`], or what parsing says.
    pub fn new(ca_der: &[u8], certificate_der: &[u8], key: KeyPair) -> Result<Self, Error> {
        let ca = CertificateDer::from(ca_der.to_vec());
        let certificate = CertificateDer::from(certificate_der.to_vec());
        let identity = Identity::from_certificate(&certificate)?;
        let spki = SpkiHash::of_certificate(&certificate)?;
        if spki != key.public().hash() {
            return Err(Error::KeyMismatch { identity: identity.to_string() });
        }
        let credentials = Self { identity, spki, ca, certificate, key };
        credentials.check_chain()?;
        Ok(credentials)
    }

    /// From PEM, as in context files.
    ///
    /// # Errors
    /// As [`Credentials::new`].
    pub fn from_pem(ca: &str, certificate: &str, key: &str) -> Result<Self, Error> {
        Self::new(
            &pem::parse_certificate(ca)?,
            &pem::parse_certificate(certificate)?,
            KeyPair::from_pem(key)?,
        )
    }

    /// From `DIR/ca.crt`, `DIR/NAME.crt` and `DIR/NAME.key`.
    ///
    /// # Errors
    /// As [`Credentials::new`], or what reading says; [`Error::Exposed`] for a key that others can read.
    pub fn load(dir: &Path, name: &str) -> Result<Self, Error> {
        let ca = files::read_certificate(&dir.join("ca.crt"))?;
        let certificate = files::read_certificate(&dir.join(format!("{name}.crt")))?;
        let key_file = dir.join(format!("{name}.key"));
        let key = files::read_private_text(&key_file)?;
        let key = KeyPair::from_pem(&key).map_err(|error| error.in_file(&key_file))?;
        Self::new(&ca, &certificate, key)
    }

    /// Into the files of [`Credentials::load`]; the directory gets mode 0700. The certificate is written last: where
    /// it is, the rest is too.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn save(&self, dir: &Path, name: &str) -> Result<(), Error> {
        files::create_private_dir(dir)?;
        files::write_private(&dir.join(format!("{name}.key")), self.key.to_pem().as_bytes())?;
        files::write_public(&dir.join("ca.crt"), self.ca_pem().as_bytes())?;
        files::write_public(&dir.join(format!("{name}.crt")), self.certificate_pem().as_bytes())
    }

    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The cluster of [`Credentials::identity`].
    #[must_use]
    pub fn cluster(&self) -> &str {
        self.identity.cluster()
    }

    /// The name of this key in the registry.
    #[must_use]
    pub const fn spki(&self) -> SpkiHash {
        self.spki
    }

    #[must_use]
    pub const fn key(&self) -> &KeyPair {
        &self.key
    }

    #[must_use]
    pub const fn ca_der(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    #[must_use]
    pub const fn certificate_der(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    #[must_use]
    pub fn ca_pem(&self) -> String {
        pem::certificate(&self.ca)
    }

    #[must_use]
    pub fn certificate_pem(&self) -> String {
        pem::certificate(&self.certificate)
    }

    /// The secret itself.
    #[must_use]
    pub fn key_pem(&self) -> Zeroizing<String> {
        self.key.to_pem()
    }

    /// What join tokens of this cluster pin.
    ///
    /// # Errors
    /// [`Error::Malformed`]; not after the checks of [`Credentials::new`].
    pub fn pin(&self) -> Result<SpkiHash, Error> {
        SpkiHash::of_certificate(&self.ca)
    }

    /// The period written in the certificate.
    ///
    /// # Errors
    /// [`Error::Malformed`]; not after the checks of [`Credentials::new`].
    pub fn validity(&self) -> Result<Validity, Error> {
        Validity::of_certificate(&self.certificate)
    }

    pub(crate) fn roots(&self) -> Result<Arc<RootCertStore>, Error> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.clone())?;
        Ok(Arc::new(roots))
    }

    /// Asks as of the certificate's first day: an expired one is still ours, and the peer will say that it is expired.
    fn check_chain(&self) -> Result<(), Error> {
        let at = self.validity()?.not_before_unix_s.saturating_add(1);
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(at));
        WebPkiClientVerifier::builder_with_provider(self.roots()?, tls::provider())
            .build()?
            .verify_client_cert(&self.certificate, &[], at)
            .map(|_| ())
            .map_err(|_| Error::ForeignCertificate { identity: self.identity.to_string() })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("identity", &format_args!("{}", self.identity))
            .field("spki", &self.spki)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::ca::Ca;

    const CLUSTER: &str = "0123456789abcdef";
    const NOW: u64 = 1_800_000_000;

    fn made(ca: &Ca) -> (KeyPair, CertificateDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let identity = Identity::User { cluster: CLUSTER.into(), name: "alice".into() };
        let validity = Validity::for_identity(&identity, NOW);
        let certificate = ca.issue(&key.public(), &identity, &[], validity).unwrap();
        (key, certificate)
    }

    #[test]
    fn files_round_trip_with_a_private_key() {
        let ca = Ca::generate(CLUSTER, NOW).unwrap();
        let (key, certificate) = made(&ca);
        let credentials = Credentials::new(ca.certificate_der(), &certificate, key).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let pki = dir.path().join("pki");
        credentials.save(&pki, "host").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&pki), mode(&pki.join("host.key"))), (0o700, 0o600));
        let again = Credentials::load(&pki, "host").unwrap();
        assert_eq!((again.spki(), again.identity()), (credentials.spki(), credentials.identity()));
        assert_eq!(again.pin().unwrap(), ca.pin());
        std::fs::set_permissions(pki.join("host.key"), std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Credentials::load(&pki, "host"), Err(Error::Exposed { mode: 0o640, .. })));
    }

    #[test]
    fn parts_that_do_not_belong_together_are_refused() {
        let (ours, other) = (Ca::generate(CLUSTER, NOW).unwrap(), Ca::generate(CLUSTER, NOW).unwrap());
        let (key, certificate) = made(&ours);
        let stranger = KeyPair::generate().unwrap();
        assert!(matches!(
            Credentials::new(ours.certificate_der(), &certificate, stranger),
            Err(Error::KeyMismatch { .. })
        ));
        assert!(matches!(
            Credentials::new(other.certificate_der(), &certificate, key),
            Err(Error::ForeignCertificate { .. })
        ));
    }

    #[test]
    fn debug_shows_no_secret() {
        let ca = Ca::generate(CLUSTER, NOW).unwrap();
        let (key, certificate) = made(&ca);
        let credentials = Credentials::new(ca.certificate_der(), &certificate, key).unwrap();
        let secret = data_encoding::HEXLOWER.encode(credentials.key().pkcs8_der());
        let shown = format!("{credentials:?}");
        assert!(shown.contains("spiffe://0123456789abcdef/user/alice"), "{shown}");
        assert!(!shown.contains(&secret) && shown.len() < 200, "{shown}");
    }
}
