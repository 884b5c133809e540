//! What the planner may see.

use stratavore_model::{HostLoad, HostRecord, HostState, RunnerRecord, State};

use crate::score::Policy;

/// A read of the state, for one plan or explanation.
#[derive(Debug, Clone)]
pub struct View<'a> {
    pub(crate) state: &'a State,
    /// Hosts that are not removed, by id, with what they carry.
    pub(crate) hosts: Vec<(&'a HostRecord, HostLoad)>,
    pub(crate) policy: Policy,
    /// P30: what became pending up to this log index waits until every host has listed its runners.
    held_up_to: Option<u64>,
}

impl<'a> View<'a> {
    /// The state as the planner sees it, with the default policy.
    #[must_use]
    pub fn of(state: &'a State) -> Self {
        let hosts = state.hosts().filter(|host| host.state != HostState::Removed);
        let hosts = hosts.map(|host| (host, state.host_load(host.id))).collect();
        let unlisted = state.unlisted_hosts().len() > 0;
        let held_up_to = state.cluster().map(|cluster| cluster.raised_at_index).filter(|_| unlisted);
        Self { state, hosts, policy: Policy::default(), held_up_to }
    }

    /// The same view under another policy.
    #[must_use]
    pub fn with_policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Whether a pending runner must wait for hosts to report after a recovery.
    pub(crate) fn is_held(&self, runner: &RunnerRecord) -> bool {
        self.held_up_to.is_some_and(|index| runner.queued.index <= index)
    }
}
