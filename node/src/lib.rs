//! A control-plane node: gRPC API, join service, agents over QUIC, placement and liveness while it leads.
//!
//! Two ideas only: **propose** (decide, replicate, apply, reply) and **level-triggered loop** (wait for a change of the
//! applied state, read it, compare, act). Everything that is remembered lies in the replicated state; a node that
//! is killed and started again has lost nothing but its connections.
//!
//! ```text
//!  listen (TLS) -> grpc -> api ------> raft::Handle <------ leader (placement, liveness, timers, membership)
//!                       -> join -----------^  |
//!  link (QUIC) ----------> ingest ---------'  '--> dispatch, events, watches (changes of the applied state)
//!  peer (other nodes) <--> raft, renewals to the leader, terminals to the gateway of a host
//! ```
//!
//! Stated absences: no SQL and no message broker outside `history` (which comes later), no openraft or RocksDB, no
//! `unsafe`, no plaintext port but the one for Prometheus on loopback.

mod address;
mod admission;
mod announce;
mod api;
pub mod args;
mod clock;
pub mod config;
mod convert;
mod data_dir;
mod dispatch;
pub mod exit;
mod grpc;
mod http;
pub mod init;
mod join;
pub mod joining;
mod leader;
mod life;
mod link;
mod listen;
mod metrics;
mod notes;
mod own_certificate;
mod peer;
mod propose;
mod quarantine;
mod reachable;
pub mod recover;
mod removed_keys;
pub mod restore;
pub mod run;
pub mod server;
mod storage;
mod tasks;
mod trust;
mod welcome;

pub use address::Advertise;
