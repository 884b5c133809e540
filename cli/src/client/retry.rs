//! What to do after a call that did not succeed. Pure: an attempt and the time in, a decision out.
//!
//! Exit 7 means that no node replied; a node that replied "not now" is asked again until the time is over, and
//! then it is exit 8, because the outcome of a change may be unknown.

use std::time::Duration;

use tonic::{Code, Status};

use crate::errors::{self, Exit, Failure};

/// Changes: long enough for an election and a restart by the supervisor.
const MUTATION_TIMEOUT: Duration = Duration::from_secs(30);

/// Questions: long enough for an election; a person is waiting.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// A stream that was open is opened again for this long; whoever watches it can stop at any time.
const RESUME_TIMEOUT: Duration = Duration::from_secs(600);

/// A question is put again for this long when no node replies: the restart of a one-node cluster takes less.
const READ_PATIENCE: Duration = Duration::from_secs(1);

/// A change is offered this long to a cluster none of whose nodes replies: a one-node cluster whose node is being
/// restarted looks like that.
const UNREACHED_PATIENCE: Duration = Duration::from_secs(5);

/// A host out of contact is usually back after its agent's restart.
const HOST_PATIENCE: Duration = Duration::from_secs(5);

/// First pause between attempts; doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(25);

/// Longest pause between attempts.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// What kind of call it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    Read,
    /// A stream was open and was lost.
    Resume,
    /// A change that must not be repeated: typed keys.
    Once,
    /// A change, with the request id that makes its repetition harmless.
    Mutation {
        request_id: String,
    },
}

/// One attempt that did not succeed.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// The node replied with a refusal.
    Refused(Status),
    /// The connection was lost after the request had been sent.
    Broken(String),
    /// The request reached nobody.
    Unreached(String),
    /// Nothing came back in time.
    Overdue,
}

/// What follows.
#[derive(Debug)]
pub(crate) enum Decision {
    Again(Duration),
    Fail(Failure),
}

/// The attempts of one call.
#[derive(Debug)]
pub(crate) struct Retry {
    call: Call,
    doing: String,
    timeout: Duration,
    pause: Duration,
    /// A node got the request, or said something.
    reached: bool,
    last: String,
    /// What to do when no node replies.
    unreached_next: &'static str,
}

impl Retry {
    /// `timeout` is the user's, else the default of the call's kind.
    pub(crate) fn new(call: Call, doing: &str, timeout: Option<Duration>) -> Self {
        let default = match call {
            Call::Read | Call::Once => READ_TIMEOUT,
            Call::Resume => RESUME_TIMEOUT,
            Call::Mutation { .. } => MUTATION_TIMEOUT,
        };
        Self {
            call,
            doing: doing.to_owned(),
            timeout: timeout.unwrap_or(default),
            pause: PAUSE_MIN,
            reached: false,
            last: String::new(),
            unreached_next: "",
        }
    }

    /// The next step when no node replies; empty for the general one.
    pub(crate) fn with_unreached_next(mut self, next: &'static str) -> Self {
        self.unreached_next = next;
        self
    }

    /// When the whole call is over.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Decides after an attempt that ended `elapsed` after the call began.
    pub(crate) fn after(&mut self, attempt: Attempt, elapsed: Duration) -> Decision {
        let patience = match attempt {
            Attempt::Refused(status) => {
                if !is_transient(&status) {
                    return Decision::Fail(Failure::from_status(&status, &self.doing));
                }
                self.reached = true;
                let failure = Failure::from_status(&status, &self.doing);
                if failure.reason() == "host_disconnected" && elapsed >= HOST_PATIENCE {
                    return Decision::Fail(failure);
                }
                status.message().clone_into(&mut self.last);
                self.timeout
            }
            Attempt::Broken(why) => {
                self.reached = true;
                self.last = format!("the connection was lost: {why}");
                if self.call == Call::Once { Duration::ZERO } else { self.timeout }
            }
            Attempt::Unreached(why) => {
                self.last = why;
                match self.call {
                    // A change already sent must not be left in doubt.
                    Call::Read | Call::Once if !self.reached => READ_PATIENCE.min(self.timeout),
                    Call::Mutation { .. } if !self.reached => UNREACHED_PATIENCE.min(self.timeout),
                    _ => self.timeout,
                }
            }
            Attempt::Overdue => {
                self.reached = true;
                if self.last.is_empty() {
                    "the node did not answer in time".clone_into(&mut self.last);
                }
                if self.call == Call::Once { Duration::ZERO } else { self.timeout }
            }
        };
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        if elapsed + pause < patience { Decision::Again(pause) } else { Decision::Fail(self.give_up()) }
    }

    fn give_up(&self) -> Failure {
        let error = format!("cannot {}", self.doing);
        if !self.reached {
            let failure = Failure::new(Exit::Unreachable, error);
            return failure.cause(format!("no node replied: {}", self.last)).next(self.unreached_next);
        }
        let waited = humantime::format_duration(self.timeout);
        match &self.call {
            Call::Once => Failure::new(Exit::Timeout, error)
                .cause(format!("it is unknown whether it arrived: {}", self.last))
                .next("stratavore screen RUNNER shows whether it did"),
            Call::Read | Call::Resume => Failure::new(Exit::Timeout, error)
                .cause(format!("no answer within {waited}: {}", self.last))
                .next("stratavore status (answers without quorum too), or repeat with a longer --timeout"),
            Call::Mutation { request_id } => Failure::new(Exit::Timeout, error)
                .cause(format!("not confirmed within {waited}, the outcome is unknown: {}", self.last))
                .next(format!("repeat with --request-id {request_id}, which never does it twice")),
        }
    }
}

/// Whether the same request may well succeed in a moment.
fn is_transient(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded => true,
        // A change of leadership; other conflicts have a reason of their own.
        Code::Aborted => errors::reason_of(status).is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn mutation() -> Retry {
        Retry::new(Call::Mutation { request_id: "u".to_owned() }, "launch in demo", None)
    }

    fn exit(decision: Decision) -> Exit {
        match decision {
            Decision::Fail(failure) => failure.exit(),
            Decision::Again(pause) => panic!("again after {pause:?}"),
        }
    }

    fn again(decision: &Decision) -> bool {
        matches!(decision, Decision::Again(_))
    }

    #[test]
    fn a_question_to_nobody_fails_soon_with_7() {
        let mut retry = Retry::new(Call::Read, "x", None);
        assert!(again(&retry.after(Attempt::Unreached("refused".to_owned()), S(0))));
        assert_eq!(exit(retry.after(Attempt::Unreached("refused".to_owned()), S(1))), Exit::Unreachable);
    }

    #[test]
    fn a_change_to_nobody_waits_a_moment_and_fails_with_7() {
        let mut retry = mutation();
        assert!(again(&retry.after(Attempt::Unreached("refused".to_owned()), S(1))));
        assert_eq!(exit(retry.after(Attempt::Unreached("refused".to_owned()), S(5))), Exit::Unreachable);
    }

    #[test]
    fn a_change_that_was_sent_is_retried_to_the_end_and_fails_with_8() {
        let mut retry = mutation();
        assert!(again(&retry.after(Attempt::Broken("reset".to_owned()), S(0))));
        assert!(again(&retry.after(Attempt::Unreached("refused".to_owned()), S(20))));
        let Decision::Fail(failure) = retry.after(Attempt::Unreached("refused".to_owned()), S(30)) else {
            panic!()
        };
        assert_eq!(failure.exit(), Exit::Timeout);
        assert!(failure.render().contains("--request-id u"), "{}", failure.render());
    }

    #[test]
    fn keys_are_never_sent_twice() {
        let mut retry = Retry::new(Call::Once, "x", None);
        assert!(again(&retry.after(Attempt::Refused(Status::unavailable("no leader")), S(0))));
        assert_eq!(exit(retry.after(Attempt::Broken("reset".to_owned()), S(0))), Exit::Timeout);
    }

    #[test]
    fn a_lost_stream_is_opened_again_for_long() {
        let mut retry = Retry::new(Call::Resume, "x", None);
        assert!(again(&retry.after(Attempt::Unreached("refused".to_owned()), S(500))));
        assert_eq!(exit(retry.after(Attempt::Unreached("refused".to_owned()), S(600))), Exit::Unreachable);
    }

    #[test]
    fn no_quorum_is_retried_and_ends_in_8() {
        for call in [Call::Read, Call::Mutation { request_id: "u".to_owned() }] {
            let mut retry = Retry::new(call, "x", Some(S(3)));
            assert!(again(&retry.after(Attempt::Refused(Status::unavailable("no leader")), S(1))));
            assert_eq!(
                exit(retry.after(Attempt::Refused(Status::unavailable("no leader")), S(3))),
                Exit::Timeout
            );
        }
    }

    #[test]
    fn refusals_are_final() {
        for (status, code) in [
            (Status::not_found("x"), Exit::NotFound),
            (Status::permission_denied("x"), Exit::Permission),
            (Status::already_exists("x"), Exit::Conflict),
            (Status::resource_exhausted("x"), Exit::Quota),
            (Status::invalid_argument("x"), Exit::Usage),
        ] {
            assert_eq!(exit(mutation().after(Attempt::Refused(status), S(0))), code);
        }
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        let mut retry = mutation();
        let mut last = Duration::ZERO;
        for _ in 0..10 {
            let Decision::Again(pause) = retry.after(Attempt::Broken(String::new()), S(0)) else { panic!() };
            assert!(pause >= last && pause <= PAUSE_MAX);
            last = pause;
        }
        assert_eq!(last, PAUSE_MAX);
    }
}
