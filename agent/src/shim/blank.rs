//! A runner's directory as it is before anybody has run in it: everything a shim would have to create on the way to the
//! command's first instruction is there, empty. Each file created costs a wait for whatever the file system is
//! committing, up to milliseconds; opening one costs none.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::exit::Reserved;
use super::identity;
use super::log::{self, writer::LogWriter};

/// Makes it. To the shim and to adoption it says the same as an empty directory: nothing ever ran here.
///
/// # Errors
/// As the file system says; what was made by then stays.
pub fn make(dir: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(dir)?;
    super::open_lock(dir)?;
    identity::reserve(dir)?;
    Reserved::create(dir)?;
    LogWriter::open(&log::dir(dir), log::writer::Limits::default())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::exit;
    use crate::shim::identity::Identity;

    #[test]
    fn a_blank_directory_says_that_nothing_ran_and_can_be_taken_once() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("blank");
        make(&dir).unwrap();
        assert!(exit::read(&dir).unwrap().is_none());
        assert!(Identity::read(&dir).unwrap().is_none());
        let lock = crate::shim::take(&dir).unwrap();
        assert!(lock.is_some());
        assert!(crate::shim::take(&dir).unwrap().is_none(), "held");
    }
}
