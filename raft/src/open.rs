//! Opens a node's databases, checks them against each other and the high-water mark, starts the core.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use openraft::{LogIdOptionExt, ServerState};
use stratavore_model::{ClusterId, NodeId};

use crate::db::{self, Recovery, WAY_OUT};
use crate::error::OpenError;
use crate::fatal::Fatal;
use crate::handle::Handle;
use crate::layout::Layout;
use crate::log_store::{Cell, LogStore, read_cell};
use crate::log_tail::{Scan, Tail};
use crate::mark::{Mark, MarkFile, MarkKeeper, reaches};
use crate::metrics::Counters;
use crate::network::Connector;
use crate::network::client::Network;
use crate::network::server::RaftServer;
use crate::reserve;
use crate::state_db::Identity;
use crate::state_machine::StateMachine;
use crate::state_store::StateStore;
use crate::timings::RaftTimings;
use crate::types::LogId;

/// How long a single voter may take to lead: two syncs, on a disk that answers at all.
const SINGLE_ELECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// What a node opens itself with.
#[derive(Clone)]
pub struct OpenParams {
    pub data_dir: PathBuf,
    pub node_id: NodeId,
    pub cluster_id: ClusterId,
    pub timings: RaftTimings,
    /// Dials other nodes; none for a node that has no peers.
    pub connector: Option<Connector>,
}

impl std::fmt::Debug for OpenParams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenParams")
            .field("data_dir", &self.data_dir)
            .field("node_id", &self.node_id)
            .field("cluster_id", &self.cluster_id)
            .field("timings", &self.timings)
            .finish_non_exhaustive()
    }
}

/// Both stores, checked.
pub(crate) struct Stores {
    pub(crate) log: LogStore,
    pub(crate) state: StateStore,
    pub(crate) counters: Arc<Counters>,
    pub(crate) fatal: Fatal,
}

/// Opens the node and starts consensus. When it returns, everything that the node's own committed position
/// names is applied (P20), and a single voter leads in a new term.
///
/// # Errors
/// See [`OpenError`]; nothing was changed then, and the node must not serve.
pub async fn open(params: OpenParams) -> Result<(Handle, RaftServer), OpenError> {
    let layout = Layout::new(&params.data_dir);
    let identity = Identity { node_id: params.node_id, cluster_id: params.cluster_id };
    let stores = tokio::task::spawn_blocking(move || open_stores(&layout, identity))
        .await
        .map_err(|error| OpenError::Core(error.to_string()))??;
    start(stores, params.timings, params.connector).await
}

/// Starts openraft over opened stores.
pub(crate) async fn start(
    stores: Stores,
    timings: RaftTimings,
    connector: Option<Connector>,
) -> Result<(Handle, RaftServer), OpenError> {
    let identity = stores.state.identity().clone();
    let config = timings.config(identity.cluster_id.as_str())?;
    let network = Network::new(identity.cluster_id, connector);
    let machine = StateMachine::new(stores.state.clone());
    let raft = openraft::Raft::new(identity.node_id.0, config, network.clone(), stores.log.clone(), machine)
        .await
        .map_err(|error| OpenError::Core(error.to_string()))?;
    let state = stores.state.clone();
    let handle = Handle::start(raft, stores, network, timings);
    let server = RaftServer::new(handle.core().clone(), &state);
    drop(state);
    handle.elect_if_single().await?;
    Ok((handle, server))
}

/// Opens and checks both databases and the mark.
pub(crate) fn open_stores(layout: &Layout, identity: Identity) -> Result<Stores, OpenError> {
    if !layout.log().exists() && !layout.mark().exists() {
        return Err(OpenError::NotInitialized { dir: layout.root().to_path_buf() });
    }
    let log_dir = layout.log();
    let log = db::open_log(&log_dir, false, Recovery::RefuseDamage)?;
    let damaged = |error: io::Error| db::corrupt(log_dir.clone(), error.to_string());
    identity.check(&log_dir, read_cell(&log, Cell::Identity).map_err(damaged)?)?;
    let tail = match Tail::scan(&log).map_err(damaged)? {
        Scan::Sound(tail) => tail,
        Scan::Damaged { error, .. } => return Err(damaged(error)),
    };
    let fatal = Fatal::new(layout.reserve());
    let counters = Arc::new(Counters::default());
    let state =
        StateStore::open(layout.clone(), identity, stratavore_model::apply, counters.clone(), fatal.clone())?;
    check_version(layout, &state)?;
    let file = open_mark(layout)?;
    check_mark(layout, &tail, &state, file.written())?;
    if let Err(error) = reserve::ensure(&layout.reserve()) {
        // The node must be able to start on a full disk, or nobody could clean up through it (P26).
        tracing::warn!(%error, "the reserve file could not be made; free disk space");
    }
    assemble(log, tail, file, state, counters, fatal)
}

/// P22: what entries mean was raised beyond this program; applying them would make nodes differ.
fn check_version(layout: &Layout, state: &StateStore) -> Result<(), OpenError> {
    let known = stratavore_model::COMMAND_VERSION;
    let found = state.image().state.cluster().map_or(0, |cluster| cluster.version);
    if found > known {
        return Err(OpenError::NewerCluster { dir: layout.root().to_path_buf(), found, known });
    }
    Ok(())
}

/// Puts checked parts together and starts their threads.
pub(crate) fn assemble(
    log: rocksdb::DB,
    tail: Tail,
    file: MarkFile,
    state: StateStore,
    counters: Arc<Counters>,
    fatal: Fatal,
) -> Result<Stores, OpenError> {
    let path = state.layout().log();
    let durable = Mark { vote: tail.vote, last: tail.last.or(tail.purged), purged: tail.purged };
    let reporter = fatal.clone();
    let start = || {
        // What was opened may be ahead of the last sync before a crash; it is what the mark vouches for now.
        log.flush_wal(true).map_err(db::to_io)?;
        let mark = MarkKeeper::start(file, durable, move |error| reporter.report(error))?;
        LogStore::start(log, tail, mark, counters.clone(), fatal.clone())
    };
    let log = start().map_err(OpenError::io(path))?;
    Ok(Stores { log, state, counters, fatal })
}

/// Opens the mark's file; without it nothing vouches for the log.
pub(crate) fn open_mark(layout: &Layout) -> Result<MarkFile, OpenError> {
    let path = layout.mark();
    match MarkFile::open(&path) {
        Ok(Some(file)) => Ok(file),
        Ok(None) => Err(db::corrupt(path, "neither of its two slots is readable")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(db::corrupt(path, "the high-water mark is missing"))
        }
        Err(source) => Err(OpenError::Io { path, source }),
    }
}

/// P19: a node that has less than it acknowledged must not take part. Purged entries, a snapshot and applied
/// state count as present.
fn check_mark(layout: &Layout, tail: &Tail, state: &StateStore, mark: &Mark) -> Result<(), OpenError> {
    let snapshot = state.snapshot().as_ref().and_then(|(meta, _)| meta.last_log_id);
    let have = tail.last.max(tail.purged).max(snapshot).max(state.image().applied);
    let below = |have: String, mark: String| OpenError::BelowHighWaterMark {
        dir: layout.root().to_path_buf(),
        have,
        mark,
        way_out: WAY_OUT.into(),
    };
    let entry = |id: Option<LogId>| match id {
        Some(id) => format!("entry {} of term {}", id.index(), id.committed_leader_id().term),
        None => "no entry".to_string(),
    };
    if !reaches(have.as_ref(), mark.last.as_ref()) {
        return Err(below(entry(have), entry(mark.last)));
    }
    let term = |vote: Option<crate::types::Vote>| vote.map_or(0, |vote| vote.leader_id.term);
    if term(tail.vote) < term(mark.vote) {
        return Err(below(
            format!("a vote of term {}", term(tail.vote)),
            format!("term {}", term(mark.vote)),
        ));
    }
    // The saved commit is written behind the entries it names, so a sound log never ends before it.
    if tail.committed.next_index() > have.next_index() {
        return Err(below(entry(have), format!("{} committed", entry(tail.committed))));
    }
    Ok(())
}

/// Whether anything of a cluster lies in the directory.
pub(crate) fn is_initialized(data_dir: &Path) -> bool {
    let layout = Layout::new(data_dir);
    [layout.log(), layout.state(), layout.mark()].iter().any(|path| path.exists())
}

impl Handle {
    /// A single voter need not wait for an election timeout.
    async fn elect_if_single(&self) -> Result<(), OpenError> {
        let raft = self.raft();
        let id = *raft.node_id();
        // Asked of the core: its metrics are empty until its first turn.
        let alone = raft
            .with_raft_state(move |state| state.membership_state.effective().voter_ids().eq([id]))
            .await
            .map_err(|error| OpenError::Core(error.to_string()))?;
        if !alone {
            return Ok(());
        }
        raft.trigger().elect(false).await.map_err(|error| OpenError::Core(error.to_string()))?;
        self.wait_to_lead().await
    }

    /// Waits until this node leads and has committed an entry of its term.
    pub(crate) async fn wait_to_lead(&self) -> Result<(), OpenError> {
        let core = |error: String| OpenError::Core(self.fatal_reason().unwrap_or(error));
        self.raft()
            .wait(Some(SINGLE_ELECTION_TIMEOUT))
            .metrics(|metrics| metrics.state == ServerState::Leader, "leading as the only voter")
            .await
            .map_err(|error| core(error.to_string()))?;
        self.linearize().await.map_err(|error| core(error.to_string()))?;
        Ok(())
    }
}
