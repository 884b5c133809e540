//! The command line as a person of this farm uses it.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::ran::{Ran, run};
use crate::terminal::Terminal;

use super::LocalFarm;

impl LocalFarm {
    /// `stratavore --context ADMIN …`, with every node as an endpoint.
    #[must_use]
    pub fn cli_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.cli_command_as(&self.admin_context(), &[]);
        if self.nodes.len() > 1 {
            command.arg("--cluster").arg(self.endpoints());
        }
        command.args(arguments);
        command
    }

    /// `stratavore --context FILE …`.
    #[must_use]
    pub fn cli_command_as(&self, context: &Path, arguments: &[&str]) -> Command {
        let mut command = self.command(&self.binaries.cli());
        command.arg("--context").arg(context).args(arguments);
        command
    }

    /// `stratavore …` with whatever context is current.
    #[must_use]
    pub fn bare_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&self.binaries.cli());
        command.args(arguments);
        command
    }

    /// Runs the command line as the administrator.
    #[must_use]
    #[track_caller]
    pub fn cli(&self, arguments: &[&str]) -> Ran {
        run(&mut self.cli_command(arguments))
    }

    /// Runs the command line with whatever context is current.
    #[must_use]
    #[track_caller]
    pub fn bare(&self, arguments: &[&str]) -> Ran {
        run(&mut self.bare_command(arguments))
    }

    /// Runs the command line on a terminal of that size.
    #[must_use]
    pub fn terminal(&self, arguments: &[&str], rows: u16, cols: u16) -> Terminal {
        Terminal::start(&self.binaries.probe(), &self.cli_command(arguments), rows, cols)
    }

    /// Runs any program on a terminal of that size.
    #[must_use]
    pub fn terminal_of(&self, command: &Command, rows: u16, cols: u16) -> Terminal {
        Terminal::start(&self.binaries.probe(), command, rows, cols)
    }

    /// A project in the farm's work directory that allows a hundred runners.
    #[track_caller]
    pub fn project(&self, name: &str) {
        let work = self.work();
        self.cli(&["new", name, "--path", &work.to_string_lossy(), "--max-runners", "100"]).ok();
    }

    /// Launches one runner with the given flags and command; its object as the command printed it.
    ///
    /// # Panics
    /// When the launch fails or prints anything but one runner.
    #[must_use]
    #[track_caller]
    pub fn launch(&self, project: &str, flags: &[&str], command: &[&str]) -> Value {
        let mut arguments = vec!["launch", project, "-o", "json", "--detach"];
        arguments.extend_from_slice(flags);
        arguments.push("--");
        arguments.extend_from_slice(command);
        let ran = self.cli(&arguments).ok();
        let mut runners = ran.items("RunnerList");
        assert!(runners.len() == 1, "one runner expected: {ran}");
        runners.swap_remove(0)
    }

    /// Launches one runner and waits until it runs; its id.
    #[track_caller]
    pub fn running(&self, project: &str, flags: &[&str], command: &[&str]) -> String {
        let runner = self.launch(project, flags, command);
        let id = text(&runner, "id");
        self.await_runner(&id, "running");
        id
    }

    /// A probe's command line, for launching.
    #[must_use]
    pub fn probe(&self, arguments: &[&str]) -> Vec<String> {
        let program = self.binaries.probe().to_string_lossy().into_owned();
        std::iter::once(program).chain(arguments.iter().map(|a| (*a).to_owned())).collect()
    }
}

/// A string field of a JSON object.
///
/// # Panics
/// When it is missing or not a string.
#[must_use]
#[track_caller]
pub fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_else(|| panic!("no string '{field}' in {value}")).to_owned()
}
