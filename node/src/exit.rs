//! Exit codes of `stratavored`, and the one error type that carries them out of the library.

use std::fmt;

/// Why the process ends; the number is what a supervisor or script sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// Anything without a code of its own.
    Generic = 1,
    /// Wrong arguments or configuration: starting again changes nothing.
    Usage = 2,
    /// `join`: the cluster refused the token or the key.
    Permission = 4,
    /// The data directory or a port belongs to somebody else.
    Conflict = 5,
    /// `join`: no server answered.
    Unreachable = 7,
    /// The stored data is damaged; the message names the file and the way out.
    Corrupt = 10,
    /// The log ends below what this node once acknowledged (P19).
    BelowHighWaterMark = 11,
    /// Storage or a vital task failed while running: start again.
    Fatal = 12,
    /// This node was removed from the cluster: its id and its directory are of no more use.
    Removed = 13,
}

/// What went wrong and what to do next, in the words the operator sees.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: Code,
    /// What happened.
    pub message: String,
    /// The next step, empty when there is none to name.
    pub next: String,
}

impl Failure {
    /// A failure with a next step.
    pub fn new(code: Code, message: impl Into<String>, next: impl Into<String>) -> Self {
        Self { code, message: message.into(), next: next.into() }
    }

    /// A failure of code [`Code::Generic`] that keeps the whole chain of causes in its message.
    pub fn generic(what: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(Code::Generic, format!("{what}: {}", chain(error)), "")
    }
}

/// An error and its causes, joined by colons.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

impl Code {
    /// The cause in general, for messages that name none of their own.
    const fn meaning(self) -> &'static str {
        match self {
            Self::Generic => "the operating system or the environment refused",
            Self::Usage => "the arguments or the configuration do not fit",
            Self::Conflict => "a port and a data directory serve one process, one node and one cluster",
            Self::Corrupt => "stored data is not what was written",
            Self::BelowHighWaterMark => "the log lost what this node had acknowledged (P19)",
            Self::Fatal => "storage or a vital task failed",
            Self::Permission => "the cluster admits by tokens and registered keys",
            Self::Unreachable => "no server of the list answered",
            Self::Removed => "an operator removed this node with `stratavore cluster remove`",
        }
    }
}

/// Three lines, as every program of ours says it.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, why) =
            self.message.split_once(": ").unwrap_or_else(|| (&self.message, self.code.meaning()));
        let next =
            if self.next.is_empty() { "look at the log above, then start it again" } else { &self.next };
        write!(f, "error: {what}\ncause: {why}\nnext: {next}")
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_always_says_what_why_and_what_next() {
        let failure = Failure::new(Code::Corrupt, "/d/LOG is damaged: checksum at 7; restore it", "");
        let text = failure.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "error: /d/LOG is damaged");
        assert_eq!(lines[1], "cause: checksum at 7; restore it");
        assert!(lines[2].starts_with("next: "));
        let bare = Failure::new(Code::Conflict, "port 7 is taken", "use another").to_string();
        assert!(bare.contains("cause: a port") && bare.ends_with("next: use another"), "{bare}");
    }
}
