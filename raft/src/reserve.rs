//! The reserve file (P26): disk space that is given back when the disk is full, so that the node can be
//! started and administered instead of failing to open.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use rustix::fs::FallocateFlags;

/// Opening both databases writes two manifests, two write-ahead logs and flushed memtables: below 32 MiB
/// with the write buffers of `db.rs`.
pub(crate) const RESERVE_BYTES: usize = 32 << 20;

/// Makes sure that the file exists in full size, with blocks behind it: a hole would reserve nothing.
///
/// # Errors
/// When the disk is full or refuses; a partial file is removed again.
pub(crate) fn ensure(path: &Path) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|meta| meta.len() == RESERVE_BYTES as u64) {
        return Ok(());
    }
    fill(path).inspect_err(|_| {
        free(path);
    })
}

fn fill(path: &Path) -> io::Result<()> {
    let mut file = File::create(path)?;
    match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES as u64) {
        // A file system that cannot allocate without writing.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
        other => return Ok(other?),
    }
    let zeros = vec![0_u8; 1 << 20];
    for _ in 0..RESERVE_BYTES / zeros.len() {
        file.write_all(&zeros)?;
    }
    Ok(())
}

/// Gives the space back; false when there was nothing to give.
pub(crate) fn free(path: &Path) -> bool {
    fs::remove_file(path).is_ok()
}

pub(crate) fn present(path: &Path) -> bool {
    path.exists()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn p26_the_reserve_has_blocks_and_is_given_back_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reserve");
        ensure(&path).unwrap();
        let meta = fs::metadata(&path).unwrap();
        assert_eq!(meta.len(), RESERVE_BYTES as u64);
        assert!(meta.blocks() * 512 >= RESERVE_BYTES as u64, "{} blocks", meta.blocks());
        ensure(&path).unwrap();
        assert!(present(&path) && free(&path) && !free(&path) && !present(&path));
    }
}
