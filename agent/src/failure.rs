//! What a person reads when a command fails: what, why, and the next step.

use std::fmt;

/// Exit codes of the agent's program; 0 is success, and those up to 8 mean the same as in the CLI.
pub mod exit {
    /// Anything without a code of its own.
    pub const GENERIC: u8 = 1;
    /// Wrong arguments.
    pub const USAGE: u8 = 2;
    /// Token or key refused.
    pub const PERMISSION: u8 = 4;
    /// The data directory is in use, or belongs to a cluster already.
    pub const CONFLICT: u8 = 5;
    /// No node could be reached.
    pub const UNREACHABLE: u8 = 7;
    /// Not done in time.
    pub const TIMEOUT: u8 = 8;
    /// The cluster removed this host: every runner is stopped, and starting again is pointless (P18).
    pub const REMOVED: u8 = 20;
}

/// A command that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub code: u8,
    pub error: String,
    pub cause: String,
    pub next: String,
}

impl Failure {
    /// Exit code `code`; each text is one line.
    pub(crate) fn new(
        code: u8,
        error: impl Into<String>,
        cause: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self { code, error: error.into(), cause: cause.into(), next: next.into() }
    }

    /// From an error, its sources as the cause.
    pub(crate) fn of(code: u8, error: &dyn std::error::Error, next: impl Into<String>) -> Self {
        let cause = error.source().map(chain).unwrap_or_default();
        Self::new(code, error.to_string(), cause, next)
    }
}

/// Always three lines.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.error)?;
        let cause = if self.cause.is_empty() { meaning(self.code) } else { &self.cause };
        let next =
            if self.next.is_empty() { "look at the log above, then start it again" } else { &self.next };
        write!(f, "\ncause: {cause}\nnext: {next}")
    }
}

/// What an exit code says when nothing more is known.
const fn meaning(code: u8) -> &'static str {
    match code {
        exit::USAGE => "the arguments or the data directory do not fit",
        exit::PERMISSION => "the token or the key was refused",
        exit::CONFLICT => "a data directory serves one process, one host and one cluster",
        exit::UNREACHABLE => "no node replied",
        exit::TIMEOUT => "the time ran out",
        exit::REMOVED => "this host was removed from the cluster",
        _ => "a failure that fits no other code",
    }
}

/// An error with its sources in one line, for a log or a reason.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_always_three_lines() {
        let failure = Failure::new(exit::UNREACHABLE, "a", "", "c");
        assert_eq!(failure.to_string(), "error: a\ncause: no node replied\nnext: c");
    }
}
