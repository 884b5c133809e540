//! The wire: generated messages and services, frames over byte streams, typed error details.
//! Knows no sibling crate.

/// Public API, agent protocol and join service (`stratavore.v1`).
pub mod v1 {
    #![allow(warnings, reason = "generated code")]
    tonic::include_proto!("stratavore.v1");
}

/// Raft RPC and replicated records (`stratavore.raft.v1`), for the `raft` crate only.
pub mod raft {
    #![allow(warnings, reason = "generated code")]
    tonic::include_proto!("stratavore.raft.v1");
}

pub mod frame;

/// Descriptors of every file, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// ALPN of the agent protocol; changes only on a hard break.
pub const AGENT_ALPN: &[u8] = b"stratavore-agent/1";

/// Versions of the agent protocol this build speaks.
pub const AGENT_PROTOCOL_MIN: u32 = 1;
/// Versions of the agent protocol this build speaks.
pub const AGENT_PROTOCOL_MAX: u32 = 1;
