//! One leaf of the v2 hierarchy per runner. Needs no controllers: an empty v2 mount beside v1 ones is enough to kill.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A leaf and the handles on it; they stay valid whatever happens to the mount.
#[derive(Debug)]
pub struct Leaf {
    path: PathBuf,
    dir: File,
    kill: File,
}

impl Leaf {
    /// Creates the leaf (and its parents).
    ///
    /// # Errors
    /// When there is no writable v2 hierarchy there, or one without `cgroup.kill` (before Linux 5.14).
    pub fn create(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        Self::open(path)
    }

    /// Opens a leaf that exists.
    ///
    /// # Errors
    /// As [`Leaf::create`].
    pub fn open(path: &Path) -> io::Result<Self> {
        let dir = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(path)?;
        let kill = OpenOptions::new().write(true).open(path.join("cgroup.kill"))?;
        Ok(Self { path: path.into(), dir, kill })
    }

    /// Its directory, for a clone that is born in it.
    #[must_use]
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// `cgroup.kill`.
    #[must_use]
    pub fn kill_fd(&self) -> BorrowedFd<'_> {
        self.kill.as_fd()
    }

    /// Sends KILL to every process in the leaf and below, at once and without a race against forks. False when the
    /// leaf has been removed, which only an empty one can be.
    pub fn kill(&self) -> bool {
        (&self.kill).write_all(b"1").is_ok()
    }

    /// Lets frozen processes run again.
    pub fn thaw(&self) {
        // Missing before Linux 5.2; then nothing was frozen either.
        drop(
            OpenOptions::new()
                .write(true)
                .open(self.path.join("cgroup.freeze"))
                .and_then(|mut freeze| freeze.write_all(b"0")),
        );
    }

    /// Processes in the leaf now.
    #[must_use]
    pub fn processes(&self) -> Vec<i32> {
        let Ok(text) = std::fs::read_to_string(self.path.join("cgroup.procs")) else { return Vec::new() };
        text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect()
    }

    /// Removes the leaf and what the runner made below it; does nothing while processes are in it.
    pub fn remove(&self) {
        remove_tree(&self.path);
    }
}

fn remove_tree(path: &Path) {
    // Most runners make nothing below it.
    if std::fs::remove_dir(path).is_ok() {
        return;
    }
    if let Ok(entries) = std::fs::read_dir(path) {
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            remove_tree(&entry.path());
        }
    }
    drop(std::fs::remove_dir(path));
}
