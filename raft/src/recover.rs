//! `recover --accept-loss`: makes a damaged or shortened node of a one-node cluster usable again, keeping
//! what is readable, and raises the incarnation so that nothing from before can be mistaken (P1, P19).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::command::{RaiseIncarnation, RemoveNode};
use model::{Actor, ClusterId, Command, Entry, Millis, NodeId};
use openraft::LogIdOptionExt;
use prost::Message;
use rocksdb::{DB, WriteBatch};
use stratavore_model as model;

use crate::bootstrap::create_log;
use crate::db::{self, LOGS, META, Recovery, family, to_io};
use crate::error::OpenError;
use crate::fatal::Fatal;
use crate::handle::Handle;
use crate::layout::Layout;
use crate::log_store::{Cell, read_cell};
use crate::log_tail::{Scan, Tail};
use crate::mark::{Mark, MarkFile};
use crate::metrics::Counters;
use crate::open::{Stores, assemble, open_stores, start};
use crate::record::position::{log_id_to_pb, vote_to_pb};
use crate::state_db::Identity;
use crate::state_store::{self, StateStore};
use crate::timings::RaftTimings;
use crate::types::Vote;

/// Who recovers, and what the caller must make up.
#[derive(Debug, Clone)]
pub struct RecoverParams {
    pub node_id: NodeId,
    pub cluster_id: ClusterId,
    /// Random, of the new incarnation.
    pub nonce: [u8; 16],
    /// The wall clock.
    pub at: Millis,
}

/// What recovery kept and gave up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The new incarnation.
    pub incarnation: u64,
    /// Index of the last entry that was kept, before the new ones.
    pub last_kept: u64,
    /// What is known to be lost, one sentence each, for people.
    pub dropped: Vec<String>,
}

/// Accepts what the data directory still holds and raises the incarnation. Damaged databases are kept aside
/// with the ending `.damaged`.
///
/// # Errors
/// When the directory holds no cluster, another one, or one with more than one voter, or when neither log
/// nor state can be read.
pub async fn recover_accept_loss(data_dir: &Path, params: RecoverParams) -> Result<Recovered, OpenError> {
    let layout = Layout::new(data_dir);
    let identity = Identity { node_id: params.node_id, cluster_id: params.cluster_id };
    let mut dropped = Vec::new();
    let stores = salvage(&layout, identity, &mut dropped)?;
    let voters: Vec<u64> = stores.state.image().membership.voter_ids().collect();
    if voters.iter().any(|voter| *voter != params.node_id.0) {
        return Err(OpenError::OtherVoters { dir: data_dir.to_path_buf(), voters: voters.len() });
    }
    raise(stores, params, dropped, false).await
}

/// Opens what was made recoverable, raises the incarnation, and removes the nodes that are left behind: their keys and
/// their state of an older incarnation must not come back (P1).
pub(crate) async fn raise_alone(
    layout: &Layout,
    params: RecoverParams,
    dropped: Vec<String>,
) -> Result<Recovered, OpenError> {
    let identity = Identity { node_id: params.node_id, cluster_id: params.cluster_id };
    raise(open_stores(layout, identity)?, params, dropped, true).await
}

async fn raise(
    stores: Stores,
    params: RecoverParams,
    dropped: Vec<String>,
    alone: bool,
) -> Result<Recovered, OpenError> {
    let (handle, server) = start(stores, RaftTimings::default(), None).await?;
    drop(server);
    let last_kept = handle.metrics().last_applied;
    let n = handle.read(model::State::incarnation) + 1;
    let reason = if alone { "recover --accept-loss --lost-quorum" } else { "recover --accept-loss" };
    let raise = RaiseIncarnation { n, nonce: params.nonce, reason: reason.into() };
    let left_behind = |node: &&model::NodeRecord| !node.removed && node.id != params.node_id;
    let others: Vec<_> = handle.read(|state| {
        let alone = alone && state.node(params.node_id).is_some();
        state.nodes().filter(left_behind).map(|node| node.id).filter(|_| alone).collect()
    });
    let removals = others.into_iter().map(|node| Command::RemoveNode(RemoveNode { node }));
    for command in std::iter::once(Command::RaiseIncarnation(raise)).chain(removals) {
        let entry = Entry { actor: Actor::System, request_id: None, at: params.at, term: None, command };
        propose(&handle, entry).await?;
    }
    handle.shutdown().await;
    Ok(Recovered { incarnation: n, last_kept, dropped })
}

/// Commits an entry that nothing may refuse.
pub(crate) async fn propose(handle: &Handle, entry: Entry) -> Result<(), OpenError> {
    let name = entry.command.name();
    let applied = handle.propose(entry).await.map_err(|error| OpenError::Core(error.to_string()))?;
    match applied.reply.rejected() {
        Some(refusal) => Err(OpenError::Core(format!("{name} was refused: {refusal}"))),
        None => Ok(()),
    }
}

pub(crate) fn salvage(
    layout: &Layout,
    identity: Identity,
    dropped: &mut Vec<String>,
) -> Result<Stores, OpenError> {
    let fatal = Fatal::new(layout.reserve());
    let counters = Arc::new(Counters::default());
    let state = salvage_state(layout, &identity, &counters, &fatal, dropped)?;
    let mark = MarkFile::open(&layout.mark()).ok().flatten();
    let acknowledged = mark.as_ref().map(|file| file.written().clone()).unwrap_or_default();
    let (log, tail) = salvage_log(layout, &identity, &state, &acknowledged, dropped)?;
    let mut file = match mark {
        Some(file) => file,
        None => replace_mark(layout)?,
    };
    let kept = Mark { vote: tail.vote, last: tail.last.or(tail.purged), purged: tail.purged };
    file.write(kept).map_err(OpenError::io(layout.mark()))?;
    assemble(log, tail, file, state, counters, fatal)
}

fn replace_mark(layout: &Layout) -> Result<MarkFile, OpenError> {
    let path = layout.mark();
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(OpenError::Io { path, source }),
        _ => MarkFile::create(&path).map_err(OpenError::io(path)),
    }
}

/// Opens the state; a damaged database is put aside and rebuilt from the newest snapshot and the log.
fn salvage_state(
    layout: &Layout,
    identity: &Identity,
    counters: &Arc<Counters>,
    fatal: &Fatal,
    dropped: &mut Vec<String>,
) -> Result<StateStore, OpenError> {
    let open =
        || StateStore::open(layout.clone(), identity.clone(), model::apply, counters.clone(), fatal.clone());
    let damage = match open() {
        Err(OpenError::Corrupt { file, detail, .. }) => format!("{}: {detail}", file.display()),
        other => return other,
    };
    if let Ok(path) = state_store::active_database(layout)
        && path.exists()
    {
        put_aside(&path)?;
    }
    dropped.push(format!("the state database ({damage}); it is rebuilt from snapshot and log"));
    state_store::create_beside(layout, identity)?;
    open()
}

/// Opens the log as far as it is readable; everything behind the first bad entry goes.
fn salvage_log(
    layout: &Layout,
    identity: &Identity,
    state: &StateStore,
    acknowledged: &Mark,
    dropped: &mut Vec<String>,
) -> Result<(DB, Tail), OpenError> {
    let path = layout.log();
    let opened = db::open_log(&path, false, Recovery::KeepPrefix)
        .and_then(|log| Ok((scan(&path, &log)?, log)))
        .map(|(scan, log)| (log, scan));
    let (log, tail) = match opened {
        Ok((log, Scan::Sound(tail))) => (log, tail),
        Ok((log, Scan::Damaged { tail, index, error })) => {
            dropped.push(format!("log entries from {index} on ({error})"));
            let end = u64::MAX.to_be_bytes();
            let cut = || -> io::Result<()> {
                let mut batch = WriteBatch::default();
                batch.delete_range_cf(family(&log, LOGS)?, index.to_be_bytes(), end);
                log.write(batch).map_err(to_io)
            };
            cut().map_err(OpenError::io(&path))?;
            (log, tail)
        }
        Err(OpenError::Corrupt { file, detail, .. }) => {
            dropped.push(format!("the whole log ({}: {detail})", file.display()));
            if path.exists() {
                put_aside(&path)?;
            }
            (create_log(layout, identity)?, Tail::default())
        }
        Err(other) => return Err(other),
    };
    identity.check(&path, read_cell(&log, Cell::Identity).map_err(OpenError::io(&path))?)?;
    let tail = settle(&log, tail, state, acknowledged, dropped).map_err(OpenError::io(&path))?;
    Ok((log, tail))
}

fn scan(path: &Path, log: &DB) -> Result<Scan, OpenError> {
    Tail::scan(log).map_err(|error| db::corrupt(path.to_path_buf(), error.to_string()))
}

/// Makes the kept log fit the kept state and the votes that were given.
fn settle(
    log: &DB,
    mut tail: Tail,
    state: &StateStore,
    acknowledged: &Mark,
    dropped: &mut Vec<String>,
) -> io::Result<Tail> {
    let mut batch = WriteBatch::default();
    let meta = family(log, META)?;
    let have = tail.last.max(tail.purged).max(state.image().applied);
    if have < acknowledged.last {
        let (kept, acknowledged) = (have.next_index(), acknowledged.last.next_index());
        dropped.push(format!("entries {kept} to {} that were acknowledged", acknowledged.saturating_sub(1)));
    }
    // A new term must be above every term in which this node has voted.
    let term = |vote: Option<Vote>| vote.map_or(0, |vote| vote.leader_id.term);
    if term(acknowledged.vote) > term(tail.vote) {
        tail.vote = acknowledged.vote;
    }
    if let Some(vote) = &tail.vote {
        batch.put_cf(meta, Cell::Vote.key(), Cell::Vote.seal(&vote_to_pb(vote).encode_to_vec()));
    }
    if tail.last.is_none()
        && tail.purged < state.image().applied
        && let Some(applied) = state.image().applied
    {
        // Nothing of the log is left: it begins again behind what is applied.
        batch.put_cf(meta, Cell::Purged.key(), Cell::Purged.seal(&log_id_to_pb(&applied).encode_to_vec()));
        tail.purge(applied);
    }
    if tail.committed > have {
        tail.committed = have;
        if let Some(have) = have {
            batch.put_cf(
                meta,
                Cell::Committed.key(),
                Cell::Committed.seal(&log_id_to_pb(&have).encode_to_vec()),
            );
        }
    }
    log.write(batch).map_err(to_io)?;
    log.flush_wal(true).map_err(to_io)?;
    Ok(tail)
}

/// Renames a damaged directory, so that an expert can still look at it.
fn put_aside(path: &Path) -> Result<(), OpenError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".damaged");
    let aside = PathBuf::from(name);
    if aside.exists() {
        fs::remove_dir_all(&aside).map_err(OpenError::io(&aside))?;
    }
    fs::rename(path, &aside).map_err(OpenError::io(path))
}
