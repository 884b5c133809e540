//! PEM text, both ways.

use data_encoding::BASE64;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::error::Error;

/// Line length of RFC 7468.
const LINE_BYTES: usize = 64;

/// A certificate as PEM.
#[must_use]
pub fn certificate(der: &CertificateDer<'_>) -> String {
    encode("CERTIFICATE", der)
}

/// The first certificate in `text`.
///
/// # Errors
/// [`Error::Malformed`] when there is none.
pub fn parse_certificate(text: &str) -> Result<CertificateDer<'static>, Error> {
    CertificateDer::from_pem_slice(text.as_bytes())
        .map_err(|error| Error::malformed("PEM certificate", error))
}

pub(crate) fn private_key(text: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
    let key = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes())
        .map_err(|error| Error::malformed("PEM private key", error))?;
    Ok(Zeroizing::new(key.secret_pkcs8_der().to_vec()))
}

pub(crate) fn encode(label: &str, der: &[u8]) -> String {
    let body = Zeroizing::new(BASE64.encode(der));
    let mut text = String::with_capacity(body.len() + body.len() / LINE_BYTES + 64);
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(LINE_BYTES));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}
