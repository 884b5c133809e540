//! Who a certificate speaks for: exactly one URI `spiffe://CLUSTER/{node,host,user}/ID`; the subject is ignored.

use std::fmt;
use std::str::FromStr;

use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::base32;
use crate::error::Error;

/// Digits of a cluster id.
pub const CLUSTER_ID_LENGTH: usize = 16;
/// Digits of a host id and of a token id.
pub const ID_LENGTH: usize = 10;
/// Longest user name: it fits a DNS label, a metric label and a path part.
pub const NAME_BYTES_MAX: usize = 63;

/// One party of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// A control-plane node; numbers are never reused.
    Node { cluster: String, id: u64 },
    /// A machine that runs things.
    Host { cluster: String, id: String },
    /// A person or a program that uses the API.
    User { cluster: String, name: String },
}

impl Identity {
    /// The identity in a certificate. Nothing is verified here: that is what the handshake is for.
    ///
    /// # Errors
    /// [`Error::Malformed`], [`Error::IdentityCount`] or [`Error::Identity`].
    pub fn from_certificate(certificate: &CertificateDer<'_>) -> Result<Self, Error> {
        let certificate = parse(certificate)?;
        let names = certificate
            .subject_alternative_name()
            .map_err(|error| Error::malformed("certificate", error))?
            .map(|extension| extension.value.general_names.as_slice())
            .unwrap_or_default();
        let uris: Vec<&str> = names
            .iter()
            .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
            .collect();
        match uris[..] {
            [uri] => uri.parse(),
            _ => Err(Error::IdentityCount { found: uris.len() }),
        }
    }

    /// The cluster it belongs to: 16 digits of base32.
    #[must_use]
    pub fn cluster(&self) -> &str {
        match self {
            Self::Node { cluster, .. } | Self::Host { cluster, .. } | Self::User { cluster, .. } => cluster,
        }
    }

    /// `node`, `host` or `user`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Node { .. } => "node",
            Self::Host { .. } => "host",
            Self::User { .. } => "user",
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cluster, kind) = (self.cluster(), self.kind());
        match self {
            Self::Node { id, .. } => write!(f, "spiffe://{cluster}/{kind}/{id}"),
            Self::Host { id, .. } => write!(f, "spiffe://{cluster}/{kind}/{id}"),
            Self::User { name, .. } => write!(f, "spiffe://{cluster}/{kind}/{name}"),
        }
    }
}

impl FromStr for Identity {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        // Bounded, because the text may come from a stranger's certificate.
        let wrong = || Error::Identity { text: text.chars().take(120).collect() };
        let mut parts = text.strip_prefix("spiffe://").ok_or_else(wrong)?.split('/');
        let (Some(cluster), Some(kind), Some(id), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong());
        };
        if !base32::is_id(cluster, CLUSTER_ID_LENGTH) {
            return Err(wrong());
        }
        let cluster = cluster.to_owned();
        match kind {
            "node" => node_number(id).map(|id| Self::Node { cluster, id }).ok_or_else(wrong),
            "host" if base32::is_id(id, ID_LENGTH) => Ok(Self::Host { cluster, id: id.to_owned() }),
            "user" if is_name(id) => Ok(Self::User { cluster, name: id.to_owned() }),
            _ => Err(wrong()),
        }
    }
}

/// One spelling per number, so that equal identities have equal text.
fn node_number(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number > 0 && number.to_string() == text).then_some(number)
}

fn is_name(text: &str) -> bool {
    text.len() <= NAME_BYTES_MAX
        && !text.starts_with('-')
        && !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Parses all of `certificate`; trailing bytes are refused.
pub(crate) fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Error> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) => Err(Error::malformed("certificate", "bytes after its end")),
        Err(error) => Err(Error::malformed("certificate", error)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLUSTER: &str = "0123456789abcdef";

    #[test]
    fn the_three_kinds_round_trip() {
        for path in ["node/1", "node/18446744073709551615", "host/0123456789", "user/alice", "user/0-"] {
            let text = format!("spiffe://{CLUSTER}/{path}");
            assert_eq!(text.parse::<Identity>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "spiffe://",
            "http://0123456789abcdef/node/1",
            "spiffe://0123456789abcdef/node/0",
            "spiffe://0123456789abcdef/node/01",
            "spiffe://0123456789abcdef/node/+1",
            "spiffe://0123456789abcdef/node/1/",
            "spiffe://0123456789abcdef/node/1/2",
            "spiffe://0123456789abcdef/root/1",
            "spiffe://0123456789abcde/node/1",
            "spiffe://0123456789abcdeF/node/1",
            "spiffe://0123456789abcdef/host/short",
            "spiffe://0123456789abcdef/user/",
            "spiffe://0123456789abcdef/user/-a",
            "spiffe://0123456789abcdef/user/Alice",
        ] {
            assert!(text.parse::<Identity>().is_err(), "{text:?} passed");
        }
    }

    proptest! {
        #[test]
        fn what_parses_prints_the_same(text in "spiffe://[0-9a-z]{15,17}/(node|host|user)/[0-9a-z-]{0,64}") {
            if let Ok(identity) = text.parse::<Identity>() {
                prop_assert_eq!(identity.to_string(), text);
            }
        }

        #[test]
        fn random_bytes_are_no_certificate(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Identity::from_certificate(&CertificateDer::from(bytes)).is_err());
        }
    }
}
