//! `cluster snapshot FILE`: a backup is made on the node that is asked, and sent to whoever asked. It holds the cluster's
//! signing key, so nothing of it stays here.

use std::path::PathBuf;

use bytes::BytesMut;
use stratavore_proto::v1::SaveSnapshotResponse;
use stratavore_raft::Handle;
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::api::status::ApiError;
use crate::api::{Api, STREAM_QUEUE};
use crate::tasks::TaskKind;

/// Of one message: far below what any client takes, large enough to cost few.
const CHUNK_BYTES: usize = 256 * 1024;

type Item = Result<SaveSnapshotResponse, Status>;

impl Api {
    /// Starts a backup; the stream ends with a message that says what was in it.
    pub(super) fn backup(&self) -> ReceiverStream<Item> {
        let (out, stream) = mpsc::channel(STREAM_QUEUE);
        let (raft, stop) = (self.raft.clone(), self.tasks.token().clone());
        // Two at once must not meet; the name is free again as soon as the file is open.
        let path = self.data_dir.join(format!("backup-{}", uuid::Uuid::new_v4().simple()));
        self.tasks.spawn_infallible(TaskKind::Subscription, async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = out.closed() => {}
                sent = send(&raft, path, &out) => if let Err(error) = sent {
                    // Nobody may be left to tell.
                    out.send(Err(error.into())).await.ok();
                }
            }
        });
        ReceiverStream::new(stream)
    }
}

async fn send(raft: &Handle, path: PathBuf, out: &mpsc::Sender<Item>) -> Result<(), ApiError> {
    let failed = |error: std::io::Error| ApiError::Backup(error.to_string());
    let unlinked = Unlinked(path);
    let header =
        raft.snapshot_to_file(&unlinked.0).await.map_err(|error| ApiError::Backup(error.to_string()))?;
    let mut file = File::open(&unlinked.0).await.map_err(failed)?;
    drop(unlinked);
    let mut bytes = 0;
    loop {
        let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
        if file.read_buf(&mut chunk).await.map_err(failed)? == 0 {
            break;
        }
        bytes += chunk.len() as u64;
        let data = SaveSnapshotResponse { data: chunk.freeze(), ..Default::default() };
        if out.send(Ok(data)).await.is_err() {
            return Ok(());
        }
    }
    let end = SaveSnapshotResponse {
        bytes,
        applied_index: header.index,
        incarnation: header.incarnation,
        cluster_id: header.cluster_id.to_string(),
        ..Default::default()
    };
    // The reader may have gone.
    out.send(Ok(end)).await.ok();
    Ok(())
}

/// A file whose name is taken away when dropped, also when the backup was not finished.
struct Unlinked(PathBuf);

impl Drop for Unlinked {
    fn drop(&mut self) {
        // It may not have been made.
        std::fs::remove_file(&self.0).ok();
    }
}
