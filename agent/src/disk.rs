//! Space under the data directory: when no new runner may start, and a reserve for what must still be written.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use tracing::{info, warn};

/// The reserve, freed when the disk is full so that ends and intents can still be recorded: 16 MiB hold thousands.
const RESERVE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// On a small file system the reserve takes at most this part of it.
const RESERVE_PART: u64 = 16;

/// Below this, or below [`PRESSURE_PART`] of the file system, nothing new starts. 256 MiB hold four full output logs.
const PRESSURE_BYTES_MAX: u64 = 256 * 1024 * 1024;
const PRESSURE_PART: u64 = 20;

/// Pressure ends only at this multiple of the bound, so that a host on the edge does not flap.
const RELIEF_PERCENT: u64 = 150;

/// Watches one file system.
#[derive(Debug)]
pub(crate) struct Disk {
    dir: PathBuf,
    reserve: PathBuf,
    full: bool,
}

/// One look at it, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Space {
    pub available: u64,
    pub total: u64,
}

impl Disk {
    /// Watches the file system that holds `dir`.
    #[must_use]
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), reserve: dir.join("reserve"), full: false }
    }

    /// Bytes now.
    ///
    /// # Errors
    /// Those of `statvfs`.
    pub(crate) fn space(&self) -> io::Result<Space> {
        let stat = statvfs(&self.dir)?;
        Ok(Space {
            available: stat.f_bavail.saturating_mul(stat.f_frsize),
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }

    /// Looks again: true while the disk counts as full. Keeps the reserve while there is room for it and frees it
    /// under pressure. A file system that cannot be asked counts as it did before.
    pub(crate) fn check(&mut self) -> bool {
        let space = match self.space() {
            Ok(space) => space,
            Err(error) => {
                warn!(%error, dir = %self.dir.display(), "free space is unknown");
                return self.full;
            }
        };
        let reserved = self.reserved();
        let full = is_full(space, reserved, self.full);
        if full != self.full {
            warn!(full, available_bytes = space.available, dir = %self.dir.display(), "disk pressure changed");
        }
        self.full = full;
        if !full && reserved == 0 {
            self.refill(space);
        }
        full
    }

    /// Frees the reserve after a write failed for want of space; true when there was one to free.
    pub(crate) fn release(&mut self) -> bool {
        self.full = true;
        match std::fs::remove_file(&self.reserve) {
            Ok(()) => {
                warn!(reserve = %self.reserve.display(), "disk full: the reserve is freed; make room under the data directory");
                true
            }
            Err(_) => false,
        }
    }

    fn reserved(&self) -> u64 {
        std::fs::metadata(&self.reserve).map_or(0, |meta| meta.len())
    }

    fn refill(&self, space: Space) {
        let bytes = RESERVE_BYTES_MAX.min(space.total / RESERVE_PART);
        match allocate(&self.reserve, bytes) {
            Ok(()) => info!(bytes, "disk reserve in place"),
            Err(error) => {
                warn!(%error, "no disk reserve");
                let _absent = std::fs::remove_file(&self.reserve);
            }
        }
    }
}

fn allocate(path: &Path, bytes: u64) -> io::Result<()> {
    let file: File = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
    Ok(())
}

/// The reserve counts as free: freeing it must not look like relief.
fn is_full(space: Space, reserved: u64, was_full: bool) -> bool {
    let bound = PRESSURE_BYTES_MAX.min(space.total / PRESSURE_PART);
    let bound = if was_full { bound / 100 * RELIEF_PERCENT } else { bound };
    let missing = RESERVE_BYTES_MAX.min(space.total / RESERVE_PART).saturating_sub(reserved);
    space.available.saturating_sub(missing) < bound
}

/// True for errors that free space would cure.
#[must_use]
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn pressure_has_hysteresis_and_counts_the_reserve_once() {
        let total = 1000 * MIB;
        let at = |available| Space { available: available * MIB, total };
        // The bound is 50 MiB, the reserve 16.
        assert!(!is_full(at(51), 16 * MIB, false));
        assert!(is_full(at(49), 16 * MIB, false));
        assert!(is_full(at(60), 0, false), "space for the missing reserve does not count");
        assert!(is_full(at(60), 16 * MIB, true));
        assert!(!is_full(at(80), 16 * MIB, true));
    }

    #[test]
    fn the_reserve_is_made_when_there_is_room_and_freed_on_demand() {
        let temp = tempfile::tempdir().unwrap();
        let mut disk = Disk::new(temp.path());
        if disk.check() {
            return; // this machine's own disk is full
        }
        assert!(disk.reserved() > 0);
        assert!(disk.release());
        assert!(!disk.release());
    }
}
