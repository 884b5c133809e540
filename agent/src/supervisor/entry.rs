//! One runner on this host: how far it is, what is wanted of it, and what was last seen of it.

use stratavore_proto::v1;

use super::deadline::{RunnerLease, Terms, note_running};
use crate::epoch::RunnerKey;

/// How far one epoch has come on this host. Only forward, except Held back to Intending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Cannot be started now (disk); tried again.
    Held,
    /// Its directory is being made.
    Intending,
    /// Its directory exists; waits for an order or for its turn.
    Intended,
    /// Its shim is being started.
    Starting,
    /// Its shim answers.
    Live,
    /// It never started and never will; the record of that is being written.
    Concluding,
    /// Its end is on disk, not yet acknowledged.
    Ended,
}

/// What is wanted of one epoch. Monotone: within an epoch nothing goes back (P15).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Want {
    Run,
    Stop { force: bool, reason: String },
    Gone,
}

impl Want {
    /// Combines two wishes into the stronger one; the first reason stays.
    pub(crate) fn raise(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::Gone, _) | (_, Self::Run) => {}
            (_, Self::Gone) => *self = Self::Gone,
            (Self::Stop { force, .. }, Self::Stop { force: more, .. }) => *force |= more,
            (Self::Run, stop) => *self = stop,
        }
    }

    /// Whether and how it shall be stopped.
    pub(crate) fn stop(&self) -> Option<(bool, &str)> {
        match self {
            Self::Run => None,
            Self::Stop { force, reason } => Some((*force, reason)),
            Self::Gone => Some((false, REASON_NOT_WANTED)),
        }
    }
}

/// Recorded for what the cluster no longer wants here.
pub(crate) const REASON_NOT_WANTED: &str = "not_wanted";

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) phase: Phase,
    pub(crate) want: Want,
    /// How to start it; absent for an intent found on disk until the order comes again.
    pub(crate) start: Option<Box<v1::RunnerStart>>,
    /// Latest known; `rev` only grows.
    pub(crate) report: v1::Observation,
    /// The stop that was last passed on: `Some(force)`.
    pub(crate) stop_sent: Option<bool>,
    /// Starts that failed for want of something.
    pub(crate) attempts: u32,
    /// Listed by no desired set although the cluster should know it (P14).
    pub(crate) orphaned: bool,
    /// Highest revision that the cluster has acknowledged.
    pub(super) acked_rev: u64,
    pub(super) lease: RunnerLease,
}

impl Entry {
    /// A fresh entry in `phase`, reported as starting with rev 0.
    pub(crate) fn new(key: &RunnerKey, phase: Phase, start: Option<Box<v1::RunnerStart>>) -> Self {
        let report = blank_report(key, v1::RunnerState::Starting);
        let lease =
            start.as_deref().map(|start| RunnerLease::ordered(Terms::of_start(start))).unwrap_or_default();
        Self {
            phase,
            want: Want::Run,
            start,
            report,
            stop_sent: None,
            attempts: 0,
            orphaned: false,
            acked_rev: 0,
            lease,
        }
    }

    /// An entry made from what the shim or its record says.
    pub(crate) fn observed(report: v1::Observation) -> Self {
        let phase = if is_final(&report) { Phase::Ended } else { Phase::Live };
        let mut entry = Self {
            phase,
            want: Want::Run,
            start: None,
            report,
            stop_sent: None,
            attempts: 0,
            orphaned: false,
            acked_rev: 0,
            lease: RunnerLease::default(),
        };
        note_running(&mut entry);
        entry
    }

    /// True while a shim of it may run.
    pub(crate) fn may_run(&self) -> bool {
        matches!(self.phase, Phase::Starting | Phase::Live)
    }
}

/// True when the report says that the epoch is over.
pub(crate) fn is_final(report: &v1::Observation) -> bool {
    matches!(report.state(), v1::RunnerState::Terminated | v1::RunnerState::Failed)
}

/// A report about `key` without shim behind it.
#[must_use]
pub fn blank_report(key: &RunnerKey, state: v1::RunnerState) -> v1::Observation {
    v1::Observation {
        runner: key.runner().to_owned(),
        epoch: Some(key.epoch().into()),
        state: state.into(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_only_grow_stronger_and_keep_the_first_reason() {
        let stop = |force, reason: &str| Want::Stop { force, reason: reason.into() };
        let mut want = Want::Run;
        want.raise(stop(false, "first"));
        want.raise(Want::Run);
        want.raise(stop(true, "second"));
        want.raise(stop(false, "third"));
        assert_eq!(want, stop(true, "first"));
        want.raise(Want::Gone);
        want.raise(stop(true, "late"));
        assert_eq!(want, Want::Gone);
    }
}
