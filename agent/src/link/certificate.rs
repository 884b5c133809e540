//! Renewal of this host's certificate over the live connection, with the key that is registered.

use std::time::Duration;

use stratavore_certs::{Credentials, KeyPair};
use stratavore_proto::v1;
use stratavore_proto::v1::agent_message::Message;
use tracing::{info, warn};

use crate::clock;
use crate::data_dir::DataDir;

/// How often the certificate's age is looked at; a refused renewal is asked for again as often.
pub(super) const CHECK_PERIOD: Duration = Duration::from_secs(600);

/// The request, when two thirds of the life are over.
pub(super) fn request_if_due(credentials: &Credentials) -> Option<v1::AgentMessage> {
    let now_s = u64::try_from(clock::unix_ms() / 1000).unwrap_or(0);
    let due = credentials.validity().is_ok_and(|validity| validity.renewal_due(now_s));
    if !due {
        return None;
    }
    match credentials.key().csr_der() {
        Ok(csr_der) => {
            let request = v1::CertificateRequest { csr_der: csr_der.into() };
            Some(v1::AgentMessage { message: Some(Message::Certificate(request)) })
        }
        Err(error) => {
            warn!(%error, "the request for a new certificate cannot be made");
            None
        }
    }
}

/// Checks and stores the answer; the credentials of the next connection, or `None` when it is refused.
pub(super) fn accept(
    dir: &DataDir,
    present: &Credentials,
    response: &v1::CertificateResponse,
) -> Option<Credentials> {
    if !response.error.is_empty() {
        warn!(
            error = response.error,
            "the cluster did not renew this host's certificate; it will be asked again"
        );
        return None;
    }
    let renewed =
        renew(present, response).and_then(|renewed| renewed.save(&dir.pki(), "host").map(|()| renewed));
    match renewed {
        Ok(renewed) if renewed.identity() == present.identity() => {
            info!("the host's certificate is renewed");
            Some(renewed)
        }
        Ok(_) => {
            warn!("the renewed certificate names another identity; it is not used");
            None
        }
        Err(error) => {
            warn!(%error, "the renewed certificate cannot be used; the present one stays");
            None
        }
    }
}

fn renew(
    present: &Credentials,
    response: &v1::CertificateResponse,
) -> Result<Credentials, stratavore_certs::Error> {
    let key = KeyPair::from_pkcs8_der(present.key().pkcs8_der())?;
    // The CA stays the one this host joined with: a new one comes by the trust bundle, never by a certificate.
    Credentials::new(present.ca_der(), &response.certificate_der, key)
}
