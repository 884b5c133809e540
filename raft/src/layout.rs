//! Where everything lies in a node's data directory.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::sync_point;

/// Paths below one data directory.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self { root: data_dir.to_path_buf() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The log database.
    pub(crate) fn log(&self) -> PathBuf {
        self.root.join("raft-log")
    }

    /// Holds the state databases, the snapshots and the pointer to the database in use.
    pub(crate) fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    /// A text file with the name of the state database in use; replaced by rename.
    pub(crate) fn active(&self) -> PathBuf {
        self.state().join("ACTIVE")
    }

    pub(crate) fn snapshots(&self) -> PathBuf {
        self.state().join("snapshots")
    }

    pub(crate) fn mark(&self) -> PathBuf {
        self.root.join("high-water-mark")
    }

    pub(crate) fn reserve(&self) -> PathBuf {
        self.root.join("reserve")
    }
}

/// Makes a directory entry durable: create, rename and remove are not without it.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Replaces `path` by `content` so that a crash leaves the old or the new file, never a part.
pub(crate) fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let parent = path.parent().unwrap_or_else(|| Path::new("."));
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let mut file = File::create(&temporary)?;
    io::Write::write_all(&mut file, content)?;
    sync_point::reached();
    file.sync_all()?;
    sync_point::reached();
    fs::rename(&temporary, path)?;
    sync_point::reached();
    sync_dir(parent)
}
