//! `recover --accept-loss` of a cluster that lost most of its voters for good: one of them goes on alone, with all it
//! has, under a raised incarnation (P1, P19). The others must never start again with their old directories.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use model::NodeId;
use openraft::LogIdOptionExt;
use prost::Message;
use rocksdb::WriteBatch;
use stratavore_model as model;

use crate::db::{self, LOGS, META, Recovery, family, to_io};
use crate::error::OpenError;
use crate::layout::Layout;
use crate::log_store::Cell;
use crate::mark::Mark;
use crate::open::{Stores, open_mark};
use crate::record::position::{log_id_to_pb, vote_to_pb};
use crate::recover::{RecoverParams, Recovered, raise_alone, salvage};
use crate::state_db::{Identity, StateDb, put_membership};
use crate::state_store::active_database;
use crate::types::{LogId, Member, Membership, StoredMembership, Vote};

/// Entries applied at a time.
const CHUNK: u64 = 1024;

/// Makes this node the only member of its cluster and raises the incarnation. Everything in its log is kept, also what
/// was not known to be committed: nobody is left who could say. The other nodes are removed.
///
/// # Errors
/// When the directory holds no cluster, another one, one in which this node is no member, or nothing readable.
pub async fn recover_lost_quorum(data_dir: &Path, params: RecoverParams) -> Result<Recovered, OpenError> {
    let layout = Layout::new(data_dir);
    let identity = Identity { node_id: params.node_id, cluster_id: params.cluster_id };
    let mut dropped = Vec::new();
    let stores = salvage(&layout, identity, &mut dropped)?;
    let Left { others, upto, committed } = stand_alone(&layout, stores, params.node_id).await?;
    if !others.is_empty() {
        let names: Vec<String> = others.iter().map(ToString::to_string).collect();
        let names = names.join(", ");
        dropped.push(format!(
            "what only the other members {names} had: this node's log ends at entry {upto}, and it knew {committed} to \
             be committed"
        ));
        dropped.push(format!(
            "the members {names}: never start them again with their old directories, let new ones join"
        ));
    }
    raise_alone(&layout, params, dropped).await
}

/// Who and what is left behind.
struct Left {
    others: Vec<NodeId>,
    /// The last entry in this node's log, and the last that it knew to be committed.
    upto: u64,
    committed: u64,
}

/// Applies the whole log, then begins a log of its own behind it.
async fn stand_alone(layout: &Layout, stores: Stores, me: NodeId) -> Result<Left, OpenError> {
    let failed = OpenError::io(layout.root());
    let known = stores.state.image().applied.max(stores.log.committed());
    let apply = || -> io::Result<(Option<LogId>, StoredMembership)> {
        let upto = stores.log.last().next_index();
        loop {
            let next = stores.state.image().applied.next_index();
            if next >= upto {
                break;
            }
            let entries = stores.log.entries(next, (next + CHUNK).min(upto))?;
            stores.state.apply(entries.iter())?;
        }
        let image = stores.state.image();
        Ok((image.applied, image.membership.clone()))
    };
    let (applied, membership) = apply().map_err(failed)?;
    let nothing = || OpenError::NotRecoverable("this node has applied nothing yet".into());
    let applied = applied.ok_or_else(nothing)?;
    let removed = stores.state.image().state.node(me).is_some_and(|node| node.removed);
    let own = membership.membership().get_node(&me.0).cloned().filter(|_| !removed).ok_or_else(|| {
        OpenError::NotRecoverable(format!("node {me} is no member of this cluster: recover one that is"))
    })?;
    let others = membership.nodes().map(|(id, _)| NodeId(*id)).filter(|id| *id != me).collect();
    let closed = [stores.log.closed(), stores.state.closed()];
    drop(stores);
    for mut closed in closed {
        // The sender goes when the database is closed; it never sends.
        while closed.changed().await.is_ok() {}
    }
    write(layout, me, applied, own).map_err(OpenError::io(layout.root()))?;
    let index = |id: Option<LogId>| id.map_or(0, |id| id.index());
    Ok(Left { others, upto: applied.index(), committed: index(known) })
}

fn write(layout: &Layout, me: NodeId, applied: LogId, own: Member) -> io::Result<()> {
    let membership =
        Membership::new(vec![[me.0].into()], BTreeMap::from([(me.0, own)])).map_err(io::Error::other)?;
    {
        let state = StateDb::open(&active_database(layout).map_err(io::Error::other)?, false)
            .map_err(io::Error::other)?;
        let raw = state.db()?;
        let mut batch = WriteBatch::default();
        put_membership(raw, &mut batch, &StoredMembership::new(Some(applied), membership))?;
        raw.write(batch).map_err(to_io)?;
        // No log will be behind this state: it must be on disk itself.
        raw.flush_wal(true).map_err(to_io)?;
    }
    // They name the old members; the next start builds one that does not.
    fs::remove_dir_all(layout.snapshots())?;
    let log = db::open_log(&layout.log(), false, Recovery::RefuseDamage).map_err(io::Error::other)?;
    let mark = open_mark(layout).map_err(io::Error::other)?.written().clone();
    let term = applied.committed_leader_id().term.max(mark.vote.map_or(0, |vote| vote.leader_id.term));
    let vote = Vote::new_committed(term, me.0);
    let mut batch = WriteBatch::default();
    let meta = family(&log, META)?;
    batch.delete_range_cf(family(&log, LOGS)?, 0_u64.to_be_bytes(), u64::MAX.to_be_bytes());
    let position = log_id_to_pb(&applied).encode_to_vec();
    batch.put_cf(meta, Cell::Purged.key(), Cell::Purged.seal(&position));
    batch.put_cf(meta, Cell::Committed.key(), Cell::Committed.seal(&position));
    batch.put_cf(meta, Cell::Vote.key(), Cell::Vote.seal(&vote_to_pb(&vote).encode_to_vec()));
    log.write(batch).map_err(to_io)?;
    log.flush_wal(true).map_err(to_io)?;
    let mut file = open_mark(layout).map_err(io::Error::other)?;
    file.write(Mark { vote: Some(vote), last: Some(applied), purged: Some(applied) })
}
