//! The agents of a farm.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::eventually::{SOON, eventually};
use crate::ran::{Ran, run};
use crate::spawned::Spawned;

use super::{Agent, LocalFarm};

impl LocalFarm {
    /// A token of that role, made with `stratavore token create`, written to a file.
    ///
    /// # Panics
    /// When none is made.
    #[must_use]
    #[track_caller]
    pub fn token(&self, role: &str, more: &[&str]) -> PathBuf {
        let mut arguments = vec!["token", "create", "--role", role];
        arguments.extend_from_slice(more);
        let ran = self.cli(&arguments).ok();
        let token = ran
            .stdout
            .split(|c: char| c.is_whitespace() || "'\"".contains(c))
            .find(|w| w.starts_with("svt1."));
        let token = token.unwrap_or_else(|| panic!("no token printed: {ran}"));
        let file = self.path(&format!("token-{}", uuid::Uuid::new_v4().simple()));
        std::fs::write(&file, token).expect("write a token file");
        file
    }

    /// `stratavore-agent join` with a token file, whatever comes of it.
    #[must_use]
    #[track_caller]
    pub fn try_join(&self, name: &str, data: &Path, token: &Path, more: &[&str]) -> Ran {
        let servers: Vec<String> = self.nodes.iter().map(super::Node::join_server).collect();
        let mut command = self.command_at(self.place_of(name), &self.binaries.agent());
        command.arg("join").arg("--data-dir").arg(data);
        command.arg("--server").arg(servers.join(",")).args(["--name", name]);
        run(command.arg("--token-file").arg(token).args(more))
    }

    /// Joins one more host and remembers its agent.
    ///
    /// # Panics
    /// When joining fails.
    #[track_caller]
    pub fn join_agent(&mut self, name: &str, data: &Path) {
        if let Some(network) = &mut self.network {
            network.join(name);
        }
        let token = self.token("host", &[]);
        let slots = self.plan.slots.to_string();
        let mut more = vec!["--slots", slots.as_str()];
        for label in &self.plan.labels {
            more.extend(["--label", label.as_str()]);
        }
        self.try_join(name, data, &token, &more).ok();
        self.agents.push(Agent { name: name.to_owned(), data: data.to_path_buf(), process: None });
    }

    /// The command line of `stratavore-agent run` for agent `at`.
    #[must_use]
    pub fn agent_command(&self, at: usize) -> Command {
        let agent = &self.agents[at];
        let mut command = self.command_at(self.place_of(&agent.name), &self.binaries.agent());
        command.arg("run").arg("--data-dir").arg(&agent.data);
        command
    }

    /// Agents are known to the farm's network by the name of their host.
    fn place_of<'a>(&self, name: &'a str) -> Option<&'a str> {
        self.network.as_ref().map(|_| name)
    }

    /// `stratavore-agent run`, waited for until its host is ready.
    ///
    /// # Panics
    /// When it does not become ready.
    #[track_caller]
    pub fn start_agent(&mut self, at: usize) {
        self.spawn_agent(at);
        let name = self.agents[at].name.clone();
        self.await_host(&name, "ready");
    }

    /// `stratavore-agent run`, not waited for.
    pub fn spawn_agent(&mut self, at: usize) {
        let log = self.path(&format!("logs/agent-{at}.log"));
        let process = Spawned::start("agent", &mut self.agent_command(at), &log);
        self.agents[at].process = Some(process);
    }

    /// SIGKILL to an agent.
    ///
    /// # Panics
    /// When it was not started.
    pub fn kill_agent(&mut self, at: usize) {
        self.agents[at].process.as_mut().expect("a started agent").kill9();
    }

    /// SIGSTOP to an agent.
    ///
    /// # Panics
    /// When it was not started.
    pub fn freeze_agent(&self, at: usize) {
        self.agents[at].process.as_ref().expect("a started agent").signal(Signal::STOP);
    }

    /// SIGCONT to an agent.
    ///
    /// # Panics
    /// When it was not started.
    pub fn thaw_agent(&self, at: usize) {
        self.agents[at].process.as_ref().expect("a started agent").signal(Signal::CONT);
    }

    /// Cuts a host off from everything, until [`Self::heal_host`].
    ///
    /// # Panics
    /// When the farm has no network.
    pub fn cut_host(&self, at: usize) {
        self.network.as_ref().expect("a networked farm").cut(&self.agents[at].name);
    }

    /// Undoes [`Self::cut_host`].
    ///
    /// # Panics
    /// When the farm has no network.
    pub fn heal_host(&self, at: usize) {
        self.network.as_ref().expect("a networked farm").heal(&self.agents[at].name);
    }

    /// Position of the node that the host's agent is connected to, as `hosts` says.
    ///
    /// # Panics
    /// When none is shown within a minute.
    #[must_use]
    #[track_caller]
    pub fn gateway(&self, name: &str) -> usize {
        eventually(&format!("the gateway of {name}"), SOON, || {
            let ran = self.cli(&["hosts", "-o", "json"]);
            if ran.code != Some(0) {
                return Err(ran.to_string());
            }
            let hosts = ran.items("HostList");
            let gateway = hosts.iter().find(|h| h["name"] == name).and_then(|h| h["gateway"].as_str());
            let nodes = self.node_statuses()?;
            let node = nodes.iter().find(|(_, node)| Some(node["id"].to_string().as_str()) == gateway);
            node.map(|(at, _)| *at).ok_or(ran.stdout)
        })
    }

    /// Waits until `hosts` shows that host in that state.
    ///
    /// # Panics
    /// When it does not within a minute.
    #[track_caller]
    pub fn await_host(&self, name: &str, state: &str) {
        eventually(&format!("host {name} to be {state}"), SOON, || {
            let ran = self.cli(&["hosts", "-o", "json"]);
            if ran.code != Some(0) {
                return Err(ran.to_string());
            }
            let hosts = ran.items("HostList");
            let host = hosts.iter().find(|h| h["name"] == name);
            if host.is_some_and(|h| h["state"] == state) { Ok(()) } else { Err(ran.stdout) }
        });
    }
}
