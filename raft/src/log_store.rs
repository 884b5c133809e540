//! The raft log: entries, vote and positions in one RocksDB, one ordered writer, one sync for many (P19).

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{LogIdOptionExt, OptionalSend};
use prost::Message;
use rocksdb::{DB, Direction, IteratorMode, WriteBatch};
use tokio::sync::{Notify, watch};

use crate::codec;
use crate::db::{LOGS, META, family, to_io};
use crate::fatal::Fatal;
use crate::group_commit::{CommitThread, GroupCommit, Job, Waiter};
use crate::log_tail::Tail;
use crate::mark::{MarkKeeper, MarkThread, Step};
use crate::metrics::Counters;
use crate::record::position::{decode, entry_from_pb, entry_to_pb, log_id_to_pb, vote_to_pb};
use crate::sync_point;
use crate::types::{LogEntry, LogId, TypeConfig, Vote};

/// One read for replication stays below tonic's 4 MiB message with room for the envelope.
const READ_BYTES_MAX: usize = 2 << 20;

/// P19: stored bytes of the kept log, and how far it is purged when it has more.
const LOG_BYTES_MAX: u64 = 1 << 30;
const LOG_BYTES_AIM: u64 = LOG_BYTES_MAX / 8 * 7;

/// Meta cells: key in the database and place in the envelope. Stored numbers, never reused.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cell {
    Vote = 1,
    Committed = 2,
    Purged = 3,
    Identity = 4,
}

impl Cell {
    pub(crate) const fn key(self) -> [u8; 1] {
        [self as u8]
    }

    pub(crate) fn seal(self, body: &[u8]) -> Vec<u8> {
        codec::seal(self as u64, 0, body).0
    }
}

/// The shared store; readers and the writer are clones of one handle.
#[derive(Clone)]
pub(crate) struct LogStore {
    inner: Arc<Inner>,
}

// Fields drop in this order: the queue closes, the sync thread ends, the mark is written a last time.
struct Inner {
    commits: GroupCommit,
    tail: Mutex<Tail>,
    mark: MarkKeeper,
    fatal: Fatal,
    db: Arc<DB>,
    /// Told when the log has more than [`LOG_BYTES_MAX`].
    outgrown: Notify,
    _commit_thread: CommitThread,
    _mark_thread: MarkThread,
    /// Dropped last: tells [`LogStore::closed`] that the database is closed.
    closed: watch::Sender<()>,
}

impl LogStore {
    /// Starts the writer over an opened database whose content was checked into `tail`.
    pub(crate) fn start(
        db: DB,
        tail: Tail,
        mark: (MarkKeeper, MarkThread),
        counters: Arc<Counters>,
        fatal: Fatal,
    ) -> io::Result<Self> {
        let db = Arc::new(db);
        let (mark, mark_thread) = mark;
        let (commits, commit_thread) = GroupCommit::start(db.clone(), mark.clone(), counters, fatal.clone())?;
        let inner = Inner {
            commits,
            tail: Mutex::new(tail),
            mark,
            fatal,
            db,
            outgrown: Notify::new(),
            _commit_thread: commit_thread,
            _mark_thread: mark_thread,
            closed: watch::Sender::new(()),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.inner.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the log has outgrown its bound, and says up to which entry it must be purged.
    pub(crate) async fn outgrown(&self) -> u64 {
        loop {
            self.inner.outgrown.notified().await;
            if let Some(upto) = self.tail().excess(LOG_BYTES_AIM) {
                return upto;
            }
        }
    }

    /// Ends when the database is closed.
    pub(crate) fn closed(&self) -> watch::Receiver<()> {
        self.inner.closed.subscribe()
    }

    /// Syncs what is written and records it in the mark: the clean stop of P19.
    pub(crate) async fn close(&self) -> io::Result<()> {
        self.inner.commits.synced(Vec::new()).await?;
        self.inner.mark.write_now()
    }

    /// Writes a batch without sync; any failure ends the node.
    fn write(&self, doing: &str, batch: WriteBatch) -> io::Result<()> {
        sync_point::reached();
        self.inner
            .db
            .write(batch)
            .map_err(to_io)
            .inspect_err(|error| self.inner.fatal.storage(doing, error))?;
        sync_point::reached();
        Ok(())
    }

    fn put_cell(&self, doing: &str, cell: Cell, body: &[u8]) -> io::Result<()> {
        let mut batch = WriteBatch::default();
        batch.put_cf(family(&self.inner.db, META)?, cell.key(), cell.seal(body));
        self.write(doing, batch)
    }

    /// Entries of `[start, end)`, which the log is known to contain, from memory or from disk.
    fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<LogEntry>> {
        // The iterator is a consistent view, made while the tail cannot move.
        let iterator = {
            let tail = self.tail();
            if let Some(entries) = tail.cached(start, end, bytes_max) {
                return Ok(entries);
            }
            let from = start.to_be_bytes();
            self.inner
                .db
                .iterator_cf(family(&self.inner.db, LOGS)?, IteratorMode::From(&from, Direction::Forward))
        };
        let mut entries = Vec::new();
        let mut bytes = 0;
        for (index, item) in (start..end).zip(iterator) {
            let (key, value) = item.map_err(to_io)?;
            if *key != index.to_be_bytes() {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("log entry {index} is missing"),
                ));
            }
            bytes += value.len();
            if bytes > bytes_max && !entries.is_empty() {
                return Ok(entries);
            }
            entries.push(decode_entry(index, &value)?);
        }
        if entries.len() as u64 != end - start {
            let missing = start + entries.len() as u64;
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("log entry {missing} is missing"),
            ));
        }
        Ok(entries)
    }

    /// The part of `[start, end)` that the log contains.
    fn clip(&self, start: u64, end: u64) -> (u64, u64) {
        let tail = self.tail();
        let (first, next) = tail.bounds();
        (start.max(first), end.min(next))
    }

    /// The last entry there is or was.
    pub(crate) fn last(&self) -> Option<LogId> {
        let tail = self.tail();
        tail.last.or(tail.purged)
    }

    /// What this node knows to be committed.
    pub(crate) fn committed(&self) -> Option<LogId> {
        self.tail().committed
    }

    /// At least one entry of `[start, end)`, in order; an error when the log does not have all of them.
    pub(crate) fn entries(&self, start: u64, end: u64) -> io::Result<Vec<LogEntry>> {
        if self.clip(start, end) != (start, end) {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("the log does not have all entries from {start} to {end}"),
            ));
        }
        self.read(start, end, READ_BYTES_MAX)
    }

    /// The checksum of a stored entry, which the next one's chain repeats.
    fn checksum(&self, index: u64) -> io::Result<u32> {
        let value = self
            .inner
            .db
            .get_pinned_cf(family(&self.inner.db, LOGS)?, index.to_be_bytes())
            .map_err(to_io)?
            .ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, format!("log entry {index} is missing"))
            })?;
        Ok(codec::open(index, &value).map_err(|error| damaged(index, error))?.checksum)
    }
}

/// Decodes a stored entry after its checksum.
pub(crate) fn decode_entry(index: u64, value: &[u8]) -> io::Result<LogEntry> {
    let record = codec::open(index, value).map_err(|error| damaged(index, error))?;
    let entry = entry_from_pb(decode(record.body)?)?;
    if entry.log_id.index() != index {
        return Err(damaged(
            index,
            codec::CodecError::Misplaced { expected: index, found: entry.log_id.index() },
        ));
    }
    Ok(entry)
}

fn damaged(index: u64, error: codec::CodecError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("log entry {index}: {error}"))
}

/// `[start, end)` of any range.
fn bounds<RB: RangeBounds<u64>>(range: &RB) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<LogEntry>, io::Error> {
        let (start, end) = bounds(&range);
        let (start, end) = self.clip(start, end);
        if start >= end {
            return Ok(Vec::new());
        }
        self.read(start, end, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<LogEntry>, io::Error> {
        let (start, end) = self.clip(start, end);
        if start >= end {
            return Ok(Vec::new());
        }
        self.read(start, end, READ_BYTES_MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.tail().vote)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let tail = self.tail();
        Ok(LogState { last_purged_log_id: tail.purged, last_log_id: tail.last.or(tail.purged) })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        // Through the same write-ahead log and queue as entries, so that their order on disk holds.
        self.put_cell("saving the vote", Cell::Vote, &vote_to_pb(vote).encode_to_vec())?;
        self.inner.commits.synced(vec![Step::Vote(*vote)]).await?;
        self.tail().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        // Not synced: a restart that finds an older one only applies less before it joins (P20).
        if let Some(committed) = committed {
            let body = log_id_to_pb(&committed).encode_to_vec();
            self.put_cell("saving the committed position", Cell::Committed, &body)?;
        }
        self.tail().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.tail().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let last = {
            let mut tail = self.tail();
            let logs = family(&self.inner.db, LOGS)?;
            let mut batch = WriteBatch::default();
            let mut pending = Vec::new();
            let (mut previous, mut checksum) = (tail.last.or(tail.purged), tail.checksum);
            for entry in entries {
                let index = entry.log_id.index();
                if previous.is_some_and(|previous| previous.index() + 1 != index) {
                    return Err(io::Error::other(format!(
                        "append of entry {index} behind {} would leave a hole",
                        previous.next_index() - 1
                    )));
                }
                let body = entry_to_pb(&entry).encode_to_vec();
                let (value, own) = codec::seal(index, checksum, &body);
                batch.put_cf(logs, index.to_be_bytes(), &value);
                (previous, checksum) = (Some(entry.log_id), own);
                pending.push((entry, value.len()));
            }
            self.write("appending to the log", batch)?;
            tail.extend(pending, checksum);
            if tail.bytes() > LOG_BYTES_MAX {
                self.inner.outgrown.notify_one();
            }
            tail.last
        };
        self.inner.commits.submit(Job { steps: vec![Step::Last(last)], waiter: Waiter::Append(callback) })
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let from = last.next_index();
        let (first, next) = self.tail().bounds();
        if from >= next {
            return Ok(());
        }
        // Earlier appends must not raise the mark again behind the lowering.
        self.inner.commits.synced(Vec::new()).await?;
        let kept = if from > first { last } else { None };
        let purged = self.tail().purged;
        self.inner
            .mark
            .lower(kept.or(purged))
            .inspect_err(|error| self.inner.fatal.storage("lowering the high-water mark", error))?;
        let checksum = match kept {
            Some(kept) => self.checksum(kept.index())?,
            None => 0,
        };
        {
            let mut tail = self.tail();
            let mut batch = WriteBatch::default();
            let range = (from.max(first).to_be_bytes(), next.to_be_bytes());
            batch.delete_range_cf(family(&self.inner.db, LOGS)?, range.0, range.1);
            self.write("truncating the log", batch)?;
            tail.truncate(kept, checksum);
        }
        self.inner.commits.synced(vec![Step::Last(kept.or(purged))]).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        {
            let mut tail = self.tail();
            if tail.purged >= Some(upto) {
                return Ok(());
            }
            let mut batch = WriteBatch::default();
            let body = log_id_to_pb(&upto).encode_to_vec();
            batch.put_cf(family(&self.inner.db, META)?, Cell::Purged.key(), Cell::Purged.seal(&body));
            let end = (upto.index() + 1).to_be_bytes();
            batch.delete_range_cf(family(&self.inner.db, LOGS)?, 0_u64.to_be_bytes(), end);
            self.write("purging the log", batch)?;
            tail.purge(upto);
        }
        self.inner.commits.submit(Job { steps: vec![Step::Purged(upto)], waiter: Waiter::Nobody })
    }
}

/// Reads a meta cell of an opened log database.
pub(crate) fn read_cell<M: Message + Default>(db: &DB, cell: Cell) -> io::Result<Option<M>> {
    let Some(value) = db.get_cf(family(db, META)?, cell.key()).map_err(to_io)? else {
        return Ok(None);
    };
    let record = codec::open(cell as u64, &value).map_err(|error| {
        io::Error::new(io::ErrorKind::InvalidData, format!("meta cell {cell:?}: {error}"))
    })?;
    Ok(Some(decode(record.body)?))
}
