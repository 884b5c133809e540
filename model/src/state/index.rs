//! What is derived from rows so that no command scans a table. Rebuilt from rows, never persisted.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::EventTotals;
use crate::dedup::DedupRecord;
use crate::event::SegmentRecord;
use crate::host::{HostLoad, HostRecord, HostState};
use crate::id::{HostId, HostName, ProjectName, RunnerId, RunnerName};
use crate::identity::{Actor, KeyRecord, SpkiHash};
use crate::runner::{QueuePlace, RunnerRecord, RunnerState, ShownState};
use crate::time::Millis;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Index {
    pub(super) runners_by_name: BTreeMap<RunnerName, BTreeSet<RunnerId>>,
    pub(super) live_by_name: BTreeMap<RunnerName, RunnerId>,
    pub(super) projects: BTreeMap<ProjectName, ProjectUse>,
    pub(super) runners_by_host: BTreeMap<HostId, BTreeSet<RunnerId>>,
    pub(super) loads: BTreeMap<HostId, HostLoad>,
    pub(super) queue: BTreeSet<(QueuePlace, RunnerId)>,
    pub(super) queued_slots: u64,
    /// Those of the queue that are not to be placed before a time.
    pub(super) backing_off: BTreeSet<(Millis, RunnerId)>,
    pub(super) runners_by_request: BTreeMap<Uuid, BTreeSet<(u32, RunnerId)>>,
    pub(super) ended: usize,
    pub(super) ended_settled: BTreeSet<(Millis, RunnerId)>,
    pub(super) counts: [u32; ShownState::ALL.len()],
    pub(super) hosts_by_name: BTreeMap<HostName, HostId>,
    /// Ready and not cordoned, by free slots.
    pub(super) placeable: BTreeSet<(u32, HostId)>,
    pub(super) free_slots: u64,
    pub(super) unlisted: BTreeSet<HostId>,
    pub(super) keys_by_identity: BTreeSet<(Actor, SpkiHash)>,
    pub(super) dedup_order: BTreeSet<(Millis, Actor, Uuid)>,
    pub(super) events: EventTotals,
}

/// The runners of one project.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct ProjectUse {
    pub(super) admitted: u32,
    pub(super) live: BTreeSet<RunnerId>,
    /// Pending without a quota place.
    pub(super) waiting: BTreeSet<(QueuePlace, RunnerId)>,
    /// Pending with one.
    pub(super) queued: BTreeSet<(QueuePlace, RunnerId)>,
}

/// Adds to or takes from a set in a map; an empty set leaves, so that equal rows give equal indexes.
fn set_in<K: Ord + Clone, V: Ord>(map: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: V, enter: bool) {
    if enter {
        match map.get_mut(key) {
            Some(set) => drop(set.insert(value)),
            None => drop(map.insert(key.clone(), BTreeSet::from([value]))),
        }
    } else if let Some(set) = map.get_mut(key) {
        set.remove(&value);
        if set.is_empty() {
            map.remove(key);
        }
    }
}

fn free_slots(host: &HostRecord, load: &HostLoad) -> u32 {
    host.slots.saturating_sub(load.slots)
}

impl Index {
    pub(super) fn enter_runner(&mut self, runner: &RunnerRecord) {
        self.runner(runner, true);
        self.counts[runner.shown_state() as usize] += 1;
        if runner.is_live() {
            self.live_by_name.insert(runner.name.clone(), runner.id);
        } else {
            self.ended += 1;
        }
        self.project(runner, true);
        if let Some(host) = runner.occupies() {
            let load = self.loads.entry(host).or_default();
            load.runners = load.runners.saturating_add(1);
            load.slots = load.slots.saturating_add(runner.spec.slots);
            load.cpu_milli = load.cpu_milli.saturating_add(runner.spec.cpu_milli.into());
            load.memory_bytes = load.memory_bytes.saturating_add(runner.spec.memory_bytes);
        }
    }

    pub(super) fn leave_runner(&mut self, runner: &RunnerRecord) {
        self.runner(runner, false);
        self.counts[runner.shown_state() as usize] -= 1;
        if !runner.is_live() {
            self.ended -= 1;
        } else if self.live_by_name.get(&runner.name) == Some(&runner.id) {
            self.live_by_name.remove(&runner.name);
        }
        self.project(runner, false);
        if let Some(host) = runner.occupies()
            && let Some(load) = self.loads.get_mut(&host)
        {
            load.runners = load.runners.saturating_sub(1);
            load.slots = load.slots.saturating_sub(runner.spec.slots);
            load.cpu_milli = load.cpu_milli.saturating_sub(runner.spec.cpu_milli.into());
            load.memory_bytes = load.memory_bytes.saturating_sub(runner.spec.memory_bytes);
            if load.runners == 0 {
                self.loads.remove(&host);
            }
        }
    }

    /// The sets in which a runner stands.
    fn runner(&mut self, runner: &RunnerRecord, enter: bool) {
        set_in(&mut self.runners_by_name, &runner.name, runner.id, enter);
        let requests =
            [runner.request_id, runner.stop_request_id.filter(|id| Some(*id) != runner.request_id)];
        for request in requests.into_iter().flatten() {
            set_in(&mut self.runners_by_request, &request, (runner.ordinal, runner.id), enter);
        }
        if let Some(host) = runner.occupies() {
            set_in(&mut self.runners_by_host, &host, runner.id, enter);
        }
        if runner.state == RunnerState::Pending && runner.admitted {
            let place = (runner.queued, runner.id);
            let slots = u64::from(runner.spec.slots);
            if enter {
                self.queue.insert(place);
                self.queued_slots += slots;
            } else {
                self.queue.remove(&place);
                self.queued_slots -= slots;
            }
            self.back_off(runner, enter);
        }
        if let (true, true, Some(ended_at)) = (runner.state.is_ended(), runner.settled, runner.ended_at) {
            let place = (ended_at, runner.id);
            if enter {
                self.ended_settled.insert(place)
            } else {
                self.ended_settled.remove(&place)
            };
        }
    }

    fn back_off(&mut self, runner: &RunnerRecord, enter: bool) {
        let Some(until) = runner.retry.as_ref().map(|retry| retry.not_before) else { return };
        if until > Millis(0) && enter {
            self.backing_off.insert((until, runner.id));
        } else {
            self.backing_off.remove(&(until, runner.id));
        }
    }

    fn project(&mut self, runner: &RunnerRecord, enter: bool) {
        if !runner.is_live() {
            return;
        }
        let place = (runner.queued, runner.id);
        let pending = runner.state == RunnerState::Pending;
        if enter {
            let uses = self.projects.entry(runner.project.clone()).or_default();
            uses.live.insert(runner.id);
            if runner.admitted {
                uses.admitted += 1;
                if pending {
                    uses.queued.insert(place);
                }
            } else {
                uses.waiting.insert(place);
            }
        } else if let Some(uses) = self.projects.get_mut(&runner.project) {
            uses.live.remove(&runner.id);
            if runner.admitted {
                uses.admitted -= 1;
                uses.queued.remove(&place);
            } else {
                uses.waiting.remove(&place);
            }
            if uses.live.is_empty() {
                self.projects.remove(&runner.project);
            }
        }
    }

    /// Call with the host as it stands in the table, after its row or load changed.
    pub(super) fn enter_host(&mut self, host: Option<&HostRecord>) {
        let Some(host) = host else { return };
        if host.state == HostState::Removed {
            return;
        }
        self.hosts_by_name.insert(host.name.clone(), host.id);
        if host.unlisted {
            self.unlisted.insert(host.id);
        }
        if host.state == HostState::Ready && !host.cordoned {
            let free = free_slots(host, &self.load(host.id));
            self.placeable.insert((free, host.id));
            self.free_slots += u64::from(free);
        }
    }

    /// Call before the host's row or load changes.
    pub(super) fn leave_host(&mut self, host: Option<&HostRecord>) {
        let Some(host) = host else { return };
        if host.state != HostState::Removed {
            self.hosts_by_name.remove(&host.name);
        }
        self.unlisted.remove(&host.id);
        let free = free_slots(host, &self.load(host.id));
        if self.placeable.remove(&(free, host.id)) {
            self.free_slots -= u64::from(free);
        }
    }

    fn load(&self, host: HostId) -> HostLoad {
        self.loads.get(&host).copied().unwrap_or_default()
    }

    pub(super) fn key(&mut self, key: &KeyRecord, enter: bool) {
        let place = (key.identity.clone(), key.spki);
        if enter {
            self.keys_by_identity.insert(place)
        } else {
            self.keys_by_identity.remove(&place)
        };
    }

    pub(super) fn dedup(&mut self, row: &DedupRecord, enter: bool) {
        let place = (row.ordered_by(), row.actor.clone(), row.request_id);
        if enter {
            self.dedup_order.insert(place)
        } else {
            self.dedup_order.remove(&place)
        };
    }

    pub(super) fn segment(&mut self, segment: &SegmentRecord, enter: bool) {
        let count = u64::from(segment.count);
        if enter {
            self.events.count += count;
            self.events.bytes += segment.bytes;
        } else {
            self.events.count -= count;
            self.events.bytes -= segment.bytes;
        }
    }
}
