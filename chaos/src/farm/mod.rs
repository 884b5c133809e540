//! A cluster of real processes on loopback, in a directory of its own, that leaves nothing behind.

mod agents;
mod checks;
mod commands;
mod control;
mod flood;
mod nodes;
mod plan;

pub use commands::text;
pub use flood::{Flood, Viewer};
pub use nodes::Node;
pub use plan::{Lease, Plan};

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::binaries::Binaries;
use crate::eventually::{SOON, eventually};
use crate::network::Network;
use crate::ports::Ports;
use crate::processes;
use crate::spawned::Spawned;

/// Where everything of one farm lives. Short, because unix socket paths are bounded by 108 bytes.
const ROOT_PREFIX: &str = "svx-";
/// Lines of each log shown when a test fails.
const LOG_TAIL_LINES: usize = 60;

/// One agent of a farm.
#[derive(Debug)]
pub struct Agent {
    /// Name of its host.
    pub name: String,
    /// Its data directory.
    pub data: PathBuf,
    /// The process, once started.
    pub process: Option<Spawned>,
}

impl Agent {
    /// Process id.
    ///
    /// # Panics
    /// When it was not started.
    #[must_use]
    #[track_caller]
    pub fn pid(&self) -> i32 {
        self.process.as_ref().expect("a started agent").pid()
    }
}

/// A cluster of real processes; everything of it is killed when it is dropped.
#[derive(Debug)]
pub struct LocalFarm {
    binaries: Binaries,
    directory: tempfile::TempDir,
    plan: Plan,
    /// Nodes in the order they joined; there is always the first one.
    pub nodes: Vec<Node>,
    /// Agents in the order of their names.
    pub agents: Vec<Agent>,
    /// Where every node and agent has an address and a namespace of its own, if the plan says so.
    pub network: Option<Network>,
}

impl LocalFarm {
    /// One node, one agent with 1000 slots, nothing else.
    #[must_use]
    #[track_caller]
    pub fn start() -> Self {
        Plan::default().start()
    }

    /// Directories only: for tests that start programs themselves.
    ///
    /// # Panics
    /// When no temporary directory can be made.
    #[must_use]
    pub fn empty() -> Self {
        let directory = tempfile::Builder::new().prefix(ROOT_PREFIX).rand_bytes(8).tempdir_in("/tmp");
        let directory = directory.expect("make a temporary directory");
        let first = Node::new(directory.path().join("n"), [127, 0, 0, 1].into());
        let farm = Self {
            binaries: Binaries::locate(),
            directory,
            plan: Plan::default(),
            nodes: vec![first],
            agents: Vec::new(),
            network: None,
        };
        for name in ["home", "run", "tmp", "logs", "work"] {
            std::fs::create_dir_all(farm.root().join(name)).expect("make the farm's directories");
        }
        // XDG_RUNTIME_DIR must be private, or programs rightly refuse it.
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(farm.root().join("run"), private)
            .expect("make the runtime directory private");
        farm
    }

    /// Everything of this farm lies below; its path is also the tag by which its processes are found.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.directory.path()
    }

    /// The directory that projects of this farm use.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.root().join("work")
    }

    /// A path in the farm's directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// The programs under test.
    #[must_use]
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// Ports of the first node.
    #[must_use]
    pub fn ports(&self) -> Ports {
        self.nodes[0].ports
    }

    /// Data directory of the first node.
    #[must_use]
    pub fn node_data(&self) -> &Path {
        &self.nodes[0].data
    }

    /// The configuration file of the nodes; it exists when the plan has something to say in it.
    #[must_use]
    pub fn configuration(&self) -> PathBuf {
        self.path("node.yaml")
    }

    /// The administrator's context file, as `stratavored init` wrote it; a copy, since a first node may lose its disk.
    #[must_use]
    pub fn admin_context(&self) -> PathBuf {
        let copy = self.path("admin.yaml");
        if copy.exists() { copy } else { self.nodes[0].data.join("admin.yaml") }
    }

    /// A command with the farm's environment and nothing of the caller's.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        self.command_at(None, program)
    }

    /// The same, run at a place of the farm's network.
    ///
    /// # Panics
    /// When there is such a place but no network.
    #[must_use]
    pub fn command_at(&self, place: Option<&str>, program: &Path) -> Command {
        let home = self.path("home");
        let mut command = match place {
            Some(place) => self.network.as_ref().expect("a networked farm").command(place, program),
            None => Command::new(program),
        };
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &home)
            .env("USER", "chaos")
            .env("SHELL", "/bin/sh")
            .env("LANG", "C.UTF-8")
            .env("TERM", "xterm-256color")
            .env("TMPDIR", self.path("tmp"))
            .env("XDG_STATE_HOME", home.join(".local/state"))
            .env("XDG_CONFIG_HOME", home.join(".config"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("RUST_BACKTRACE", "1")
            .current_dir(self.work());
        command
    }

    /// Every live process of this farm, runners and shims included.
    #[must_use]
    pub fn processes(&self) -> Vec<processes::Seen> {
        let mut found = Vec::new();
        for tag in self.tags() {
            for process in processes::family_of(&tag) {
                if !found.iter().any(|known: &processes::Seen| known.pid == process.pid) {
                    found.push(process);
                }
            }
        }
        found
    }

    /// The shims of this farm's agents and their guardians.
    #[must_use]
    pub fn shims(&self) -> Vec<processes::Seen> {
        self.processes().into_iter().filter(processes::Seen::is_shim).collect()
    }

    /// What the command lines of this farm's processes mention: its root, and data that is kept elsewhere.
    fn tags(&self) -> Vec<String> {
        let root = self.root().to_path_buf();
        let data =
            self.nodes.iter().map(|node| &node.data).chain(self.agents.iter().map(|agent| &agent.data));
        let elsewhere = data.filter(|data| !data.starts_with(&root)).cloned().collect::<Vec<_>>();
        std::iter::once(root).chain(elsewhere).map(|path| path.to_string_lossy().into_owned()).collect()
    }

    /// Waits until no process of this farm is left.
    ///
    /// # Panics
    /// When one is left after a minute; names them.
    #[track_caller]
    pub fn leaves_no_process(&self) {
        eventually("no process of the farm", SOON, || {
            let left: Vec<String> =
                self.processes().iter().map(|p| format!("{} {}", p.pid, p.arguments.join(" "))).collect();
            if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
        });
    }

    /// Paths of all log files: those of directly started programs and those that `up` keeps.
    fn logs(&self) -> Vec<PathBuf> {
        let places = [self.path("logs"), self.path("home").join(".local/state/stratavore/local/logs")];
        let entries = places.iter().filter_map(|p| std::fs::read_dir(p).ok()).flatten().flatten();
        let mut logs: Vec<PathBuf> = entries.map(|e| e.path()).collect();
        logs.sort();
        logs
    }

    fn dump_logs(&self) {
        for log in self.logs() {
            let bytes = std::fs::read(&log).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("--- {} ({} lines)", log.display(), lines.len());
            for line in &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..] {
                eprintln!("{line}");
            }
        }
        eprintln!("--- processes");
        for process in self.processes() {
            eprintln!("{} (parent {}) {}", process.pid, process.parent, process.arguments.join(" "));
        }
    }

    /// Logs in which a program of the product panicked: never right, whatever a test does to it.
    fn panics(&self) -> Vec<String> {
        let panicked = |log: &PathBuf| {
            let bytes = std::fs::read(log).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let line = text.lines().position(|l| l.contains("panicked at"))?;
            let shown: Vec<&str> = text.lines().skip(line).take(3).collect();
            Some(format!("{}: {}", log.display(), shown.join(" ")))
        };
        self.logs().iter().filter_map(panicked).collect()
    }
}

impl Drop for LocalFarm {
    fn drop(&mut self) {
        let failing = std::thread::panicking();
        if failing {
            self.dump_logs();
        }
        let panics = self.panics();
        let nodes = self.nodes.iter_mut().filter_map(|node| node.process.as_mut());
        let agents = self.agents.iter_mut().filter_map(|agent| agent.process.as_mut());
        nodes.chain(agents).for_each(Spawned::kill9);
        self.tags().iter().for_each(|tag| processes::kill_family_of(tag));
        assert!(failing || panics.is_empty(), "a program of the product panicked: {panics:?}");
    }
}
