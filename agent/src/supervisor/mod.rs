//! The agent's decisions, without any I/O: inputs go in, [`Effect`]s come out.
//!
//! Desired state flows down, observed state flows up, both idempotent by (runner, epoch). The shell feeds
//! [`on_message`], [`on_runner`], [`on_link`], [`on_tick`], [`on_disk`] and [`on_halt`], carries out what they return,
//! and pulls reports with [`Core::take_observed`] whenever the link has room: observed state is a latest-value map,
//! never a queue.
//!
//! Rules kept here: a start is durable intent first, and an epoch that has ended is never started again (P2);
//! absence removes only what the author of a set can have known (P14); an end is reported until acknowledged;
//! a lower incarnation and a foreign cluster are refused (P1).

mod deadline;
mod desired;
mod effect;
mod entry;
mod halt;
mod lease;
mod link;
mod runner;

#[cfg(test)]
mod fence_properties;
#[cfg(test)]
mod lease_field;
#[cfg(test)]
mod lease_properties;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod world;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use prost::Message;
use stratavore_proto::frame::FRAME_BYTES_MAX;
use stratavore_proto::v1;
use tracing::warn;

pub use deadline::{Deadline, Held, Terms};
pub use effect::{Effect, Finish, Move, MoveKind, RunnerEvent};
pub use entry::blank_report;
pub use halt::on_halt;
pub use link::{LinkEvent, on_link, on_message};
pub use runner::on_runner;

use crate::epoch::{Epoch, RunnerKey};
use entry::{Entry, Phase};
use lease::Lease;

/// Starts that run at once. More only queue on the processors: a start is about 2 ms of CPU over three processes.
pub const STARTS_MAX: usize = 16;

/// Runners in one report frame: at most about 400 bytes each, far below the frame bound; the next frame follows at once.
pub const REPORTS_PER_FRAME: usize = 1000;

/// How often a start that lacked disk or processes is tried again: 2 s, in ns.
const HELD_RETRY_NS: u64 = 2_000_000_000;

/// Leftover processes named in one report, and characters of any text in it.
const LEFTOVERS_MAX: usize = 8;
const TEXT_CHARS_MAX: usize = 200;

/// Bytes of a list before it is shortened: a frame less the rest of a hello and the framing of each report.
const LIST_BYTES_MAX: usize = FRAME_BYTES_MAX * 3 / 4;

/// Characters that name a reason in a shortened list; its code is shorter.
const CODE_CHARS_MAX: usize = 32;

/// Effects collected by one call.
pub type Out = Vec<Effect>;

/// Who this agent is; fixed for the life of the process, facts aside.
#[derive(Debug, Clone)]
pub struct Identity {
    pub host_id: String,
    pub cluster_id: String,
    pub boot_id: String,
    /// Random, once per process.
    pub instance: bytes::Bytes,
    pub facts: v1::HostFacts,
    pub version: String,
}

/// What the data directory said at start.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    /// Highest state index that was durable.
    pub seen: Epoch,
    /// Everything with a shim or with an end that is not acknowledged.
    pub observed: Vec<v1::Observation>,
    /// Intents whose shim never started.
    pub intended: Vec<RunnerKey>,
    /// Directories that cannot be judged yet: a shim may be starting. The shell goes on looking.
    pub unclear: Vec<RunnerKey>,
    /// Ended and acknowledged; their output is still there.
    pub settled: Vec<RunnerKey>,
}

/// All state of the agent's decisions.
#[derive(Debug)]
pub struct Core {
    identity: Identity,
    /// Highest state index seen (P14); its incarnation is the lowest accepted (P1).
    seen: Epoch,
    /// Unknown epochs up to here have been here before and are never started: their directories are gone.
    floor: Epoch,
    runners: BTreeMap<RunnerKey, Entry>,
    settled: BTreeSet<RunnerKey>,
    /// Changed since they were last put into a frame.
    dirty: BTreeSet<RunnerKey>,
    waiting: VecDeque<RunnerKey>,
    starting: usize,
    /// The set being received in several frames.
    partial: Option<desired::Partial>,
    lease: Lease,
    disk_full: bool,
    next_held_ns: u64,
    halt: Option<halt::Halt>,
}

impl Core {
    /// A core over what the directory holds. Unusable names in it are skipped with a warning.
    #[must_use]
    pub fn new(identity: Identity, inventory: Inventory) -> Self {
        let mut runners = BTreeMap::new();
        for mut report in inventory.observed {
            match RunnerKey::from_wire(&report.runner, report.epoch.as_ref()) {
                Ok(key) => {
                    trim(&mut report);
                    runners.insert(key, Entry::observed(report));
                }
                Err(error) => warn!(%error, "a directory names no runner"),
            }
        }
        for key in inventory.intended {
            let entry = Entry::new(&key, Phase::Intended, None);
            runners.entry(key).or_insert(entry);
        }
        let starting = inventory.unclear.len();
        for key in inventory.unclear {
            let entry = Entry::new(&key, Phase::Starting, None);
            runners.insert(key, entry);
        }
        Self {
            identity,
            seen: inventory.seen,
            floor: inventory.seen,
            runners,
            settled: inventory.settled.into_iter().collect(),
            dirty: BTreeSet::new(),
            waiting: VecDeque::new(),
            starting,
            partial: None,
            lease: Lease::default(),
            disk_full: false,
            next_held_ns: 0,
            halt: None,
        }
    }

    /// Highest state index seen.
    #[must_use]
    pub const fn seen(&self) -> Epoch {
        self.seen
    }

    /// Runners that have, or may have, a living shim.
    #[must_use]
    pub fn live(&self) -> u32 {
        u32::try_from(self.runners.values().filter(|entry| entry.may_run()).count()).unwrap_or(u32::MAX)
    }

    /// Latest report about `key`.
    #[must_use]
    pub fn report(&self, key: &RunnerKey) -> Option<&v1::Observation> {
        self.runners.get(key).map(|entry| &entry.report)
    }

    /// Round trip of the last granted renewal, in microseconds; 0 before the first.
    #[must_use]
    pub fn last_rtt_us(&self) -> u64 {
        self.lease.last_rtt_us
    }

    /// True when [`Core::take_observed`] has something to say.
    #[must_use]
    pub fn has_reports(&self) -> bool {
        !self.dirty.is_empty() && self.lease.is_up()
    }

    /// Takes up to [`REPORTS_PER_FRAME`] changed reports for one frame.
    pub fn take_observed(&mut self) -> Option<v1::Observed> {
        if !self.has_reports() {
            return None;
        }
        let mut runners = Vec::new();
        while runners.len() < REPORTS_PER_FRAME {
            let Some(key) = self.dirty.pop_first() else { break };
            runners.extend(self.runners.get(&key).map(|entry| entry.report.clone()));
        }
        Some(v1::Observed { runners, full: false, seen: Some(self.seen.into()) })
    }

    /// A settled directory was removed: that epoch must stay known as one that has been here.
    pub fn forget_settled(&mut self, key: &RunnerKey) {
        if self.settled.remove(key) {
            self.floor = self.floor.max(key.epoch());
        }
    }

    /// When [`on_tick`] next has something to do, in ns of CLOCK_BOOTTIME.
    #[must_use]
    pub fn next_tick_ns(&self) -> u64 {
        let held = self.runners.values().any(|entry| entry.phase == Phase::Held);
        let held_ns = if held { self.next_held_ns } else { u64::MAX };
        self.lease.next_ns().min(held_ns)
    }

    /// Everything on this host, ended ones until acknowledged. It must fit one frame whole, so when there is too much
    /// to say, all is said more briefly.
    fn list(&self) -> Vec<v1::Observation> {
        let mut list: Vec<v1::Observation> =
            self.runners.values().map(|entry| entry.report.clone()).collect();
        if list.iter().map(Message::encoded_len).sum::<usize>() > LIST_BYTES_MAX {
            list.iter_mut().for_each(shorten);
        }
        list
    }

    fn mark(&mut self, key: &RunnerKey) {
        self.dirty.insert(key.clone());
    }

    /// What may be made durable as seen: below every start that is ordered and has no directory yet.
    fn durable_seen(&self) -> Epoch {
        let held = self.runners.iter().filter(|(_, entry)| entry.phase == Phase::Held);
        let lowest = held.map(|(key, _)| key.epoch().before()).min();
        lowest.map_or(self.seen, |lowest| lowest.min(self.seen))
    }
}

/// Time has passed (`now_ns` of CLOCK_BOOTTIME): renew, report load, resync, retry.
pub fn on_tick(core: &mut Core, now_ns: u64, out: &mut Out) {
    lease::on_tick(core, now_ns, out);
    if now_ns >= core.next_held_ns {
        core.next_held_ns = now_ns.saturating_add(HELD_RETRY_NS);
        if !core.disk_full {
            desired::retry_held(core, out);
        }
    }
}

/// The data directory ran full, or has room again. While full nothing new is started.
pub fn on_disk(core: &mut Core, full: bool, out: &mut Out) {
    let freed = core.disk_full && !full;
    core.disk_full = full;
    if freed {
        desired::retry_held(core, out);
    }
}

/// Bounds every text of a report.
fn trim(report: &mut v1::Observation) {
    cut(&mut report.reason, TEXT_CHARS_MAX);
    if let Some(exit) = &mut report.exit {
        cut(&mut exit.reason, TEXT_CHARS_MAX);
        exit.leftovers.truncate(LEFTOVERS_MAX);
        exit.leftovers.iter_mut().for_each(|name| cut(name, TEXT_CHARS_MAX));
    }
}

/// Leaves what decides: state, codes, and one leftover, since any blocks a replacement (P15).
fn shorten(report: &mut v1::Observation) {
    cut(&mut report.reason, CODE_CHARS_MAX);
    if let Some(exit) = &mut report.exit {
        cut(&mut exit.reason, CODE_CHARS_MAX);
        exit.leftovers.truncate(1);
        exit.leftovers.iter_mut().for_each(|name| cut(name, CODE_CHARS_MAX));
    }
}

fn cut(text: &mut String, chars: usize) {
    if let Some((at, _)) = text.char_indices().nth(chars) {
        text.truncate(at);
    }
}
