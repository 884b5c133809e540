//! One entry's transaction: changes to the state that either commit whole or leave no trace (P23).

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::canonical;
use crate::changes::Changes;
use crate::cluster::ClockRecord;
use crate::entry::{Entry, LogPosition};
use crate::event::{EventKind, RecordedEvent, SegmentRecord};
use crate::host::HostRecord;
use crate::id::{Epoch, EventId, HostId, ProjectName};
use crate::identity::Actor;
use crate::limits::bounded;
use crate::row::{Row, RowKey};
use crate::runner::{QueuePlace, RunnerRecord};
use crate::state::State;
use crate::time::Millis;

/// Events of one segment: small enough to cut finely, large enough that the segments of a full event log are few.
pub(crate) const SEGMENT_EVENTS: u32 = 1024;

/// P26: canonical bytes of the event log; beyond it the oldest segments go even without a trim.
const EVENT_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;

/// What is counted up through an entry, batches included, so that no number is given twice.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counters {
    pub(crate) events: u32,
    pub(crate) places: u32,
}

/// The overlay. Reads see the writes; dropping it without [`Tx::commit`], unwinding included, undoes them.
pub(crate) struct Tx<'a> {
    state: &'a mut State,
    pub(crate) position: LogPosition,
    pub(crate) actor: &'a Actor,
    pub(crate) request_id: Option<Uuid>,
    counters: Counters,
    before: BTreeMap<RowKey, Option<Row>>,
    events: Vec<RecordedEvent>,
    trim_events_before: Option<EventId>,
    committed: bool,
}

impl<'a> Tx<'a> {
    /// Begins with the clock moved to the entry's time.
    pub(crate) fn begin(
        state: &'a mut State,
        position: LogPosition,
        entry: &'a Entry,
        counters: Counters,
    ) -> Self {
        let mut tx = Self {
            state,
            position,
            actor: &entry.actor,
            request_id: entry.request_id,
            counters,
            before: BTreeMap::new(),
            events: Vec::new(),
            trim_events_before: None,
            committed: false,
        };
        let clock = tx.state.clock();
        if entry.at > clock.now {
            tx.put_clock(ClockRecord { now: entry.at, ..clock });
        }
        tx
    }

    pub(crate) fn state(&self) -> &State {
        self.state
    }

    pub(crate) fn now(&self) -> Millis {
        self.state.now()
    }

    /// The epoch that this entry gives (P2, P3).
    pub(crate) fn epoch(&self) -> Epoch {
        Epoch { incarnation: self.state.incarnation(), index: self.position.index }
    }

    pub(crate) fn next_place(&mut self) -> QueuePlace {
        let place = QueuePlace { index: self.position.index, ordinal: self.counters.places };
        self.counters.places = self.counters.places.saturating_add(1);
        place
    }

    pub(crate) fn put(&mut self, row: Row) {
        let key = row.key();
        let old = self.state.put(row);
        self.before.entry(key).or_insert(old);
    }

    pub(crate) fn put_clock(&mut self, clock: ClockRecord) {
        self.put(Row::Clock(clock));
    }

    pub(crate) fn put_runner(&mut self, runner: RunnerRecord) {
        self.put(Row::Runner(runner));
    }

    pub(crate) fn put_host(&mut self, host: HostRecord) {
        self.put(Row::Host(host));
    }

    pub(crate) fn remove(&mut self, key: RowKey) {
        if let Some(old) = self.state.remove(&key) {
            self.before.entry(key).or_insert(Some(old));
        }
    }

    /// An event about nothing in particular but the cluster.
    pub(crate) fn event(&mut self, kind: EventKind, reason: &str) {
        self.push(kind, reason, |_| {});
    }

    pub(crate) fn project_event(&mut self, kind: EventKind, project: &ProjectName, reason: &str) {
        self.push(kind, reason, |event| event.project = Some(project.clone()));
    }

    pub(crate) fn host_event(&mut self, kind: EventKind, host: &HostRecord, reason: &str) {
        self.push(kind, reason, |event| {
            event.host = Some(host.id);
            event.host_name = Some(host.name.clone());
        });
    }

    pub(crate) fn runner_event(&mut self, kind: EventKind, runner: &RunnerRecord, reason: &str) {
        let host_name = runner.host.and_then(|id| self.state.host(id)).map(|host| host.name.clone());
        self.push(kind, reason, |event| {
            event.project = Some(runner.project.clone());
            event.runner = Some(runner.id);
            event.epoch = runner.epoch;
            event.host = runner.host;
            event.host_name = host_name;
        });
    }

    fn push(&mut self, kind: EventKind, reason: &str, subject: impl FnOnce(&mut RecordedEvent)) {
        let id = EventId {
            incarnation: self.state.incarnation(),
            index: self.position.index,
            ordinal: self.counters.events,
        };
        self.counters.events = self.counters.events.saturating_add(1);
        let mut event = RecordedEvent {
            id,
            at: self.now(),
            actor: self.actor.clone(),
            kind,
            project: None,
            runner: None,
            epoch: None,
            host: None,
            host_name: None,
            reason: bounded(reason),
        };
        subject(&mut event);
        self.events.push(event);
    }

    /// Cuts the oldest segment off the event log.
    pub(crate) fn cut_segment(&mut self, segment: SegmentRecord) {
        // The successor exists or will: this entry's own events come after everything kept.
        let next = EventId { ordinal: segment.last.ordinal.saturating_add(1), ..segment.last };
        self.trim_events_before = self.trim_events_before.max(Some(next));
        self.remove(RowKey::Segment(segment.first));
    }

    fn count_events(&mut self) {
        for at in 0..self.events.len() {
            let event = &self.events[at];
            let (id, time, bytes) = (event.id, event.at, canonical::bytes(event).len() as u64);
            let open = self.state.segments().next_back().filter(|last| last.count < SEGMENT_EVENTS);
            let segment = match open {
                Some(open) => SegmentRecord {
                    last: id,
                    count: open.count + 1,
                    bytes: open.bytes + bytes,
                    newest: open.newest.max(time),
                    ..*open
                },
                None => SegmentRecord { first: id, last: id, count: 1, bytes, newest: time },
            };
            self.put(Row::Segment(segment));
        }
        self.cut_events_to(EVENT_BYTES_MAX);
    }

    fn cut_events_to(&mut self, bytes: u64) {
        while self.state.event_totals().bytes > bytes {
            let Some(oldest) = self.state.oldest_full_segment() else { return };
            self.cut_segment(oldest);
        }
    }

    /// Makes everything final: the digest moves, the changes are noted, the events are handed back.
    pub(crate) fn commit(mut self, changes: &mut Changes) -> (Vec<RecordedEvent>, Counters) {
        self.count_events();
        self.committed = true;
        for (key, before) in std::mem::take(&mut self.before) {
            let after = self.state.get(&key);
            if before == after {
                continue;
            }
            self.state.digest_moved(&key, before, after.as_ref());
            changes.record_row(key, after);
        }
        let events = std::mem::take(&mut self.events);
        changes.record_events(&events);
        if let Some(before) = self.trim_events_before {
            changes.record_trim(before);
        }
        (events, self.counters)
    }

    /// Names of hosts for messages; the id when the host is gone.
    pub(crate) fn host_called(&self, id: HostId) -> String {
        self.state.host(id).map_or_else(|| id.to_string(), |host| host.name.to_string())
    }
}

impl Drop for Tx<'_> {
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        for (key, before) in std::mem::take(&mut self.before) {
            match before {
                Some(row) => drop(self.state.put(row)),
                None => drop(self.state.remove(&key)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::{Lab, admin};

    #[test]
    fn p26_the_event_log_is_cut_to_its_bound_without_a_trim() {
        let mut lab = Lab::new();
        lab.create_project("web", 5).unwrap();
        for _ in 0..3000 {
            lab.set_quota("web", 7).unwrap();
        }
        let bound = lab.state.event_totals().bytes / 2;
        let entry = lab.log[0].clone();
        let at = LogPosition { index: lab.index + 1, term: lab.term };
        let mut tx = Tx::begin(&mut lab.state, at, &entry, Counters::default());
        tx.cut_events_to(bound);
        tx.commit(&mut lab.changes);
        assert!(lab.state.event_totals().bytes <= bound);
        let line = lab.changes.trim_events_before().unwrap();
        let kept = lab.changes.events().iter().filter(|event| event.id >= line).count() as u64;
        assert_eq!(kept, lab.state.event_totals().count);
    }

    #[test]
    fn dropping_undoes_and_committing_notes_only_what_differs() {
        let mut lab = Lab::new();
        lab.create_project("web", 5).unwrap();
        let before = lab.state.clone();
        let entry = Entry { actor: admin(), ..lab.log[0].clone() };
        let at = LogPosition { index: lab.index + 1, term: lab.term };
        let project = Row::Project(lab.project("web").clone());
        let mut tx = Tx::begin(&mut lab.state, at, &entry, Counters::default());
        tx.remove(project.key());
        tx.event(EventKind::SystemAlert, "never happened");
        drop(tx);
        assert_eq!(lab.state, before);
        let mut tx = Tx::begin(&mut lab.state, at, &entry, Counters::default());
        tx.remove(project.key());
        tx.put(project);
        let mut changes = Changes::new();
        tx.commit(&mut changes);
        assert!(changes.is_empty(), "{changes:?}");
        assert_eq!(lab.state, before);
    }
}
