//! Reading small text files.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Ours have a few KiB; a wrong path (a disk image, `/dev/zero`) must not fill memory.
pub(crate) const FILE_BYTES_MAX: u64 = 1 << 20;

/// `None` when there are more than [`FILE_BYTES_MAX`] bytes.
pub(crate) fn read(path: &Path) -> io::Result<Option<String>> {
    let mut text = String::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    Ok((text.len() as u64 <= FILE_BYTES_MAX).then_some(text))
}
