//! `cluster snapshot FILE`: a backup, made by a node and written here, for its owner only, whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use stratavore_proto::v1::{SaveSnapshotRequest, SaveSnapshotResponse};
use tonic::Streaming;

use super::App;
use crate::client;
use crate::errors::{Exit, Failure, Result};
use crate::view::cluster::Changed;

/// The cluster's signing key is inside.
const MODE: u32 = 0o600;

const DOING: &str = "save a snapshot of the cluster";

/// Asks for a backup and writes it.
///
/// # Errors
/// Exit 5 when the file exists; what the disk or the cluster says.
pub(crate) async fn save(app: &App, file: &Path) -> Result<Changed> {
    if file.exists() {
        return Err(Failure::new(Exit::Conflict, format!("{} exists", file.display()))
            .cause("a snapshot never overwrites anything")
            .next("give the name of a new file"));
    }
    let mut stream = app
        .client()?
        .open(DOING, false, async |channel| {
            client::cluster(channel).save_snapshot(SaveSnapshotRequest {}).await
        })
        .await?;
    let part = Part::create(file)?;
    let end = receive(&mut stream, &part).await?;
    part.finish(file)?;
    Ok(Changed::Snapshot {
        file: file.display().to_string(),
        bytes: end.bytes,
        applied_index: end.applied_index,
        incarnation: end.incarnation,
        cluster_id: end.cluster_id,
    })
}

async fn receive(stream: &mut Streaming<SaveSnapshotResponse>, part: &Part) -> Result<SaveSnapshotResponse> {
    let mut received = 0;
    loop {
        let message = stream.message().await.map_err(|status| Failure::from_status(&status, DOING))?;
        match message {
            Some(message) if !message.data.is_empty() => {
                part.write(&message.data)?;
                received += message.data.len() as u64;
            }
            Some(end) if end.bytes == received && received > 0 => return Ok(end),
            _ => {
                return Err(Failure::new(Exit::Generic, format!("cannot {DOING}"))
                    .cause(format!("the node ended after {received} bytes, before it was whole"))
                    .next("try again; nothing was written"));
            }
        }
    }
}

/// The file while it is not whole; gone when dropped.
struct Part {
    path: PathBuf,
    file: File,
}

impl Part {
    fn create(target: &Path) -> Result<Self> {
        let mut path = target.as_os_str().to_owned();
        path.push(".part");
        let path = PathBuf::from(path);
        let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(&path);
        let file = opened.map_err(|error| cannot_write(&path, &error))?;
        Ok(Self { path, file })
    }

    fn write(&self, data: &[u8]) -> Result<()> {
        (&self.file).write_all(data).map_err(|error| cannot_write(&self.path, &error))
    }

    fn finish(self, target: &Path) -> Result<()> {
        let finished = self.file.sync_all().and_then(|()| std::fs::rename(&self.path, target));
        finished.map_err(|error| cannot_write(target, &error))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Renamed when it is whole.
        std::fs::remove_file(&self.path).ok();
    }
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Generic, format!("cannot write {}", path.display()))
        .cause(error.to_string())
        .next("choose a directory that exists and has room")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_part_is_private_and_becomes_the_file_or_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("backup");
        drop(Part::create(&target).unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "a part is left");
        let part = Part::create(&target).unwrap();
        part.write(b"whole").unwrap();
        part.finish(&target).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"whole");
        assert_eq!(std::fs::metadata(&target).unwrap().permissions().mode() & 0o777, MODE);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(Part::create(&dir.path().join("none/backup")).is_err());
    }
}
