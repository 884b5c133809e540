//! Errors -> gRPC statuses, in this file and nowhere else. Every refusal carries `google.rpc` details: an ErrorInfo
//! with a stable reason, and the next step for a person.

use std::collections::HashMap;

use stratavore_model::{Code as Reason, Rejected};
use stratavore_raft::{EventError, ProposeError, ReadError, TransferError};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// `ErrorInfo.domain` of everything that this project refuses.
const DOMAIN: &str = "stratavore";

/// HTTP/2 header lists are bounded at 16 KiB; a longer text would lose the whole status.
const TEXT_CHARS_MAX: usize = 1024;

/// What an API call can fail with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error(transparent)]
    Rejected(#[from] Rejected),
    #[error(transparent)]
    Propose(#[from] ProposeError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Events(#[from] EventError),
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// The disk or the leader did not allow a backup.
    #[error("{0}")]
    Backup(String),
    /// The state is not at the index that was asked for.
    #[error("{0}")]
    OtherIndex(String),
    /// The caller is known but may not do this.
    #[error("{0}")]
    Denied(String),
    /// Nothing that this node serves: the caller is of a newer version, or a stranger to the API.
    #[error("{0}")]
    NoMethod(String),
    /// The connection brought no identity.
    #[error("{0}")]
    Unauthenticated(String),
    /// The host's agent did not answer in time or its connection broke.
    #[error("{message}")]
    HostUnavailable { message: String },
    /// The caller waited as long as it may.
    #[error("{0}")]
    Deadline(String),
    /// A defect of ours: the details are in the log.
    #[error("internal error: {0}")]
    Internal(String),
}

/// One refusal on its way out.
struct Refusal {
    code: Code,
    reason: &'static str,
    message: String,
    next: String,
    field: String,
}

impl Refusal {
    fn new(code: Code, reason: &'static str, message: String, next: &str) -> Self {
        Self { code, reason, message, next: next.to_owned(), field: String::new() }
    }

    fn into_status(self) -> Status {
        let mut metadata = HashMap::new();
        metadata.insert("next_step".to_owned(), clipped(&self.next));
        metadata.insert("field".to_owned(), self.field);
        let mut details = ErrorDetails::with_error_info(self.reason, DOMAIN, metadata);
        if !self.next.is_empty() {
            details.set_help(vec![tonic_types::HelpLink::new(clipped(&self.next), "")]);
        }
        Status::with_error_details(self.code, clipped(&self.message), details)
    }
}

fn clipped(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).collect()
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        refusal(error).into_status()
    }
}

const LOOK_UP: &str = "look the object up, or retry with the same request id";
const ANOTHER_NODE: &str = "retry in a moment, or name another node with --cluster HOST:PORT";

fn refusal(error: ApiError) -> Refusal {
    let text = error.to_string();
    match error {
        ApiError::Rejected(rejected) => from_rejected(rejected),
        ApiError::Propose(error) => from_propose(&error, text),
        ApiError::Read(ReadError::NotLeader { .. }) => {
            Refusal::new(Code::Unavailable, "not_leader", text, ANOTHER_NODE)
        }
        ApiError::Read(ReadError::Unavailable(_)) => {
            Refusal::new(Code::Unavailable, "no_quorum", text, "retry in a moment, or read with --stale")
        }
        ApiError::Read(ReadError::Stopped(_)) => {
            Refusal::new(Code::Unavailable, "node_stopped", text, ANOTHER_NODE)
        }
        ApiError::Transfer(error) => from_transfer(&error, text),
        ApiError::Events(EventError::Trimmed { .. }) => {
            Refusal::new(Code::OutOfRange, "events_trimmed", text, "subscribe without --since")
        }
        ApiError::Events(EventError::Storage(_)) => {
            Refusal::new(Code::Unavailable, "storage_failed", text, ANOTHER_NODE)
        }
        ApiError::Backup(_) => Refusal::new(
            Code::FailedPrecondition,
            "backup_failed",
            text,
            "look at the node's disk, or ask another node with --cluster HOST:PORT",
        ),
        ApiError::OtherIndex(_) => Refusal::new(
            Code::FailedPrecondition,
            "index_not_applied",
            text,
            "leave out --at, or take the index of `stratavore status`",
        ),
        ApiError::Denied(_) => Refusal::new(
            Code::PermissionDenied,
            "not_allowed",
            text,
            "use the context of a user: `stratavore login`",
        ),
        ApiError::NoMethod(_) => Refusal::new(
            Code::Unimplemented,
            "unknown_method",
            text,
            "use a client of this node's version: `stratavore version`",
        ),
        ApiError::Unauthenticated(_) => Refusal::new(
            Code::Unauthenticated,
            "unauthenticated",
            text,
            "join with `stratavore login` and a user token",
        ),
        ApiError::HostUnavailable { .. } => Refusal::new(
            Code::Unavailable,
            "host_disconnected",
            text,
            "look at `stratavore hosts`; the runner lives on while its host is cut off",
        ),
        ApiError::Deadline(_) => {
            Refusal::new(Code::DeadlineExceeded, "timeout", text, "retry, or look at `explain`")
        }
        ApiError::Internal(_) => {
            Refusal::new(Code::Internal, "internal_error", text, "look at the node's log and report it")
        }
    }
}

fn from_propose(error: &ProposeError, text: String) -> Refusal {
    match error {
        ProposeError::NotLeader { .. } => Refusal::new(Code::Unavailable, "not_leader", text, ANOTHER_NODE),
        ProposeError::Unknown(_) => Refusal::new(Code::Unavailable, "outcome_unknown", text, LOOK_UP),
        ProposeError::Refused(_) => {
            Refusal::new(Code::FailedPrecondition, "node_version", text, "upgrade all nodes to one version")
        }
        ProposeError::Stopped(_) => Refusal::new(Code::Unavailable, "node_stopped", text, ANOTHER_NODE),
        ProposeError::TooLarge { .. } => Refusal::new(
            Code::InvalidArgument,
            "bad_argument",
            text,
            "shorten the command or its environment",
        ),
    }
}

fn from_transfer(error: &TransferError, text: String) -> Refusal {
    match error {
        TransferError::NotLeader { .. } => Refusal::new(Code::Unavailable, "not_leader", text, ANOTHER_NODE),
        TransferError::Refused(_) => Refusal::new(
            Code::FailedPrecondition,
            "no_successor",
            text,
            "look at `stratavore cluster status`: another voter must be reachable and up to date",
        ),
        TransferError::Failed(_) => Refusal::new(
            Code::DeadlineExceeded,
            "outcome_unknown",
            text,
            "look at `stratavore cluster status` who leads now",
        ),
    }
}

fn from_rejected(rejected: Rejected) -> Refusal {
    Refusal {
        code: code_of(rejected.code),
        reason: rejected.code.as_str(),
        message: rejected.message,
        next: rejected.next,
        field: rejected.field.unwrap_or_default(),
    }
}

/// Which kind of failure a reason is; the CLI derives its exit code from this.
const fn code_of(reason: Reason) -> Code {
    match reason {
        Reason::ProjectNotFound
        | Reason::RunnerNotFound
        | Reason::HostNotFound
        | Reason::NodeNotFound
        | Reason::TokenUnknown => Code::NotFound,
        Reason::ProjectExists | Reason::NameTaken | Reason::IdTaken | Reason::AlreadyInitialized => {
            Code::AlreadyExists
        }
        Reason::BadName | Reason::BadArgument | Reason::NotSupportedYet | Reason::LoopbackAddress => {
            Code::InvalidArgument
        }
        Reason::QuotaReached | Reason::NoCapacity | Reason::NoHost | Reason::TooMany => {
            Code::ResourceExhausted
        }
        Reason::TokenExpired
        | Reason::TokenUsed
        | Reason::TokenRevoked
        | Reason::TokenForeign
        | Reason::TokenRole
        | Reason::IdentityRemoved
        | Reason::NotAllowed => Code::PermissionDenied,
        Reason::RunnerAmbiguous
        | Reason::RunnerEnded
        | Reason::RunnerUnsettled
        | Reason::HostHasRunners
        | Reason::HostRemoved
        | Reason::DriverTaken
        | Reason::NoTerminal
        | Reason::Fenced
        | Reason::StaleConnection
        | Reason::DuplicateHost
        | Reason::NotInitialized
        | Reason::OlderIncarnation
        | Reason::RequestIdExpired
        | Reason::LeaseUnbounded
        | Reason::NotCoverable
        | Reason::CoveredAlive
        | Reason::HostReachable
        | Reason::LastNode
        | Reason::VersionTooOld
        | Reason::VersionNotSupported
        | Reason::NotFinalized => Code::FailedPrecondition,
        Reason::RequestIdConflict | Reason::StaleTerm => Code::Aborted,
        Reason::HostDisconnected => Code::Unavailable,
        Reason::InternalError => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_arrives_as_error_info_with_its_next_step() {
        for reason in Reason::ALL {
            let rejected = Rejected::new(*reason, "what happened", "what to do").field("name");
            let status = Status::from(ApiError::from(rejected));
            let info = status.get_details_error_info().unwrap();
            assert_eq!(info.reason, reason.as_str());
            assert_eq!(info.domain, DOMAIN);
            assert_eq!(info.metadata["next_step"], "what to do");
            assert_eq!(info.metadata["field"], "name");
            assert_eq!(status.message(), "what happened");
            assert_ne!(status.code(), Code::Unknown);
        }
    }

    #[test]
    fn a_huge_message_still_fits_the_headers() {
        let rejected = Rejected::bad_argument("f", "x".repeat(1 << 20), "y".repeat(1 << 20));
        let status = Status::from(ApiError::from(rejected));
        assert!(status.details().len() + status.message().len() < 12 * 1024);
    }
}
