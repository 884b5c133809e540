//! What the core asks of the shell, and what the shell tells the core.

use stratavore_proto::v1;

use super::deadline::{Deadline, Held};
use crate::epoch::{Epoch, RunnerKey};

/// One order to the shell. Effects of one call are carried out in order; answers come back as inputs.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Send on the present link; dropped without one (periodic messages only).
    Send(Box<v1::agent_message::Message>),
    /// Make an empty directory for each key, then make `seen` durable, then answer
    /// [`RunnerEvent::Intended`] or [`RunnerEvent::IntentFailed`] for each.
    Intend { keys: Vec<RunnerKey>, seen: Epoch },
    /// Start the shim; answered by [`RunnerEvent::Observed`], [`RunnerEvent::Concluded`] or
    /// [`RunnerEvent::StartDeferred`].
    Spawn { key: RunnerKey, start: Box<v1::RunnerStart>, deadline: Deadline },
    /// Tell the shim its deadline (P5, P11); the newest counts, and only `lower` may bring it nearer (P13). Answered by
    /// [`RunnerEvent::Leased`].
    Lease { key: RunnerKey, deadline: Deadline, lower: bool },
    /// Run the stop ladder. Idempotent; `force` goes straight to KILL.
    Stop { key: RunnerKey, force: bool, reason: String },
    /// Record durably that this epoch ends without ever having started; answered by [`RunnerEvent::Concluded`].
    Conclude { key: RunnerKey, state: v1::RunnerState, reason: String },
    /// The end is acknowledged: let the shim go and mark the directory; output stays readable.
    Reap { key: RunnerKey },
    /// Remove an intent that nobody wants any more.
    Discard { key: RunnerKey },
    /// The cluster names an epoch whose end it had acknowledged: read its record again and answer
    /// [`RunnerEvent::Recalled`].
    Recall { key: RunnerKey },
    /// Sample the host and send a load report.
    ReportLoad,
    /// Try another node, keep this link until that one has answered (P17).
    Move(Move),
    /// Nothing is left to supervise after [`super::on_halt`].
    Finish(Finish),
}

/// Why another link is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    pub reason: String,
    pub kind: MoveKind,
}

/// What becomes of the present link meanwhile (P17). In every case it is read and used until another stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoveKind {
    /// Renewals are unanswered. The present link stays if it answers before another node was greeted. A new connection
    /// to the same node may help, too: it may have been restarted, which QUIC notices late.
    Silent,
    /// The node has no leader: moves only when another node has answered a renewal.
    Advised,
    /// The node is about to close the link.
    Leaving,
}

/// Why the agent ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// `stop --runners`: every runner was stopped on this host's own order.
    HostStopped,
    /// The cluster removed this host (P18).
    Removed,
}

/// What the shell learnt about one runner.
#[derive(Debug, Clone, PartialEq)]
pub enum RunnerEvent {
    /// The directory exists and the state index that ordered it is durable.
    Intended,
    /// The directory could not be made; nothing was started.
    IntentFailed { cause: String },
    /// What the shim, or its record, says.
    Observed(v1::Observation),
    /// The connection to a living shim was lost and made again.
    Readopted(v1::Observation),
    /// What deadline the shim holds; `None` when it did not say.
    Leased(Option<Held>),
    /// The end of an epoch that never started is on disk.
    Concluded(v1::Observation),
    /// The shim could not be started for want of a resource (disk, processes); nothing runs, try again later.
    StartDeferred { cause: String },
    /// The record of an acknowledged end, read again.
    Recalled(v1::Observation),
}
