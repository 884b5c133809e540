//! A cluster of one node from a backup, under a raised incarnation (P1, P30).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use model::command::RaiseIncarnation;
use model::{Actor, ClusterId, Command, Entry, Millis, NodeId};
use prost::Message;
use rocksdb::WriteBatch;
use stratavore_model as model;
use stratavore_proto::raft::snapshot_request::Part;

use crate::backup::{Backup, BackupHeader};
use crate::bootstrap::{create_log, remove_all};
use crate::db::{META, family, to_io};
use crate::error::{BackupError, OpenError};
use crate::layout::{Layout, replace_file, sync_dir};
use crate::log_store::Cell;
use crate::mark::{Mark, MarkFile};
use crate::open::{is_initialized, open_stores, start};
use crate::record::position::{log_id_to_pb, vote_to_pb};
use crate::snapshot::{clone_database, sync_tree};
use crate::snapshot_stream::{Received, Writer};
use crate::state_db::{Identity, StateDb, put_membership};
use crate::state_store::database_name;
use crate::timings::RaftTimings;
use crate::types::{LogId, Member, Membership, StoredMembership, Vote};

/// Who the restored cluster begins with.
#[derive(Debug, Clone)]
pub struct RestoreParams {
    /// A number that the cluster has never used: `ClusterRecord::next_node` of the backup or above.
    pub node_id: NodeId,
    /// The cluster that the backup must be of; none takes any.
    pub cluster_id: Option<ClusterId>,
    /// `HOST:PORT` under which other nodes will reach this node's raft port.
    pub raft_address: String,
    /// Random, of the new incarnation.
    pub nonce: [u8; 16],
    /// P1: the new incarnation is at least this, where the old cluster is known to have gone further than the backup.
    pub incarnation_min: u64,
    /// The wall clock.
    pub at: Millis,
    /// Proposed in order once the incarnation is raised: the new node's registration, for one.
    pub then: Vec<Entry>,
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    pub backup: BackupHeader,
    /// The new incarnation.
    pub incarnation: u64,
}

/// Reads a backup's header only.
///
/// # Errors
/// When it is no backup, damaged, or of a newer program.
pub fn read_backup_header(file: &Path) -> Result<BackupHeader, BackupError> {
    Ok(Backup::open(file)?.header)
}

/// Writes the backup into an empty data directory, as the only voter of its cluster, and raises the incarnation (P1).
///
/// # Errors
/// Whatever was created is removed again then.
pub async fn restore_from_file(
    file: &Path,
    data_dir: &Path,
    params: RestoreParams,
) -> Result<Restored, BackupError> {
    if is_initialized(data_dir) {
        return Err(OpenError::AlreadyInitialized { dir: data_dir.to_path_buf() }.into());
    }
    let layout = Layout::new(data_dir);
    let backup = Backup::open(file)?;
    if let Some(expected) = params.cluster_id.as_ref().filter(|id| **id != backup.header.cluster_id) {
        return Err(BackupError::OtherCluster {
            path: file.to_path_buf(),
            expected: expected.to_string(),
            found: backup.header.cluster_id.to_string(),
        });
    }
    let restored = restore(&layout, backup, params).await;
    if restored.is_err() {
        remove_all(&layout);
    }
    restored
}

async fn restore(layout: &Layout, backup: Backup, params: RestoreParams) -> Result<Restored, BackupError> {
    let header = backup.header.clone();
    let identity = Identity { node_id: params.node_id, cluster_id: header.cluster_id };
    let members = BTreeMap::from([(params.node_id.0, Member { raft_address: params.raft_address })]);
    let written = {
        let (layout, identity) = (layout.clone(), identity.clone());
        tokio::task::spawn_blocking(move || write_stores(&layout, &identity, backup, members))
    };
    written.await.map_err(|error| OpenError::Core(error.to_string()))??;

    let stores = open_stores(layout, identity)?;
    let (handle, server) = start(stores, RaftTimings::default(), None).await?;
    drop(server);
    let n = (handle.read(model::State::incarnation) + 1).max(params.incarnation_min);
    let raise = RaiseIncarnation { n, nonce: params.nonce, reason: "restore from a backup".into() };
    let raise = Entry {
        actor: Actor::System,
        request_id: None,
        at: params.at,
        term: None,
        command: Command::RaiseIncarnation(raise),
    };
    for entry in [raise].into_iter().chain(params.then) {
        let name = entry.command.name();
        let applied = handle.propose(entry).await.map_err(|error| OpenError::Core(error.to_string()))?;
        if let Some(refusal) = applied.reply.rejected() {
            return Err(OpenError::Core(format!("{name} was refused: {refusal}")).into());
        }
    }
    handle.shutdown().await;
    Ok(Restored { backup: header, incarnation: n })
}

/// State from the backup, an empty log behind it, and a mark that says so.
fn write_stores(
    layout: &Layout,
    identity: &Identity,
    backup: Backup,
    members: BTreeMap<u64, Member>,
) -> Result<(), BackupError> {
    let failed = BackupError::io(layout.root());
    fs::create_dir_all(layout.snapshots()).map_err(BackupError::io(layout.root()))?;
    let applied = write_state(layout, identity, backup, members)?;
    let log = create_log(layout, identity)?;
    // The one voter has voted in the backup's last term, so its next one is above every entry.
    let vote = Vote::new_committed(applied.committed_leader_id().term, identity.node_id.0);
    let write = || -> io::Result<()> {
        let mut batch = WriteBatch::default();
        let meta = family(&log, META)?;
        let purged = log_id_to_pb(&applied).encode_to_vec();
        batch.put_cf(meta, Cell::Purged.key(), Cell::Purged.seal(&purged));
        batch.put_cf(meta, Cell::Vote.key(), Cell::Vote.seal(&vote_to_pb(&vote).encode_to_vec()));
        log.write(batch).map_err(to_io)?;
        log.flush_wal(true).map_err(to_io)?;
        let mut mark = MarkFile::create(&layout.mark())?;
        mark.write(Mark { vote: Some(vote), last: Some(applied), purged: Some(applied) })?;
        sync_dir(layout.root())
    };
    write().map_err(failed)
}

fn write_state(
    layout: &Layout,
    identity: &Identity,
    mut backup: Backup,
    members: BTreeMap<u64, Member>,
) -> Result<LogId, BackupError> {
    let received = read_parts(layout, identity, &mut backup)?;
    let place = || -> io::Result<LogId> {
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, "the backup has no position");
        let applied = received.meta.last_log_id.ok_or_else(wrong)?;
        let name = database_name(1);
        let path = layout.state().join(&name);
        clone_database(received.snapshot.path(), &path)?;
        let voters = members.keys().copied().collect();
        let membership = Membership::new(vec![voters], members).map_err(io::Error::other)?;
        {
            let store = StateDb::open(&path, false).map_err(io::Error::other)?;
            let db = store.db()?;
            let mut batch = WriteBatch::default();
            put_membership(db, &mut batch, &StoredMembership::new(Some(applied), membership))?;
            db.write(batch).map_err(to_io)?;
            // No log is behind this state: it must be on disk itself.
            db.flush_wal(true).map_err(to_io)?;
        }
        sync_tree(&path)?;
        replace_file(&layout.active(), name.as_bytes())?;
        Ok(applied)
    };
    place().map_err(BackupError::io(layout.root()))
}

fn read_parts(layout: &Layout, identity: &Identity, backup: &mut Backup) -> Result<Received, BackupError> {
    let file = backup.path.clone();
    let refused = |error: &dyn std::fmt::Display| BackupError::Damaged {
        path: file.clone(),
        detail: error.to_string(),
    };
    let Part::Header(header) = backup.part()? else {
        return Err(refused(&"the snapshot in it has no header"));
    };
    let mut writer = Writer::begin(layout, identity, header).map_err(|status| refused(&status.message()))?;
    loop {
        match backup.part()? {
            Part::Chunk(chunk) => writer.write(&chunk).map_err(|error| refused(&error))?,
            Part::Trailer(trailer) => return writer.close(&trailer).map_err(|error| refused(&error)),
            Part::Header(_) => return Err(refused(&"the snapshot in it has two headers")),
        }
    }
}
