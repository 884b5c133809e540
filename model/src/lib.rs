//! The replicated state machine, pure: what is replicated, what can change it, and how.
//!
//! ```text
//! Entry ──> apply(State, Changes, LogPosition) ──> Outcome{reply, events}
//!             │ rows by table, derived indexes        Changes: rows + events of the batch, persisted as one write
//!             └ command/<name>.rs: one file per command
//! ```
//!
//! Replicated: the cluster and its clock, nodes, users, hosts, registered keys, join tokens, projects, runners, the
//! dedup window, and the numbered event log (the events themselves live with the store; here are their counts).
//! Not replicated: anything periodic (renewals, load), anything large (terminal output), anything derived (indexes).
//!
//! Stated absences: no clock, no randomness, no I/O, no async, no hash maps. Time and ids come in with the entry; the
//! same entries in the same order give the same state, events and digest on every node. A refusal is a value.

mod apply;
pub mod canonical;
mod changes;
pub mod cluster;
pub mod command;
pub mod dedup;
mod entry;
pub mod event;
mod fit;
pub mod host;
mod id;
pub mod identity;
pub mod invariant;
mod lease;
mod lifecycle;
mod limits;
pub mod project;
pub mod query;
mod reply;
pub mod restart;
mod row;
pub mod runner;
mod state;
mod time;
pub mod token;
mod tx;

pub use apply::apply;
pub use changes::{Change, Changes};
pub use cluster::{
    ClockRecord, ClusterRecord, LeaseNumbers, Maintenance, NodeAddresses, NodeRecord, SecretBytes,
};
pub use command::{COMMAND_VERSION, Command};
pub use dedup::{DedupRecord, StoredReply};
pub use entry::{Entry, LogPosition};
pub use event::{EventKind, RecordedEvent, SegmentRecord};
pub use fit::{Misfit, Need, misfit, misfits};
pub use host::{Fence, HostFacts, HostLease, HostLoad, HostRecord, HostState, Labels, LeaseBound, Reboot};
pub use id::{
    ClusterId, Epoch, EventId, HostId, HostName, ID_ALPHABET, IdError, Incarnation, NAME_BYTES_MAX, NodeId,
    ProjectName, RunnerId, RunnerName, TokenId, UserName,
};
pub use identity::{Actor, KeyRecord, Role, SpkiHash, UserRecord};
pub use lease::waited_enough;
pub use limits::*;
pub use project::ProjectRecord;
pub use reply::{Code, Covered, ObservedKey, Outcome, RefusedCoverage, RefusedPlacement, Rejected, Reply};
pub use restart::{LastStart, Retry};
pub use row::{Row, RowKey, Table};
pub use runner::{
    Exit, Lost, OnDisconnect, QueuePlace, RestartPolicy, RunnerRecord, RunnerSpec, RunnerState, ShownState,
    Want,
};
pub use state::{EventTotals, State};
pub use time::{DAY_MS, Millis};
pub use token::{TokenRecord, TokenState};

#[cfg(test)]
extern crate self as stratavore_model;

#[cfg(test)]
#[path = "../tests/lab/mod.rs"]
mod lab;
