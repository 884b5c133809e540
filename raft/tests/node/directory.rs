//! Data directories as a crash would leave them.

use std::fs;
use std::path::{Path, PathBuf};

/// Copies a data directory; the reserve file is made again by whoever opens the copy.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let target = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            copy(&file.path(), &target);
        } else if file.file_name() != "reserve" {
            fs::copy(file.path(), &target).unwrap();
        }
    }
}

/// Replaces one part of a data directory by the same part of another.
pub(crate) fn restore(part: &str, from: &Path, to: &Path) {
    let (source, target) = (from.join(part), to.join(part));
    if source.is_dir() {
        fs::remove_dir_all(&target).unwrap();
        copy(&source, &target);
    } else {
        fs::copy(&source, &target).unwrap();
    }
}

/// The newest write-ahead log of the log database.
pub(crate) fn wal(dir: &Path) -> PathBuf {
    let files = fs::read_dir(dir.join("raft-log")).unwrap();
    files
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .max()
        .unwrap()
}

pub(crate) fn flip_bit(file: &Path, byte: usize) {
    let mut content = fs::read(file).unwrap();
    content[byte] ^= 0x10;
    fs::write(file, content).unwrap();
}
