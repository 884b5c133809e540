//! Founds a cluster of one node, offline.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use model::{ClusterId, Entry, NodeId};
use prost::Message;
use rocksdb::WriteBatch;
use stratavore_model as model;

use crate::db::{self, META, Recovery, family, to_io};
use crate::error::OpenError;
use crate::layout::{Layout, sync_dir};
use crate::log_store::Cell;
use crate::mark::MarkFile;
use crate::open::{is_initialized, open_stores, start};
use crate::state_db::Identity;
use crate::state_store;
use crate::timings::RaftTimings;
use crate::types::Member;

/// What a cluster begins with.
#[derive(Debug, Clone)]
pub struct BootstrapParams {
    pub node_id: NodeId,
    pub cluster_id: ClusterId,
    /// `HOST:PORT` under which other nodes will reach this node's raft port.
    pub raft_address: String,
    /// The first command: `InitCluster`.
    pub first: Entry,
}

/// Creates both databases in `data_dir`, makes this node the only voter, commits the first entry and closes
/// everything cleanly.
///
/// # Errors
/// [`OpenError::AlreadyInitialized`] when something is there already, [`OpenError::Core`] when the first
/// entry is refused. What was created is removed again then.
pub async fn bootstrap(data_dir: &Path, params: BootstrapParams) -> Result<(), OpenError> {
    if is_initialized(data_dir) {
        return Err(OpenError::AlreadyInitialized { dir: data_dir.to_path_buf() });
    }
    let layout = Layout::new(data_dir);
    let founded = found(&layout, params).await;
    if founded.is_err() {
        remove_all(&layout);
    }
    founded
}

async fn found(layout: &Layout, params: BootstrapParams) -> Result<(), OpenError> {
    let identity = Identity { node_id: params.node_id, cluster_id: params.cluster_id };
    create_stores(layout, &identity)?;
    let stores = open_stores(layout, identity)?;
    let (handle, server) = start(stores, RaftTimings::default(), None).await?;
    drop(server);
    let members = BTreeMap::from([(params.node_id.0, Member { raft_address: params.raft_address })]);
    let core = |error: String| OpenError::Core(error);
    handle.raft().initialize(members).await.map_err(|error| core(error.to_string()))?;
    // Initialising is an election in itself.
    handle.wait_to_lead().await?;
    let applied = handle.propose(params.first).await.map_err(|error| core(error.to_string()))?;
    handle.shutdown().await;
    match applied.reply.rejected() {
        Some(refusal) => Err(core(format!("the first entry was refused: {refusal}"))),
        None => Ok(()),
    }
}

/// Creates the empty databases of a node that joins an existing cluster: it takes part when the leader adds it
/// as a learner (P21).
///
/// # Errors
/// [`OpenError::AlreadyInitialized`] when something is there already; what was created is removed again on
/// any other failure.
pub fn prepare_learner(data_dir: &Path, node_id: NodeId, cluster_id: ClusterId) -> Result<(), OpenError> {
    if is_initialized(data_dir) {
        return Err(OpenError::AlreadyInitialized { dir: data_dir.to_path_buf() });
    }
    let layout = Layout::new(data_dir);
    create_stores(&layout, &Identity { node_id, cluster_id }).inspect_err(|_| remove_all(&layout))
}

/// Creates empty databases and the mark.
pub(crate) fn create_stores(layout: &Layout, identity: &Identity) -> Result<(), OpenError> {
    fs::create_dir_all(layout.root()).map_err(OpenError::io(layout.root()))?;
    drop(create_log(layout, identity)?);
    state_store::create(layout, identity)?;
    MarkFile::create(&layout.mark()).map_err(OpenError::io(layout.mark()))?;
    sync_dir(layout.root()).map_err(OpenError::io(layout.root()))
}

/// Creates an empty log database that says whose it is.
pub(crate) fn create_log(layout: &Layout, identity: &Identity) -> Result<rocksdb::DB, OpenError> {
    let path = layout.log();
    let log = db::open_log(&path, true, Recovery::RefuseDamage)?;
    let write = || -> io::Result<()> {
        let mut batch = WriteBatch::default();
        let body = identity.to_pb().encode_to_vec();
        batch.put_cf(family(&log, META)?, Cell::Identity.key(), Cell::Identity.seal(&body));
        log.write(batch).map_err(to_io)?;
        log.flush_wal(true).map_err(to_io)
    };
    write().map_err(OpenError::io(&path))?;
    Ok(log)
}

pub(crate) fn remove_all(layout: &Layout) {
    let results = [
        fs::remove_dir_all(layout.log()),
        fs::remove_dir_all(layout.state()),
        fs::remove_file(layout.mark()),
        fs::remove_file(layout.reserve()),
    ];
    for error in results.into_iter().filter_map(Result::err).filter(|e| e.kind() != io::ErrorKind::NotFound) {
        tracing::warn!(%error, "a file of the failed bootstrap was not removed");
    }
}
