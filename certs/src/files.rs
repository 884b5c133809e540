//! Secrets on disk: mode 0600 from the first byte, whole or absent after a crash, refused when others can read them.

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::error::Error;
use crate::pem;

/// Bound of keys, certificates and context files: a context of ours has about 3 KiB, so this is many of them.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// Replaces `path` by `bytes`, readable by its owner only.
///
/// # Errors
/// [`Error::File`].
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    replace(path, bytes, 0o600)
}

/// Replaces `path` by `bytes`, readable by everybody: certificates are public.
///
/// # Errors
/// [`Error::File`].
pub fn write_public(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    replace(path, bytes, 0o644)
}

/// Reads a secret.
///
/// # Errors
/// [`Error::Exposed`] when group or others have any right to it, [`Error::TooLarge`], [`Error::File`].
pub fn read_private_text(path: &Path) -> Result<Zeroizing<String>, Error> {
    let file = open(path)?;
    let mode = file.metadata().map_err(failed("read", path))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Error::Exposed { path: path.to_owned(), mode });
    }
    bounded(&file, path, FILE_BYTES_MAX)
}

/// Reads a text of at most `limit` bytes.
///
/// # Errors
/// [`Error::TooLarge`], [`Error::File`].
pub fn read_text(path: &Path, limit: u64) -> Result<Zeroizing<String>, Error> {
    bounded(&open(path)?, path, limit)
}

/// Reads a certificate in PEM.
///
/// # Errors
/// [`Error::Damaged`], [`Error::TooLarge`], [`Error::File`].
pub fn read_certificate(path: &Path) -> Result<CertificateDer<'static>, Error> {
    pem::parse_certificate(&read_text(path, FILE_BYTES_MAX)?).map_err(|error| error.in_file(path))
}

/// Makes `path` and what is missing above it, `path` itself with mode 0700.
///
/// # Errors
/// [`Error::File`].
pub fn create_private_dir(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(failed("create", path))?;
    fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed("set the mode of", path))
}

fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let failed = || failed("write", path);
    let dir = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut temporary = tempfile::Builder::new()
        .prefix(".")
        .suffix(".tmp")
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(dir)
        .map_err(failed())?;
    // The umask cut the mode above; a public file is to be readable whatever the umask is.
    temporary.as_file().set_permissions(Permissions::from_mode(mode)).map_err(failed())?;
    temporary.write_all(bytes).map_err(failed())?;
    temporary.as_file().sync_all().map_err(failed())?;
    temporary.persist(path).map_err(|error| failed()(error.error))?;
    // Without this the rename itself may be lost with the power.
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed())
}

fn open(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(failed("read", path))
}

fn bounded(file: &File, path: &Path, limit: u64) -> Result<Zeroizing<String>, Error> {
    let mut text = Zeroizing::new(String::new());
    file.take(limit + 1).read_to_string(&mut text).map_err(failed("read", path))?;
    if text.len() as u64 > limit {
        return Err(Error::TooLarge { path: path.to_owned(), limit });
    }
    Ok(text)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn private_files_are_private_even_when_they_replace_open_ones() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(read_private_text(&path), Err(Error::Exposed { mode: 0o644, .. })));
        write_private(&path, b"new").unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(read_private_text(&path).unwrap().as_str(), "new");
        write_public(&path, b"open").unwrap();
        assert_eq!(mode(&path), 0o644);
    }

    #[test]
    fn nothing_but_the_file_is_left() {
        let dir = tempfile::tempdir().unwrap();
        write_private(&dir.path().join("key"), b"x").unwrap();
        let names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["key"]);
    }

    #[test]
    fn sizes_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("big");
        fs::write(&path, vec![b'x'; 11]).unwrap();
        assert!(matches!(read_text(&path, 10), Err(Error::TooLarge { limit: 10, .. })));
        assert_eq!(read_text(&path, 11).unwrap().len(), 11);
    }
}
