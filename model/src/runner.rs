//! Runners: one command under one id, started once per epoch.

use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use crate::host::{Fence, Labels};
use crate::id::{Epoch, HostId, ProjectName, RunnerId, RunnerName};
use crate::identity::Actor;
use crate::restart::Retry;
use crate::time::Millis;

/// What is known of a runner's present epoch. Lost and stopping-by-wish are overlays: see [`RunnerRecord::shown_state`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum RunnerState {
    /// Queued: waits for quota or for a host.
    Pending,
    /// Placed; no report that it runs yet.
    Starting,
    Running,
    Paused,
    /// The host works on ending it.
    Stopping,
    Terminated,
    Failed,
}

impl RunnerState {
    /// Every state, in the order of the table.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Starting,
        Self::Running,
        Self::Paused,
        Self::Stopping,
        Self::Terminated,
        Self::Failed,
    ];

    /// As it stands in tables and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Terminated => "terminated",
            Self::Failed => "failed",
        }
    }

    /// P15: within an epoch the rank never falls; running and paused share one.
    #[must_use]
    pub const fn rank(self) -> u8 {
        match self {
            Self::Pending => 0,
            Self::Starting => 1,
            Self::Running | Self::Paused => 2,
            Self::Stopping => 3,
            Self::Terminated | Self::Failed => 4,
        }
    }

    /// Terminated or failed.
    #[must_use]
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Terminated | Self::Failed)
    }

    /// On a host and not ended.
    #[must_use]
    pub const fn is_placed(self) -> bool {
        matches!(self, Self::Starting | Self::Running | Self::Paused | Self::Stopping)
    }

    /// The transition table: every way a stored state may change. A restart (ended to pending) begins a new epoch,
    /// everything else happens within one.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        match (self, next) {
            // Placement, kill while queued.
            (Self::Pending, Self::Starting | Self::Terminated)
            // A host's first word about it.
            | (Self::Starting, Self::Running | Self::Paused | Self::Stopping)
            // Pause and resume share a rank.
            | (Self::Running, Self::Paused)
            | (Self::Paused, Self::Running)
            | (Self::Running | Self::Paused, Self::Stopping)
            // Every placed epoch can end at any time.
            | (Self::Starting | Self::Running | Self::Paused | Self::Stopping, Self::Terminated | Self::Failed)
            // Restart: same runner, new epoch.
            | (Self::Terminated | Self::Failed, Self::Pending) => true,
            _ => false,
        }
    }
}

/// A state as people see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum ShownState {
    Pending,
    Starting,
    Running,
    Paused,
    Stopping,
    Terminated,
    Failed,
    Lost,
}

impl ShownState {
    /// Every shown state.
    pub const ALL: [Self; 8] = [
        Self::Pending,
        Self::Starting,
        Self::Running,
        Self::Paused,
        Self::Stopping,
        Self::Terminated,
        Self::Failed,
        Self::Lost,
    ];

    /// As it stands in tables and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Terminated => "terminated",
            Self::Failed => "failed",
            Self::Lost => "lost",
        }
    }
}

impl From<RunnerState> for ShownState {
    fn from(state: RunnerState) -> Self {
        match state {
            RunnerState::Pending => Self::Pending,
            RunnerState::Starting => Self::Starting,
            RunnerState::Running => Self::Running,
            RunnerState::Paused => Self::Paused,
            RunnerState::Stopping => Self::Stopping,
            RunnerState::Terminated => Self::Terminated,
            RunnerState::Failed => Self::Failed,
        }
    }
}

/// What becomes of a runner whose host lost contact (P9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
pub enum OnDisconnect {
    #[default]
    Keep,
    Stop,
}

/// What becomes of a runner whose own command exited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
pub enum RestartPolicy {
    #[default]
    Never,
    OnFailure,
    Always,
}

impl RestartPolicy {
    /// As it is typed and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::OnFailure => "on-failure",
            Self::Always => "always",
        }
    }
}

/// What was asked for; immutable for the life of a runner. [`Default`] is an empty command on a PTY-less slot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct RunnerSpec {
    /// argv. In a launch empty = the project's; in a record empty = the host's `$SHELL`.
    pub command: Vec<String>,
    /// In the order given; the last of equal names wins at the host.
    pub env: Vec<(String, String)>,
    /// In a launch empty = the project's path.
    pub workdir: String,
    pub tty: bool,
    /// 0 in a launch = 1.
    pub slots: u32,
    /// 0 = no reservation, no limit.
    pub cpu_milli: u32,
    /// 0 = no reservation, no limit.
    pub memory_bytes: u64,
    /// Labels its host must carry.
    pub labels: Labels,
    /// Name or id of the only host it may run on; empty = any. Resolved into [`RunnerRecord::pinned`].
    pub host: String,
    pub on_disconnect: OnDisconnect,
    /// 0 = the cluster's.
    pub hold_ms: u64,
    pub restart: RestartPolicy,
}

/// How the command of an epoch ended. At most one of `code` and `signal` is set.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Exit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    /// exited, signaled, killed, start_failed, workdir_missing, program_missing, host_stopped, host_rebooted, …
    pub reason: String,
    pub core_dumped: bool,
    pub oom_killed: bool,
    pub user_cpu_ms: u64,
    pub system_cpu_ms: u64,
    pub max_rss_bytes: u64,
    /// Processes of the tree that could not be ended; they block a restart (P15).
    pub leftovers: Vec<String>,
}

/// What the cluster wants of a runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Want {
    Run,
    /// `force`: straight to KILL.
    Stop {
        force: bool,
    },
}

/// Why a placed runner is shown as lost (P15: an overlay, the epoch lives on).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Lost {
    /// Its host does not renew (P7).
    HostUnreachable,
    /// Its host is there but did not list it, and had seen its placement (P14).
    NotListed,
    /// Its host came back under another boot id, and that is not proof enough yet (P8).
    HostRebooted,
    /// Its host was removed, and its hold has not passed yet (P18).
    HostRemoved,
}

impl Lost {
    /// As it stands in the `reason` of a runner.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HostUnreachable => "host_unreachable",
            Self::NotListed => "not_listed",
            Self::HostRebooted => "host_rebooted",
            Self::HostRemoved => "host_removed",
        }
    }
}

/// Place in the queue: the log index and ordinal at which the runner became pending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
pub struct QueuePlace {
    pub index: u64,
    pub ordinal: u32,
}

/// Reason of a pending runner that waits for its project's quota.
pub const QUOTA_REACHED: &str = "quota_reached";

/// A runner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunnerRecord {
    pub id: RunnerId,
    pub name: RunnerName,
    pub project: ProjectName,
    pub spec: Arc<RunnerSpec>,
    pub state: RunnerState,
    /// Only while placed.
    pub lost: Option<Lost>,
    pub want: Want,
    /// A restart was asked for while it lived: pending again as soon as its end is reported.
    pub restart_wanted: bool,
    /// Counts against its project's quota: pending with a quota place, or placed. False = waits for quota, or ended.
    pub admitted: bool,
    pub queued: QueuePlace,
    /// P2; none while pending.
    pub epoch: Option<Epoch>,
    /// None while pending, and when it ended without ever being placed.
    pub host: Option<HostId>,
    /// P9: what it was placed under. `keep` while pending, and for `stop` where the host cannot fence (P11).
    pub on_disconnect: OnDisconnect,
    /// P9: fixed at its placement, between the lease and the longest hold; 0 while pending.
    pub hold_ms: u64,
    /// The only host it may run on.
    pub pinned: Option<HostId>,
    /// Of the newest report taken in this epoch; counted by the shim from 1 (P15).
    pub rev: u64,
    /// 0 until started.
    pub pid: u32,
    pub fence: Fence,
    pub exit: Option<Arc<Exit>>,
    /// Why it is in its state; empty when nothing needs saying.
    pub reason: String,
    pub created_at: Millis,
    /// By the host's clock.
    pub started_at: Option<Millis>,
    /// By the cluster's clock.
    pub ended_at: Option<Millis>,
    pub created_by: Actor,
    /// P25: the launch's request id, kept as long as the row.
    pub request_id: Option<Uuid>,
    /// Place among the runners of one launch.
    pub ordinal: u32,
    /// The request that last asked to stop or restart it.
    pub stop_request_id: Option<Uuid>,
    pub restarts: u32,
    /// False only for an epoch closed without proof that its process tree is gone: its host owes that proof,
    /// it holds capacity there and cannot be restarted until then (P8).
    pub settled: bool,
    /// Of a runner with a restart policy, and of no other. The last field, and no byte where there is none: rows of
    /// older versions keep their canonical form (P22).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
}

impl RunnerRecord {
    /// The state that people see: lost beats a wish to stop, which beats what was last reported.
    #[must_use]
    pub const fn shown_state(&self) -> ShownState {
        match (self.state, self.lost, self.want) {
            (RunnerState::Terminated, ..) => ShownState::Terminated,
            (RunnerState::Failed, ..) => ShownState::Failed,
            (RunnerState::Pending, ..) => ShownState::Pending,
            (_, Some(_), _) => ShownState::Lost,
            (_, None, Want::Stop { .. }) | (RunnerState::Stopping, ..) => ShownState::Stopping,
            (RunnerState::Starting, ..) => ShownState::Starting,
            (RunnerState::Running, ..) => ShownState::Running,
            (RunnerState::Paused, ..) => ShownState::Paused,
        }
    }

    /// Not ended.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        !self.state.is_ended()
    }

    /// The host on which it takes room: placed, or closed without proof that its tree is gone.
    #[must_use]
    pub const fn occupies(&self) -> Option<HostId> {
        if self.state.is_placed() || !self.settled { self.host } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RunnerState::*;

    #[test]
    fn the_transition_table_is_exactly_this() {
        let legal = [
            (Pending, Starting),
            (Pending, Terminated),
            (Starting, Running),
            (Starting, Paused),
            (Starting, Stopping),
            (Starting, Terminated),
            (Starting, Failed),
            (Running, Paused),
            (Running, Stopping),
            (Running, Terminated),
            (Running, Failed),
            (Paused, Running),
            (Paused, Stopping),
            (Paused, Terminated),
            (Paused, Failed),
            (Stopping, Terminated),
            (Stopping, Failed),
            (Terminated, Pending),
            (Failed, Pending),
        ];
        for from in RunnerState::ALL {
            for to in RunnerState::ALL {
                assert_eq!(from.may_become(to), legal.contains(&(from, to)), "{from:?} -> {to:?}");
            }
        }
    }

    #[test]
    fn p15_no_legal_step_within_an_epoch_lowers_the_rank() {
        for from in RunnerState::ALL {
            for to in RunnerState::ALL {
                if from.may_become(to) && to != Pending {
                    assert!(from.rank() <= to.rank(), "{from:?} -> {to:?}");
                }
            }
        }
    }
}
