//! Keys, certificates, join tokens and TLS configurations: everything that decides who is at the other end.
//!
//! An identity is one URI in a certificate, and the certificate is only transport: which key may act is
//! the answer of [`tls::Admission`], asked in every handshake and implemented over the replicated registry.
//! There is no plaintext mode, one TLS version (1.3), one provider (aws-lc-rs, passed explicitly) and no session
//! resumption, because a resumed session would skip that question.
//!
//! This crate knows no sibling, no network and no clock: bytes and times come in as arguments.

mod base32;
mod ca;
mod credentials;
mod error;
pub mod files;
pub mod identity;
pub mod keys;
pub mod pem;
mod spki;
pub mod tls;
pub mod token;
pub mod validity;

pub use ca::Ca;
pub use credentials::Credentials;
pub use error::Error;
pub use identity::Identity;
pub use keys::{KeyPair, PublicKey};
pub use spki::SpkiHash;
pub use token::{JoinToken, Role, Secret, TokenError};
pub use validity::Validity;
