//! Tests: random writes to the log store, with restarts in between, against a plain list.

use std::collections::BTreeMap;

use openraft::LogIdOptionExt;
use openraft::entry::RaftEntry;
use openraft::storage::{LogState, RaftLogReader, RaftLogStorage, RaftLogStorageExt};
use proptest::prelude::*;

use crate::bootstrap::create_stores;
use crate::conformance::identity;
use crate::layout::Layout;
use crate::open::open_stores;
use crate::types::{Command, LogEntry, LogId, Vote, log_id};

#[derive(Debug, Clone)]
enum Step {
    Append {
        count: u64,
        bytes: usize,
    },
    /// Keeps this share of what is there, in percent.
    Truncate(u64),
    Purge(u64),
    Vote,
    Restart,
    /// Reads between two shares of what is there.
    Read(u64, u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let percent = 0..=100_u64;
    let step = prop_oneof![
        4 => (1..40_u64, 0..3000_usize).prop_map(|(count, bytes)| Step::Append { count, bytes }),
        1 => percent.clone().prop_map(Step::Truncate),
        1 => percent.clone().prop_map(Step::Purge),
        1 => Just(Step::Vote),
        2 => Just(Step::Restart),
        3 => (percent.clone(), percent).prop_map(|(a, b)| Step::Read(a.min(b), a.max(b))),
    ];
    prop::collection::vec(step, 1..30)
}

/// What the log should hold.
#[derive(Default)]
struct Expected {
    term: u64,
    entries: BTreeMap<u64, (LogId, usize)>,
    purged: Option<LogId>,
    vote: Option<Vote>,
}

impl Expected {
    fn next(&self) -> u64 {
        self.entries.last_key_value().map(|(_, (id, _))| *id).or(self.purged).next_index()
    }

    /// The index at a share of the entries.
    fn at(&self, percent: u64) -> u64 {
        let first = self.purged.next_index();
        first + (self.next() - first) * percent / 100
    }

    fn state(&self) -> LogState<crate::types::TypeConfig> {
        let last = self.entries.last_key_value().map(|(_, (id, _))| *id);
        LogState { last_purged_log_id: self.purged, last_log_id: last.or(self.purged) }
    }
}

async fn check(steps: Vec<Step>) {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path());
    create_stores(&layout, &identity()).unwrap();
    let mut log = open_stores(&layout, identity()).unwrap().log;
    let mut expected = Expected::default();
    for step in steps {
        match step {
            Step::Append { count, bytes } => {
                expected.term += 1;
                let next = expected.next();
                let id = |index| log_id(expected.term, index);
                let entry =
                    |index| LogEntry::new_normal(id(index), Command::from_bytes(vec![7; bytes].into()));
                log.blocking_append((next..next + count).map(entry)).await.unwrap();
                expected.entries.extend((next..next + count).map(|index| (index, (id(index), bytes))));
            }
            Step::Truncate(percent) => {
                let from = expected.at(percent);
                let kept =
                    from.checked_sub(1).and_then(|last| expected.entries.get(&last)).map(|(id, _)| *id);
                log.truncate_after(kept.or(expected.purged)).await.unwrap();
                drop(expected.entries.split_off(&from));
            }
            Step::Purge(percent) => {
                let upto = expected.at(percent).saturating_sub(1);
                if let Some((id, _)) = expected.entries.get(&upto).copied() {
                    log.purge(id).await.unwrap();
                    expected.purged = Some(id);
                    expected.entries = expected.entries.split_off(&(upto + 1));
                }
            }
            Step::Vote => {
                expected.term += 1;
                let vote = Vote::new(expected.term, 1);
                log.save_vote(&vote).await.unwrap();
                expected.vote = Some(vote);
            }
            Step::Restart => {
                drop(log);
                log = open_stores(&layout, identity()).unwrap().log;
            }
            Step::Read(from, to) => {
                let range = expected.at(from)..expected.at(to);
                let read = log.try_get_log_entries(range.clone()).await.unwrap();
                let ids: Vec<LogId> = read.iter().map(|entry| entry.log_id).collect();
                let wanted: Vec<LogId> = expected.entries.range(range).map(|(_, (id, _))| *id).collect();
                assert_eq!(ids, wanted);
            }
        }
        assert_eq!(log.get_log_state().await.unwrap(), expected.state());
        assert_eq!(log.read_vote().await.unwrap(), expected.vote);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_log_is_the_list(steps in steps()) {
        tokio::runtime::Runtime::new().unwrap().block_on(check(steps));
    }
}
