//! The control-plane node of a farm.

use crate::eventually::{SOON, eventually};
use crate::http;
use crate::ran::{Ran, run};
use crate::spawned::Spawned;

use super::LocalFarm;

impl LocalFarm {
    /// `stratavored init` with the farm's ports.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn init_node(&self) {
        let mut command = self.command(&self.binaries.node());
        command.arg("init").arg("--data-dir").arg(&self.node_data).args(["--advertise", "127.0.0.1"]);
        run(command.args(self.ports.flags())).ok();
    }

    /// `stratavored run`, waited for until it serves.
    ///
    /// # Panics
    /// When it does not come up.
    #[track_caller]
    pub fn start_node(&mut self) {
        let mut command = self.command(&self.binaries.node());
        command.arg("run").arg("--data-dir").arg(&self.node_data);
        self.node = Some(Spawned::start("node", &mut command, &self.path("logs/node.log")));
        self.await_node();
    }

    /// Waits until `/readyz` says yes.
    ///
    /// # Panics
    /// When the node exits or does not become ready; shows its log.
    #[track_caller]
    pub fn await_node(&mut self) {
        let port = self.ports.metrics;
        eventually("the node to be ready", SOON, || {
            if let Some(status) = self.node.as_mut().and_then(Spawned::ended) {
                let log = self.node.as_ref().map(Spawned::log).unwrap_or_default();
                panic!("the node exited with {status}:\n{log}");
            }
            match http::get(port, "/readyz") {
                Ok((200, _)) => Ok(()),
                Ok((code, body)) => Err(format!("/readyz answers {code}: {body}")),
                Err(error) => Err(error.to_string()),
            }
        });
    }

    /// `stratavored run` that is expected to refuse: runs to its end.
    #[must_use]
    #[track_caller]
    pub fn run_node_to_end(&self, more: &[&str]) -> Ran {
        let mut command = self.command(&self.binaries.node());
        run(command.arg("run").arg("--data-dir").arg(&self.node_data).args(more))
    }

    /// SIGKILL to the node.
    ///
    /// # Panics
    /// When none was started.
    pub fn kill_node(&mut self) {
        self.node.as_mut().expect("a started node").kill9();
    }
}
