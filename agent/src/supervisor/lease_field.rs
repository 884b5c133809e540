//! A leader with its clock, a host with another, shims with theirs, and a network between them, for the lease's tests.

use std::collections::BTreeMap;

use stratavore_proto::v1;
use stratavore_proto::v1::agent_message::Message as Up;
use stratavore_proto::v1::node_message::Message as Down;

use super::deadline::{Deadline, Held, Terms};
use super::world::{identity, key};
use super::{
    Core, Effect, Inventory, LinkEvent, Out, RunnerEvent, blank_report, on_link, on_message, on_runner,
};
use crate::epoch::{Epoch, RunnerKey};

pub(super) const MS: u64 = 1_000_000;
pub(super) const LEASE_MS: u64 = 15_000;
pub(super) const WIDEN_MS: u64 = 60_000;

/// The leader's side, on its own clock in ms.
#[derive(Debug, Default)]
pub(super) struct Leader {
    pub(super) now_ms: u64,
    /// P7: of the last renewal received.
    pub(super) received_ms: Option<u64>,
    pub(super) unbounded: bool,
    pub(super) widened: bool,
    /// P13: a wider lease may still be held; b0 of the first bounding grant of this phase.
    pub(super) bounding: Option<Option<u64>>,
    /// Runners whose `running` report is committed.
    pub(super) running: BTreeMap<RunnerKey, u64>,
}

impl Leader {
    pub(super) fn on_renewal(&mut self, renewal: &v1::Renewal) -> v1::Grant {
        self.received_ms = Some(self.now_ms);
        if let Some(Some(first_ns)) = self.bounding
            && renewal.bounded
            && renewal.b0_ns > first_ns
        {
            self.bounding = None;
        }
        let narrow = !self.unbounded && !self.widened;
        if let Some(first) = self.bounding.as_mut().filter(|_| narrow) {
            first.get_or_insert(renewal.b0_ns);
        }
        v1::Grant {
            renewal: Some(renewal.clone()),
            unbounded: self.unbounded,
            bounding: narrow && self.bounding.is_some(),
            widen_ms: if self.widened { WIDEN_MS } else { 0 },
        }
    }

    /// P7 with P9 and P13: whether a fence may cover this runner now.
    pub(super) fn may_fence(&self, key: &RunnerKey, terms: Terms) -> bool {
        let acknowledged = self.running.contains_key(key);
        let Some(received_ms) = self.received_ms.filter(|_| !self.unbounded && self.bounding.is_none())
        else {
            return false;
        };
        if terms.keep && acknowledged {
            return false;
        }
        let hold_ms = if acknowledged { terms.hold_ms } else { LEASE_MS };
        let widen_ms = if self.widened { WIDEN_MS } else { 0 };
        self.now_ms > received_ms + (hold_ms + widen_ms) * 101 / 100
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Shim {
    pub(super) deadline: Deadline,
    pub(super) terms: Terms,
}

#[derive(Debug)]
pub(super) struct Field {
    pub(super) core: Core,
    pub(super) leader: Leader,
    pub(super) host_now_ns: u64,
    /// The host's clock against the leader's, in thousandths.
    pub(super) rate: u64,
    pub(super) up: Vec<Up>,
    pub(super) down: Vec<Down>,
    pub(super) starts: Vec<(RunnerKey, v1::RunnerStart, Deadline)>,
    pub(super) wishes: BTreeMap<RunnerKey, (Deadline, bool)>,
    pub(super) shims: BTreeMap<RunnerKey, Shim>,
    pub(super) placed: BTreeMap<RunnerKey, Terms>,
    pub(super) index: u64,
    pub(super) died: usize,
}

impl Field {
    pub(super) fn new(rate: u64, unbounded: bool) -> Self {
        let leader = Leader { unbounded, bounding: unbounded.then_some(None), ..Leader::default() };
        let mut field = Self {
            core: Core::new(identity(), Inventory::default()),
            leader,
            host_now_ns: 1_000_000 * MS,
            rate,
            up: vec![],
            down: vec![],
            starts: vec![],
            wishes: BTreeMap::new(),
            shims: BTreeMap::new(),
            placed: BTreeMap::new(),
            index: 10,
            died: 0,
        };
        field.connect();
        field
    }

    pub(super) fn connect(&mut self) {
        let welcome = v1::Welcome {
            protocol: 1,
            incarnation: 1,
            host_epoch: Some(v1::Epoch { incarnation: 1, index: 1 }),
            lease_ms: LEASE_MS,
            ..Default::default()
        };
        let now_ns = self.host_now_ns;
        self.input(|core, out| on_link(core, LinkEvent::Up(Box::new(welcome)), now_ns, out));
    }

    pub(super) fn input(&mut self, act: impl FnOnce(&mut Core, &mut Out)) {
        let mut out = Out::new();
        act(&mut self.core, &mut out);
        self.carry_out(out);
    }

    pub(super) fn carry_out(&mut self, effects: Out) {
        for effect in effects {
            match effect {
                Effect::Send(message) => self.up.push(*message),
                Effect::Spawn { key, start, deadline } => self.starts.push((key, *start, deadline)),
                Effect::Lease { key, deadline, lower } => {
                    let lower = lower || self.wishes.get(&key).is_some_and(|wish| wish.1);
                    self.wishes.insert(key, (deadline, lower));
                }
                Effect::Intend { keys, .. } => {
                    for key in keys {
                        let mut out = Out::new();
                        on_runner(&mut self.core, &key, RunnerEvent::Intended, &mut out);
                        self.carry_out(out);
                    }
                }
                _ => {}
            }
        }
    }

    pub(super) fn launch(&mut self, keep: bool, hold_ms: u64) {
        self.index += 1;
        let key = key(self.index, Epoch::new(1, self.index));
        self.placed.insert(key.clone(), Terms { keep, hold_ms });
        let host_epoch = Some(v1::Epoch { incarnation: 1, index: 1 });
        let order = v1::DesiredRunner {
            runner: key.runner().into(),
            epoch: Some(key.epoch().into()),
            want: v1::Want::Run.into(),
            start: Some(v1::RunnerStart { keep, hold_ms, host_epoch, ..Default::default() }),
            ..Default::default()
        };
        let index = Some(v1::Epoch { incarnation: 1, index: self.index });
        let desired = v1::Desired { index, full: false, runners: vec![order], more: false };
        self.deliver(Down::Desired(desired));
    }

    pub(super) fn deliver(&mut self, message: Down) {
        let now_ns = self.host_now_ns;
        self.input(|core, out| on_message(core, message, now_ns, out));
    }

    pub(super) fn pass(&mut self, ms: u64) {
        self.leader.now_ms += ms;
        self.host_now_ns += ms * MS / 1000 * self.rate;
        // The kernel's timer in every shim.
        let (now_ns, before) = (self.host_now_ns, self.shims.len());
        self.shims.retain(|_, shim| shim.deadline.ns() > now_ns);
        self.died += before - self.shims.len();
    }

    pub(super) fn start(&mut self, n: usize) {
        if self.starts.is_empty() {
            return;
        }
        let (key, start, deadline) = self.starts.remove(n % self.starts.len());
        if deadline.ns() <= self.host_now_ns {
            return;
        }
        let terms = Terms::of_start(&start);
        self.shims.insert(key.clone(), Shim { deadline, terms });
        self.tell(&key);
    }

    /// What the shim says of itself at a connection, or in answer to a deadline.
    pub(super) fn tell(&mut self, key: &RunnerKey) {
        let Some(shim) = self.shims.get(key).copied() else { return };
        let report = v1::Observation { rev: 2, pid: 7, ..blank_report(key, v1::RunnerState::Running) };
        let held = Held { deadline: shim.deadline, terms: shim.terms };
        self.input(|core, out| on_runner(core, key, RunnerEvent::Observed(report), out));
        self.input(|core, out| on_runner(core, key, RunnerEvent::Leased(Some(held)), out));
    }

    pub(super) fn apply_wish(&mut self, n: usize) {
        let keys: Vec<RunnerKey> = self.wishes.keys().cloned().collect();
        let Some(key) = (!keys.is_empty()).then(|| keys[n % keys.len()].clone()) else { return };
        let Some((deadline, lower)) = self.wishes.remove(&key) else { return };
        if let Some(shim) = self.shims.get_mut(&key) {
            shim.deadline = if lower { deadline } else { shim.deadline.max(deadline) };
        }
        self.tell(&key);
    }

    pub(super) fn report(&mut self) {
        while let Some(observed) = self.core.take_observed() {
            self.up.push(Up::Observed(observed));
        }
    }

    pub(super) fn reach_leader(&mut self, message: &Up) {
        match message {
            Up::Renewal(renewal) => {
                let grant = self.leader.on_renewal(renewal);
                self.down.push(Down::Grant(grant));
            }
            Up::Observed(observed) => {
                let mut runners = vec![];
                for report in
                    observed.runners.iter().filter(|report| report.state() == v1::RunnerState::Running)
                {
                    let key = RunnerKey::from_wire(&report.runner, report.epoch.as_ref()).unwrap();
                    let Epoch { incarnation, index } = key.epoch();
                    runners.push(v1::ObservedKey {
                        runner: key.runner().into(),
                        epoch: Some(v1::Epoch { incarnation, index }),
                        rev: report.rev,
                    });
                    self.leader.running.insert(key, report.rev);
                }
                self.down.push(Down::ObservedAck(v1::ObservedAck { runners }));
            }
            _ => {}
        }
    }

    pub(super) fn crash(&mut self) {
        self.wishes.clear();
        self.starts.clear();
        let observed = self
            .shims
            .keys()
            .map(|key| v1::Observation { rev: 2, pid: 7, ..blank_report(key, v1::RunnerState::Running) })
            .collect();
        let seen = Epoch::new(1, self.index);
        self.core = Core::new(identity(), Inventory { seen, observed, ..Inventory::default() });
        // Messages of the old process's links go nowhere; what is on its way to the leader arrives.
        self.down.clear();
        for key in self.shims.keys().cloned().collect::<Vec<_>>() {
            self.tell(&key);
        }
        self.connect();
    }

    /// I1: what the leader may fence is dead.
    pub(super) fn check(&self) {
        for (key, shim) in &self.shims {
            let terms = self.placed[key];
            assert!(
                !self.leader.may_fence(key, terms),
                "{key} lives till {} at {}: {:?}",
                shim.deadline,
                Deadline::at(self.host_now_ns),
                self.leader
            );
        }
    }
}
