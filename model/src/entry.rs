//! What the log carries.

use uuid::Uuid;

use crate::command::Command;
use crate::identity::Actor;
use crate::time::Millis;

/// One proposal: who, when, under which request, what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub actor: Actor,
    /// P25: set on every mutation by a user; a retry carries the same one.
    pub request_id: Option<Uuid>,
    /// The proposer's wall time; state takes the later of this and its own (P4).
    pub at: Millis,
    /// P7: set by leader loops; apply refuses the entry when it was appended in another term.
    pub term: Option<u64>,
    pub command: Command,
}

/// Where the log has the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPosition {
    pub index: u64,
    pub term: u64,
}
