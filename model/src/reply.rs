//! What an applied entry answers. A refusal is an answer like any other.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::event::RecordedEvent;
use crate::id::{Epoch, HostId, HostName, IdError, NodeId, ProjectName, RunnerId, TokenId};
use crate::identity::Actor;

macro_rules! codes {
    ($($variant:ident = $text:literal,)*) => {
        /// Why something was refused: stable words that programs may match on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub enum Code {
            $($variant,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }
    };
}

codes! {
    ProjectNotFound = "project_not_found",
    ProjectExists = "project_exists",
    BadName = "bad_name",
    BadArgument = "bad_argument",
    RunnerNotFound = "runner_not_found",
    RunnerAmbiguous = "runner_ambiguous",
    RunnerEnded = "runner_ended",
    RunnerUnsettled = "runner_unsettled",
    QuotaReached = "quota_reached",
    NoCapacity = "no_capacity",
    NoHost = "no_host",
    HostNotFound = "host_not_found",
    HostHasRunners = "host_has_runners",
    HostRemoved = "host_removed",
    HostDisconnected = "host_disconnected",
    NodeNotFound = "node_not_found",
    TokenUnknown = "token_unknown",
    TokenExpired = "token_expired",
    TokenUsed = "token_used",
    TokenRevoked = "token_revoked",
    TokenForeign = "token_foreign",
    TokenRole = "token_role",
    RequestIdConflict = "request_id_conflict",
    RequestIdExpired = "request_id_expired",
    NotSupportedYet = "not_supported_yet",
    DriverTaken = "driver_taken",
    NoTerminal = "no_terminal",
    NameTaken = "name_taken",
    IdTaken = "id_taken",
    TooMany = "too_many",
    IdentityRemoved = "identity_removed",
    NotAllowed = "not_allowed",
    Fenced = "fenced",
    StaleConnection = "stale_connection",
    StaleTerm = "stale_term",
    DuplicateHost = "duplicate_host",
    NotInitialized = "not_initialized",
    AlreadyInitialized = "already_initialized",
    OlderIncarnation = "older_incarnation",
    LeaseUnbounded = "lease_unbounded",
    NotCoverable = "not_coverable",
    CoveredAlive = "covered_alive",
    HostReachable = "host_reachable",
    LoopbackAddress = "loopback_address",
    LastNode = "last_node",
    VersionTooOld = "version_too_old",
    VersionNotSupported = "version_not_supported",
    NotFinalized = "not_finalized",
    InternalError = "internal_error",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Code {
    type Err = UnknownCode;

    fn from_str(text: &str) -> Result<Self, UnknownCode> {
        Self::ALL
            .iter()
            .find(|code| code.as_str() == text)
            .copied()
            .ok_or_else(|| UnknownCode(text.chars().take(80).collect()))
    }
}

/// A refusal that this version does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown refusal {0:?}")]
pub struct UnknownCode(String);

/// A refusal: what, why, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{message}")]
pub struct Rejected {
    pub code: Code,
    /// What was refused and why.
    pub message: String,
    /// What the caller can do next; may be empty.
    pub next: String,
    /// The request's field that is at fault, if one is.
    pub field: Option<String>,
}

impl Rejected {
    /// A refusal without field.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>, next: impl Into<String>) -> Self {
        Self { code, message: message.into(), next: next.into(), field: None }
    }

    /// Names the field at fault.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// A field whose value is out of its bounds.
    #[must_use]
    pub fn bad_argument(field: &str, message: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(Code::BadArgument, message, next).field(field)
    }

    /// A field that is not a valid name or id.
    #[must_use]
    pub fn bad_name(field: &str, error: &IdError) -> Self {
        let next = match error {
            IdError::Name { .. } => "use lowercase letters, digits and '-', for example web-1",
            IdError::Id { .. } | IdError::Number { .. } => "copy the id from the list it is shown in",
        };
        Self::new(Code::BadName, error.to_string(), next).field(field)
    }

    /// What P23 turns a panic into.
    #[must_use]
    pub fn internal_error() -> Self {
        Self::new(
            Code::InternalError,
            "the command hit a defect of the program; nothing was changed",
            "look for system.alert in `stratavore events`, report it, and try another way",
        )
    }
}

/// What names one report of a host; acknowledged once it is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ObservedKey {
    pub runner: RunnerId,
    pub epoch: Epoch,
    pub rev: u64,
}

/// A placement that apply did not take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RefusedPlacement {
    pub runner: RunnerId,
    pub host: HostId,
    pub reason: String,
}

/// One epoch of a runner, as fences name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Covered {
    pub runner: RunnerId,
    pub epoch: Epoch,
}

/// An epoch that a fence may not cover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RefusedCoverage {
    pub runner: RunnerId,
    pub reason: String,
}

/// The answer to an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Reply {
    Rejected(Rejected),
    /// Nothing more to say.
    Done,
    Project(ProjectName),
    /// In the order of the launch. `queued`: why they wait; empty = nothing speaks against a start.
    Launched {
        runners: Vec<RunnerId>,
        queued: String,
    },
    /// Those that were asked to stop now or were being stopped already.
    Stopping {
        runners: Vec<RunnerId>,
    },
    Restarted(RunnerId),
    Assigned {
        placed: Vec<(RunnerId, Epoch)>,
        refused: Vec<RefusedPlacement>,
    },
    Observed {
        acknowledged: Vec<ObservedKey>,
    },
    /// The host holds this host epoch from now on.
    Connected {
        host_epoch: Epoch,
        acknowledged: Vec<ObservedKey>,
    },
    /// What is proven dead now, and what was asked for in vain.
    Fenced {
        covered: Vec<Covered>,
        refused: Vec<RefusedCoverage>,
    },
    Host(HostId),
    Token(TokenId),
    /// The key is registered as this identity.
    Redeemed {
        identity: Actor,
        /// Host name, user name or node number.
        name: String,
    },
    Node(NodeId),
    /// One answer per entry of a [`crate::command::Command::Batch`].
    Batch(Vec<Reply>),
}

impl Reply {
    /// The refusal, if it is one.
    #[must_use]
    pub const fn rejected(&self) -> Option<&Rejected> {
        if let Self::Rejected(rejected) = self { Some(rejected) } else { None }
    }

    /// As a result, for callers that go on with `?`.
    ///
    /// # Errors
    /// The refusal, if it is one.
    pub fn into_result(self) -> Result<Self, Rejected> {
        if let Self::Rejected(rejected) = self { Err(rejected) } else { Ok(self) }
    }
}

/// What applying an entry gave: the answer for its proposer and the events for everyone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub reply: Reply,
    pub events: Vec<RecordedEvent>,
}

/// A host as messages call it: name and id.
pub(crate) fn called(name: &HostName, id: HostId) -> String {
    format!("{name} ({id})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip_and_are_distinct() {
        for code in Code::ALL {
            assert_eq!(code.as_str().parse::<Code>().unwrap(), *code);
        }
        assert!("no_such_code".parse::<Code>().is_err());
    }
}
