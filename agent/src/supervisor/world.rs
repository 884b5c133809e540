//! A host and a cluster in memory, for the core's tests: directories, shims, a gateway, crashes and power cuts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use stratavore_proto::v1;
use stratavore_proto::v1::agent_message::Message as Up;
use stratavore_proto::v1::node_message::Message as Down;

use super::entry::is_final;
use super::{
    Core, Effect, Finish, Identity, Inventory, LinkEvent, Out, RunnerEvent, blank_report, on_disk, on_halt,
    on_link, on_message, on_runner, on_tick,
};
use crate::epoch::{Epoch, RunnerKey};

/// What a directory holds.
#[derive(Debug, Clone)]
pub(super) enum Dir {
    Empty,
    Live(v1::Observation),
    Ended { report: v1::Observation, acknowledged: bool },
}

/// What the cluster knows of one epoch.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) want: v1::Want,
    pub(super) force: bool,
    pub(super) ended: Option<v1::Observation>,
    /// The host's list proved it absent (P14).
    pub(super) absent: bool,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) core: Core,
    pub(super) effects: VecDeque<Effect>,
    pub(super) dirs: BTreeMap<RunnerKey, Dir>,
    pub(super) durable_seen: Epoch,
    /// Ordered, but without directory, as the ledger remembers it.
    missing: BTreeSet<RunnerKey>,
    pub(super) disk_full: bool,
    /// Starts fail with this until cleared.
    pub(super) defer: Option<String>,
    /// How often the command of each epoch was executed.
    pub(super) executed: BTreeMap<RunnerKey, u32>,
    pub(super) cluster: BTreeMap<RunnerKey, Placed>,
    pub(super) index: u64,
    pub(super) incarnation: u64,
    pub(super) linked: bool,
    pub(super) connection: u64,
    pub(super) finished: Option<Finish>,
    pub(super) now_ns: u64,
    /// An older desired set that a lagging gateway may still send.
    pub(super) stale: Option<v1::Desired>,
    pub(super) power_was_cut: bool,
}

pub(super) fn key(n: u64, epoch: Epoch) -> RunnerKey {
    RunnerKey::new(&format!("{n:010}"), epoch).unwrap()
}

pub(super) fn identity() -> Identity {
    Identity {
        host_id: "h".into(),
        cluster_id: "c".into(),
        boot_id: "boot".into(),
        instance: bytes::Bytes::from_static(b"i"),
        facts: v1::HostFacts::default(),
        version: "test".into(),
    }
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            core: Core::new(identity(), Inventory::default()),
            effects: VecDeque::new(),
            dirs: BTreeMap::new(),
            durable_seen: Epoch::default(),
            missing: BTreeSet::new(),
            disk_full: false,
            defer: None,
            executed: BTreeMap::new(),
            cluster: BTreeMap::new(),
            index: 0,
            incarnation: 1,
            linked: false,
            connection: 0,
            finished: None,
            now_ns: 1,
            stale: None,
            power_was_cut: false,
        }
    }

    fn input(&mut self, f: impl FnOnce(&mut Core, &mut Out)) {
        let mut out = Out::new();
        f(&mut self.core, &mut out);
        self.effects.extend(out);
        self.core.check();
    }

    // What people and the cluster do.

    pub(super) fn launch(&mut self) -> RunnerKey {
        self.index += 1;
        let key = key(self.index, Epoch::new(self.incarnation, self.index));
        let placed = Placed { want: v1::Want::Run, force: false, ended: None, absent: false };
        self.cluster.insert(key.clone(), placed);
        key
    }

    pub(super) fn want(&mut self, key: &RunnerKey, want: v1::Want, force: bool) {
        self.index += 1;
        if let Some(placed) = self.cluster.get_mut(key).filter(|placed| placed.ended.is_none()) {
            placed.want = v1::Want::try_from((want as i32).max(placed.want as i32)).unwrap();
            placed.force |= force;
        }
    }

    pub(super) fn desired(&self, full: bool) -> v1::Desired {
        let open = self.cluster.iter().filter(|(_, placed)| placed.ended.is_none());
        let runners = open.map(|(key, placed)| order(key, placed)).collect();
        v1::Desired { index: Some(self.at().into()), full, runners, more: false }
    }

    pub(super) fn at(&self) -> Epoch {
        Epoch::new(self.incarnation, self.index)
    }

    /// Connects: hello up, welcome with the full set down.
    pub(super) fn connect(&mut self) {
        self.connection += 1;
        let hello = self.core.hello(self.connection);
        self.take_list(&hello);
        self.take_reports(&hello.runners);
        let welcome = v1::Welcome {
            protocol: 1,
            incarnation: self.incarnation,
            host_epoch: Some(v1::Epoch { incarnation: self.incarnation, index: 1 }),
            desired: Some(self.desired(true)),
            ..Default::default()
        };
        self.linked = true;
        let now_ns = self.now_ns;
        self.input(|core, out| on_link(core, LinkEvent::Up(Box::new(welcome)), now_ns, out));
        self.acknowledge();
        self.grant();
    }

    pub(super) fn disconnect(&mut self) {
        self.linked = false;
        self.input(|core, out| on_link(core, LinkEvent::Down, 0, out));
    }

    /// P14 as the leader applies it: absence counts up to what the list had seen.
    fn take_list(&mut self, hello: &v1::Hello) {
        let seen = Epoch::from(hello.seen.as_ref().unwrap());
        let listed: BTreeSet<RunnerKey> = hello
            .runners
            .iter()
            .map(|r| RunnerKey::from_wire(&r.runner, r.epoch.as_ref()).unwrap())
            .collect();
        for (key, placed) in &mut self.cluster {
            if placed.ended.is_none() && key.epoch() <= seen && !listed.contains(key) {
                placed.absent = true;
            }
        }
    }

    fn take_reports(&mut self, reports: &[v1::Observation]) {
        for report in reports.iter().filter(|report| is_final(report)) {
            let key = RunnerKey::from_wire(&report.runner, report.epoch.as_ref()).unwrap();
            if let Some(placed) = self.cluster.get_mut(&key) {
                let first = placed.ended.get_or_insert_with(|| report.clone());
                assert_eq!((first.state, &first.reason), (report.state, &report.reason), "{key} ended twice");
            }
        }
    }

    /// Acknowledges every end that the cluster has, as after a commit.
    fn acknowledge(&mut self) {
        let ended =
            self.cluster.iter().filter_map(|(key, placed)| placed.ended.as_ref().map(|end| (key, end)));
        let runners = ended
            .map(|(key, end)| v1::ObservedKey {
                runner: key.runner().into(),
                epoch: Some(key.epoch().into()),
                rev: end.rev,
            })
            .collect();
        self.deliver(Down::ObservedAck(v1::ObservedAck { runners }));
    }

    /// Answers the newest renewal under way, as a leader does.
    pub(super) fn grant(&mut self) {
        let now_ns = self.now_ns;
        let renewal = self.core.renewal(now_ns).filter(|_| self.linked);
        if let Some(renewal) = renewal {
            self.deliver(Down::Grant(v1::Grant { renewal: Some(renewal), ..Default::default() }));
        }
    }

    pub(super) fn deliver(&mut self, message: Down) {
        if self.linked {
            let now_ns = self.now_ns;
            self.input(|core, out| on_message(core, message, now_ns, out));
        }
    }

    /// Takes everything the agent has to report, and acknowledges it.
    pub(super) fn exchange(&mut self) {
        if !self.linked {
            return;
        }
        while let Some(observed) = self.core.take_observed() {
            self.take_reports(&observed.runners);
        }
        self.acknowledge();
    }

    // What the host does.

    pub(super) fn tick(&mut self, ns: u64) {
        self.now_ns += ns;
        let now_ns = self.now_ns;
        self.input(|core, out| on_tick(core, now_ns, out));
    }

    pub(super) fn set_disk(&mut self, full: bool) {
        self.disk_full = full;
        self.input(|core, out| on_disk(core, full, out));
    }

    pub(super) fn halt(&mut self, finish: Finish) {
        self.input(|core, out| on_halt(core, finish, "host_stopped", out));
    }

    pub(super) fn exit(&mut self, key: &RunnerKey, reason: &str) {
        let Some(Dir::Live(report)) = self.dirs.get(key) else { return };
        let mut report = report.clone();
        report.rev += 1;
        report.set_state(v1::RunnerState::Terminated);
        report.reason = reason.into();
        self.dirs.insert(key.clone(), Dir::Ended { report: report.clone(), acknowledged: false });
        self.input(|core, out| on_runner(core, key, RunnerEvent::Observed(report), out));
    }

    /// `kill -9` of the agent: what is not in a directory is gone.
    pub(super) fn crash(&mut self) {
        self.effects.clear();
        self.missing.clear();
        self.linked = false;
        self.defer = None;
        let mut inventory = Inventory { seen: self.durable_seen, ..Inventory::default() };
        for (key, dir) in &self.dirs {
            match dir {
                Dir::Empty => inventory.intended.push(key.clone()),
                Dir::Live(report) => inventory.observed.push(report.clone()),
                Dir::Ended { acknowledged: true, .. } => inventory.settled.push(key.clone()),
                Dir::Ended { report, .. } => inventory.observed.push(report.clone()),
            }
        }
        self.core = Core::new(identity(), inventory);
        self.core.check();
    }

    /// Power cut: no process survives, and directories that nobody synced may be gone.
    pub(super) fn cut_power(&mut self, directories_lost: bool) {
        self.power_was_cut = true;
        for dir in self.dirs.values_mut() {
            if let Dir::Live(report) = dir {
                let mut report = report.clone();
                report.rev += 1;
                report.set_state(v1::RunnerState::Failed);
                report.reason = "host_rebooted".into();
                *dir = Dir::Ended { report, acknowledged: false };
            }
        }
        if directories_lost {
            self.dirs.retain(|_, dir| matches!(dir, Dir::Ended { acknowledged: true, .. }));
        }
        self.crash();
    }

    /// Carries out one effect; false when there is none.
    pub(super) fn step(&mut self) -> bool {
        let Some(effect) = self.effects.pop_front() else { return false };
        match effect {
            Effect::Intend { keys, seen } => self.intend(keys, seen, true),
            Effect::Spawn { key, .. } => self.spawn(&key),
            Effect::Stop { key, reason, .. } => self.exit(&key, &reason),
            Effect::Conclude { key, state, reason } => {
                let report = v1::Observation { rev: 1, reason, ..blank_report(&key, state) };
                self.missing.remove(&key);
                let before =
                    self.dirs.insert(key.clone(), Dir::Ended { report: report.clone(), acknowledged: false });
                assert!(matches!(before, None | Some(Dir::Empty)), "{key} had started: {before:?}");
                self.input(|core, out| on_runner(core, &key, RunnerEvent::Concluded(report), out));
            }
            Effect::Reap { key } => {
                if let Some(Dir::Ended { acknowledged, .. }) = self.dirs.get_mut(&key) {
                    *acknowledged = true;
                }
            }
            Effect::Discard { key } => {
                self.missing.remove(&key);
                let removed = self.dirs.remove(&key);
                assert!(matches!(removed, None | Some(Dir::Empty)), "{key} had started: {removed:?}");
            }
            Effect::Recall { key } => {
                if let Some(Dir::Ended { report, .. }) = self.dirs.get(&key).cloned() {
                    self.input(|core, out| on_runner(core, &key, RunnerEvent::Recalled(report), out));
                }
            }
            Effect::Send(message) => match *message {
                Up::Observed(full) => {
                    self.take_reports(&full.runners);
                    self.acknowledge();
                }
                Up::Renewal(renewal) => {
                    let grant = v1::Grant { renewal: Some(renewal), ..Default::default() };
                    self.deliver(Down::Grant(grant));
                }
                _ => {}
            },
            Effect::Finish(finish) => self.finished = Some(finish),
            Effect::Lease { .. } | Effect::ReportLoad | Effect::Move(_) => {}
        }
        true
    }

    /// The ledger's promise; `synced` false is a crash between the directories and the index.
    pub(super) fn intend(&mut self, keys: Vec<RunnerKey>, seen: Epoch, synced: bool) {
        for key in &keys {
            if self.disk_full {
                self.missing.insert(key.clone());
            } else {
                self.missing.remove(key);
                self.dirs.entry(key.clone()).or_insert(Dir::Empty);
            }
        }
        if !synced {
            return;
        }
        let below_missing = self.missing.iter().map(|key| key.epoch().before()).min();
        self.durable_seen = self.durable_seen.max(below_missing.map_or(seen, |below| below.min(seen)));
        for key in keys {
            let event = if self.missing.contains(&key) || key.epoch() > self.durable_seen {
                self.missing.insert(key.clone());
                RunnerEvent::IntentFailed { cause: "disk_full".into() }
            } else {
                RunnerEvent::Intended
            };
            self.input(|core, out| on_runner(core, &key, event, out));
        }
    }

    fn spawn(&mut self, key: &RunnerKey) {
        if let Some(cause) = self.defer.clone() {
            return self.input(|core, out| on_runner(core, key, RunnerEvent::StartDeferred { cause }, out));
        }
        assert!(
            matches!(self.dirs.get(key), Some(Dir::Empty)),
            "{key} is started over {:?}",
            self.dirs.get(key)
        );
        assert!(self.durable_seen >= key.epoch(), "{key} is started before its order is durable");
        *self.executed.entry(key.clone()).or_default() += 1;
        let report = v1::Observation { rev: 1, pid: 7, ..blank_report(key, v1::RunnerState::Running) };
        self.dirs.insert(key.clone(), Dir::Live(report.clone()));
        self.input(|core, out| on_runner(core, key, RunnerEvent::Observed(report), out));
    }

    /// Everything goes on without faults until nothing moves.
    pub(super) fn settle(&mut self) {
        self.set_disk(false);
        self.defer = None;
        if !self.linked {
            self.connect();
        }
        for _ in 0..3 {
            self.tick(60_000_000_000);
            while self.step() {}
            self.exchange();
            let full = self.desired(true);
            self.deliver(Down::Desired(full));
            while self.step() {}
            self.exchange();
            while self.step() {}
        }
    }

    pub(super) fn live(&self) -> BTreeSet<RunnerKey> {
        self.dirs.iter().filter(|(_, dir)| matches!(dir, Dir::Live(_))).map(|(key, _)| key.clone()).collect()
    }
}

fn order(key: &RunnerKey, placed: &Placed) -> v1::DesiredRunner {
    v1::DesiredRunner {
        runner: key.runner().into(),
        epoch: Some(key.epoch().into()),
        want: placed.want.into(),
        start: (placed.want == v1::Want::Run).then(v1::RunnerStart::default),
        force: placed.force,
        stop_reason: "stopped".into(),
    }
}

impl Core {
    /// What must hold between any two inputs.
    pub(super) fn check(&self) {
        use super::entry::Phase;
        let starting = self.runners.values().filter(|entry| entry.phase == Phase::Starting).count();
        assert_eq!(self.starting, starting, "start slots leak");
        for (key, entry) in &self.runners {
            assert!(!self.settled.contains(key), "{key} is settled and not");
            assert_eq!(is_final(&entry.report), entry.phase == Phase::Ended, "{key}: {entry:?}");
        }
    }
}
