//! What a refused client can learn: in TLS 1.3 the server's verdict arrives as an alert after the client has finished.

use std::error::Error as StdError;

use rustls::AlertDescription;

use crate::tls::ServerError;

/// How many sources of an error are looked at; real chains have under ten, and a cycle must not hang.
const CHAIN_LENGTH_MAX: usize = 32;

/// Why the other end ended the handshake, or why we did.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Alert 44: this key was removed from the cluster.
    #[error("this key was removed from the cluster; join again with a new token")]
    Revoked,
    /// Alert 49: the node does not know this key, perhaps not yet.
    #[error("this node does not know our key; it may lag behind, try another one")]
    UnknownKey,
    /// Alert 43: e.g. a host's certificate on the API port.
    #[error("this port is not for this kind of identity; check the port number")]
    WrongKind,
    /// Alert 45: expired, or one of the two clocks is wrong.
    #[error("our certificate is expired, or one of the two clocks is wrong; join again with a new token")]
    Expired,
    /// Alert 48: the other end trusts another CA.
    #[error("the other end belongs to another cluster; check the address and the context")]
    OtherCluster,
    /// Alert 116: the port wants a client certificate.
    #[error("this port wants a certificate; only the join port (default 50054) serves strangers")]
    CertificateRequired,
    /// Alert 70: not TLS 1.3.
    #[error("the other end does not speak TLS 1.3")]
    Version,
    /// Alert 120: no common application protocol, so another port than we think.
    #[error("the other end speaks another protocol; check the port number")]
    Protocol,
    /// We refused the server.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// We refused the server: its chain does not end in our CA.
    #[error(
        "the server belongs to another cluster: ours did not issue its certificate; check the address and the context"
    )]
    ForeignServer,
    /// Any other alert.
    #[error("the other end ended the handshake with TLS alert {0}")]
    Other(u8),
}

impl Refusal {
    /// From an alert: for QUIC, the low byte of a transport error code 0x100..=0x1ff.
    #[must_use]
    pub fn from_alert(alert: u8) -> Self {
        match AlertDescription::from(alert) {
            AlertDescription::CertificateRevoked => Self::Revoked,
            AlertDescription::AccessDenied => Self::UnknownKey,
            AlertDescription::UnsupportedCertificate => Self::WrongKind,
            AlertDescription::CertificateExpired => Self::Expired,
            AlertDescription::UnknownCA => Self::OtherCluster,
            AlertDescription::CertificateRequired => Self::CertificateRequired,
            AlertDescription::ProtocolVersion => Self::Version,
            AlertDescription::NoApplicationProtocol => Self::Protocol,
            _ => Self::Other(alert),
        }
    }

    /// Looks for a TLS verdict in `error` and its sources: errors of tokio-rustls, hyper and tonic all carry one.
    #[must_use]
    pub fn find(error: &(dyn StdError + 'static)) -> Option<Self> {
        let mut next = Some(error);
        for _ in 0..CHAIN_LENGTH_MAX {
            let current = next?;
            if let Some(found) = current.downcast_ref::<rustls::Error>().and_then(Self::of_tls) {
                return Some(found);
            }
            // The source of an I/O error that wraps another error is the source of that one, not that one.
            next = match current.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
                Some(inner) => Some(inner),
                None => current.source(),
            };
        }
        None
    }

    fn of_tls(error: &rustls::Error) -> Option<Self> {
        match error {
            rustls::Error::AlertReceived(alert) => Some(Self::from_alert(u8::from(*alert))),
            rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) => {
                other.0.downcast_ref::<ServerError>().cloned().map(Self::Server)
            }
            rustls::Error::InvalidCertificate(_) => Some(Self::ForeignServer),
            _ => None,
        }
    }
}
