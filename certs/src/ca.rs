//! The cluster's own CA. Its key is replicated state of the voters: it makes transport work, it admits nobody.

use std::fmt;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;

use crate::error::Error;
use crate::identity::{self, Identity};
use crate::keys::{KeyPair, PublicKey};
use crate::spki::SpkiHash;
use crate::validity::{CA_LIFETIME_S, Validity};

/// A root with its key. `Debug` shows the pin only.
pub struct Ca {
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl Ca {
    /// A new root for `cluster`, valid for ten years.
    ///
    /// # Errors
    /// [`Error::Issue`], [`Error::Random`] or [`Error::Validity`].
    pub fn generate(cluster: &str, now_unix_s: u64) -> Result<Self, Error> {
        let key = KeyPair::generate()?;
        let mut params =
            params(&format!("stratavore ca {cluster}"), Validity::lasting(now_unix_s, CA_LIFETIME_S))?;
        // Issues leaves only: a leaf key can never become an issuer.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(key.signer())?.into();
        Ok(Self { certificate, key })
    }

    /// As kept in replicated state: the certificate in DER, the key in PKCS #8.
    ///
    /// # Errors
    /// [`Error::Malformed`], or [`Error::KeyMismatch`] when the two do not belong together.
    pub fn from_parts(certificate_der: &[u8], key_pkcs8_der: &[u8]) -> Result<Self, Error> {
        let certificate = CertificateDer::from(certificate_der.to_vec());
        let key = KeyPair::from_pkcs8_der(key_pkcs8_der)?;
        if !identity::parse(&certificate)?.is_ca() {
            return Err(Error::malformed("CA certificate", "it is not marked as a CA"));
        }
        if SpkiHash::of_certificate(&certificate)? != key.public().hash() {
            return Err(Error::KeyMismatch { identity: "the CA".to_owned() });
        }
        Ok(Self { certificate, key })
    }

    /// The root certificate, public.
    #[must_use]
    pub fn certificate_der(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The secret, as PKCS #8.
    #[must_use]
    pub fn key_pkcs8_der(&self) -> &[u8] {
        self.key.pkcs8_der()
    }

    /// What join tokens pin.
    #[must_use]
    pub fn pin(&self) -> SpkiHash {
        self.key.public().hash()
    }

    /// A certificate that binds `key` to `identity`. Only nodes may serve: the others' certificates are for clients.
    /// `names` are extra DNS names and IP addresses for foreign clients of a node that check those; ours go by identity.
    ///
    /// # Errors
    /// [`Error::Validity`], [`Error::Issue`] or [`Error::Random`].
    pub fn issue(
        &self,
        key: &PublicKey,
        identity: &Identity,
        names: &[String],
        validity: Validity,
    ) -> Result<CertificateDer<'static>, Error> {
        let mut params = params(&format!("stratavore {}", identity.kind()), validity)?;
        params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
        params.subject_alt_names.push(SanType::URI(identity.to_string().try_into()?));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if matches!(identity, Identity::Node { .. }) {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.use_authority_key_identifier_extension = true;
        let subject = SubjectPublicKeyInfo::from_der(key.spki_der())?;
        let issuer = Issuer::from_ca_cert_der(&self.certificate, self.key.signer())?;
        Ok(params.signed_by(&subject, &issuer)?.into())
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca").field("pin", &self.pin()).finish_non_exhaustive()
    }
}

fn params(common_name: &str, validity: Validity) -> Result<CertificateParams, Error> {
    let validity = validity.checked()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + std::time::Duration::from_secs(validity.not_before_unix_s);
    params.not_after = epoch + std::time::Duration::from_secs(validity.not_after_unix_s);
    params.serial_number = Some(serial_number()?);
    Ok(params)
}

/// Random, so that two certificates of one key differ; positive, as RFC 5280 asks.
fn serial_number() -> Result<SerialNumber, Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(Error::Random)?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = "0123456789abcdef";
    const NOW: u64 = 1_800_000_000;

    fn host() -> Identity {
        Identity::Host { cluster: CLUSTER.into(), id: "0123456789".into() }
    }

    #[test]
    fn a_certificate_says_what_it_was_issued_for() {
        let ca = Ca::generate(CLUSTER, NOW).unwrap();
        let key = KeyPair::generate().unwrap();
        let validity = Validity::for_identity(&host(), NOW);
        let names = ["node.example".to_owned(), "10.1.2.3".to_owned()];
        let certificate = ca.issue(&key.public(), &host(), &names, validity).unwrap();
        assert_eq!(Identity::from_certificate(&certificate).unwrap(), host());
        assert_eq!(SpkiHash::of_certificate(&certificate).unwrap(), key.public().hash());
        assert_eq!(Validity::of_certificate(&certificate).unwrap(), validity);
        assert_ne!(certificate, ca.issue(&key.public(), &host(), &names, validity).unwrap());
    }

    #[test]
    fn parts_round_trip_and_strangers_are_refused() {
        let ca = Ca::generate(CLUSTER, NOW).unwrap();
        let other = Ca::generate(CLUSTER, NOW).unwrap();
        let again = Ca::from_parts(ca.certificate_der(), ca.key_pkcs8_der()).unwrap();
        assert_eq!(again.pin(), ca.pin());
        assert_eq!(SpkiHash::of_certificate(ca.certificate_der()).unwrap(), ca.pin());
        assert!(matches!(
            Ca::from_parts(ca.certificate_der(), other.key_pkcs8_der()),
            Err(Error::KeyMismatch { .. })
        ));
        let key = KeyPair::generate().unwrap();
        let leaf = ca.issue(&key.public(), &host(), &[], Validity::for_identity(&host(), NOW)).unwrap();
        assert!(Ca::from_parts(&leaf, key.pkcs8_der()).is_err());
    }

    #[test]
    fn debug_shows_the_pin_only() {
        let ca = Ca::generate(CLUSTER, NOW).unwrap();
        assert_eq!(format!("{ca:?}"), format!("Ca {{ pin: {:?}, .. }}", ca.pin()));
    }
}
