//! What can go wrong with keys, certificates and their files.

use std::path::{Path, PathBuf};

use crate::spki::SpkiHash;
use crate::token::TokenError;

/// Every message says what, and where a person can act, what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Bytes that are no X.509 certificate, no signing request or no key.
    #[error("this is not a valid {what}: {detail}")]
    Malformed { what: &'static str, detail: String },
    /// An identity that is not `spiffe://CLUSTER/{node,host,user}/ID`.
    #[error("{text:?} is not an identity: expected spiffe://CLUSTER/node/N, /host/ID or /user/NAME")]
    Identity { text: String },
    /// A certificate with no or more than one URI name, so without a clear identity.
    #[error("a certificate must carry exactly one URI name, this one has {found}")]
    IdentityCount { found: usize },
    /// A public key of another kind than ECDSA on P-256.
    #[error("only ECDSA keys on the curve P-256 are accepted")]
    KeyKind,
    /// A private key that does not belong to the certificate beside it.
    #[error("the private key does not belong to the certificate of {identity}")]
    KeyMismatch { identity: String },
    /// A certificate that the CA beside it did not issue.
    #[error("the certificate of {identity} was not issued by the CA stored with it")]
    ForeignCertificate { identity: String },
    /// A CA that is not the pinned one.
    #[error("the CA has the key hash {found}, but {expected} is pinned: the other end is not this cluster")]
    Pin { expected: SpkiHash, found: SpkiHash },
    /// A validity period outside of what X.509 can say, or one that ends before it begins.
    #[error("a certificate cannot be valid from {not_before} to {not_after} (seconds since 1970)")]
    Validity { not_before: u64, not_after: u64 },
    /// A join token that cannot be one.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The operating system gave no randomness.
    #[error("the operating system gave no random bytes: {0}")]
    Random(getrandom::Error),
    /// The library that makes certificates refused.
    #[error("cannot make a certificate")]
    Issue(#[from] rcgen::Error),
    /// The TLS library refused a configuration.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
    /// The TLS library refused a set of roots.
    #[error("cannot set up the verification of certificates")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// A file could not be read or written.
    #[error("cannot {action} {}", path.display())]
    File { action: &'static str, path: PathBuf, source: std::io::Error },
    /// A file whose content is not what it should be.
    #[error("{} is damaged", path.display())]
    Damaged { path: PathBuf, source: Box<Error> },
    /// A secret that others may read.
    #[error("{} can be read by others (mode {mode:03o}); run: chmod 600 {}", path.display(), path.display())]
    Exposed { path: PathBuf, mode: u32 },
    /// A file that is too large to be what it should be.
    #[error("{} has more than {limit} bytes, which no key, certificate or token has", path.display())]
    TooLarge { path: PathBuf, limit: u64 },
}

impl Error {
    /// Names the file in which [`Error::Malformed`] was found.
    pub(crate) fn in_file(self, path: &Path) -> Self {
        match self {
            Self::Malformed { .. } => Self::Damaged { path: path.to_owned(), source: Box::new(self) },
            other => other,
        }
    }

    pub(crate) fn malformed(what: &'static str, detail: impl ToString) -> Self {
        Self::Malformed { what, detail: detail.to_string() }
    }
}
