//! P5, P10, P13 over interleavings: a leader with its clock, a host with another, shims with theirs, and a network that
//! delays, reorders, repeats and loses. Whenever the leader's rules would allow a fence, what it covers must be dead.

use std::collections::BTreeMap;

use proptest::prelude::*;
use stratavore_proto::v1;
use stratavore_proto::v1::agent_message::Message as Up;
use stratavore_proto::v1::node_message::Message as Down;

use super::deadline::{Deadline, Held, Terms};
use super::world::{identity, key};
use super::{
    Core, Effect, Inventory, LinkEvent, Out, RunnerEvent, blank_report, on_link, on_message, on_runner,
    on_tick,
};
use crate::epoch::{Epoch, RunnerKey};

const MS: u64 = 1_000_000;
const LEASE_MS: u64 = 15_000;
const WIDEN_MS: u64 = 60_000;

/// The leader's side, on its own clock in ms.
#[derive(Debug, Default)]
struct Leader {
    now_ms: u64,
    /// P7: of the last renewal received.
    received_ms: Option<u64>,
    unbounded: bool,
    widened: bool,
    /// P13: a wider lease may still be held; b0 of the first bounding grant of this phase.
    bounding: Option<Option<u64>>,
    /// Runners whose `running` report is committed.
    running: BTreeMap<RunnerKey, u64>,
}

impl Leader {
    fn on_renewal(&mut self, renewal: &v1::Renewal) -> v1::Grant {
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
    fn may_fence(&self, key: &RunnerKey, terms: Terms) -> bool {
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
struct Shim {
    deadline: Deadline,
    terms: Terms,
}

#[derive(Debug)]
struct Field {
    core: Core,
    leader: Leader,
    host_now_ns: u64,
    /// The host's clock against the leader's, in thousandths.
    rate: u64,
    up: Vec<Up>,
    down: Vec<Down>,
    starts: Vec<(RunnerKey, v1::RunnerStart, Deadline)>,
    wishes: BTreeMap<RunnerKey, (Deadline, bool)>,
    shims: BTreeMap<RunnerKey, Shim>,
    placed: BTreeMap<RunnerKey, Terms>,
    index: u64,
    died: usize,
}

impl Field {
    fn new(rate: u64, unbounded: bool) -> Self {
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

    fn connect(&mut self) {
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

    fn input(&mut self, act: impl FnOnce(&mut Core, &mut Out)) {
        let mut out = Out::new();
        act(&mut self.core, &mut out);
        self.carry_out(out);
    }

    fn carry_out(&mut self, effects: Out) {
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

    fn launch(&mut self, keep: bool, hold_ms: u64) {
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

    fn deliver(&mut self, message: Down) {
        let now_ns = self.host_now_ns;
        self.input(|core, out| on_message(core, message, now_ns, out));
    }

    fn pass(&mut self, ms: u64) {
        self.leader.now_ms += ms;
        self.host_now_ns += ms * MS / 1000 * self.rate;
        // The kernel's timer in every shim.
        let (now_ns, before) = (self.host_now_ns, self.shims.len());
        self.shims.retain(|_, shim| shim.deadline.ns() > now_ns);
        self.died += before - self.shims.len();
    }

    fn start(&mut self, n: usize) {
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
    fn tell(&mut self, key: &RunnerKey) {
        let Some(shim) = self.shims.get(key).copied() else { return };
        let report = v1::Observation { rev: 2, pid: 7, ..blank_report(key, v1::RunnerState::Running) };
        let held = Held { deadline: shim.deadline, terms: shim.terms };
        self.input(|core, out| on_runner(core, key, RunnerEvent::Observed(report), out));
        self.input(|core, out| on_runner(core, key, RunnerEvent::Leased(Some(held)), out));
    }

    fn apply_wish(&mut self, n: usize) {
        let keys: Vec<RunnerKey> = self.wishes.keys().cloned().collect();
        let Some(key) = (!keys.is_empty()).then(|| keys[n % keys.len()].clone()) else { return };
        let Some((deadline, lower)) = self.wishes.remove(&key) else { return };
        if let Some(shim) = self.shims.get_mut(&key) {
            shim.deadline = if lower { deadline } else { shim.deadline.max(deadline) };
        }
        self.tell(&key);
    }

    fn report(&mut self) {
        while let Some(observed) = self.core.take_observed() {
            self.up.push(Up::Observed(observed));
        }
    }

    fn to_leader(&mut self, message: &Up) {
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

    fn crash(&mut self) {
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
    fn check(&self) {
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

#[derive(Debug, Clone)]
enum Act {
    Pass(u64),
    Tick,
    Launch(bool, u64),
    Start(usize),
    Wish(usize),
    Report,
    Up(usize),
    UpAgain(usize),
    LoseUp(usize),
    Down(usize),
    DownAgain(usize),
    LoseDown(usize),
    Crash,
    SecondHost,
    Maintain(bool),
}

fn act() -> impl Strategy<Value = Act> {
    let n = any::<usize>;
    prop_oneof![
        6 => (1..9_000u64).prop_map(Act::Pass),
        1 => (9_000..90_000u64).prop_map(Act::Pass),
        8 => Just(Act::Tick),
        2 => (any::<bool>(), LEASE_MS..120_000).prop_map(|(keep, hold)| Act::Launch(keep, hold)),
        3 => n().prop_map(Act::Start),
        6 => n().prop_map(Act::Wish),
        3 => Just(Act::Report),
        8 => n().prop_map(Act::Up),
        1 => n().prop_map(Act::UpAgain),
        1 => n().prop_map(Act::LoseUp),
        8 => n().prop_map(Act::Down),
        1 => n().prop_map(Act::DownAgain),
        1 => n().prop_map(Act::LoseDown),
        1 => Just(Act::Crash),
        1 => Just(Act::SecondHost),
        1 => any::<bool>().prop_map(Act::Maintain),
    ]
}

fn take<T>(from: &mut Vec<T>, n: usize) -> Option<T> {
    (!from.is_empty()).then(|| n % from.len()).map(|at| from.remove(at))
}

fn play(field: &mut Field, act: Act) {
    match act {
        Act::Pass(ms) => field.pass(ms),
        Act::Tick => {
            let now_ns = field.host_now_ns;
            field.input(|core, out| on_tick(core, now_ns, out));
        }
        Act::Launch(keep, hold_ms) => field.launch(keep, hold_ms),
        Act::Start(n) => field.start(n),
        Act::Wish(n) => field.apply_wish(n),
        Act::Report => field.report(),
        Act::Up(n) => {
            if let Some(message) = take(&mut field.up, n) {
                field.to_leader(&message);
            }
        }
        Act::UpAgain(n) => {
            if let Some(message) = (!field.up.is_empty()).then(|| field.up[n % field.up.len()].clone()) {
                field.to_leader(&message);
            }
        }
        Act::LoseUp(n) => drop(take(&mut field.up, n)),
        Act::Down(n) => {
            if let Some(message) = take(&mut field.down, n) {
                field.deliver(message);
            }
        }
        Act::DownAgain(n) => {
            if let Some(message) = (!field.down.is_empty()).then(|| field.down[n % field.down.len()].clone())
            {
                field.deliver(message);
            }
        }
        Act::LoseDown(n) => drop(take(&mut field.down, n)),
        Act::Crash => field.crash(),
        Act::SecondHost => field.leader.unbounded = false,
        Act::Maintain(on) => {
            if !field.leader.unbounded && field.leader.widened != on {
                field.leader.widened = on;
                // A phase lasts for seconds at least: no renewal of the one before is still under way.
                field.up.retain(|message| !matches!(message, Up::Renewal(_)));
                // Until the end of this is bounded, a wider lease may be held.
                field.leader.bounding = Some(None);
            }
        }
    }
    field.check();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn p5_p10_p13_what_may_be_fenced_is_dead(
        rate in 990..=1010u64,
        unbounded in any::<bool>(),
        acts in proptest::collection::vec(act(), 1..160),
    ) {
        let mut field = Field::new(rate, unbounded);
        for act in acts {
            play(&mut field, act);
        }
        // And then the host is cut off for good.
        for _ in 0..60 {
            field.pass(5_000);
            field.check();
        }
    }

    /// Without faults nothing dies, whatever is launched, and a bounding comes to its end.
    #[test]
    fn p13_outages_are_not_deaths(
        launches in proptest::collection::vec((any::<bool>(), LEASE_MS..120_000), 1..8),
        outage_ms in 0..60_000u64,
    ) {
        let mut field = Field::new(1000, true);
        for (keep, hold_ms) in launches {
            field.launch(keep, hold_ms.max(75_000));
            for _ in 0..3 {
                round(&mut field);
            }
        }
        field.leader.unbounded = false;
        for _ in 0..4 {
            round(&mut field);
        }
        prop_assert_eq!(field.leader.bounding, None, "LeaseBounded is committed");
        field.pass(outage_ms);
        for _ in 0..4 {
            round(&mut field);
        }
        prop_assert_eq!((field.died, field.shims.len()), (0, field.placed.len()));
    }
}

/// One period in which everything arrives.
fn round(field: &mut Field) {
    play(field, Act::Pass(2_000));
    play(field, Act::Tick);
    for _ in 0..3 {
        while !field.starts.is_empty() {
            play(field, Act::Start(0));
        }
        while !field.wishes.is_empty() {
            play(field, Act::Wish(0));
        }
        play(field, Act::Report);
        while !field.up.is_empty() {
            play(field, Act::Up(0));
        }
        while !field.down.is_empty() {
            play(field, Act::Down(0));
        }
    }
}

fn started(keep: bool, hold_ms: u64, unbounded: bool) -> (Field, RunnerKey) {
    let mut field = Field::new(1000, unbounded);
    field.launch(keep, hold_ms);
    round(&mut field);
    let key = field.shims.keys().next().unwrap().clone();
    (field, key)
}

#[test]
fn p5_a_stop_runner_lives_for_its_hold_and_a_kept_one_for_ever() {
    let (field, key) = started(false, 100_000, false);
    // Acknowledged within the round, so the grant of the round counts with the hold.
    assert_eq!(field.shims[&key].deadline.ns(), field.host_now_ns + 99_000 * MS);
    let (field, key) = started(true, 100_000, false);
    assert_eq!(field.shims[&key].deadline, Deadline::NEVER);
}

#[test]
fn p10_until_its_first_report_is_acknowledged_every_runner_has_the_lease_only() {
    for keep in [false, true] {
        let mut field = Field::new(1000, false);
        field.launch(keep, 100_000);
        assert!(field.starts.is_empty(), "no grant yet, nothing to be armed with");
        play(&mut field, Act::Tick);
        play(&mut field, Act::Up(0));
        play(&mut field, Act::Down(0));
        assert_eq!(field.starts.len(), 1);
        assert_eq!(field.starts[0].2.ns(), field.host_now_ns + LEASE_MS * 99 / 100 * MS);
        play(&mut field, Act::Start(0));
        // More grants, no acknowledgement.
        for _ in 0..5 {
            play(&mut field, Act::Pass(2_000));
            play(&mut field, Act::Tick);
            field.up.retain(|message| matches!(message, Up::Renewal(_)));
            while !field.up.is_empty() {
                play(&mut field, Act::Up(0));
            }
            play(&mut field, Act::Down(0));
            play(&mut field, Act::Wish(0));
        }
        let shim = field.shims.values().next().unwrap();
        assert_eq!(shim.deadline.ns(), field.host_now_ns + LEASE_MS * 99 / 100 * MS);
    }
}

#[test]
fn p10_a_start_of_another_host_epoch_waits() {
    let mut field = Field::new(1000, true);
    round(&mut field);
    let key = key(99, Epoch::new(1, 99));
    let order = |host_epoch| v1::DesiredRunner {
        runner: key.runner().into(),
        epoch: Some(key.epoch().into()),
        want: v1::Want::Run.into(),
        start: Some(v1::RunnerStart {
            host_epoch: Some(v1::Epoch { incarnation: 1, index: host_epoch }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let desired = |index, host_epoch| v1::Desired {
        index: Some(v1::Epoch { incarnation: 1, index }),
        runners: vec![order(host_epoch)],
        ..Default::default()
    };
    field.deliver(Down::Desired(desired(99, 7)));
    play(&mut field, Act::Tick);
    assert!(field.starts.is_empty());
    field.deliver(Down::Desired(desired(100, 1)));
    play(&mut field, Act::Pass(2_000));
    play(&mut field, Act::Tick);
    while !field.up.is_empty() {
        play(&mut field, Act::Up(0));
    }
    while !field.down.is_empty() {
        play(&mut field, Act::Down(0));
    }
    assert_eq!(field.starts.len(), 1);
}

#[test]
fn p13_an_unbounded_grant_that_comes_after_the_bounding_moves_nothing() {
    let (mut field, key) = started(false, 100_000, true);
    assert_eq!(field.shims[&key].deadline, Deadline::NEVER);
    play(&mut field, Act::Pass(2_000));
    play(&mut field, Act::Tick);
    field.up.retain(|message| matches!(message, Up::Renewal(_)));
    play(&mut field, Act::Up(0));
    let late = field.down.remove(0);
    field.leader.unbounded = false;
    round(&mut field);
    let bounded = field.shims[&key].deadline;
    assert!(bounded.is_finite());
    field.deliver(late);
    assert!(field.wishes.is_empty());
    round(&mut field);
    assert!(field.shims[&key].deadline.is_finite());
    assert_eq!(field.leader.bounding, None);
}
