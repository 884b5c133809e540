//! One program of the product, started directly: its output in a file, its life under signals.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::eventually::{SOON, eventually};
use crate::processes;

/// A long-running program. Dropping it leaves it alone: the farm sweeps up by its own tag.
#[derive(Debug)]
pub struct Spawned {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Spawned {
    /// Starts `command` with stdout and stderr appended to `log`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        let out = OpenOptions::new().create(true).append(true).open(log).expect("open a log file");
        let both: File = out.try_clone().expect("duplicate a log file");
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(both)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self { name: name.to_owned(), child, log: log.to_path_buf() }
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or(0)
    }

    /// The end, if it has come.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// SIGKILL, and waits until the kernel has taken it away.
    pub fn kill9(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Any signal.
    pub fn signal(&self, signal: Signal) {
        processes::signal(self.pid(), signal);
    }

    /// Waits for the end by itself.
    ///
    /// # Panics
    /// When it still runs after a minute, with the end of its log.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        self.wait_for(SOON)
    }

    /// Waits at most `bound` for the end.
    ///
    /// # Panics
    /// When it still runs then.
    #[track_caller]
    pub fn wait_for(&mut self, bound: Duration) -> ExitStatus {
        let what = format!("{} to exit", self.name);
        eventually(&what, bound, || self.ended().ok_or("it still runs"))
    }

    /// SIGTERM, then waits for the end.
    ///
    /// # Panics
    /// When it does not end.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Everything it has written.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}
