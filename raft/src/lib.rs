//! Consensus and storage behind one handle: openraft and RocksDB do not show outside this crate.
//!
//! A proposal is encoded once, appended to the log database, synced together with its neighbours by one
//! thread, replicated, and applied: the model decides what changes, one RocksDB batch records it with the
//! events and the position, and the answer goes back. State is read from memory.

mod bootstrap;
mod codec;
mod db;
mod error;
mod events;
mod fatal;
mod group_commit;
mod handle;
mod layout;
mod log_bound;
mod log_store;
mod log_tail;
mod mark;
mod membership;
mod metrics;
mod network;
mod open;
mod pair;
mod record;
mod recover;
mod reserve;
mod snapshot;
mod snapshot_stream;
mod state_db;
mod state_machine;
mod state_store;
mod timings;
mod types;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod log_properties;
#[cfg(test)]
mod reopen;
#[cfg(test)]
mod three_nodes;

pub use bootstrap::{BootstrapParams, bootstrap, prepare_learner};
pub use error::{EventError, MembershipError, OpenError, ProposeError, ReadError};
pub use events::EVENTS_READ_MAX;
pub use handle::{Applied, ENTRY_BYTES_MAX, Handle, Leadership};
pub use membership::{MemberInfo, MembershipView};
pub use metrics::{LATENCY_BUCKETS_US, LatencySnapshot, RaftMetrics, Role};
pub use network::server::RaftServer;
pub use network::{Connector, Peer, Transport};
pub use open::{OpenParams, open};
pub use recover::{RecoverParams, Recovered, recover_accept_loss};
pub use state_store::AppliedBatch;
pub use timings::RaftTimings;
