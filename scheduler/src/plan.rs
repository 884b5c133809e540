//! The plan: as many placements as one entry carries.

use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use stratavore_model::command::PLACEMENTS_MAX;
use stratavore_model::{HostId, HostLoad, Labels, Millis, Misfit, Need, RunnerId, misfit};

use crate::filter::{Reason, reasons};
use crate::queue::Queue;
use crate::score::{Policy, Rank, rank};
use crate::view::View;

/// What the leader shall propose.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// In the order of the queue, at most [`PLACEMENTS_MAX`].
    pub assign: Vec<(RunnerId, HostId)>,
    /// Who was looked at and fits nowhere.
    pub unplaced: Vec<Unplaced>,
    /// The bound was reached: plan again at once after this one is applied.
    pub more: bool,
    /// No slot is free on any host behind this plan: whoever else is queued was not looked at.
    pub full: bool,
}

/// A runner that fits nowhere now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unplaced {
    pub runner: RunnerId,
    /// Shared by all with the same needs. Empty: there is no host, it waits for hosts to report (P30), or for its next
    /// start by its restart policy.
    pub reasons: Arc<[Reason]>,
}

/// Plans placements for the queue of the view. `now` is the leader's time, not before the state's: it weighs waiting, and
/// ends the back-off of restarts.
#[must_use]
pub fn plan(view: &View<'_>, now: Millis) -> Plan {
    let mut planner = Planner::new(view);
    let mut plan = Plan::default();
    let mut queue = Queue::of(view.state, now);
    // Every runner takes a slot, so a long queue before a full cluster costs nothing.
    let mut free_slots = view.state.free_slots();
    while let Some(next) = queue.next() {
        let runner = next.runner;
        if free_slots == 0 {
            plan.full = true;
            break;
        }
        if plan.assign.len() == PLACEMENTS_MAX {
            plan.more = true;
            break;
        }
        let found = if view.is_held(runner) || runner.backs_off(now).is_some() {
            Err(Arc::from([]))
        } else {
            planner.place(&Need::of(runner))
        };
        queue.done(&next, found.is_ok());
        match found {
            Ok(host) => {
                free_slots = free_slots.saturating_sub(Need::of(runner).slots.into());
                plan.assign.push((runner.id, host));
            }
            Err(reasons) => plan.unplaced.push(Unplaced { runner: runner.id, reasons }),
        }
    }
    plan
}

/// Where up to `count` runners of one need would go that are not in the state yet, best first. Fewer than asked for when
/// the hosts fill up; none while others wait, who come first. `now` as in [`plan`]; who backs off does not count.
#[must_use]
pub fn plan_ahead(view: &View<'_>, need: &Need<'_>, count: usize, now: Millis) -> Vec<HostId> {
    if view.state.queue().len() > view.state.backing_off(now).count() {
        return Vec::new();
    }
    let mut planner = Planner::new(view);
    (0..count.min(PLACEMENTS_MAX)).map_while(|_| planner.place(need).ok()).collect()
}

/// Runners with equal needs share their candidates.
type Shape<'a> = (u32, u64, u64, Option<HostId>, &'a Labels);

enum Candidates {
    /// Hosts that passed every predicate when last seen, best on top; ranks may be out of date.
    Open(BinaryHeap<(Rank, usize)>),
    /// Nothing fits any more: within a plan hosts only fill up.
    Exhausted(Arc<[Reason]>),
}

struct Planner<'v, 'a> {
    view: &'v View<'a>,
    /// Of the view's hosts, with this plan's placements.
    loads: Vec<HostLoad>,
    shapes: BTreeMap<Shape<'a>, Candidates>,
}

impl<'v, 'a> Planner<'v, 'a> {
    fn new(view: &'v View<'a>) -> Self {
        let loads = view.hosts.iter().map(|(_, load)| *load).collect();
        Self { view, loads, shapes: BTreeMap::new() }
    }

    fn place(&mut self, need: &Need<'a>) -> Result<HostId, Arc<[Reason]>> {
        let shape = (need.slots, need.cpu_milli, need.memory_bytes, need.pinned, need.labels);
        let mut heap = match self.shapes.remove(&shape) {
            None => self.candidates(need),
            Some(Candidates::Open(heap)) => heap,
            Some(Candidates::Exhausted(reasons)) => {
                self.shapes.insert(shape, Candidates::Exhausted(Arc::clone(&reasons)));
                return Err(reasons);
            }
        };
        let Some(at) = self.best(&mut heap, need) else {
            let reasons: Arc<[Reason]> = reasons(self.view, &self.loads, need).into();
            self.shapes.insert(shape, Candidates::Exhausted(Arc::clone(&reasons)));
            return Err(reasons);
        };
        self.take(at, need);
        heap.push((self.rank(at), at));
        self.shapes.insert(shape, Candidates::Open(heap));
        Ok(self.view.hosts[at].0.id)
    }

    fn rank(&self, at: usize) -> Rank {
        rank(self.view.policy, self.view.hosts[at].0, &self.loads[at])
    }

    fn candidates(&self, need: &Need<'_>) -> BinaryHeap<(Rank, usize)> {
        let hosts = self.view.hosts.iter().enumerate();
        let fits = hosts.filter(|(at, (host, _))| misfit(host, &self.loads[*at], need).is_none());
        fits.map(|(at, _)| (self.rank(at), at)).collect()
    }

    /// Takes the best host out of the heap. Ranks are brought up to date when they come to the top: spreading, they
    /// only fall, so nothing better hides below; bin-packing, `take` has entered the risen ones anew.
    fn best(&self, heap: &mut BinaryHeap<(Rank, usize)>, need: &Need<'_>) -> Option<usize> {
        while let Some((stored, at)) = heap.pop() {
            let current = self.rank(at);
            if misfit(self.view.hosts[at].0, &self.loads[at], need).is_some_and(Misfit::is_resource) {
                continue;
            }
            if stored == current {
                return Some(at);
            }
            if self.view.policy == Policy::Spread {
                heap.push((current, at));
            }
        }
        None
    }

    fn take(&mut self, at: usize, need: &Need<'_>) {
        let load = &mut self.loads[at];
        load.runners += 1;
        load.slots = load.slots.saturating_add(need.slots);
        load.cpu_milli = load.cpu_milli.saturating_add(need.cpu_milli);
        load.memory_bytes = load.memory_bytes.saturating_add(need.memory_bytes);
        if self.view.policy == Policy::BinPack {
            self.enter_anew(at);
        }
    }

    /// Bin-packing, a host that took a runner rises for all other shapes too.
    fn enter_anew(&mut self, at: usize) {
        let ((host, _), load) = (self.view.hosts[at], self.loads[at]);
        let rank = rank(self.view.policy, host, &load);
        for ((slots, cpu_milli, memory_bytes, pinned, labels), candidates) in &mut self.shapes {
            let need = Need {
                slots: *slots,
                cpu_milli: *cpu_milli,
                memory_bytes: *memory_bytes,
                labels,
                pinned: *pinned,
            };
            if let Candidates::Open(heap) = candidates
                && misfit(host, &load, &need).is_none()
            {
                heap.push((rank, at));
            }
        }
    }
}
