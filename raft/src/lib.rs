//! Consensus and storage behind one handle: openraft and RocksDB do not show outside this crate.
//!
//! A proposal is encoded once, appended to the log database, synced together with its neighbours by one
//! thread, replicated, and applied: the model decides what changes, one RocksDB batch records it with the
//! events and the position, and the answer goes back. State is read from memory.

mod backup;
mod bootstrap;
mod codec;
mod core;
mod db;
mod digests;
mod error;
mod events;
mod fatal;
pub mod fault;
mod forward;
mod group_commit;
mod handle;
mod layout;
mod leadership;
mod linearize;
mod log_bound;
mod log_store;
mod log_tail;
mod lost_quorum;
mod mark;
mod membership;
mod metrics;
mod network;
mod open;
mod pair;
mod propose;
mod rebuild;
mod record;
mod recover;
mod replies;
mod reserve;
mod restore;
mod snapshot;
mod snapshot_stream;
mod state_db;
mod state_machine;
mod state_store;
mod sync_point;
mod timings;
mod types;

#[cfg(test)]
mod altered_rows;
#[cfg(test)]
mod any_node;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod crash_points;
#[cfg(test)]
mod hand_over;
#[cfg(test)]
mod log_properties;
#[cfg(test)]
mod raft_port;
#[cfg(test)]
mod reopen;
#[cfg(test)]
mod three_nodes;

pub use backup::{BackupHeader, ReservedNode};
pub use bootstrap::{BootstrapParams, bootstrap, prepare_learner};
pub use core::Stamp;
pub use digests::DigestReport;
pub use error::{
    BackupError, EventError, MembershipError, OpenError, ProposeError, ReadError, RebuildError, TransferError,
};
pub use events::EVENTS_READ_MAX;
pub use handle::{Applied, ENTRY_BYTES_MAX, Handle, Leadership};
pub use linearize::FRESH;
pub use lost_quorum::recover_lost_quorum;
pub use membership::{MemberInfo, MemberProgress, MembershipView};
pub use metrics::{LATENCY_BUCKETS_US, LatencySnapshot, RaftMetrics, Role};
pub use network::server::RaftServer;
pub use network::{Connector, Peer, Transport};
pub use open::{OpenParams, open};
pub use recover::{RecoverParams, Recovered, recover_accept_loss};
pub use restore::{RestoreParams, Restored, read_backup_header, restore_from_file};
pub use state_store::AppliedBatch;
pub use timings::{KEPT_LOG_ENTRIES, RaftTimings};
