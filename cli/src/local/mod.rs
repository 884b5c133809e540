//! The cluster of this machine: separate node and agent processes, a supervisor over them, and one state directory.

pub(crate) mod child;
pub(crate) mod foreground;
pub(crate) mod join;
pub(crate) mod machine;
pub(crate) mod ports;
pub(crate) mod process;
pub(crate) mod programs;
pub(crate) mod record;
pub(crate) mod start;
pub(crate) mod stop;
pub(crate) mod supervisor;
pub(crate) mod tool;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use stratavore_settings::dirs;

use crate::context::chain;
use crate::errors::{Exit, Failure, Result};

/// Name of the context that `up` writes.
pub(crate) const CONTEXT: &str = "local";

/// Where everything of the local cluster is.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Below the user's state directory.
    ///
    /// # Errors
    /// When there is no home directory.
    pub(crate) fn of_user() -> Result<Self> {
        let state = dirs::state_dir().map_err(|error| {
            Failure::new(Exit::Generic, "cannot tell where the local cluster is kept")
                .cause(chain(&error))
                .next("set HOME or XDG_STATE_HOME")
        })?;
        Ok(Self::at(state.join("local")))
    }

    /// At a directory.
    pub(crate) fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The state directory itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Data directory of a node (`node-1`) or agent (`agent-1`).
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Directory of the logs.
    pub(crate) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// Log of a node, an agent or the supervisor.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }

    /// What runs, and where.
    pub(crate) fn record(&self) -> PathBuf {
        self.root.join("processes.json")
    }

    /// Whether an agent has joined: its identity is the last file of a join.
    pub(crate) fn has_joined(&self, agent: &str) -> bool {
        self.data(agent).join("agent.json").exists()
    }

    /// Whether a node has been made: its identity is the last file of `init`.
    pub(crate) fn is_initialised(&self, node: &str) -> bool {
        self.data(node).join("node.json").exists()
    }

    /// Makes the directories, for this user only.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn create(&self) -> Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        let make = |path: &Path| std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        make(&self.root).and_then(|()| make(&self.logs())).map_err(|error| {
            Failure::new(Exit::Generic, format!("cannot make {}", self.root.display()))
                .cause(error.to_string())
                .next("check its permissions and the room on its disk, or set XDG_STATE_HOME")
        })
    }

    /// One `up` or `down` at a time; released when dropped.
    ///
    /// # Errors
    /// Exit 5 when another one is at work.
    pub(crate) fn lock(&self) -> Result<File> {
        let failed = |error: std::io::Error| {
            Failure::new(Exit::Generic, format!("cannot lock {}", self.root.display()))
                .cause(error.to_string())
        };
        let file = File::create(self.root.join("LOCK")).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => {
                Err(Failure::new(Exit::Conflict, "the local cluster is being started or stopped")
                    .cause(format!("another up or down holds {}", self.root.join("LOCK").display()))
                    .next("wait for it, then stratavore status"))
            }
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }
}
