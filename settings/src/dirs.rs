//! Where things lie on this machine.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;
use sha2::{Digest, Sha256};

/// Longest path of a unix socket: `sun_path` has 108 bytes with the final zero.
pub const SOCKET_PATH_MAX: usize = 107;
/// Room that a directory from [`socket_dir`] leaves for `/NAME`: a runner id, an epoch and a suffix.
pub const SOCKET_NAME_MAX: usize = 42;

/// Why a place cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirsError {
    #[error("there is no home directory; set HOME")]
    NoHome,
    #[error("no directory for sockets can be used ({}); set XDG_RUNTIME_DIR to a private directory with a short path", tried.join("; "))]
    NoSocketDir { tried: Vec<String> },
}

fn base() -> Result<impl BaseStrategy, DirsError> {
    etcetera::base_strategy::Xdg::new().map_err(|_| DirsError::NoHome)
}

/// `${XDG_CONFIG_HOME:-~/.config}/stratavore`.
///
/// # Errors
/// [`DirsError::NoHome`].
pub fn config_dir() -> Result<PathBuf, DirsError> {
    Ok(base()?.config_dir().join("stratavore"))
}

/// `${XDG_STATE_HOME:-~/.local/state}/stratavore`.
///
/// # Errors
/// [`DirsError::NoHome`].
pub fn state_dir() -> Result<PathBuf, DirsError> {
    Ok(base()?.state_dir().ok_or(DirsError::NoHome)?.join("stratavore"))
}

/// The contexts of the command line.
///
/// # Errors
/// [`DirsError::NoHome`].
pub fn contexts_file() -> Result<PathBuf, DirsError> {
    Ok(config_dir()?.join("contexts.yaml"))
}

/// Eight hexadecimal digits that tell the agents of one machine apart.
#[must_use]
pub fn host_scope(host_id: &str) -> String {
    Sha256::digest(host_id).iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// The directory for the sockets of one agent, made if needed: ours, mode 0700, and short enough that names of
/// [`SOCKET_NAME_MAX`] bytes fit. `/run/stratavore/SCOPE` for root, else below `$XDG_RUNTIME_DIR`, else in `/tmp`.
/// Sockets outlive the agent, and another login may have another `$XDG_RUNTIME_DIR`: whoever must find them again
/// writes the path down.
///
/// # Errors
/// [`DirsError::NoSocketDir`] with the reason for each place.
pub fn socket_dir(scope: &str) -> Result<PathBuf, DirsError> {
    let uid = rustix::process::geteuid();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    first_usable(&candidates(uid.as_raw(), runtime.as_deref()), scope, uid.as_raw())
}

/// Parents of the scope directory, in order of preference.
fn candidates(uid: u32, runtime: Option<&Path>) -> Vec<PathBuf> {
    let root = (uid == 0).then(|| PathBuf::from("/run/stratavore"));
    let runtime = runtime.filter(|dir| dir.is_absolute() && dir.is_dir()).map(|dir| dir.join("stratavore"));
    let temporary = PathBuf::from(format!("/tmp/stratavore-{uid}"));
    root.into_iter().chain(runtime).chain([temporary]).collect()
}

fn first_usable(parents: &[PathBuf], scope: &str, uid: u32) -> Result<PathBuf, DirsError> {
    let mut tried = Vec::new();
    for parent in parents {
        let dir = parent.join(scope);
        match private(parent, uid).and_then(|()| private(&dir, uid)).and_then(|()| short(&dir)) {
            Ok(()) => return Ok(dir),
            Err(error) => tried.push(format!("{}: {error}", dir.display())),
        }
    }
    Err(DirsError::NoSocketDir { tried })
}

/// Makes `dir` with mode 0700, or takes it over if it is a real directory of ours: in /tmp, others can put things first.
fn private(dir: &Path, uid: u32) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let found = fs::symlink_metadata(dir)?;
    if !found.is_dir() || found.uid() != uid {
        return Err(io::Error::other("it is not a directory of this user"));
    }
    if found.mode() & 0o077 != 0 {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

fn short(dir: &Path) -> io::Result<()> {
    let length = dir.as_os_str().as_bytes().len() + 1 + SOCKET_NAME_MAX;
    if length > SOCKET_PATH_MAX {
        return Err(io::Error::other(format!(
            "its sockets would have {length} bytes, {SOCKET_PATH_MAX} are possible"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    #[test]
    fn scopes_are_stable_and_differ() {
        assert_eq!(host_scope("0123456789").len(), 8);
        assert_eq!(host_scope("0123456789"), host_scope("0123456789"));
        assert_ne!(host_scope("0123456789"), host_scope("0123456780"));
    }

    #[test]
    fn root_prefers_run_and_others_their_runtime_directory() {
        let runtime = tempfile::tempdir().unwrap();
        let found = candidates(0, None);
        assert_eq!(found, [PathBuf::from("/run/stratavore"), PathBuf::from("/tmp/stratavore-0")]);
        let found = candidates(1000, Some(runtime.path()));
        assert_eq!(found, [runtime.path().join("stratavore"), PathBuf::from("/tmp/stratavore-1000")]);
        assert_eq!(candidates(1000, Some(Path::new("/nowhere"))), [PathBuf::from("/tmp/stratavore-1000")]);
    }

    #[test]
    fn a_directory_is_private_and_long_or_foreign_ones_are_passed_over() {
        let base = tempfile::Builder::new().prefix("s").tempdir_in("/tmp").unwrap();
        let long = base.path().join("x".repeat(80));
        fs::create_dir(&long).unwrap();
        let link = base.path().join("link");
        std::os::unix::fs::symlink("/tmp", &link).unwrap();
        let open = base.path().join("o");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
        let found = first_usable(&[long.clone(), link.clone(), open.clone()], "01234567", uid()).unwrap();
        assert_eq!(found, open.join("01234567"));
        assert_eq!(fs::metadata(&open).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(&found).unwrap().mode() & 0o777, 0o700);
        let error = first_usable(&[long, link], "01234567", uid()).unwrap_err().to_string();
        assert!(
            error.contains("107 are possible") && error.contains("not a directory of this user"),
            "{error}"
        );
    }
}
