//! Events: what happened, numbered, in the past tense. The replicated event log is the outbox.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::id::{Epoch, EventId, HostId, HostName, ProjectName, RunnerId};
use crate::identity::Actor;
use crate::time::Millis;

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)*) => {
        /// What happened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub enum EventKind {
            $($(#[$doc])* $variant,)*
        }

        impl EventKind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// As it stands in the event's `type`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }
    };
}

kinds! {
    ProjectCreated = "project.created",
    QuotaSet = "quota.set",
    RunnerLaunched = "runner.launched",
    /// It waits, with the reason.
    RunnerQueued = "runner.queued",
    RunnerPlaced = "runner.placed",
    RunnerStarted = "runner.started",
    RunnerPaused = "runner.paused",
    RunnerResumed = "runner.resumed",
    RunnerStopRequested = "runner.stop_requested",
    RunnerStopped = "runner.stopped",
    RunnerFailed = "runner.failed",
    RunnerLost = "runner.lost",
    RunnerRecovered = "runner.recovered",
    /// A fence covers this epoch: no process of it lives (P7).
    RunnerFenced = "runner.fenced",
    /// An operator vouches for its end (P15).
    RunnerDeclaredDead = "runner.declared_dead",
    RunnerRestarted = "runner.restarted",
    /// One that the cluster did not know has got a project (P14).
    RunnerAdopted = "runner.adopted",
    HostJoined = "host.joined",
    HostReady = "host.ready",
    HostUnreachable = "host.unreachable",
    /// Its host epoch has ended (P7).
    HostFenced = "host.fenced",
    /// Every shim of it holds its own deadline (P13).
    HostLeaseBounded = "host.lease_bounded",
    /// An operator vouches that nothing on it lives (P30).
    HostDeclaredDead = "host.declared_dead",
    /// Whatever it ran before the recovery is past its hold (P30).
    HostListForgone = "host.list_forgone",
    HostDraining = "host.draining",
    HostCordoned = "host.cordoned",
    HostUncordoned = "host.uncordoned",
    HostLabeled = "host.labeled",
    HostRemoved = "host.removed",
    TokenCreated = "token.created",
    TokenRedeemed = "token.redeemed",
    TokenRevoked = "token.revoked",
    UserJoined = "user.joined",
    NodeJoined = "node.joined",
    NodeRemoved = "node.removed",
    /// Its state is not the majority's: it serves nothing (P24).
    NodeQuarantined = "node.quarantined",
    /// It took another node's state (P24).
    NodeRebuilt = "node.rebuilt",
    /// Its clock is off the other voters' (P4).
    NodeClockOff = "node.clock_off",
    /// For the node that a restore of a backup will be (P18).
    NodeReserved = "node.reserved",
    /// Keys that were removed in history that a backup does not have (P30).
    KeysCut = "keys.cut",
    ClusterInitialized = "cluster.initialized",
    ClusterRecovered = "cluster.recovered",
    ClusterFinalized = "cluster.finalized",
    ClusterMaintenance = "cluster.maintenance",
    /// Someone should look: the reason says at what.
    SystemAlert = "system.alert",
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for EventKind {
    type Err = UnknownEventKind;

    fn from_str(text: &str) -> Result<Self, UnknownEventKind> {
        Self::ALL
            .iter()
            .find(|kind| kind.as_str() == text)
            .copied()
            .ok_or_else(|| UnknownEventKind(text.chars().take(80).collect()))
    }
}

/// A type of event that this version does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown event type {0:?}")]
pub struct UnknownEventKind(String);

/// One event as it is kept and shown. Written once, in the batch of the change that it tells of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecordedEvent {
    pub id: EventId,
    /// State time when it happened.
    pub at: Millis,
    pub actor: Actor,
    pub kind: EventKind,
    pub project: Option<ProjectName>,
    pub runner: Option<RunnerId>,
    pub epoch: Option<Epoch>,
    pub host: Option<HostId>,
    /// The host's name at that time.
    pub host_name: Option<HostName>,
    /// Why, or what else there is to say; may be empty.
    pub reason: String,
}

/// A run of neighbouring events, the unit in which the event log is counted and cut (P26).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SegmentRecord {
    pub first: EventId,
    pub last: EventId,
    pub count: u32,
    /// Canonical bytes of its events: the same number on every node, near to what they take on disk.
    pub bytes: u64,
    /// State time of the newest.
    pub newest: Millis,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_round_trip_and_are_distinct() {
        for kind in EventKind::ALL {
            assert_eq!(kind.as_str().parse::<EventKind>().unwrap(), *kind);
        }
        assert!("runner.exploded".parse::<EventKind>().is_err());
    }
}
