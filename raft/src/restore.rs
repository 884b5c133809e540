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
use crate::recover::propose;
use crate::snapshot::{clone_database, sync_tree};
use crate::snapshot_stream::{Received, Writer};
use crate::state_db::{Identity, StateDb, put_identity, put_membership};
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
/// `plan` sees what is in the backup, checked, and says who the cluster begins with, and whatever else the caller wants
/// to have of it.
///
/// # Errors
/// What `plan` refuses, too. Whatever was created is removed again then.
pub async fn restore_from_file<P, T>(
    file: &Path,
    data_dir: &Path,
    plan: P,
) -> Result<(Restored, T), BackupError>
where
    T: Send + 'static,
    P: FnOnce(&BackupHeader, &model::State) -> Result<(RestoreParams, T), String> + Send + 'static,
{
    if is_initialized(data_dir) {
        return Err(OpenError::AlreadyInitialized { dir: data_dir.to_path_buf() }.into());
    }
    let layout = Layout::new(data_dir);
    let restored = restore(&layout, Backup::open(file)?, plan).await;
    if restored.is_err() {
        remove_all(&layout);
    }
    restored
}

async fn restore<P, T>(layout: &Layout, backup: Backup, plan: P) -> Result<(Restored, T), BackupError>
where
    T: Send + 'static,
    P: FnOnce(&BackupHeader, &model::State) -> Result<(RestoreParams, T), String> + Send + 'static,
{
    let header = backup.header.clone();
    let written = {
        let layout = layout.clone();
        tokio::task::spawn_blocking(move || write_stores(&layout, backup, plan))
    };
    let (params, more) = written.await.map_err(|error| OpenError::Core(error.to_string()))??;
    let identity = Identity { node_id: params.node_id, cluster_id: header.cluster_id };
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
        propose(&handle, entry).await?;
    }
    handle.shutdown().await;
    Ok((Restored { backup: header, incarnation: n }, more))
}

/// State from the backup, an empty log behind it, and a mark that says so.
fn write_stores<T>(
    layout: &Layout,
    mut backup: Backup,
    plan: impl FnOnce(&BackupHeader, &model::State) -> Result<(RestoreParams, T), String>,
) -> Result<(RestoreParams, T), BackupError> {
    let failed = BackupError::io(layout.root());
    fs::create_dir_all(layout.snapshots()).map_err(BackupError::io(layout.root()))?;
    let received = read_parts(layout, &mut backup)?;
    let state = StateDb::open_snapshot(received.snapshot.path()).and_then(|store| store.load());
    let state = state
        .map_err(|error| BackupError::Damaged { path: backup.path.clone(), detail: error.to_string() })?;
    let (params, more) = plan(&backup.header, &state).map_err(BackupError::Refused)?;
    drop(state);
    if let Some(expected) = params.cluster_id.as_ref().filter(|id| **id != backup.header.cluster_id) {
        return Err(BackupError::OtherCluster {
            path: backup.path,
            expected: expected.to_string(),
            found: backup.header.cluster_id.to_string(),
        });
    }
    let identity = Identity { node_id: params.node_id, cluster_id: backup.header.cluster_id };
    let applied = write_state(layout, &identity, received, &params.raft_address)?;
    let log = create_log(layout, &identity)?;
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
    write().map_err(failed)?;
    Ok((params, more))
}

fn write_state(
    layout: &Layout,
    identity: &Identity,
    received: Received,
    raft_address: &str,
) -> Result<LogId, BackupError> {
    let member = Member { raft_address: raft_address.to_owned() };
    let members = BTreeMap::from([(identity.node_id.0, member)]);
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
            put_identity(db, &mut batch, identity)?;
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

/// Into a database that still says whose the backup was; who it is for is decided by what is in it.
fn read_parts(layout: &Layout, backup: &mut Backup) -> Result<Received, BackupError> {
    let identity = Identity { node_id: backup.header.node_id, cluster_id: backup.header.cluster_id };
    let file = backup.path.clone();
    let refused = |error: &dyn std::fmt::Display| BackupError::Damaged {
        path: file.clone(),
        detail: error.to_string(),
    };
    let Part::Header(header) = backup.part()? else {
        return Err(refused(&"the snapshot in it has no header"));
    };
    let mut writer = Writer::begin(layout, &identity, header).map_err(|status| refused(&status.message()))?;
    loop {
        match backup.part()? {
            Part::Chunk(chunk) => writer.write(&chunk).map_err(|error| refused(&error))?,
            Part::Trailer(trailer) => return writer.close(&trailer).map_err(|error| refused(&error)),
            Part::Header(_) => return Err(refused(&"the snapshot in it has two headers")),
        }
    }
}
