//! `removed-keys`: every key that was removed while this node looked, one line each, only ever appended to (P30). A backup
//! knows nothing of what was removed after it; this file does, and `restore` is given it.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use stratavore_model::{Actor, SpkiHash};
use stratavore_raft::Handle;
use tokio_util::sync::CancellationToken;

use crate::exit::{Code, Failure};
use crate::tasks::{TaskKind, Tasks};

/// Its name in the data directory.
pub(crate) const FILE: &str = "removed-keys";

/// A line has some hundred bytes; of so many hosts no cluster is made.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Looks at most this often under load: what is removed within it before all disks are lost is the residue.
const PAUSE: Duration = Duration::from_millis(500);

/// One removed key and whose it was.
pub(crate) type RemovedKey = (SpkiHash, Actor);

/// Starts to follow the applied state.
///
/// # Errors
/// The file of before cannot be read.
pub(crate) fn start(tasks: &Tasks, raft: Handle, data_dir: &Path) -> Result<(), Failure> {
    let removed = RemovedKeys::open(raft, data_dir)
        .map_err(|error| Failure::generic("cannot read the list of removed keys", &error))?;
    tasks.spawn(TaskKind::RemovedKeys, removed.run(tasks.token().clone()));
    Ok(())
}

struct RemovedKeys {
    raft: Handle,
    path: PathBuf,
    written: BTreeSet<SpkiHash>,
}

impl RemovedKeys {
    /// Continues the file in `data_dir`. Lines that cannot be read count as not written.
    fn open(raft: Handle, data_dir: &Path) -> io::Result<Self> {
        let path = data_dir.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read?,
        };
        let written = text.lines().filter_map(parse).map(|(spki, _)| spki).collect();
        if !text.is_empty() && !text.ends_with('\n') {
            append(&path, "\n")?;
        }
        Ok(Self { raft, path, written })
    }

    /// Runs until cancelled. What the disk refuses is tried again: nothing of the node depends on it at that moment.
    async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        let mut applied = self.raft.applied();
        loop {
            let new = self.raft.read(|state| {
                let removed = state.keys().filter(|key| key.removed && !self.written.contains(&key.spki));
                removed.map(|key| (key.spki, key.identity.clone())).collect::<Vec<_>>()
            });
            if !new.is_empty() {
                let (path, text) = (self.path.clone(), render(&new));
                let appended = tokio::task::spawn_blocking(move || append(&path, &text));
                match appended.await.map_err(io::Error::other).flatten() {
                    Ok(()) => self.written.extend(new.into_iter().map(|(spki, _)| spki)),
                    Err(error) => tracing::warn!(%error, "a removed key was not written down; tried again"),
                }
            }
            let changed = async {
                tokio::time::sleep(PAUSE).await;
                applied.changed().await
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = changed => if changed.is_err() { return Ok(()) },
            }
        }
    }
}

/// The keys of such a file, each once.
///
/// # Errors
/// It cannot be read, or a whole line of it is not one of ours: a wrong file must not pass for an empty list.
pub(crate) fn read(path: &Path) -> Result<Vec<RemovedKey>, Failure> {
    let failed = |error: &io::Error| {
        Failure::new(
            Code::Usage,
            format!("cannot read {}: {error}", path.display()),
            format!("name the `{FILE}` file of a node of the old cluster, or leave --removed-keys out"),
        )
    };
    let mut text = String::new();
    let file = File::open(path).map_err(|error| failed(&error))?;
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(|error| failed(&error))?;
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    let mut seen = BTreeSet::new();
    let mut keys = Vec::new();
    for (number, line) in (1..).zip(text[..whole].lines()).filter(|(_, line)| !line.is_empty()) {
        let Some((spki, identity)) = parse(line) else {
            return Err(Failure::new(
                Code::Usage,
                format!("{} is no list of removed keys: line {number} is not `KEY IDENTITY`", path.display()),
                format!("name the `{FILE}` file of a node of the old cluster, or leave --removed-keys out"),
            ));
        };
        if seen.insert(spki) {
            keys.push((spki, identity));
        }
    }
    Ok(keys)
}

/// Writes a new file with what `restore` was given, so that the next restore has it too.
///
/// # Errors
/// The file system refused.
pub(crate) fn begin(data_dir: &Path, keys: &[RemovedKey]) -> io::Result<()> {
    append(&data_dir.join(FILE), &render(keys))
}

fn render(keys: &[RemovedKey]) -> String {
    let line =
        |(spki, identity): &RemovedKey| format!("{} {identity}\n", data_encoding::HEXLOWER.encode(spki));
    keys.iter().map(line).collect()
}

fn parse(line: &str) -> Option<RemovedKey> {
    let (spki, identity) = line.split_once(' ')?;
    let spki = data_encoding::HEXLOWER.decode(spki.as_bytes()).ok()?;
    Some((spki.try_into().ok()?, identity.parse().ok()?))
}

fn append(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> RemovedKey {
        ([n; 32], Actor::Host(format!("{n:0>10}").parse().unwrap()))
    }

    #[test]
    fn p30_what_is_appended_is_read_and_a_torn_line_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        begin(dir.path(), &[key(1), key(2)]).unwrap();
        append(&path, &render(&[key(2), key(3)])).unwrap();
        append(&path, "0404").unwrap();
        assert_eq!(read(&path).unwrap(), [key(1), key(2), key(3)]);
        append(&path, "\n").unwrap();
        let wrong = read(&path).unwrap_err();
        assert!(wrong.message.contains("line 5"), "{wrong}");
        assert_eq!(read(&dir.path().join("none")).unwrap_err().code, Code::Usage);
    }
}
