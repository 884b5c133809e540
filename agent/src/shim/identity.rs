//! `shim.json`: who runs a directory. Written before the command execs, so that whatever runs can be found from here.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// More than an identity ever takes: two paths of at most 4 KiB would, but ours are a tenth of that.
const BLOCK_BYTES: u64 = 4096;

/// File a living shim holds locked; the kernel lets go of it when the shim dies, whatever the way.
#[must_use]
pub fn lock_path(dir: &Path) -> PathBuf {
    dir.join("shim.lock")
}

fn path(dir: &Path) -> PathBuf {
    dir.join("shim.json")
}

/// The content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub protocol: u32,
    pub runner: String,
    pub incarnation: u64,
    pub index: u64,
    pub pid: i32,
    /// With the pid it names the process for good.
    pub start_ticks: u64,
    /// The process the shim waits for: the command, or the init of its namespace.
    pub child: i32,
    pub boot_id: String,
    pub socket: PathBuf,
    pub fence: String,
    /// Leaf of the v2 hierarchy; empty without one.
    pub cgroup: PathBuf,
    pub started_at_unix_ms: i64,
}

impl Identity {
    /// Writes the file.
    ///
    /// # Errors
    /// As the file system says.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let mut file = open(dir)?;
        if file.metadata()?.len() > 0 {
            // Torn: an attempt that never came to its exec.
            file.set_len(0)?;
        }
        file.write_all(&serde_json::to_vec(self)?)
    }

    /// Reads the file; `None` when there is none, or only a torn one: then no command was ever exec'd.
    ///
    /// # Errors
    /// When it exists but cannot be read.
    pub fn read(dir: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(path(dir)) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Makes the still empty file, which says that nobody has run here, and takes its block: a disk that runs full later
/// cannot stop a start half-way.
///
/// # Errors
/// As the file system says.
pub fn reserve(dir: &Path) -> io::Result<()> {
    let file = open(dir)?;
    if file.metadata()?.blocks() > 0 {
        return Ok(());
    }
    match rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, BLOCK_BYTES) {
        // Not every file system can reserve; there a full disk makes the start fail.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn open(dir: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path(dir))
}

/// The boot this process lives in; empty when the kernel does not say.
#[must_use]
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}
