//! What the log store knows without reading: positions, the chain's end, and the newest entries.

use std::collections::VecDeque;
use std::io;

use openraft::LogIdOptionExt;
use rocksdb::{DB, IteratorMode};
use stratavore_proto::raft as pb;

use crate::codec;
use crate::db::{LOGS, family, to_io};
use crate::log_store::{Cell, decode_entry, read_cell};
use crate::record::position::{log_id_from_pb, vote_from_pb};
use crate::types::{LogEntry, LogId, Vote};

/// Newest entries kept for apply and replication; a follower further behind is read from disk.
const CACHE_ENTRIES_MAX: usize = 4096;
const CACHE_BYTES_MAX: usize = 8 << 20;

/// Entries counted together for the log's size: purging is no finer than this.
const SIZE_STEP: u64 = 1024;

#[derive(Debug, Default)]
pub(crate) struct Tail {
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
    pub(crate) purged: Option<LogId>,
    /// Of the last entry present; `None` when the log is empty or all of it is purged.
    pub(crate) last: Option<LogId>,
    /// Index of the first entry present.
    first: Option<u64>,
    /// Checksum of the last entry: the next one's chain.
    pub(crate) checksum: u32,
    /// The newest entries, contiguous up to `last`, with their stored size.
    cache: VecDeque<(LogEntry, usize)>,
    cache_bytes: usize,
    /// Stored bytes of up to [`SIZE_STEP`] entries each, under their first index.
    sizes: VecDeque<(u64, u64)>,
    bytes: u64,
}

/// What the check of a stored log found.
#[derive(Debug)]
pub(crate) enum Scan {
    Sound(Tail),
    /// The first bad entry and why; the tail holds everything before it.
    Damaged {
        tail: Tail,
        index: u64,
        error: io::Error,
    },
}

impl Tail {
    /// Reads the whole log once: every checksum, the chain, and that no entry is missing (P19).
    ///
    /// # Errors
    /// When a meta cell is damaged or the database cannot be read at all.
    pub(crate) fn scan(db: &DB) -> io::Result<Scan> {
        let mut tail = Self {
            vote: read_cell::<pb::Vote>(db, Cell::Vote)?.map(vote_from_pb),
            committed: read_cell::<pb::LogId>(db, Cell::Committed)?.map(log_id_from_pb),
            purged: read_cell::<pb::LogId>(db, Cell::Purged)?.map(log_id_from_pb),
            ..Self::default()
        };
        for item in db.iterator_cf(family(db, LOGS)?, IteratorMode::Start) {
            let expected = tail.last.or(tail.purged).next_index();
            let checked = item.map_err(to_io).and_then(|(key, value)| tail.check(expected, &key, &value));
            match checked {
                Ok((entry, bytes, checksum)) => tail.extend(vec![(entry, bytes)], checksum),
                Err(error) => return Ok(Scan::Damaged { tail, index: expected, error }),
            }
        }
        Ok(Scan::Sound(tail))
    }

    fn check(&self, expected: u64, key: &[u8], value: &[u8]) -> io::Result<(LogEntry, usize, u32)> {
        let invalid = |detail: String| io::Error::new(io::ErrorKind::InvalidData, detail);
        let found = key
            .try_into()
            .map(u64::from_be_bytes)
            .map_err(|_| invalid("a log key is not an index".into()))?;
        if found != expected {
            return Err(invalid(format!("log entry {expected} is missing, the next one is {found}")));
        }
        let record =
            codec::open(found, value).map_err(|error| invalid(format!("log entry {found}: {error}")))?;
        if self.last.is_some() && record.chain != self.checksum {
            return Err(invalid(format!("log entry {found} does not follow the entry before it")));
        }
        Ok((decode_entry(found, value)?, value.len(), record.checksum))
    }

    /// `[first, next)` of the entries present.
    pub(crate) fn bounds(&self) -> (u64, u64) {
        match (self.first, self.last) {
            (Some(first), Some(last)) => (first, last.index() + 1),
            _ => (0, 0),
        }
    }

    /// Takes appended entries over; `checksum` is the last one's.
    pub(crate) fn extend(&mut self, entries: Vec<(LogEntry, usize)>, checksum: u32) {
        for (entry, bytes) in entries {
            self.first = self.first.or_else(|| Some(entry.log_id.index()));
            self.last = Some(entry.log_id);
            self.count(entry.log_id.index(), bytes as u64);
            self.cache_bytes += bytes;
            self.cache.push_back((entry, bytes));
        }
        self.checksum = checksum;
        while self.cache.len() > CACHE_ENTRIES_MAX
            || (self.cache_bytes > CACHE_BYTES_MAX && self.cache.len() > 1)
        {
            self.forget_oldest();
        }
    }

    fn count(&mut self, index: u64, bytes: u64) {
        self.bytes += bytes;
        match self.sizes.back_mut() {
            Some((first, size)) if index - *first < SIZE_STEP => *size += bytes,
            _ => self.sizes.push_back((index, bytes)),
        }
    }

    /// Stored bytes of all entries present.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The entry up to which the log must be purged so that it holds at most `bytes_max`; none when it does.
    /// The newest step always stays.
    pub(crate) fn excess(&self, bytes_max: u64) -> Option<u64> {
        let mut bytes = self.bytes;
        let mut upto = None;
        for ((_, size), (next, _)) in self.sizes.iter().zip(self.sizes.iter().skip(1)) {
            if bytes <= bytes_max {
                break;
            }
            bytes -= size;
            upto = Some(next - 1);
        }
        upto
    }

    /// Forgets everything behind `kept`, whose checksum is given.
    pub(crate) fn truncate(&mut self, kept: Option<LogId>, checksum: u32) {
        self.last = kept;
        self.checksum = checksum;
        if kept.is_none() {
            self.first = None;
        }
        // What is left of a step that was cut keeps its whole size: too much counted is harmless.
        let next = kept.next_index();
        while self
            .sizes
            .pop_back_if(|(first, _)| *first >= next)
            .map(|(_, size)| self.bytes -= size)
            .is_some()
        {}
        while self.cache.back().is_some_and(|(entry, _)| Some(entry.log_id) > kept) {
            if let Some((_, bytes)) = self.cache.pop_back() {
                self.cache_bytes -= bytes;
            }
        }
    }

    /// Forgets everything up to `upto`.
    pub(crate) fn purge(&mut self, upto: LogId) {
        self.purged = Some(upto);
        if self.last.is_none_or(|last| last.index() <= upto.index()) {
            (self.first, self.last, self.checksum) = (None, None, 0);
        } else {
            self.first = self.first.map(|first| first.max(upto.index() + 1));
        }
        while self.cache.front().is_some_and(|(entry, _)| entry.log_id.index() <= upto.index()) {
            self.forget_oldest();
        }
        // A step goes when its last entry is gone, that is when the next one begins behind the line.
        while let Some((_, size)) = self.sizes.front().copied() {
            let end =
                self.sizes.get(1).map(|(next, _)| *next).or_else(|| self.last.map(|last| last.index() + 1));
            if end.is_some_and(|end| end > upto.index() + 1) {
                break;
            }
            self.bytes -= size;
            self.sizes.pop_front();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, bytes)) = self.cache.pop_front() {
            self.cache_bytes -= bytes;
        }
    }

    /// Entries of `[start, end)` if memory holds their start; fewer when they exceed `bytes_max`.
    pub(crate) fn cached(&self, start: u64, end: u64, bytes_max: usize) -> Option<Vec<LogEntry>> {
        let oldest = self.cache.front()?.0.log_id.index();
        let skip = usize::try_from(start.checked_sub(oldest)?).ok()?;
        let count = usize::try_from(end - start).ok()?;
        let mut bytes = 0;
        let entries: Vec<_> = self
            .cache
            .iter()
            .skip(skip)
            .take(count)
            .take_while(|(_, size)| {
                let first = bytes == 0;
                bytes += size;
                first || bytes <= bytes_max
            })
            .map(|(entry, _)| entry.clone())
            .collect();
        (!entries.is_empty()).then_some(entries)
    }
}

#[cfg(test)]
mod tests {
    use openraft::entry::RaftEntry;

    use super::*;
    use crate::types::log_id;

    /// 5000 entries of 10 bytes.
    fn tail() -> Tail {
        let mut tail = Tail::default();
        let entries = (0..5000).map(|index| (LogEntry::new_blank(log_id(1, index)), 10)).collect();
        tail.extend(entries, 0);
        tail
    }

    #[test]
    fn the_excess_is_what_must_go_in_whole_steps() {
        let mut tail = tail();
        assert_eq!(tail.excess(50_000), None);
        assert_eq!(tail.excess(49_999), Some(1023));
        assert_eq!(tail.excess(30_000), Some(2047));
        assert_eq!(tail.excess(0), Some(4095), "the newest step stays");
        tail.purge(log_id(1, 2047));
        assert_eq!(tail.excess(29_600), None);
        tail.purge(log_id(1, 2100));
        tail.truncate(Some(log_id(1, 3000)), 0);
        assert_eq!(tail.excess(10_240), None, "one step is left");
        tail.purge(log_id(1, 9000));
        assert_eq!((tail.bytes, tail.sizes.len()), (0, 0));
    }

    #[test]
    fn the_cache_holds_the_newest_and_says_when_it_does_not() {
        let tail = tail();
        assert!(tail.cached(0, 10, usize::MAX).is_none());
        let entries = tail.cached(4990, 5000, usize::MAX).unwrap();
        assert_eq!(entries.len(), 10);
        assert_eq!(tail.cached(4990, 5000, 25).unwrap().len(), 2);
        assert_eq!(tail.cached(4990, 5000, 1).unwrap().len(), 1, "one is always given");
    }
}
