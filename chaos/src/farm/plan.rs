//! What a farm starts with.

use std::path::{Path, PathBuf};

use crate::network::Network;

use super::LocalFarm;

/// How many of what, where, and with which numbers.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(super) slots: u32,
    pub(super) labels: Vec<String>,
    agents: usize,
    nodes: usize,
    agent_data: Option<PathBuf>,
    node_data: Option<PathBuf>,
    lease: Option<Lease>,
    kept_log_entries: Option<u64>,
    networked: bool,
}

/// Lengths of lease and hold in milliseconds, fixed at init; shorter than the defaults, so that tests need not wait.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    /// Of a lease.
    pub ttl_ms: u64,
    /// Between two renewals.
    pub renew_ms: u64,
    /// Between the ladder's TERM and KILL.
    pub kill_grace_ms: u64,
    /// How long a `stop` runner lives without contact.
    pub hold_ms: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            slots: 1000,
            labels: Vec::new(),
            agents: 1,
            nodes: 1,
            agent_data: None,
            node_data: None,
            lease: None,
            kept_log_entries: None,
            networked: false,
        }
    }
}

impl Plan {
    /// Slots of every host.
    #[must_use]
    pub fn slots(mut self, slots: u32) -> Self {
        self.slots = slots;
        self
    }

    /// A label `key=value` of every host.
    #[must_use]
    pub fn label(mut self, label: &str) -> Self {
        self.labels.push(label.to_owned());
        self
    }

    /// How many agents (0 or more).
    #[must_use]
    pub fn agents(mut self, agents: usize) -> Self {
        self.agents = agents;
        self
    }

    /// How many nodes (1, 3 or 5).
    #[must_use]
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// Another lease than the default one.
    #[must_use]
    pub fn lease(mut self, lease: Lease) -> Self {
        self.lease = Some(lease);
        self
    }

    /// Fewer entries in the log than by default (at least 1000), so that a node can be away for longer than they last.
    #[must_use]
    pub fn kept_log_entries(mut self, entries: u64) -> Self {
        self.kept_log_entries = Some(entries);
        self
    }

    /// Gives every node and agent an address and a network namespace of its own, so that it can be cut off. Needs root:
    /// see [`crate::network::Network::is_possible`].
    #[must_use]
    pub fn networked(mut self) -> Self {
        self.networked = true;
        self
    }

    /// Puts the first agent's data there instead.
    #[must_use]
    pub fn agent_data(mut self, directory: &Path) -> Self {
        self.agent_data = Some(directory.to_path_buf());
        self
    }

    /// Puts the node's data there instead.
    #[must_use]
    pub fn node_data(mut self, directory: &Path) -> Self {
        self.node_data = Some(directory.to_path_buf());
        self
    }

    /// Starts node and agents directly, each waited for until it is ready.
    ///
    /// # Panics
    /// When a program does not come up.
    #[must_use]
    #[track_caller]
    pub fn start(self) -> LocalFarm {
        let mut farm = self.farm();
        farm.init_node();
        farm.start_node();
        for _ in 1..farm.plan.nodes {
            farm.add_node();
        }
        if farm.plan.nodes > 1 {
            farm.await_voters(farm.plan.nodes);
        }
        for at in 0..farm.plan.agents {
            let directory = match (&farm.plan.agent_data, at) {
                (Some(directory), 0) => directory.clone(),
                _ => farm.root().join(format!("a{at}")),
            };
            farm.join_agent(&format!("host-{at}"), &directory);
            farm.start_agent(at);
        }
        farm
    }

    /// What the nodes' configuration file says; empty when there is none.
    fn configuration(&self) -> String {
        let mut text = String::new();
        if let Some(Lease { ttl_ms, renew_ms, kill_grace_ms, hold_ms }) = self.lease {
            text.push_str(&format!(
                "lease:\n  ttl_ms: {ttl_ms}\n  renew_ms: {renew_ms}\n  kill_grace_ms: {kill_grace_ms}\n  hold_ms: {hold_ms}\n"
            ));
        }
        if let Some(entries) = self.kept_log_entries {
            text.push_str(&format!("raft:\n  kept_log_entries: {entries}\n"));
        }
        text
    }

    /// Directories, network and configuration; nothing runs yet.
    fn farm(self) -> LocalFarm {
        let mut farm = LocalFarm::empty();
        if let Some(directory) = &self.node_data {
            farm.nodes[0].data.clone_from(directory);
        }
        if self.networked {
            let mut network = Network::create();
            farm.nodes[0].place(network.join("n0"));
            farm.network = Some(network);
        }
        let text = self.configuration();
        if !text.is_empty() {
            std::fs::write(farm.configuration(), text).expect("write the configuration");
        }
        farm.plan = self;
        farm
    }
}
