//! A file system of a few MiB that can be filled up.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// A mounted tmpfs; unmounted when dropped.
#[derive(Debug)]
pub struct Tmpfs {
    path: PathBuf,
}

impl Tmpfs {
    /// Mounts `mib` MiB at `path` (created), or says why this host does not allow it.
    ///
    /// # Errors
    /// Not root, or no such right.
    pub fn mount(path: &Path, mib: u32) -> Result<Self, String> {
        fs::create_dir_all(path).map_err(|e| e.to_string())?;
        let options = std::ffi::CString::new(format!("size={mib}m,mode=0755")).map_err(|e| e.to_string())?;
        mount("tmpfs", path, "tmpfs", MountFlags::empty(), Some(options.as_c_str()))
            .map_err(|error| format!("mounting a tmpfs is not allowed here: {error}"))?;
        Ok(Self { path: path.to_path_buf() })
    }

    /// Fills what is left to the last byte.
    ///
    /// # Panics
    /// When the file that fills it cannot be created.
    pub fn fill(&self) {
        let mut file =
            fs::OpenOptions::new().create(true).append(true).open(self.filler()).expect("create the filler");
        for size in [1 << 20, 1 << 12, 1] {
            let block = vec![b'x'; size];
            while std::io::Write::write_all(&mut file, &block).is_ok() {}
        }
    }

    /// Makes room again.
    pub fn free(&self) {
        fs::remove_file(self.filler()).ok();
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        unmount(&self.path, UnmountFlags::DETACH).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_system_refuses_until_it_is_freed() {
        let directory = tempfile::tempdir().unwrap();
        let disk = match Tmpfs::mount(&directory.path().join("disk"), 1) {
            Ok(disk) => disk,
            Err(reason) => return eprintln!("not tested: {reason}"),
        };
        disk.fill();
        let target = directory.path().join("disk/file");
        assert!(fs::write(&target, "more").is_err());
        disk.free();
        fs::write(&target, "more").unwrap();
    }
}
