//! The high-water mark (P19): the least a restarted node must still have, kept outside the log database.
//!
//! Two slots in one small file are written in turn, in place, so that a write neither changes the file's
//! size nor tears the mark before it. A background thread writes it at most once a second while it moves.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use prost::Message;
use stratavore_proto::raft as pb;

use crate::codec;
use crate::record::position::{decode, log_id_from_pb, log_id_to_pb, vote_from_pb, vote_to_pb};
use crate::sync_point;
use crate::types::{LogId, Vote};

/// One slot; a page, so that two slots share no sector.
const SLOT_BYTES: usize = 4096;

/// P19 asks for a second at most between what is durable and what the mark says.
const INTERVAL: Duration = Duration::from_millis(900);

/// What is known to be on disk.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Mark {
    pub(crate) vote: Option<Vote>,
    pub(crate) last: Option<LogId>,
    pub(crate) purged: Option<LogId>,
}

impl Mark {
    fn encode(&self) -> Vec<u8> {
        pb::HighWaterMark {
            vote: self.vote.as_ref().map(vote_to_pb),
            last: self.last.as_ref().map(log_id_to_pb),
            purged: self.purged.as_ref().map(log_id_to_pb),
        }
        .encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mark: pb::HighWaterMark = decode(bytes).ok()?;
        Some(Self {
            vote: mark.vote.map(vote_from_pb),
            last: mark.last.map(log_id_from_pb),
            purged: mark.purged.map(log_id_from_pb),
        })
    }
}

/// A step of the mark, in the order in which the log was written.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Vote(Vote),
    Last(Option<LogId>),
    Purged(LogId),
}

/// The file and what it says. All writes go through the owner's lock.
#[derive(Debug)]
pub(crate) struct MarkFile {
    file: File,
    sequence: u64,
    written: Mark,
}

impl MarkFile {
    /// Creates the file with an empty mark; the caller syncs the directory.
    ///
    /// # Errors
    /// When it exists already or the disk refuses.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        file.write_all_at(&[0; 2 * SLOT_BYTES], 0)?;
        file.sync_all()?;
        let mut this = Self { file, sequence: 0, written: Mark::default() };
        this.write(Mark::default())?;
        Ok(this)
    }

    /// Opens the file and takes the newer of its readable slots; `None` when neither is readable.
    ///
    /// # Errors
    /// When the file is absent or cannot be read.
    pub(crate) fn open(path: &Path) -> io::Result<Option<Self>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let newest =
            (0..2_u64).filter_map(|slot| read_slot(&file, slot)).max_by_key(|(sequence, _)| *sequence);
        Ok(newest.map(|(sequence, written)| Self { file, sequence, written }))
    }

    pub(crate) fn written(&self) -> &Mark {
        &self.written
    }

    /// Writes and syncs `mark` into the older slot.
    pub(crate) fn write(&mut self, mark: Mark) -> io::Result<()> {
        let sequence = self.sequence + 1;
        let (sealed, _) = codec::seal(sequence, 0, &mark.encode());
        let mut slot = vec![0_u8; SLOT_BYTES];
        let end = 12 + sealed.len();
        if end > SLOT_BYTES {
            return Err(io::Error::other("the high-water mark outgrew its slot"));
        }
        slot[..8].copy_from_slice(&sequence.to_le_bytes());
        slot[8..12].copy_from_slice(&(u32::try_from(sealed.len()).unwrap_or(0)).to_le_bytes());
        slot[12..end].copy_from_slice(&sealed);
        sync_point::reached();
        self.file.write_all_at(&slot, (sequence % 2) * SLOT_BYTES as u64)?;
        sync_point::reached();
        self.file.sync_data()?;
        sync_point::reached();
        self.sequence = sequence;
        self.written = mark;
        Ok(())
    }
}

fn read_slot(file: &File, slot: u64) -> Option<(u64, Mark)> {
    let mut bytes = vec![0_u8; SLOT_BYTES];
    file.read_exact_at(&mut bytes, slot * SLOT_BYTES as u64).ok()?;
    let sequence = u64::from_le_bytes(bytes[..8].try_into().ok()?);
    let length = usize::try_from(u32::from_le_bytes(bytes[8..12].try_into().ok()?)).ok()?;
    let sealed = bytes.get(12..12 + length)?;
    let record = codec::open(sequence, sealed).ok()?;
    Some((sequence, Mark::decode(record.body)?))
}

#[derive(Debug)]
struct Shared {
    file: MarkFile,
    /// What the log has synced since; written to the file within [`INTERVAL`].
    durable: Mark,
    stopping: bool,
}

/// The running mark: takes steps from the group-commit thread, lowers at once, writes in the background.
#[derive(Debug, Clone)]
pub(crate) struct MarkKeeper {
    shared: Arc<(Mutex<Shared>, Condvar)>,
}

/// Ends the background thread with a last write when the log store closes.
#[derive(Debug)]
pub(crate) struct MarkThread {
    keeper: MarkKeeper,
    thread: Option<JoinHandle<()>>,
}

impl MarkKeeper {
    /// Takes the file over; `durable` is what the opened log was found to have.
    pub(crate) fn start(
        file: MarkFile,
        durable: Mark,
        on_failure: impl Fn(String) + Send + 'static,
    ) -> io::Result<(Self, MarkThread)> {
        let shared = Shared { file, durable, stopping: false };
        let keeper = Self { shared: Arc::new((Mutex::new(shared), Condvar::new())) };
        let worker = keeper.clone();
        let thread = std::thread::Builder::new().name("high-water-mark".into()).spawn(move || {
            if let Err(error) = worker.run() {
                on_failure(format!("the high-water mark cannot be written: {error}"));
            }
        })?;
        Ok((keeper.clone(), MarkThread { keeper, thread: Some(thread) }))
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records steps that a completed sync made durable.
    pub(crate) fn advance(&self, steps: impl IntoIterator<Item = Step>) {
        let mut shared = self.lock();
        for step in steps {
            match step {
                Step::Vote(vote) => shared.durable.vote = Some(vote),
                Step::Last(last) => shared.durable.last = last,
                Step::Purged(purged) => shared.durable.purged = Some(purged),
            }
        }
        if shared.durable != shared.file.written {
            self.shared.1.notify_one();
        }
    }

    /// Lowers the mark to `last`, synced, before the log is truncated behind it (P19).
    pub(crate) fn lower(&self, last: Option<LogId>) -> io::Result<()> {
        let mut shared = self.lock();
        shared.durable.last = last;
        let durable = shared.durable.clone();
        shared.file.write(durable)
    }

    /// Writes what is durable now.
    pub(crate) fn write_now(&self) -> io::Result<()> {
        let mut shared = self.lock();
        if shared.durable == shared.file.written {
            return Ok(());
        }
        let durable = shared.durable.clone();
        shared.file.write(durable)
    }

    fn run(&self) -> io::Result<()> {
        let (_, changed) = &*self.shared;
        let mut shared = self.lock();
        loop {
            while !shared.stopping && shared.durable == shared.file.written {
                shared = changed.wait(shared).unwrap_or_else(PoisonError::into_inner);
            }
            if shared.durable != shared.file.written {
                let durable = shared.durable.clone();
                shared.file.write(durable)?;
            }
            if shared.stopping {
                return Ok(());
            }
            // The pause between two writes; a stop cuts it short.
            shared = changed
                .wait_timeout_while(shared, INTERVAL, |shared| !shared.stopping)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Drop for MarkThread {
    fn drop(&mut self) {
        self.keeper.lock().stopping = true;
        self.keeper.shared.1.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was its own report; there is nothing to add while closing.
            drop(thread.join());
        }
    }
}

/// Whether `have` reaches `mark`; ids order by term, then index.
pub(crate) fn reaches(have: Option<&LogId>, mark: Option<&LogId>) -> bool {
    have >= mark
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::log_id;

    fn mark(term: u64, index: u64) -> Mark {
        Mark { vote: Some(Vote::new_committed(term, 1)), last: Some(log_id(term, index)), purged: None }
    }

    #[test]
    fn p19_the_newest_slot_wins_and_a_torn_one_falls_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mark");
        let mut file = MarkFile::create(&path).unwrap();
        file.write(mark(1, 5)).unwrap();
        file.write(mark(1, 6)).unwrap();
        let slot = file.sequence % 2;
        drop(file);
        assert_eq!(MarkFile::open(&path).unwrap().unwrap().written(), &mark(1, 6));

        let raw = OpenOptions::new().write(true).open(&path).unwrap();
        raw.write_all_at(&[0xff; 64], slot * SLOT_BYTES as u64 + 8).unwrap();
        assert_eq!(MarkFile::open(&path).unwrap().unwrap().written(), &mark(1, 5));

        raw.write_all_at(&[0xff; 64], (1 - slot) * SLOT_BYTES as u64 + 8).unwrap();
        assert!(MarkFile::open(&path).unwrap().is_none());
    }

    #[test]
    fn p19_lowering_is_durable_at_once_and_stopping_writes_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mark");
        let file = MarkFile::create(&path).unwrap();
        let (keeper, thread) = MarkKeeper::start(file, Mark::default(), |e| panic!("{e}")).unwrap();
        keeper.advance([Step::Vote(Vote::new_committed(2, 1)), Step::Last(Some(log_id(2, 9)))]);
        keeper.lower(Some(log_id(2, 4))).unwrap();
        assert_eq!(MarkFile::open(&path).unwrap().unwrap().written(), &mark(2, 4));
        keeper.advance([Step::Last(Some(log_id(2, 7)))]);
        drop(thread);
        assert_eq!(MarkFile::open(&path).unwrap().unwrap().written(), &mark(2, 7));
    }
}
