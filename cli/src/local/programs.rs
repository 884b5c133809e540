//! The programs that `up` starts: beside this one, else on PATH.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use crate::errors::{Exit, Failure, Result};

/// Where the other two programs are.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) node: PathBuf,
    pub(crate) agent: PathBuf,
}

impl Programs {
    /// Finds both.
    ///
    /// # Errors
    /// Names the one that is missing.
    pub(crate) fn find() -> Result<Self> {
        Ok(Self { node: find("stratavored")?, agent: find("stratavore-agent")? })
    }
}

/// Finds one program.
///
/// # Errors
/// Exit 3 when it is in neither place.
pub(crate) fn find(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent);
    let path = std::env::var_os("PATH").unwrap_or_default();
    search(name, beside, &path).ok_or_else(|| {
        let place = beside.map_or_else(String::new, |dir| format!("in {} and ", dir.display()));
        Failure::new(Exit::NotFound, format!("the program {name} is missing"))
            .cause(format!("it was looked for {place}on PATH"))
            .next("make build, or install all three programs in one directory")
    })
}

fn search(name: &str, beside: Option<&Path>, path: &OsStr) -> Option<PathBuf> {
    let dirs = beside.map(Path::to_path_buf).into_iter().chain(std::env::split_paths(path));
    dirs.map(|dir| dir.join(name)).find(|file| file.is_file() && access(file, Access::EXEC_OK).is_ok())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn program(dir: &Path, mode: u32) -> PathBuf {
        let file = dir.join("p");
        std::fs::write(&file, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn beside_comes_before_path_and_only_programs_count() {
        let (beside, on_path) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let second = program(on_path.path(), 0o755);
        let path = on_path.path().as_os_str();
        assert_eq!(search("p", Some(beside.path()), path), Some(second.clone()));
        program(beside.path(), 0o644);
        assert_eq!(search("p", Some(beside.path()), path), Some(second));
        let first = program(beside.path(), 0o755);
        assert_eq!(search("p", Some(beside.path()), path), Some(first));
        assert_eq!(search("q", None, path), None);
    }
}
