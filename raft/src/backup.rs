//! A backup in one file: the state as it is at one applied index, checksummed. It holds the cluster's signing key, so
//! nobody but its owner may read it.
//!
//! The file is a magic line, then frames: length, checksum, bytes. The first frame is the header, the others are the
//! parts of a snapshot as they go to a peer.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use model::{ClusterId, Millis, NodeId, SecretBytes};
use prost::Message;
use stratavore_model as model;
use stratavore_proto::raft as pb;
use stratavore_proto::raft::snapshot_request::Part;

use crate::db::FORMAT;
use crate::error::BackupError;
use crate::handle::Handle;
use crate::layout::sync_dir;
use crate::snapshot::{self, SnapshotDir};
use crate::snapshot_stream;
use crate::state_db::StateDb;
use crate::state_store::StateStore;
use crate::types::{SnapshotMeta, Vote};

const MAGIC: &[u8] = b"stratavore backup 1\n";

/// Larger frames than any writer makes are damage: a chunk is a megabyte with one large row on top.
const FRAME_BYTES_MAX: u32 = 16 << 20;

/// Only the owner: the cluster's signing key is inside.
const MODE: u32 = 0o600;

/// What a backup says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupHeader {
    pub cluster_id: ClusterId,
    /// P1: number and nonce of the incarnation it was taken in.
    pub incarnation: u64,
    pub nonce: [u8; 16],
    /// Everything up to here is inside.
    pub index: u64,
    pub term: u64,
    /// P22: a program that knows less cannot restore it.
    pub cluster_version: u32,
    /// Who made it.
    pub node_id: NodeId,
    /// The state's clock when it was taken.
    pub at: Millis,
    /// None of a cluster that reserved no node for it: its version was too old (P22).
    pub reserved: Option<ReservedNode>,
}

/// The node that a restore of this backup is: registered before the backup was made, so that agents know its key (P18).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReservedNode {
    pub node: NodeId,
    /// PKCS #8 in DER. It is in the backup and nowhere else.
    pub key: SecretBytes,
}

impl BackupHeader {
    fn to_pb(&self) -> pb::BackupHeader {
        pb::BackupHeader {
            format: FORMAT,
            cluster_id: self.cluster_id.to_string(),
            incarnation: self.incarnation,
            nonce: bytes::Bytes::copy_from_slice(&self.nonce),
            index: self.index,
            term: self.term,
            cluster_version: self.cluster_version,
            node_id: self.node_id.0,
            made_at_ms: self.at.0,
            reserved_node: self.reserved.as_ref().map_or(0, |reserved| reserved.node.0),
            reserved_key_der: self
                .reserved
                .as_ref()
                .map(|reserved| bytes::Bytes::copy_from_slice(reserved.key.reveal()))
                .unwrap_or_default(),
        }
    }

    fn from_pb(header: &pb::BackupHeader) -> Option<Self> {
        Some(Self {
            cluster_id: header.cluster_id.parse().ok()?,
            incarnation: header.incarnation,
            nonce: header.nonce.as_ref().try_into().ok()?,
            index: header.index,
            term: header.term,
            cluster_version: header.cluster_version,
            node_id: NodeId(header.node_id),
            at: Millis(header.made_at_ms),
            reserved: (header.reserved_node > 0).then(|| ReservedNode {
                node: NodeId(header.reserved_node),
                key: SecretBytes::new(header.reserved_key_der.to_vec()),
            }),
        })
    }
}

impl Handle {
    /// Writes everything that was acknowledged before the call into `path`: consistent, checksummed, readable by the
    /// owner only, synced, and renamed into place, so that the name never holds a part. Works on every node that
    /// reaches the leader. `reserved` goes into the header; its registration must be acknowledged already.
    ///
    /// # Errors
    /// When the leader does not confirm, the state is damaged, or the disk refuses; `path` is untouched then.
    pub async fn snapshot_to_file(
        &self,
        path: &Path,
        reserved: Option<ReservedNode>,
    ) -> Result<BackupHeader, BackupError> {
        self.linearize().await?;
        if let Some(damage) = self.state_damage() {
            return Err(BackupError::Damaged { path: path.to_path_buf(), detail: damage });
        }
        let (store, path) = (self.shared.state.clone(), path.to_path_buf());
        tokio::task::spawn_blocking(move || write_file(&store, &path, reserved))
            .await
            .map_err(|error| BackupError::Io { path: PathBuf::new(), source: io::Error::other(error) })?
    }
}

fn write_file(
    store: &StateStore,
    path: &Path,
    reserved: Option<ReservedNode>,
) -> Result<BackupHeader, BackupError> {
    let failed = BackupError::io(path);
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".part");
    let temporary = PathBuf::from(temporary);
    let write = || -> io::Result<BackupHeader> {
        let (meta, exported) = snapshot::export(store)?;
        let header = BackupHeader { reserved: reserved.clone(), ..describe(store, &meta, &exported)? };
        // A left-over of a crash may have other permissions.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&temporary)?;
        let mut out = BufWriter::new(file);
        out.write_all(MAGIC)?;
        write_frame(&mut out, &header.to_pb().encode_to_vec())?;
        snapshot_stream::read_parts(&Vote::new(0, 0), &meta, &exported, |part| {
            write_frame(&mut out, &pb::SnapshotRequest { part: Some(part) }.encode_to_vec())
        })?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_dir(
            path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new(".")),
        )?;
        Ok(header)
    };
    write().map_err(failed).inspect_err(|_| {
        // It may not have been made at all.
        drop(fs::remove_file(&temporary));
    })
}

/// The header, from the exported rows themselves.
fn describe(store: &StateStore, meta: &SnapshotMeta, exported: &SnapshotDir) -> io::Result<BackupHeader> {
    let state = StateDb::open_snapshot(exported.path())?.load()?;
    let missing = || io::Error::new(io::ErrorKind::InvalidData, "the state holds no cluster");
    let cluster = state.cluster().ok_or_else(missing)?;
    let last = meta.last_log_id.ok_or_else(missing)?;
    Ok(BackupHeader {
        cluster_id: cluster.id,
        incarnation: cluster.incarnation.n,
        nonce: cluster.incarnation.nonce,
        index: last.index(),
        term: last.committed_leader_id().term,
        cluster_version: cluster.version,
        node_id: store.identity().node_id,
        at: state.now(),
        reserved: None,
    })
}

fn write_frame(out: &mut impl Write, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len()).map_err(|_| io::Error::other("a part is too large"))?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(&crc32fast::hash(body).to_le_bytes())?;
    out.write_all(body)
}

/// A backup file that is being read.
pub(crate) struct Backup {
    pub(crate) path: PathBuf,
    input: BufReader<File>,
    pub(crate) header: BackupHeader,
}

impl Backup {
    /// Opens the file and reads its header.
    pub(crate) fn open(path: &Path) -> Result<Self, BackupError> {
        let mut input = BufReader::new(File::open(path).map_err(BackupError::io(path))?);
        let damaged =
            |detail: &str| BackupError::Damaged { path: path.to_path_buf(), detail: detail.to_string() };
        let mut magic = [0; MAGIC.len()];
        if input.read_exact(&mut magic).is_err() || magic != MAGIC {
            return Err(damaged("it does not begin as a backup does"));
        }
        let body = read_frame(&mut input).map_err(|error| damaged(&error.to_string()))?;
        let header =
            pb::BackupHeader::decode(body.as_slice()).map_err(|error| damaged(&error.to_string()))?;
        if header.format > FORMAT {
            return Err(BackupError::Newer { path: path.to_path_buf() });
        }
        let header = BackupHeader::from_pb(&header).ok_or_else(|| damaged("its header is not valid"))?;
        if header.cluster_version > model::COMMAND_VERSION {
            return Err(BackupError::Newer { path: path.to_path_buf() });
        }
        Ok(Self { path: path.to_path_buf(), input, header })
    }

    /// The next part of the snapshot; the trailer is the last one.
    pub(crate) fn part(&mut self) -> Result<Part, BackupError> {
        let damaged = |detail: String| BackupError::Damaged { path: self.path.clone(), detail };
        let body = read_frame(&mut self.input).map_err(|error| damaged(error.to_string()))?;
        let part =
            pb::SnapshotRequest::decode(body.as_slice()).map_err(|error| damaged(error.to_string()))?;
        part.part.ok_or_else(|| damaged("a part is empty".into()))
    }
}

fn read_frame(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let wrong = |detail: &str| io::Error::new(io::ErrorKind::InvalidData, detail.to_string());
    let (mut length, mut checksum) = ([0; 4], [0; 4]);
    input.read_exact(&mut length).map_err(|_| wrong("it ends in the middle"))?;
    input.read_exact(&mut checksum).map_err(|_| wrong("it ends in the middle"))?;
    let length = u32::from_le_bytes(length);
    if length > FRAME_BYTES_MAX {
        return Err(wrong("a part has an impossible length"));
    }
    let mut body = vec![0; length as usize];
    input.read_exact(&mut body).map_err(|_| wrong("it ends in the middle"))?;
    if crc32fast::hash(&body) != u32::from_le_bytes(checksum) {
        return Err(wrong("a checksum does not match"));
    }
    Ok(body)
}
