//! What goes wrong, as a person reads it: three lines (`error:`, `cause:`, `next:`) and an exit code.
//! The refusals of the cluster arrive as google.rpc details and are turned into this shape here and nowhere else.

use std::io::{self, Write};
use std::process::ExitCode;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{filter, program};

/// The exit codes of every command; `stratavore help exit-codes` prints this table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Ok = 0,
    Generic = 1,
    Usage = 2,
    NotFound = 3,
    Permission = 4,
    Conflict = 5,
    Quota = 6,
    Unreachable = 7,
    Timeout = 8,
    Interrupted = 130,
}

impl Exit {
    /// Every code with its meaning, in order.
    pub(crate) const TABLE: [(Self, &'static str); 10] = [
        (Self::Ok, "success"),
        (Self::Generic, "a failure that fits no other code"),
        (Self::Usage, "the command line or a value in it is wrong"),
        (Self::NotFound, "what was named does not exist"),
        (Self::Permission, "not authenticated, or not permitted"),
        (Self::Conflict, "the present state does not allow it"),
        (Self::Quota, "quota, budget or (with --no-queue) capacity refused it"),
        (Self::Unreachable, "no node of the cluster replied"),
        (Self::Timeout, "the time ran out; the outcome may be unknown"),
        (Self::Interrupted, "interrupted (Ctrl-C)"),
    ];

    /// The code as the shell sees it.
    pub(crate) fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// A failed command: what failed, why, what to do next, and the exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure(Box<Lines>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Lines {
    exit: Exit,
    error: String,
    cause: String,
    next: String,
    /// The machine-readable refusal reason: the cluster's, or one of our own ([`NO_CONTEXT`]), else empty.
    reason: String,
    /// Nothing is printed: the reader of our output went away, or the user interrupted.
    silent: bool,
}

/// The reason of failures that mean: there is no context to work with.
const NO_CONTEXT: &str = "no_context";

/// What every command returns.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure with its first line; cause and next step follow by [`Self::cause`] and [`Self::next`].
    pub(crate) fn new(exit: Exit, error: impl Into<String>) -> Self {
        Self(Box::new(Lines {
            exit,
            error: error.into(),
            cause: String::new(),
            next: String::new(),
            reason: String::new(),
            silent: false,
        }))
    }

    /// A wrong command line.
    pub(crate) fn usage(error: impl Into<String>) -> Self {
        Self::new(Exit::Usage, error)
    }

    /// The user pressed Ctrl-C: exit 130 without a word.
    pub(crate) fn interrupted() -> Self {
        let mut failure = Self::new(Exit::Interrupted, "interrupted");
        failure.0.silent = true;
        failure
    }

    /// There is no context to work with.
    pub(crate) fn no_context(error: impl Into<String>) -> Self {
        let mut failure = Self::new(Exit::NotFound, error);
        NO_CONTEXT.clone_into(&mut failure.0.reason);
        failure
    }

    /// Whether there is no context to work with.
    pub(crate) fn is_no_context(&self) -> bool {
        self.0.reason == NO_CONTEXT
    }

    #[must_use]
    pub(crate) fn cause(mut self, cause: impl Into<String>) -> Self {
        self.0.cause = cause.into();
        self
    }

    #[must_use]
    pub(crate) fn next(mut self, next: impl Into<String>) -> Self {
        self.0.next = next.into();
        self
    }

    /// The code this failure ends the program with.
    pub(crate) fn exit(&self) -> Exit {
        self.0.exit
    }

    /// The cluster's refusal reason (`project_not_found`, …), empty for local failures.
    pub(crate) fn reason(&self) -> &str {
        &self.0.reason
    }

    /// A refusal of the cluster while `doing` something (`"launch in demo"`).
    pub(crate) fn from_status(status: &Status, doing: &str) -> Self {
        let detail = Detail::of(status);
        let exit = exit_of(status.code());
        let mut failure = Self::new(exit, format!("cannot {doing}"));
        failure.0.cause = match (status.message(), detail.field.as_str()) {
            ("", _) => default_message(status.code()).to_owned(),
            (message, "") => message.to_owned(),
            // Only a wrong argument is cured by knowing which one it was.
            (message, field) if status.code() != Code::InvalidArgument || names(message, field) => {
                message.to_owned()
            }
            (message, field) => format!("{message} (field {field})"),
        };
        failure.0.next =
            if detail.next_step.is_empty() { next_for(&detail.reason).to_owned() } else { detail.next_step };
        failure.0.reason = detail.reason;
        failure
    }

    /// The three lines, free of control characters, each ending in a newline; empty when silent.
    pub(crate) fn render(&self) -> String {
        if self.0.silent {
            return String::new();
        }
        let cause = if self.0.cause.is_empty() { default_cause(self.0.exit) } else { &self.0.cause };
        let next = if self.0.next.is_empty() { default_next(self.0.exit) } else { &self.0.next };
        let mut out = String::new();
        for (label, text) in [("error", self.0.error.as_str()), ("cause", cause), ("next", next)] {
            out.push_str(label);
            out.push_str(": ");
            let text = filter::one_line(text);
            out.push_str(&if label == "error" { text } else { program::hinted(&text) });
            out.push('\n');
        }
        out
    }

    /// Prints the three lines to stderr. With nobody there to read them there is nobody to tell.
    pub(crate) fn print(&self) {
        let styled = crate::view::style::error_lines(&self.render());
        let mut stderr = anstream::stderr().lock();
        drop(stderr.write_all(styled.as_bytes()));
    }
}

impl From<io::Error> for Failure {
    /// A reader that closed our output is no error: `stratavore runners | head -1`.
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            let mut failure = Self::new(Exit::Ok, "output closed");
            failure.0.silent = true;
            return failure;
        }
        Self::new(Exit::Generic, "cannot write the output").cause(error.to_string())
    }
}

/// Whether a message names a field of the wire, as such or as the option people type.
fn names(message: &str, field: &str) -> bool {
    let last = field.rsplit('.').next().unwrap_or(field);
    message.contains(field) || message.contains(&last.replace('_', "-"))
}

/// The details this program reads from a refusal.
#[derive(Debug, Default)]
struct Detail {
    reason: String,
    next_step: String,
    field: String,
}

impl Detail {
    fn of(status: &Status) -> Self {
        let Some(info) = status.get_details_error_info() else { return Self::default() };
        let get = |key: &str| info.metadata.get(key).cloned().unwrap_or_default();
        Self { reason: info.reason.clone(), next_step: get("next_step"), field: get("field") }
    }
}

/// The refusal reason of a status, empty when it carries none.
pub(crate) fn reason_of(status: &Status) -> String {
    Detail::of(status).reason
}

/// The exit code that stands for a gRPC code.
fn exit_of(code: Code) -> Exit {
    match code {
        Code::Ok => Exit::Ok,
        Code::InvalidArgument | Code::OutOfRange => Exit::Usage,
        Code::NotFound => Exit::NotFound,
        Code::PermissionDenied | Code::Unauthenticated => Exit::Permission,
        Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted => Exit::Conflict,
        Code::ResourceExhausted => Exit::Quota,
        Code::Unavailable => Exit::Unreachable,
        Code::DeadlineExceeded => Exit::Timeout,
        Code::Cancelled | Code::Unknown | Code::Unimplemented | Code::Internal | Code::DataLoss => {
            Exit::Generic
        }
    }
}

/// The next step for a refusal that came without one.
fn next_for(reason: &str) -> &'static str {
    match reason {
        "driver_taken" => "repeat with --steal to take over, or with --observe to watch",
        "no_terminal" => "stratavore logs",
        "runner_ended" => "stratavore logs, stratavore restart",
        "runner_not_found" => "stratavore runners --all",
        "project_not_found" => "stratavore projects",
        "host_not_found" => "stratavore hosts",
        "host_disconnected" => "stratavore hosts; it answers again when its agent is back",
        "quota_reached" => "stratavore quotas set PROJECT max-runners N",
        _ => "",
    }
}

fn default_message(code: Code) -> &'static str {
    match code {
        Code::Unimplemented => "this node does not know the request; it runs an older version",
        Code::Unavailable => "the node cannot serve this at the moment",
        _ => "the node gave no reason",
    }
}

fn default_cause(exit: Exit) -> &'static str {
    match exit {
        Exit::Usage => "the command line does not parse",
        Exit::Unreachable => "no node of the cluster replied",
        Exit::Timeout => "the time given by --timeout is over",
        _ => "no further reason is known",
    }
}

fn default_next(exit: Exit) -> &'static str {
    match exit {
        Exit::Usage => "stratavore --help",
        Exit::NotFound => "stratavore runners --all, stratavore projects, stratavore hosts",
        Exit::Permission => "stratavore context list, or ask for a new token and run stratavore login",
        Exit::Conflict => "stratavore status",
        Exit::Quota => "stratavore quotas",
        Exit::Timeout => "repeat with a longer --timeout",
        Exit::Ok | Exit::Generic | Exit::Unreachable | Exit::Interrupted => "stratavore doctor",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    fn refusal(code: Code, reason: &str, next: &str, field: &str) -> Status {
        let mut metadata = HashMap::from([("next_step".to_owned(), next.to_owned())]);
        if !field.is_empty() {
            metadata.insert("field".to_owned(), field.to_owned());
        }
        let details = ErrorDetails::with_error_info(reason, "stratavore", metadata);
        Status::with_error_details(code, "there is no project \"demo\"", details)
    }

    #[test]
    fn a_refusal_becomes_three_lines() {
        let status = refusal(Code::NotFound, "project_not_found", "stratavore new demo", "");
        let failure = Failure::from_status(&status, "launch in demo");
        assert_eq!(
            failure.render(),
            "error: cannot launch in demo\ncause: there is no project \"demo\"\nnext: stratavore new demo\n"
        );
        assert_eq!(failure.exit(), Exit::NotFound);
        assert_eq!(failure.reason(), "project_not_found");
    }

    #[test]
    fn the_field_is_named_when_the_message_does_not() {
        let failure = Failure::from_status(&refusal(Code::InvalidArgument, "bad_name", "", "path"), "x");
        assert!(failure.render().contains("(field path)"));
        assert!(names("--on-disconnect stop comes later", "spec.on_disconnect"));
        assert!(failure.render().ends_with("next: stratavore --help\n"));
    }

    #[test]
    fn no_field_is_named_where_it_cures_nothing() {
        let failure = Failure::from_status(&refusal(Code::AlreadyExists, "project_exists", "", "path"), "x");
        assert!(!failure.render().contains("field"));
    }

    #[test]
    fn every_code_has_its_exit() {
        let expected = [
            (Code::NotFound, 3),
            (Code::PermissionDenied, 4),
            (Code::Unauthenticated, 4),
            (Code::AlreadyExists, 5),
            (Code::FailedPrecondition, 5),
            (Code::Aborted, 5),
            (Code::ResourceExhausted, 6),
            (Code::Unavailable, 7),
            (Code::DeadlineExceeded, 8),
            (Code::InvalidArgument, 2),
            (Code::Internal, 1),
        ];
        for (code, exit) in expected {
            assert_eq!(exit_of(code).code(), exit, "{code:?}");
        }
    }

    #[test]
    fn hostile_text_cannot_leave_its_line() {
        let failure = Failure::new(Exit::Generic, "a\nnext: rm -rf /\x1b[2J").cause("b\r").next("c");
        assert_eq!(failure.render().lines().count(), 3);
        assert!(!failure.render().contains('\x1b'));
    }

    #[test]
    fn a_closed_pipe_is_success_without_a_word() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.exit(), failure.render()), (Exit::Ok, String::new()));
    }
}
