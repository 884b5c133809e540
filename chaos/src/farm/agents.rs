//! The agents of a farm.

use std::path::{Path, PathBuf};
use std::process::Command;

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
        let server = format!("127.0.0.1:{}", self.ports.join);
        let mut command = self.command(&self.binaries.agent());
        command.arg("join").arg("--data-dir").arg(data).args(["--server", &server, "--name", name]);
        run(command.arg("--token-file").arg(token).args(more))
    }

    /// Joins one more host and remembers its agent.
    ///
    /// # Panics
    /// When joining fails.
    #[track_caller]
    pub fn join_agent(&mut self, name: &str, data: &Path) {
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
        let mut command = self.command(&self.binaries.agent());
        command.arg("run").arg("--data-dir").arg(&self.agents[at].data);
        command
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
