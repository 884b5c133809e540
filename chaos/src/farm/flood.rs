//! A runner that writes numbered lines, and clients that write down what they see of it: what a survival is judged by.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};

use crate::eventually::{SOON, eventually, eventually_true};
use crate::numbered::{assert_whole, total};

use super::LocalFarm;

/// The runner's exit code: none that a shell or a signal makes by accident.
const EXIT_CODE: u8 = 42;

/// A runner that writes numbered lines between the appearance of two files.
#[derive(Debug)]
pub struct Flood {
    /// Its id.
    pub runner: String,
    /// Process id of its command.
    pub pid: i32,
    go: PathBuf,
    stop: PathBuf,
}

impl Flood {
    /// Launches one in `project` (which must exist) with the given flags; it waits until [`Self::go`].
    #[must_use]
    #[track_caller]
    pub fn start(farm: &LocalFarm, project: &str, flags: &[&str], lines_per_second: u32) -> Self {
        let tag = uuid::Uuid::new_v4().simple().to_string();
        let (go, stop) = (farm.path(&format!("go-{tag}")), farm.path(&format!("stop-{tag}")));
        let (rate, code) = (lines_per_second.to_string(), EXIT_CODE.to_string());
        let command = farm.probe(&["lines", &go.to_string_lossy(), &stop.to_string_lossy(), &rate, &code]);
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let runner = farm.running(project, flags, &command);
        let pid = farm.pid_of(&runner);
        Self { runner, pid, go, stop }
    }

    /// Lets it write.
    ///
    /// # Panics
    /// When the file cannot be made.
    pub fn go(&self) {
        fs::write(&self.go, "").expect("let the runner start");
    }

    /// Lets it end, and checks that it ends as the same process, with its own exit code and every line in its log.
    ///
    /// # Panics
    /// When it ended otherwise, or a line is lost or doubled.
    #[track_caller]
    pub fn end(&self, farm: &LocalFarm) {
        assert!(crate::processes::is_alive(self.pid), "the runner's process has died");
        fs::write(&self.stop, "").expect("let the runner end");
        let ended = farm.await_runner(&self.runner, "terminated");
        assert_eq!(ended["exit"]["code"], EXIT_CODE, "{ended}");
        assert_eq!(ended["pid"], self.pid, "{ended}");
        assert_whole(farm.cli_until_ok(&["logs", &self.runner]).stdout.as_bytes());
    }
}

/// `attach --from-start` into a file, through the given endpoints in that order.
#[derive(Debug)]
pub struct Viewer {
    child: Child,
    seen: PathBuf,
    said: PathBuf,
}

impl Viewer {
    /// Attaches.
    ///
    /// # Panics
    /// When the program cannot be started.
    #[must_use]
    pub fn start(farm: &LocalFarm, runner: &str, endpoints: &str) -> Self {
        let tag = uuid::Uuid::new_v4().simple().to_string();
        let (seen, said) = (farm.path(&format!("seen-{tag}")), farm.path(&format!("logs/viewer-{tag}.log")));
        let arguments = ["--cluster", endpoints, "attach", runner, "--observe", "--from-start"];
        let child = farm
            .cli_command_as(&farm.admin_context(), &arguments)
            .stdin(Stdio::null())
            .stdout(File::create(&seen).expect("a file for the output"))
            .stderr(File::create(&said).expect("a file for the talk"))
            .spawn()
            .expect("start a viewer");
        Self { child, seen, said }
    }

    /// What has arrived so far.
    #[must_use]
    pub fn seen(&self) -> Vec<u8> {
        fs::read(&self.seen).unwrap_or_default()
    }

    /// Waits until more has arrived than now.
    ///
    /// # Panics
    /// When nothing does within a minute.
    #[track_caller]
    pub fn sees_more(&self, bytes: usize) {
        let wanted = self.seen().len() + bytes;
        eventually(&format!("{bytes} more bytes at the viewer"), SOON, || {
            let seen = self.seen().len();
            if seen >= wanted { Ok(()) } else { Err(format!("{seen} of {wanted}; {}", self.said())) }
        });
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap_or_default()
    }

    /// The runner has ended: waits until the viewer has, and checks that it saw every line once.
    ///
    /// # Panics
    /// When a line is lost or doubled, or the viewer stays.
    #[track_caller]
    pub fn saw_everything(mut self) {
        eventually("the viewer to see the total", SOON, || {
            let seen = self.seen();
            total(&seen).ok_or_else(|| format!("{} bytes; {}", seen.len(), self.said()))
        });
        eventually_true("the viewer to end", SOON, || {
            self.child.try_wait().is_ok_and(|ended| ended.is_some())
        });
        assert_whole(&self.seen());
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
