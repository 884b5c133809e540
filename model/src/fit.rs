//! Whether a runner fits a host: the one set of predicates behind planning, explaining and the check in apply.

use serde::Serialize;

use crate::host::{HostLoad, HostRecord, HostState, Labels};
use crate::id::HostId;
use crate::runner::{RunnerRecord, RunnerSpec};

/// What a runner needs of its host.
#[derive(Debug, Clone, Copy)]
pub struct Need<'a> {
    pub slots: u32,
    pub cpu_milli: u64,
    pub memory_bytes: u64,
    pub labels: &'a Labels,
    /// The only host it may run on.
    pub pinned: Option<HostId>,
}

impl<'a> Need<'a> {
    /// Of a runner.
    #[must_use]
    pub fn of(runner: &'a RunnerRecord) -> Self {
        Self::of_spec(&runner.spec, runner.pinned)
    }

    /// Of a spec whose host, if it names one, is `pinned`.
    #[must_use]
    pub fn of_spec(spec: &'a RunnerSpec, pinned: Option<HostId>) -> Self {
        Self {
            slots: spec.slots.max(1),
            cpu_milli: spec.cpu_milli.into(),
            memory_bytes: spec.memory_bytes,
            labels: &spec.labels,
            pinned,
        }
    }
}

/// Why a host will not do. In the order in which they are asked: the cheap and lasting ones first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Misfit {
    Removed,
    NotReady,
    Cordoned,
    OtherHost,
    Labels,
    Slots,
    Cpu,
    Memory,
}

impl Misfit {
    /// Every predicate.
    pub const ALL: [Self; 8] = [
        Self::Removed,
        Self::NotReady,
        Self::Cordoned,
        Self::OtherHost,
        Self::Labels,
        Self::Slots,
        Self::Cpu,
        Self::Memory,
    ];

    /// A short stable word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::NotReady => "not_ready",
            Self::Cordoned => "cordoned",
            Self::OtherHost => "other_host",
            Self::Labels => "labels",
            Self::Slots => "slots",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
        }
    }

    /// Whether it passes when other runners end.
    #[must_use]
    pub const fn is_resource(self) -> bool {
        matches!(self, Self::Slots | Self::Cpu | Self::Memory)
    }

    /// Whether `host`, carrying `load`, fails `need` in this respect.
    #[must_use]
    pub fn applies(self, host: &HostRecord, load: &HostLoad, need: &Need<'_>) -> bool {
        match self {
            Self::Removed => host.state == HostState::Removed,
            Self::NotReady => host.state != HostState::Ready,
            Self::Cordoned => host.cordoned,
            Self::OtherHost => need.pinned.is_some_and(|pinned| pinned != host.id),
            Self::Labels => need.labels.iter().any(|(key, value)| host.labels.get(key) != Some(value)),
            Self::Slots => need.slots > host.slots.saturating_sub(load.slots),
            Self::Cpu => need.cpu_milli > 0 && need.cpu_milli > host.cpu_milli.saturating_sub(load.cpu_milli),
            Self::Memory => {
                need.memory_bytes > 0
                    && need.memory_bytes > host.memory_bytes.saturating_sub(load.memory_bytes)
            }
        }
    }
}

/// The first reason why the host will not do, none if it will.
#[must_use]
pub fn misfit(host: &HostRecord, load: &HostLoad, need: &Need<'_>) -> Option<Misfit> {
    Misfit::ALL.into_iter().find(|misfit| misfit.applies(host, load, need))
}

/// All reasons why the host will not do.
#[must_use]
pub fn misfits(host: &HostRecord, load: &HostLoad, need: &Need<'_>) -> Vec<Misfit> {
    Misfit::ALL.into_iter().filter(|misfit| misfit.applies(host, load, need)).collect()
}
