//! Everything the agent itself writes about runners, in the order the core decided it.
//!
//! A blank directory is the intent to start; what was seen is made durable only when every start ordered up to there
//! has its directory. So after `kill -9` nothing ordered is forgotten, and after a power cut nothing that may have run
//! is started again. Batches share one fdatasync.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use stratavore_proto::v1;
use tracing::{error, warn};

use crate::clock;
use crate::data_dir::DataDir;
use crate::disk::{Disk, is_no_space};
use crate::epoch::{Epoch, RunnerKey};
use crate::runner;
use crate::seen::{Seen, SeenFile};
use crate::stock::Stock;
use crate::supervisor::{RunnerEvent, blank_report};

/// Record of an epoch that ended without a shim, in its otherwise empty directory.
const UNSTARTED_FILE: &str = "unstarted.json";

/// `rev` of such an end: above the 0 of "not started yet".
const UNSTARTED_REV: u64 = 1;

/// One order, see the effects of the same name.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Intend {
        keys: Vec<RunnerKey>,
        seen: Epoch,
    },
    Conclude {
        key: RunnerKey,
        state: v1::RunnerState,
        reason: String,
    },
    Acknowledge {
        key: RunnerKey,
    },
    Discard {
        key: RunnerKey,
    },
    /// Count the connection number up and make it durable before it is used (P14).
    NextConnection,
    /// Look at the free space again.
    CheckDisk,
    /// Make one blank directory ready for a start to come.
    Restock,
}

/// What a batch did.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) events: Vec<(RunnerKey, RunnerEvent)>,
    /// Orders that could not be carried out and must be tried again.
    pub(crate) again: Vec<Op>,
    /// Set when the batch looked at the disk, or lacked space.
    pub(crate) disk_full: Option<bool>,
    /// The number asked for; the error is for the log.
    pub(crate) connection: Option<io::Result<u64>>,
    /// Another blank directory should be made when there is time.
    pub(crate) stock_low: bool,
}

/// Owner of the files; one batch at a time.
#[derive(Debug)]
pub(crate) struct Ledger {
    dir: DataDir,
    seen: SeenFile,
    disk: Disk,
    stock: Stock,
    /// Ordered, but without directory: what is seen stays below.
    missing: BTreeSet<RunnerKey>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Unstarted {
    state: String,
    reason: String,
    ended_at_unix_ms: i64,
}

impl Ledger {
    /// Opens the files of `dir`, whose lock the caller holds.
    ///
    /// # Errors
    /// Those of [`SeenFile::open`].
    pub(crate) fn open(dir: DataDir) -> io::Result<Self> {
        let seen = SeenFile::open(dir.root())?;
        let mut disk = Disk::new(dir.root());
        disk.check();
        let stock = Stock::open(dir.stock());
        Ok(Self { dir, seen, disk, stock, missing: BTreeSet::new() })
    }

    /// What is durable now.
    pub(crate) fn seen(&self) -> Seen {
        self.seen.value()
    }

    /// Carries out a batch in order, with one fdatasync for all that was seen.
    pub(crate) fn run(&mut self, ops: Vec<Op>) -> Done {
        let mut done = Done::default();
        let mut intended = Vec::new();
        let mut seen = self.seen.value().index;
        let mut stocking = true;
        for op in ops {
            match op {
                Op::Intend { keys, seen: ordered } => {
                    seen = seen.max(ordered);
                    for key in keys {
                        self.intend(key, &mut intended, &mut done);
                    }
                }
                Op::Conclude { key, state, reason } => self.conclude(key, state, reason, &mut done),
                Op::Acknowledge { key } => self.acknowledge(&key),
                Op::Discard { key } => self.discard(&key),
                Op::NextConnection => done.connection = Some(self.next_connection()),
                Op::CheckDisk => done.disk_full = Some(self.disk.check()),
                Op::Restock => stocking = self.stock.fill(),
            }
        }
        done.stock_low = stocking && self.stock.is_low();
        self.save_seen(seen, intended, &mut done);
        done
    }

    fn next_connection(&mut self) -> io::Result<u64> {
        let value = self.seen.value();
        let connection = value.connection + 1;
        self.seen.save(Seen { connection, ..value })?;
        Ok(connection)
    }

    fn intend(&mut self, key: RunnerKey, intended: &mut Vec<RunnerKey>, done: &mut Done) {
        let path = self.dir.runner(&key);
        let made = if self.stock.take(&path) { Ok(()) } else { self.with_reserve(done, || make_dir(&path)) };
        match made {
            Ok(()) => {
                self.missing.remove(&key);
                intended.push(key);
            }
            Err(error) => {
                self.missing.insert(key.clone());
                let cause = cause(&error, "the runner's directory cannot be made");
                done.events.push((key, RunnerEvent::IntentFailed { cause }));
            }
        }
    }

    fn save_seen(&mut self, seen: Epoch, intended: Vec<RunnerKey>, done: &mut Done) {
        let below_missing = self.missing.iter().map(|key| key.epoch().before()).min();
        let index = below_missing.map_or(seen, |below| below.min(seen));
        let value = self.seen.value();
        let saved = if index > value.index { self.seen.save(Seen { index, ..value }) } else { Ok(()) };
        if let Err(error) = &saved {
            error!(%error, "what was seen cannot be made durable; nothing is started");
        }
        let durable = self.seen.value().index;
        for key in intended {
            let event = match &saved {
                Ok(()) if key.epoch() > durable => {
                    self.missing.insert(key.clone());
                    RunnerEvent::IntentFailed { cause: "an older start has no directory yet".into() }
                }
                Ok(()) => RunnerEvent::Intended,
                Err(error) => {
                    RunnerEvent::IntentFailed { cause: cause(error, "the order cannot be made durable") }
                }
            };
            done.events.push((key, event));
        }
    }

    fn conclude(&mut self, key: RunnerKey, state: v1::RunnerState, reason: String, done: &mut Done) {
        let path = self.dir.runner(&key);
        let record =
            Unstarted { state: state.as_str_name().to_owned(), reason, ended_at_unix_ms: clock::unix_ms() };
        match self.with_reserve(done, || make_dir(&path).and_then(|()| write_record(&path, &record))) {
            Ok(()) => {
                self.missing.remove(&key);
                done.events.push((key.clone(), RunnerEvent::Concluded(report_of(&key, &record))));
            }
            Err(error) => {
                warn!(runner = %key, %error, "the end of a runner that never started cannot be recorded yet");
                done.again.push(Op::Conclude { key, state, reason: record.reason });
            }
        }
    }

    /// Losing the marker only makes the end be reported once more.
    fn acknowledge(&mut self, key: &RunnerKey) {
        if let Err(error) = File::create(self.dir.acknowledged(key)) {
            warn!(runner = %key, %error, "the acknowledged end cannot be marked; it will be reported again after a restart");
        }
    }

    fn discard(&mut self, key: &RunnerKey) {
        self.missing.remove(key);
        if let Err(error) = runner::forget(&self.dir.runner(key)) {
            warn!(runner = %key, %error, "an unwanted intent cannot be removed");
        }
    }

    /// Tries again once after freeing the reserve.
    fn with_reserve(&mut self, done: &mut Done, mut write: impl FnMut() -> io::Result<()>) -> io::Result<()> {
        match write() {
            Err(error) if is_no_space(&error) => {
                done.disk_full = Some(true);
                if self.disk.release() { write() } else { Err(error) }
            }
            result => result,
        }
    }
}

/// The end of an epoch that never started, if its directory says so. A torn record counts as none: the order stands
/// and is carried out again.
pub(crate) fn unstarted(dir: &DataDir, key: &RunnerKey) -> Option<v1::Observation> {
    let bytes = std::fs::read(dir.runner(key).join(UNSTARTED_FILE)).ok()?;
    let record: Unstarted = serde_json::from_slice(&bytes).ok()?;
    Some(report_of(key, &record))
}

fn report_of(key: &RunnerKey, record: &Unstarted) -> v1::Observation {
    let state = v1::RunnerState::from_str_name(&record.state).unwrap_or(v1::RunnerState::Failed);
    v1::Observation {
        rev: UNSTARTED_REV,
        reason: record.reason.clone(),
        exit: Some(v1::Exit { reason: code_of(&record.reason).to_owned(), ..Default::default() }),
        ended_at_unix_ms: record.ended_at_unix_ms,
        ..blank_report(key, state)
    }
}

/// The word before the colon: `start_failed: cause`.
fn code_of(reason: &str) -> &str {
    reason.split_once(':').map_or(reason, |(code, _)| code)
}

fn make_dir(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

fn write_record(dir: &Path, record: &Unstarted) -> io::Result<()> {
    let mut file = File::create(dir.join(UNSTARTED_FILE))?;
    file.write_all(&serde_json::to_vec(record)?)?;
    file.sync_all()?;
    File::open(dir)?.sync_all()
}

fn cause(error: &io::Error, what: &str) -> String {
    if is_no_space(error) {
        "disk_full: no space under the agent's data directory".into()
    } else {
        format!("{what}: {error}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(index: u64) -> RunnerKey {
        RunnerKey::new("0000000001", Epoch::new(1, index)).unwrap()
    }

    fn ledger() -> (tempfile::TempDir, Ledger) {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::new(temp.path()).unwrap();
        dir.create().unwrap();
        (temp, Ledger::open(dir).unwrap())
    }

    #[test]
    fn an_intent_is_a_directory_and_a_durable_index() {
        let (_temp, mut ledger) = ledger();
        let done = ledger.run(vec![Op::Intend { keys: vec![key(5)], seen: Epoch::new(1, 7) }]);
        assert_eq!(done.events, vec![(key(5), RunnerEvent::Intended)]);
        assert!(ledger.dir.runner(&key(5)).is_dir());
        assert_eq!(SeenFile::open(ledger.dir.root()).unwrap().value().index, Epoch::new(1, 7));
    }

    #[test]
    fn what_was_seen_stays_below_a_start_without_directory() {
        let (_temp, mut ledger) = ledger();
        // A missing parent stands for a failing file system.
        let runners = ledger.dir.runners();
        std::fs::remove_dir(&runners).unwrap();
        let done = ledger.run(vec![Op::Intend { keys: vec![key(5)], seen: Epoch::new(1, 7) }]);
        assert!(matches!(done.events[..], [(_, RunnerEvent::IntentFailed { .. })]));
        ledger.run(vec![Op::Intend { keys: vec![], seen: Epoch::new(1, 9) }]);
        assert_eq!(ledger.seen().index, Epoch::new(1, 4));
        std::fs::create_dir(&runners).unwrap();
        ledger.run(vec![Op::Intend { keys: vec![key(5)], seen: Epoch::new(1, 9) }]);
        assert_eq!(ledger.seen().index, Epoch::new(1, 9));
    }

    #[test]
    fn a_concluded_epoch_is_found_again() {
        let (_temp, mut ledger) = ledger();
        let state = v1::RunnerState::Terminated;
        let done = ledger.run(vec![Op::Conclude { key: key(5), state, reason: "stopped".into() }]);
        let report = unstarted(&ledger.dir, &key(5)).unwrap();
        assert_eq!(done.events, vec![(key(5), RunnerEvent::Concluded(report.clone()))]);
        assert_eq!((report.state(), report.reason.as_str(), report.rev), (state, "stopped", UNSTARTED_REV));
    }

    #[test]
    fn connection_numbers_only_grow() {
        let (temp, mut ledger) = ledger();
        assert_eq!(ledger.run(vec![Op::NextConnection]).connection.unwrap().unwrap(), 1);
        drop(ledger);
        let mut again = Ledger::open(DataDir::new(temp.path()).unwrap()).unwrap();
        assert_eq!(again.run(vec![Op::NextConnection]).connection.unwrap().unwrap(), 2);
    }
}
