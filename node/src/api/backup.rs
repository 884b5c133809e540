//! `cluster snapshot FILE`: a backup is made on the node that is asked, and sent to whoever asked. It holds the cluster's
//! signing key, so nothing of it stays here.

use std::path::PathBuf;

use bytes::BytesMut;
use stratavore_certs::KeyPair;
use stratavore_model::command::ReserveNode;
use stratavore_model::{Actor, Code, Command, Entry, Reply, SecretBytes};
use stratavore_proto::v1::SaveSnapshotResponse;
use stratavore_raft::{Handle, ReservedNode};
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::api::auth::{Administer, Authorized};
use crate::api::status::ApiError;
use crate::api::{Api, STREAM_QUEUE};
use crate::convert::id;
use crate::tasks::TaskKind;

/// Of one message: far below what any client takes, large enough to cost few.
const CHUNK_BYTES: usize = 256 * 1024;

type Item = Result<SaveSnapshotResponse, Status>;

impl Api {
    /// Starts a backup; the stream ends with a message that says what was in it.
    pub(super) fn backup(&self, who: &Authorized<Administer>) -> ReceiverStream<Item> {
        let (out, stream) = mpsc::channel(STREAM_QUEUE);
        let (raft, stop, actor) = (self.raft.clone(), self.tasks.token().clone(), who.actor().clone());
        // Two at once must not meet; the name is free again as soon as the file is open.
        let path = self.data_dir.join(format!("backup-{}", uuid::Uuid::new_v4().simple()));
        self.tasks.spawn_infallible(TaskKind::Subscription, async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = out.closed() => {}
                sent = send(&raft, actor, path, &out) => if let Err(error) = sent {
                    // Nobody may be left to tell.
                    out.send(Err(error.into())).await.ok();
                }
            }
        });
        ReceiverStream::new(stream)
    }
}

/// A key for the node that a restore will be, registered so that the agents know it by then (P18). None while the
/// cluster is of a version that cannot (P22): its backups restore as well, and each host has to be told.
async fn reserve(raft: &Handle, actor: Actor) -> Result<Option<ReservedNode>, ApiError> {
    let key = KeyPair::generate().map_err(|error| ApiError::Backup(error.to_string()))?;
    let command = Command::ReserveNode(ReserveNode { spki: key.public().hash().0 });
    let entry = Entry { actor, request_id: None, at: id::now(), term: None, command };
    match raft.propose(entry).await?.reply {
        Reply::Node(node) => Ok(Some(ReservedNode { node, key: SecretBytes::new(key.pkcs8_der().to_vec()) })),
        Reply::Rejected(rejected) if rejected.code == Code::NotFinalized => Ok(None),
        Reply::Rejected(rejected) => Err(rejected.into()),
        other => Err(ApiError::Backup(format!("unexpected reply {other:?}"))),
    }
}

async fn send(raft: &Handle, actor: Actor, path: PathBuf, out: &mpsc::Sender<Item>) -> Result<(), ApiError> {
    let failed = |error: std::io::Error| ApiError::Backup(error.to_string());
    let reserved = reserve(raft, actor).await?;
    let unlinked = Unlinked(path);
    let header = raft.snapshot_to_file(&unlinked.0, reserved).await;
    let header = header.map_err(|error| ApiError::Backup(error.to_string()))?;
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
