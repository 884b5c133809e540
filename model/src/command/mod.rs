//! One file per command: the struct, what it does, its tests.

mod adopt_runner;
mod assign;
mod confirm_reboot;
mod cordon_host;
mod create_project;
mod create_token;
mod cut_keys;
mod declare_host_dead;
mod declare_runner_dead;
mod drain_host;
mod fence_host;
mod finalize;
mod forgo_list;
mod host_connect;
mod host_reachable;
mod host_unreachable;
mod init_cluster;
mod kill;
mod label_host;
mod launch;
mod lease_bounded;
mod note_node;
mod raise_incarnation;
mod redeem_token;
mod register_key;
mod remove_host;
mod remove_node;
mod report;
mod reserve_node;
mod reset_clock;
mod restart;
mod revoke_token;
mod set_maintenance;
mod set_node_address;
mod set_quota;
mod trim;

use serde::Serialize;

pub use adopt_runner::AdoptRunner;
pub use assign::{Assign, PLACEMENTS_MAX, Placement};
pub use confirm_reboot::ConfirmReboot;
pub use cordon_host::CordonHost;
pub use create_project::CreateProject;
pub use create_token::CreateToken;
pub use cut_keys::{CUT_KEYS_MAX, CutKeys};
pub use declare_host_dead::DeclareHostDead;
pub use declare_runner_dead::DeclareRunnerDead;
pub use drain_host::DrainHost;
pub use fence_host::FenceHost;
pub use finalize::Finalize;
pub use forgo_list::ForgoList;
pub use host_connect::HostConnect;
pub use host_reachable::HostReachable;
pub use host_unreachable::HostUnreachable;
pub use init_cluster::InitCluster;
pub use kill::{Kill, Selector};
pub use label_host::LabelHost;
pub use launch::{LAUNCH_COUNT_MAX, Launch};
pub use lease_bounded::LeaseBounded;
pub use note_node::{NodeNote, NoteNode};
pub use raise_incarnation::RaiseIncarnation;
pub use redeem_token::{Joiner, RedeemToken};
pub use register_key::RegisterKey;
pub use remove_host::RemoveHost;
pub use remove_node::RemoveNode;
pub use report::{OBSERVATIONS_MAX, Observation, Report};
pub(crate) use reserve_node::is_reserved;
pub use reserve_node::{RESERVED_MAX, ReserveNode};
pub use reset_clock::ResetClock;
pub use restart::Restart;
pub use revoke_token::RevokeToken;
pub use set_maintenance::SetMaintenance;
pub use set_node_address::SetNodeAddress;
pub use set_quota::SetQuota;
pub use trim::{EventRetention, Trim};

use crate::canonical;
use crate::dedup::{RUNNERS_KEPT, StoredReply};
use crate::entry::Entry;
use crate::id::{HostId, ProjectName, RunnerId, TokenId};
use crate::reply::{Rejected, Reply};

/// Everything that can change replicated state. Append only: what an old command does never changes (P22).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    InitCluster(Box<InitCluster>),
    RaiseIncarnation(RaiseIncarnation),
    CreateProject(CreateProject),
    SetQuota(SetQuota),
    Launch(Launch),
    Assign(Assign),
    Report(Report),
    HostConnect(HostConnect),
    HostUnreachable(HostUnreachable),
    HostReachable(HostReachable),
    Kill(Kill),
    Restart(Restart),
    CordonHost(CordonHost),
    LabelHost(LabelHost),
    RemoveHost(RemoveHost),
    CreateToken(CreateToken),
    RevokeToken(RevokeToken),
    RedeemToken(RedeemToken),
    RegisterKey(RegisterKey),
    SetNodeAddress(SetNodeAddress),
    Trim(Trim),
    ResetClock(ResetClock),
    FenceHost(FenceHost),
    LeaseBounded(LeaseBounded),
    ConfirmReboot(ConfirmReboot),
    ForgoList(ForgoList),
    DeclareRunnerDead(DeclareRunnerDead),
    DeclareHostDead(DeclareHostDead),
    DrainHost(DrainHost),
    RemoveNode(RemoveNode),
    Finalize(Finalize),
    SetMaintenance(SetMaintenance),
    ReserveNode(ReserveNode),
    CutKeys(CutKeys),
    AdoptRunner(AdoptRunner),
    NoteNode(NoteNode),
    /// Many proposals in one entry, each with its own actor and answer; one refused harms no other. Not nested.
    Batch(Vec<Entry>),
}

/// P22: the newest cluster version that this program applies.
pub const COMMAND_VERSION: u32 = 3;

/// The cluster version of fences, replacement and membership.
pub const FENCES_SINCE: u32 = 2;

/// The cluster version of restart policies.
pub const RESTARTS_SINCE: u32 = 3;

/// The cluster version of what nodes note about themselves.
pub const NOTES_SINCE: u32 = 3;

/// The cluster version of backups that agents follow by themselves.
pub const RESTORE_SINCE: u32 = 3;

/// Entries of a batch: answers and rows of one entry stay within what one write batch carries comfortably.
pub const BATCH_MAX: usize = 1024;

impl Command {
    /// Its name in logs and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::InitCluster(_) => "init_cluster",
            Self::RaiseIncarnation(_) => "raise_incarnation",
            Self::CreateProject(_) => "create_project",
            Self::SetQuota(_) => "set_quota",
            Self::Launch(_) => "launch",
            Self::Assign(_) => "assign",
            Self::Report(_) => "report",
            Self::HostConnect(_) => "host_connect",
            Self::HostUnreachable(_) => "host_unreachable",
            Self::HostReachable(_) => "host_reachable",
            Self::Kill(_) => "kill",
            Self::Restart(_) => "restart",
            Self::CordonHost(_) => "cordon_host",
            Self::LabelHost(_) => "label_host",
            Self::RemoveHost(_) => "remove_host",
            Self::CreateToken(_) => "create_token",
            Self::RevokeToken(_) => "revoke_token",
            Self::RedeemToken(_) => "redeem_token",
            Self::RegisterKey(_) => "register_key",
            Self::SetNodeAddress(_) => "set_node_address",
            Self::Trim(_) => "trim",
            Self::ResetClock(_) => "reset_clock",
            Self::ConfirmReboot(_) => "confirm_reboot",
            Self::DeclareHostDead(_) => "declare_host_dead",
            Self::DeclareRunnerDead(_) => "declare_runner_dead",
            Self::DrainHost(_) => "drain_host",
            Self::FenceHost(_) => "fence_host",
            Self::Finalize(_) => "finalize",
            Self::ForgoList(_) => "forgo_list",
            Self::LeaseBounded(_) => "lease_bounded",
            Self::RemoveNode(_) => "remove_node",
            Self::SetMaintenance(_) => "set_maintenance",
            Self::ReserveNode(_) => "reserve_node",
            Self::CutKeys(_) => "cut_keys",
            Self::AdoptRunner(_) => "adopt_runner",
            Self::NoteNode(_) => "note_node",
            Self::Batch(_) => "batch",
        }
    }

    /// P22: the cluster version from which on it may be applied.
    #[must_use]
    pub const fn since(&self) -> u32 {
        match self {
            Self::FenceHost(_)
            | Self::LeaseBounded(_)
            | Self::ConfirmReboot(_)
            | Self::ForgoList(_)
            | Self::DeclareRunnerDead(_)
            | Self::DeclareHostDead(_)
            | Self::DrainHost(_)
            | Self::SetMaintenance(_) => FENCES_SINCE,
            Self::ReserveNode(_) | Self::CutKeys(_) | Self::AdoptRunner(_) => RESTORE_SINCE,
            Self::NoteNode(_) => NOTES_SINCE,
            _ => 1,
        }
    }

    /// P7: only the leader's loops decide these, so they count in the term in which they were decided and in no other.
    #[must_use]
    pub const fn needs_term(&self) -> bool {
        matches!(
            self,
            Self::FenceHost(_) | Self::LeaseBounded(_) | Self::ConfirmReboot(_) | Self::ForgoList(_)
        )
    }

    /// P25: what a retry must repeat, hashed; none for commands that users do not send under a request id.
    /// Ids that the API node makes up are left out, because each attempt gets other ones.
    #[must_use]
    pub fn payload_hash(&self) -> Option<[u8; 32]> {
        Some(match self {
            Self::CreateProject(command) => self.hash(command),
            Self::SetQuota(command) => self.hash(command),
            Self::Launch(command) => self.hash(&command.without_ids()),
            Self::Kill(command) => self.hash(command),
            Self::Restart(command) => self.hash(command),
            Self::CordonHost(command) => self.hash(command),
            Self::LabelHost(command) => self.hash(command),
            Self::RemoveHost(command) => self.hash(command),
            Self::CreateToken(command) => self.hash(command),
            Self::RevokeToken(command) => self.hash(command),
            Self::ResetClock(command) => self.hash(command),
            Self::DeclareRunnerDead(command) => self.hash(command),
            Self::DeclareHostDead(command) => self.hash(command),
            Self::DrainHost(command) => self.hash(command),
            Self::RemoveNode(command) => self.hash(command),
            Self::Finalize(command) => self.hash(command),
            Self::SetMaintenance(command) => self.hash(command),
            Self::AdoptRunner(command) => self.hash(command),
            Self::InitCluster(_)
            | Self::RaiseIncarnation(_)
            | Self::Assign(_)
            | Self::Report(_)
            | Self::HostConnect(_)
            | Self::HostUnreachable(_)
            | Self::HostReachable(_)
            | Self::RedeemToken(_)
            | Self::RegisterKey(_)
            | Self::SetNodeAddress(_)
            | Self::Trim(_)
            | Self::FenceHost(_)
            | Self::LeaseBounded(_)
            | Self::ConfirmReboot(_)
            | Self::ForgoList(_)
            | Self::ReserveNode(_)
            | Self::CutKeys(_)
            | Self::NoteNode(_)
            | Self::Batch(_) => return None,
        })
    }

    fn hash(&self, payload: &impl Serialize) -> [u8; 32] {
        canonical::hash(&(self.name(), payload))
    }
}

/// What a command that succeeded hands back: the answer, and for P25 its short form.
pub(crate) struct Success {
    pub(crate) reply: Reply,
    pub(crate) stored: StoredReply,
}

/// A refusal, or what happened.
pub(crate) type Verdict = Result<Success, Rejected>;

impl Success {
    /// An answer that a retry gets as plain `Done`, or that no retry asks for.
    pub(crate) const fn done(reply: Reply) -> Self {
        Self { reply, stored: StoredReply::Done }
    }

    pub(crate) fn project(name: ProjectName) -> Self {
        Self { reply: Reply::Project(name.clone()), stored: StoredReply::Project(name) }
    }

    pub(crate) const fn host(id: HostId) -> Self {
        Self { reply: Reply::Host(id), stored: StoredReply::Host(id) }
    }

    pub(crate) const fn token(id: TokenId) -> Self {
        Self { reply: Reply::Token(id), stored: StoredReply::Token(id) }
    }

    pub(crate) fn launched(runners: Vec<RunnerId>, queued: String) -> Self {
        let (kept, count) = kept(&runners);
        let stored = StoredReply::Launched { runners: kept, count, queued: queued.clone() };
        Self { reply: Reply::Launched { runners, queued }, stored }
    }

    pub(crate) fn stopping(runners: Vec<RunnerId>) -> Self {
        let (kept, count) = kept(&runners);
        Self { reply: Reply::Stopping { runners }, stored: StoredReply::Stopping { runners: kept, count } }
    }
}

/// The ids that a dedup row keeps, and how many there are.
fn kept(runners: &[RunnerId]) -> (Vec<RunnerId>, u32) {
    let count = u32::try_from(runners.len()).unwrap_or(u32::MAX);
    let kept = if runners.len() <= RUNNERS_KEPT { runners.to_vec() } else { Vec::new() };
    (kept, count)
}
