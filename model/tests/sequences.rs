//! Long random command sequences. After every step: all invariants, agreement with the reference model, and a database
//! written from the changes that rebuilds the very state. At the end: a second instance fed the same log is equal.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fenced;
mod lab;
mod reference;
mod shuffled;
mod steps;

use std::collections::BTreeMap;

use lab::{Lab, admin};
use proptest::prelude::*;
use reference::{Host, Reference, Seen};
use shuffled::shuffle;
use steps::{Step, steps};
use stratavore_model::command::{
    CordonHost, CreateToken, EventRetention, Joiner, Kill, Launch, RedeemToken, RemoveHost, RevokeToken,
    Selector, Trim,
};
use stratavore_model::{
    Changes, Code, Command, Entry, Epoch, EventId, Fence, HostId, HostState, LeaseBound, LogPosition,
    OnDisconnect, RecordedEvent, Reply, RestartPolicy, Role, Row, RunnerState, State, TokenId, apply,
    invariant,
};
use uuid::Uuid;

/// A token as the test remembers it.
struct Token {
    id: TokenId,
    expires: u64,
    used_by: Option<u8>,
    revoked: bool,
}

/// The system under test, the reference, and a database written from the changes.
struct Run {
    lab: Lab,
    reference: Reference,
    tokens: Vec<Token>,
    requests: Vec<(Uuid, Launch, Reply)>,
    rows: BTreeMap<(u8, Vec<u8>), Row>,
    events: BTreeMap<EventId, RecordedEvent>,
    boots: u32,
    keys: u8,
}

fn pick<T>(items: &[T], number: impl Into<usize>) -> Option<usize> {
    (!items.is_empty()).then(|| number.into() % items.len())
}

fn outcome(reply: Result<Reply, stratavore_model::Rejected>) -> Result<(), Code> {
    reply.map(drop).map_err(|rejected| rejected.code)
}

impl Run {
    fn new() -> Self {
        let mut run = Self {
            lab: Lab::new(),
            reference: Reference::default(),
            tokens: Vec::new(),
            requests: Vec::new(),
            rows: BTreeMap::new(),
            events: BTreeMap::new(),
            boots: 0,
            keys: 0,
        };
        run.lab.create_project("p0", 3).unwrap();
        run.reference.create_project("p0", 3).unwrap();
        run.join(4);
        run.join(2);
        for host in 0..2 {
            run.connect(host, None, false, 255, 0, (RunnerState::Running, false));
        }
        run
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::CreateProject { name, max } => {
                let name = format!("p{name}");
                let theirs = outcome(self.lab.create_project(&name, max));
                assert_eq!(theirs, self.reference.create_project(&name, max));
            }
            Step::SetQuota { project, max } => {
                let Some(at) = pick(&self.reference.projects, project) else { return };
                let name = self.reference.projects[at].name.clone();
                assert_eq!(outcome(self.lab.set_quota(&name, max)), self.reference.set_quota(at, max));
            }
            Step::Launch { project, count, slots, no_queue, request, stop, restart } => {
                self.launch(project, count, slots, no_queue, (request, stop, restart));
            }
            Step::Retry { request, same } => self.retry(request, same),
            Step::Join { slots } => self.join(slots),
            Step::Connect { host, reboot, older, upto, list, state, weak } => {
                if let Some(host) = pick(&self.reference.hosts, host) {
                    self.connect(host, reboot, older, upto, list, (state, weak));
                }
            }
            Step::Assign { runner, host } => self.assign(runner, host),
            Step::Report { runner, rev, state, old_epoch } => self.report(runner, rev, state, old_epoch),
            Step::Unreachable { host } => {
                if let Some(at) = self.with_epoch(host) {
                    let id = self.reference.hosts[at].id;
                    assert_eq!(outcome(self.lab.unreachable(id)), self.reference.unreachable(at));
                }
            }
            Step::Reachable { host } => {
                if let Some(at) = self.with_epoch(host) {
                    let id = self.reference.hosts[at].id;
                    assert_eq!(outcome(self.lab.reachable(id)), self.reference.reachable(at));
                }
            }
            Step::Kill { .. } | Step::KillProject { .. } | Step::Restart { .. } => self.stop(step),
            Step::Cordon { .. } | Step::RemoveHost { .. } => self.operate(step),
            Step::CreateToken { ttl_ms } => self.create_token(ttl_ms),
            Step::Redeem { token, key } => self.redeem(token, key),
            Step::Revoke { token } => self.revoke(token),
            Step::Fence { .. }
            | Step::LeaseBounded { .. }
            | Step::ConfirmReboot { .. }
            | Step::DeclareRunnerDead { .. }
            | Step::DeclareHostDead { .. }
            | Step::Drain { .. }
            | Step::Maintain { .. }
            | Step::ForgoList { .. } => self.fence(step),
            Step::JoinNode { .. } | Step::RemoveNode { .. } | Step::Finalize { .. } => self.members(step),
            Step::Pass { ms } => self.lab.pass(ms),
            Step::Trim => {
                let events = EventRetention { age_ms: 0, count: 1500, bytes: 0 };
                self.lab.system(Command::Trim(Trim { elapsed_ms: 60_000, events })).unwrap();
            }
        }
    }

    fn launch(
        &mut self,
        project: u8,
        count: usize,
        slots: u32,
        no_queue: bool,
        (request, stop, restart): (bool, bool, RestartPolicy),
    ) {
        let at = usize::from(project) % self.reference.projects.len();
        let mut launch = self.lab.launch_command(&self.reference.projects[at].name.clone(), count);
        launch.spec.slots = slots;
        launch.no_queue = no_queue;
        launch.spec.on_disconnect = if stop { OnDisconnect::Stop } else { OnDisconnect::Keep };
        launch.spec.hold_ms = if count == 1 { 30_000 } else { 0 };
        launch.spec.restart = restart;
        let policy = (stop, launch.spec.hold_ms, restart);
        let request = request.then(|| self.lab.v7(0));
        let reply = self.lab.apply(admin(), request, Command::Launch(launch.clone())).reply;
        let theirs = outcome(reply.clone().into_result());
        assert_eq!(theirs, self.reference.launch(at, &launch.ids, slots, no_queue, policy));
        if let (Some(request), Ok(())) = (request, theirs) {
            self.requests.push((request, launch, reply));
        }
    }

    /// P25: the first answer, or a conflict, and never a second runner.
    fn retry(&mut self, request: u8, same: bool) {
        let Some(at) = pick(&self.requests, request) else { return };
        let (request, mut launch, first) = self.requests[at].clone();
        launch.ids = launch.ids.iter().map(|_| self.lab.fresh_runner_id()).collect();
        if !same {
            launch.spec.slots += 1;
        }
        let reply = self.lab.apply(admin(), Some(request), Command::Launch(launch)).reply;
        if same {
            assert_eq!(reply, first);
        } else {
            assert_eq!(reply.rejected().map(|r| r.code), Some(Code::RequestIdConflict));
        }
    }

    fn join(&mut self, slots: u32) {
        let name = format!("h{}", self.reference.hosts.len());
        let id: HostId = self.lab.join_host(&name, slots);
        self.reference.hosts.push(Host {
            id,
            name,
            slots,
            state: HostState::Joined,
            cordoned: false,
            epoch: None,
            boots: Vec::new(),
            connection: 0,
            weak: false,
            bound: LeaseBound::Bounded,
            widened: 0,
            fenced: None,
            covered: Vec::new(),
            rebooted: None,
            draining: false,
            cloned: false,
        });
        self.reference.follow_host_count();
    }

    /// `upto`: how much of history the agent has seen, of 255; `list`: which of its runners it names.
    fn connect(
        &mut self,
        host: usize,
        reboot: Option<u8>,
        older: bool,
        upto: u8,
        list: u64,
        (state, weak): (RunnerState, bool),
    ) {
        let record = self.reference.hosts[host].clone();
        let boot = match (reboot, record.boots.last()) {
            // Sometimes back to an earlier boot.
            (Some(number), Some(_)) if number < 64 => record.boots[usize::from(number) % record.boots.len()],
            (None, Some(present)) => *present,
            _ => {
                self.boots += 1;
                self.boots
            }
        };
        let connection = if older { record.connection.saturating_sub(1) } else { record.connection + 1 };
        let upto = self.lab.index * u64::from(upto) / 255;
        let on_host = self.reference.runners.iter().filter(|r| r.host == Some(host));
        let on_host = on_host.filter_map(|r| Some((r, r.epoch?))).enumerate();
        let named = on_host.filter(|(at, _)| list >> (at % 64) & 1 == 1);
        let covered = record.covered.iter().filter(|_| list >> 62 & 1 == 1).map(|(runner, epoch)| Seen {
            runner: *runner,
            epoch: *epoch,
            rev: 9,
            state: if list >> 63 == 1 { RunnerState::Running } else { RunnerState::Failed },
        });
        let list: Vec<_> = named
            .map(|(at, (r, epoch))| Seen {
                runner: r.id,
                epoch,
                rev: r.rev + at as u64 % 2,
                state: if at % 3 == 0 { state } else { RunnerState::Running },
            })
            .chain(covered)
            .collect();
        let observations = list.iter().map(|seen| self.observation(*seen)).collect();
        let seen = Some(Epoch { incarnation: 1, index: upto });
        let mut command =
            self.lab.connect_command(record.id, &format!("boot-{boot}"), connection, seen, observations);
        if weak {
            command.facts.fence = Fence::Weak;
        }
        let theirs = outcome(self.lab.as_host(record.id, Command::HostConnect(command)));
        let when = (self.lab.index, self.lab.now.0, weak);
        assert_eq!(theirs, self.reference.connect(host, boot, connection, upto, &list, when));
    }

    fn observation(&self, seen: Seen) -> stratavore_model::command::Observation {
        let epoch = Epoch { incarnation: 1, index: seen.epoch };
        self.lab.observed(seen.runner, epoch, seen.rev, seen.state)
    }

    fn assign(&mut self, runner: u16, host: u8) {
        // Mostly someone from the queue, sometimes anyone.
        let queued: Vec<_> = (0..self.reference.runners.len())
            .filter(|at| self.reference.runners[*at].state == RunnerState::Pending)
            .collect();
        let anyone = pick(&self.reference.runners, runner);
        let Some(at) =
            pick(&queued, runner).map(|at| queued[at]).filter(|_| !runner.is_multiple_of(8)).or(anyone)
        else {
            return;
        };
        let Some(host) = pick(&self.reference.hosts, host) else { return };
        let (runner, id) = (self.reference.runners[at].id, self.reference.hosts[host].id);
        let theirs = self.lab.assign(runner, id).is_ok();
        let mine = self.reference.assign(at, host, (self.lab.index, self.lab.now.0));
        assert_eq!(theirs, mine);
        if mine {
            assert_eq!(invariant::check_placed(&self.lab.state, id), []);
            assert!(self.reference.used(host) <= self.reference.hosts[host].slots);
        }
    }

    fn report(&mut self, runner: u16, rev: i8, state: RunnerState, old_epoch: bool) {
        let placed: Vec<_> = self.reference.runners.iter().filter(|r| r.epoch.is_some()).cloned().collect();
        let Some(at) = pick(&placed, runner) else { return };
        let runner = &placed[at];
        let (Some(host), Some(epoch)) = (runner.host, runner.epoch) else { return };
        let seen = Seen {
            runner: runner.id,
            epoch: if old_epoch { epoch - 1 } else { epoch },
            rev: runner.rev.saturating_add_signed(rev.into()),
            state,
        };
        let observation = self.observation(seen);
        let id = self.reference.hosts[host].id;
        let theirs = self.lab.report(id, vec![observation]).map(drop).map_err(|rejected| rejected.code);
        assert_eq!(theirs, self.reference.report(host, seen, self.lab.now.0));
    }

    /// Mostly one of which this holds, sometimes any.
    fn host_where(&self, number: u8, holds: impl Fn(usize) -> bool) -> Option<usize> {
        let some: Vec<_> = (0..self.reference.hosts.len()).filter(|at| holds(*at)).collect();
        let anyone = pick(&self.reference.hosts, number);
        pick(&some, number).map(|at| some[at]).filter(|_| !number.is_multiple_of(8)).or(anyone)
    }

    fn with_epoch(&self, host: u8) -> Option<usize> {
        let at = pick(&self.reference.hosts, host)?;
        self.reference.hosts[at].epoch.map(|_| at)
    }

    fn stop(&mut self, step: &Step) {
        match *step {
            Step::KillProject { project } => {
                let at = usize::from(project) % self.reference.projects.len();
                let selector = Selector::Project(self.reference.projects[at].name.parse().unwrap());
                let theirs = outcome(self.lab.user(Command::Kill(Kill { selector, force: false })));
                assert_eq!(theirs, self.reference.kill_project(at));
            }
            Step::Kill { runner, force } => {
                let Some(at) = pick(&self.reference.runners, runner) else { return };
                let id = self.reference.runners[at].id;
                assert_eq!(outcome(self.lab.kill(&[id], force)), self.reference.kill(at, force));
            }
            Step::Restart { runner } => {
                let Some(at) = pick(&self.reference.runners, runner) else { return };
                let id = self.reference.runners[at].id;
                assert_eq!(outcome(self.lab.restart(id)), self.reference.restart(at));
            }
            _ => {}
        }
    }

    /// By id, so that a removed host is told from one that never was.
    fn operate(&mut self, step: &Step) {
        match *step {
            Step::Cordon { host, cordoned } => {
                let Some(at) = pick(&self.reference.hosts, host) else { return };
                let host = self.reference.hosts[at].id.to_string();
                let theirs = outcome(self.lab.user(Command::CordonHost(CordonHost { host, cordoned })));
                assert_eq!(theirs, self.reference.cordon(at, cordoned));
            }
            Step::RemoveHost { host, force } => {
                let Some(at) = pick(&self.reference.hosts, host) else { return };
                let host = self.reference.hosts[at].id.to_string();
                let theirs = outcome(self.lab.user(Command::RemoveHost(RemoveHost { host, force })));
                assert_eq!(theirs, self.reference.remove_host(at, force));
            }
            _ => {}
        }
    }

    fn create_token(&mut self, ttl_ms: u64) {
        let create = CreateToken { ttl_ms, ..self.lab.token_command(Role::User) };
        let (id, ttl) = (create.id, if ttl_ms == 0 { 300_000 } else { ttl_ms });
        self.lab.user(Command::CreateToken(create)).unwrap();
        self.tokens.push(Token { id, expires: self.lab.now.0 + ttl, used_by: None, revoked: false });
    }

    /// `key` 0 is whoever redeemed it first, others are new keys.
    fn redeem(&mut self, token: u8, key: u8) {
        let Some(at) = pick(&self.tokens, token) else { return };
        let now = self.lab.now.0;
        let token = &mut self.tokens[at];
        let number = match (key, token.used_by) {
            (0, Some(first)) => first,
            _ if self.keys == u8::MAX => return,
            _ => {
                self.keys += 1;
                self.keys
            }
        };
        let expected = match token.used_by {
            Some(first) if first == number => Ok(()),
            Some(_) => Err(Code::TokenUsed),
            None if token.revoked => Err(Code::TokenRevoked),
            None if now >= token.expires => Err(Code::TokenExpired),
            None => {
                token.used_by = Some(number);
                Ok(())
            }
        };
        let joiner = Joiner::User { name: Some(format!("user{number}").parse().unwrap()) };
        let redeem = self.lab.redeem_command(token.id, joiner);
        let redeem = RedeemToken { spki: [number; 32].map(|byte| byte ^ 0x80), ..redeem };
        assert_eq!(outcome(self.lab.as_node(Command::RedeemToken(redeem))), expected);
    }

    fn revoke(&mut self, token: u8) {
        let Some(at) = pick(&self.tokens, token) else { return };
        let token = &mut self.tokens[at];
        let expected = if token.used_by.is_some() { Err(Code::TokenUsed) } else { Ok(()) };
        token.revoked |= token.used_by.is_none();
        let revoke = Command::RevokeToken(RevokeToken { id: token.id });
        assert_eq!(outcome(self.lab.user(revoke)), expected);
    }

    /// Writes what raft would write.
    fn write(&mut self) {
        let changes = self.lab.changes.take();
        for (key, row) in changes.row_refs() {
            let place = (key.table().number(), key.to_bytes());
            match row {
                Some(row) => drop(self.rows.insert(place, row.clone())),
                None => drop(self.rows.remove(&place)),
            }
        }
        for event in changes.events() {
            let known = self.events.insert(event.id, event.clone());
            assert_eq!(known, None, "an event number was given twice");
        }
        if let Some(before) = changes.trim_events_before() {
            self.events = self.events.split_off(&before);
        }
    }

    fn check(&self) {
        self.reference.compare(&self.lab.state);
        assert_eq!(self.lab.state.event_totals().count, self.events.len() as u64);
        let first = self.lab.state.segments().next().map(|segment| segment.first);
        assert_eq!(first, self.events.keys().next().copied());
    }

    fn reopened(&self) -> State {
        State::from_rows(self.rows.values().cloned())
    }
}

/// The log applied by somebody else.
fn replay(log: &[Entry], term: u64) -> (State, Vec<RecordedEvent>) {
    let (mut state, mut changes) = (State::new(), Changes::new());
    let mut events = Vec::new();
    for (at, entry) in log.iter().enumerate() {
        let position = LogPosition { index: at as u64 + 1, term };
        events.extend(apply(&mut state, &mut changes, position, entry).events);
        // As often as a store that restarts after every few entries.
        if at % 50 == 49 {
            state = State::from_rows(state.rows());
        }
    }
    (state, events)
}

/// As many cases as PROPTEST_CASES says, and without it so many as take a few seconds.
fn config() -> ProptestConfig {
    let asked = ProptestConfig::default();
    let unasked = 256;
    ProptestConfig { cases: if asked.cases == unasked { 24 } else { asked.cases }, ..asked }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_sequence_agrees_with_the_reference(steps in steps()) {
        let mut run = Run::new();
        run.write();
        for (at, step) in steps.iter().enumerate() {
            run.step(step);
            run.write();
            run.check();
            if at % 16 == 0 {
                assert_eq!(run.reopened(), run.lab.state);
            }
        }
        assert_eq!(run.reopened(), run.lab.state);
        let (twin, events) = replay(&run.lab.log, run.lab.term);
        assert_eq!(twin.digest(), run.lab.state.digest());
        assert_eq!(&twin, &run.lab.state);
        assert!(run.events.values().all(|event| events.contains(event)));
    }

    /// Nobody outside can make apply panic or break an invariant, whatever the order and the actor.
    #[test]
    fn a_shuffled_log_is_refused_in_part_and_breaks_nothing(
        steps in steps(),
        seed in any::<u64>(),
    ) {
        let mut run = Run::new();
        for step in &steps {
            run.step(step);
        }
        let mut log = run.lab.log.clone();
        shuffle(&mut log[1..], seed);
        let mut other = Lab::empty();
        other.checked = false;
        for (at, entry) in log.iter().enumerate() {
            let reply = other.apply_entry(entry).reply;
            let code = reply.rejected().map(|rejected| rejected.code);
            assert_ne!(code, Some(Code::InternalError), "{entry:?}");
            if at % 8 == 0 {
                assert_eq!(invariant::check(&other.state), [], "after {entry:?}");
            }
        }
        assert_eq!(invariant::check(&other.state), []);
    }
}
