//! TLS configurations, one per port. All: TLS 1.3 only, aws-lc-rs, no tickets, no resumption, no early data.

mod admission;
mod client;
mod peer;
mod refusal;
mod server;
mod server_identity;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls_pki_types::ServerName;

pub use admission::{Admission, Verdict};
pub use client::{grpc_client, join_client, quic_client, raft_client};
pub use peer::Peer;
pub use refusal::Refusal;
pub use server::{grpc_server, join_server, quic_server, raft_server};
pub use server_identity::ServerError;

/// Protocol of the gRPC, raft and join ports.
pub const ALPN_HTTP2: &[u8] = b"h2";
/// Protocol of the agents' QUIC port.
pub const ALPN_AGENT: &[u8] = b"stratavore-agent/1";
/// What clients give the TLS library as the server's name. It is neither sent nor checked: servers are verified by
/// identity, so that an address may be anything that leads there.
pub const SERVER_NAME: &str = "stratavore";

/// [`SERVER_NAME`] in the form that tokio-rustls wants.
///
/// # Panics
/// Never: the name is a constant.
#[must_use]
pub fn server_name() -> ServerName<'static> {
    ServerName::try_from(SERVER_NAME).expect("a constant DNS name")
}

/// Passed to every configuration, so that no other provider can slip in as a process-wide default.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
