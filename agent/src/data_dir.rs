//! The data directory: names of what is in it, and the lock that makes one agent its only owner.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::epoch::RunnerKey;

/// Name of lock files.
const LOCK: &str = "LOCK";

/// Marks the directory of an epoch whose end the cluster has acknowledged.
const ACKNOWLEDGED: &str = "acknowledged";

/// Paths below one agent's data directory. Cheap to clone; touches nothing by itself.
#[derive(Debug, Clone)]
pub(crate) struct DataDir {
    root: PathBuf,
}

impl DataDir {
    /// Names a directory without touching it. Relative paths are resolved now, since shims outlive the present
    /// working directory.
    ///
    /// # Errors
    /// When the working directory cannot be read.
    pub(crate) fn new(root: &Path) -> io::Result<Self> {
        Ok(Self { root: std::path::absolute(root)? })
    }

    /// Creates the directory and its parts, private to this user.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn create(&self) -> io::Result<()> {
        for dir in [self.root.clone(), self.pki(), self.runners()] {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        Ok(())
    }

    /// The directory itself.
    #[must_use]
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// `agent.json`: written last by a join; while it is missing the host belongs to no cluster.
    #[must_use]
    pub(crate) fn agent_json(&self) -> PathBuf {
        self.root.join("agent.json")
    }

    /// `trust.json`: nodes and their keys as the last gateway gave them.
    #[must_use]
    pub(crate) fn trust_json(&self) -> PathBuf {
        self.root.join("trust.json")
    }

    /// Keys and certificates.
    #[must_use]
    pub(crate) fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }

    /// One directory per epoch: the truth about what runs here.
    #[must_use]
    pub(crate) fn runners(&self) -> PathBuf {
        self.root.join("runners")
    }

    /// Blank directories that will be moved to `runners/`.
    #[must_use]
    pub(crate) fn stock(&self) -> PathBuf {
        self.root.join("stock")
    }

    /// Directory of one epoch.
    #[must_use]
    pub(crate) fn runner(&self, key: &RunnerKey) -> PathBuf {
        self.runners().join(key.to_string())
    }

    /// Marker inside the directory of one epoch.
    #[must_use]
    pub(crate) fn acknowledged(&self, key: &RunnerKey) -> PathBuf {
        self.runner(key).join(ACKNOWLEDGED)
    }

    /// Takes the lock that a running agent, and `join` and `stop` while they write, hold.
    ///
    /// # Errors
    /// [`LockError::Held`] when another process has it.
    pub(crate) fn lock(&self) -> Result<Lock, LockError> {
        let path = self.root.join(LOCK);
        take(&path)?.ok_or(LockError::Held { path })
    }
}

/// Takes the lock of one host on this machine, beside its sockets: a copy of the data directory has a lock of its own,
/// but names the same host, and would take the living shims of the original for dead.
///
/// # Errors
/// [`LockError::HostHeld`] when another process has it.
pub(crate) fn lock_host(sockets: &Path) -> Result<Lock, LockError> {
    let path = sockets.join(LOCK);
    take(&path)?.ok_or(LockError::HostHeld { path })
}

fn take(path: &Path) -> Result<Option<Lock>, LockError> {
    let failed = |source| LockError::Io { path: path.to_owned(), source };
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = open.map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(Lock { _file: file })),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(failed(errno.into())),
    }
}

/// Held for as long as it lives; the kernel releases it when the process dies.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Why a data directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    #[error("{} is held by another process: an agent runs on this data directory already; stop it with `stratavore-agent stop`, or name another --data-dir", path.display())]
    Held { path: PathBuf },
    #[error(
        "{} is held by another process: another agent of this same host runs on this machine, on a data directory of which this one is a copy; join this one with a token of its own instead",
        path.display()
    )]
    HostHeld { path: PathBuf },
    #[error("cannot lock {}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_owner_at_a_time() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::new(&temp.path().join("data")).unwrap();
        dir.create().unwrap();
        let held = dir.lock().unwrap();
        assert!(matches!(dir.lock(), Err(LockError::Held { .. })));
        drop(held);
        dir.lock().unwrap();
        let _host = lock_host(temp.path()).unwrap();
        assert!(matches!(lock_host(temp.path()), Err(LockError::HostHeld { .. })));
    }
}
