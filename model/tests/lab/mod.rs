//! A small cluster to apply commands to. Every step checks all invariants, so each test is also an invariant test.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "several test crates share this file and each uses a part of it")]

use std::collections::BTreeSet;

use stratavore_model::command::{
    Assign, ConfirmReboot, CordonHost, CreateProject, CreateToken, FenceHost, HostConnect, HostReachable,
    HostUnreachable, InitCluster, Joiner, Kill, Launch, LeaseBounded, Observation, Placement, RedeemToken,
    RemoveHost, Report, Restart, Selector, SetMaintenance, SetQuota,
};
use stratavore_model::{
    Actor, COMMAND_VERSION, Changes, Command, Covered, Entry, Epoch, EventKind, Fence, HostFacts, HostId,
    ID_ALPHABET, LeaseNumbers, LogPosition, Millis, NodeAddresses, NodeId, ObservedKey, OnDisconnect,
    Outcome, ProjectRecord, Rejected, Reply, RestartPolicy, Role, RunnerId, RunnerSpec, RunnerState,
    SecretBytes, SpkiHash, State, TokenId, apply, invariant, query,
};
use uuid::Uuid;

/// A state with its log.
#[derive(Debug, Clone)]
pub(crate) struct Lab {
    pub(crate) state: State,
    /// Everything since the beginning.
    pub(crate) changes: Changes,
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) now: Millis,
    /// What leader loops claim; none = the present term.
    pub(crate) entry_term: Option<u64>,
    /// Off for tests that step so often that checking each time takes too long.
    pub(crate) checked: bool,
    /// Entry n is at index n + 1.
    pub(crate) log: Vec<Entry>,
    ids: u64,
}

pub(crate) fn init() -> Command {
    Command::InitCluster(Box::new(InitCluster {
        cluster: "0123456789abcdef".parse().unwrap(),
        nonce: [5; 16],
        lease: LeaseNumbers::default(),
        ca_cert_der: vec![1, 2, 3],
        ca_key_der: SecretBytes::new(vec![4, 5, 6]),
        node: NodeId(1),
        node_addresses: NodeAddresses::default(),
        node_spki: [1; 32],
        node_version: "0.1.0".into(),
        version: COMMAND_VERSION,
        node_max_version: COMMAND_VERSION,
        admin: "admin".parse().unwrap(),
        admin_spki: [2; 32],
    }))
}

/// A cluster of an older version, on a program that knows the newest.
pub(crate) fn founded_at(version: u32) -> Lab {
    founded_by(version, COMMAND_VERSION)
}

/// The same, on a program that knows versions up to `max_version`.
pub(crate) fn founded_by(version: u32, max_version: u32) -> Lab {
    let Command::InitCluster(mut init) = init() else { panic!("not the first command") };
    (init.version, init.node_max_version) = (version, max_version);
    let mut lab = Lab::empty();
    lab.system(Command::InitCluster(init)).unwrap();
    lab
}

impl Lab {
    /// A cluster with node 1 and the user `admin`.
    pub(crate) fn new() -> Self {
        let mut lab = Self::empty();
        lab.system(init()).unwrap();
        lab
    }

    pub(crate) fn empty() -> Self {
        Self {
            state: State::new(),
            changes: Changes::new(),
            index: 0,
            term: 3,
            now: Millis(1_700_000_000_000),
            entry_term: None,
            checked: true,
            log: Vec::new(),
            ids: 0,
        }
    }

    pub(crate) fn apply(&mut self, actor: Actor, request_id: Option<Uuid>, command: Command) -> Outcome {
        let term = (actor == Actor::System).then(|| self.entry_term.unwrap_or(self.term));
        self.apply_entry(&Entry { actor, request_id, at: self.now, term, command })
    }

    pub(crate) fn apply_entry(&mut self, entry: &Entry) -> Outcome {
        self.index += 1;
        let at = LogPosition { index: self.index, term: self.term };
        self.log.push(entry.clone());
        let before = self.checked.then(|| self.state.clone());
        let outcome = apply(&mut self.state, &mut self.changes, at, entry);
        if let Some(before) = before {
            assert_eq!(invariant::check_step(&before, &self.state, &outcome.events), [], "by {entry:?}");
            assert_eq!(invariant::check(&self.state), [], "after {entry:?}");
        }
        outcome
    }

    pub(crate) fn system(&mut self, command: Command) -> Result<Reply, Rejected> {
        self.apply(Actor::System, None, command).reply.into_result()
    }

    pub(crate) fn user(&mut self, command: Command) -> Result<Reply, Rejected> {
        self.apply(admin(), None, command).reply.into_result()
    }

    pub(crate) fn as_node(&mut self, command: Command) -> Result<Reply, Rejected> {
        self.apply(Actor::Node(NodeId(1)), None, command).reply.into_result()
    }

    pub(crate) fn as_host(&mut self, host: HostId, command: Command) -> Result<Reply, Rejected> {
        self.apply(Actor::Host(host), None, command).reply.into_result()
    }

    pub(crate) fn pass(&mut self, ms: u64) {
        self.now = self.now.plus(ms);
    }

    pub(crate) fn events_of(&self, kind: EventKind) -> usize {
        self.changes.events().iter().filter(|event| event.kind == kind).count()
    }

    /// Ten characters that were not given before.
    fn fresh_id(&mut self) -> String {
        self.ids += 1;
        // Multiplied so that prefixes differ early.
        let scattered = self.ids.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (0..10).map(|at| char::from(ID_ALPHABET[(scattered >> (5 * at) & 31) as usize])).collect()
    }

    pub(crate) fn fresh_runner_id(&mut self) -> RunnerId {
        self.fresh_id().parse().unwrap()
    }

    pub(crate) fn fresh_host_id(&mut self) -> HostId {
        self.fresh_id().parse().unwrap()
    }

    fn fresh_spki(&mut self) -> SpkiHash {
        self.ids += 1;
        let mut spki = [200; 32];
        spki[..8].copy_from_slice(&self.ids.to_le_bytes());
        spki
    }

    /// A fresh uuid v7 made `ago_ms` ago.
    pub(crate) fn v7(&mut self, ago_ms: u64) -> Uuid {
        self.ids += 1;
        let minted = u128::from(self.now.minus(ago_ms).0) << 80;
        Uuid::from_u128(minted | 7 << 76 | 2 << 62 | u128::from(self.ids))
    }
}

/// Projects and runners.
impl Lab {
    pub(crate) fn create_project(&mut self, name: &str, max_runners: u32) -> Result<Reply, Rejected> {
        self.user(Command::CreateProject(CreateProject {
            name: name.parse().unwrap(),
            path: format!("/srv/{name}"),
            command: vec!["/bin/true".into()],
            max_runners,
        }))
    }

    pub(crate) fn project(&self, name: &str) -> &ProjectRecord {
        self.state.project(&name.parse().unwrap()).unwrap()
    }

    pub(crate) fn set_quota(&mut self, name: &str, max_runners: u32) -> Result<Reply, Rejected> {
        self.user(Command::SetQuota(SetQuota { project: name.parse().unwrap(), max_runners }))
    }

    pub(crate) fn launch_command(&mut self, project: &str, count: usize) -> Launch {
        Launch {
            project: project.parse().unwrap(),
            ids: (0..count).map(|_| self.fresh_runner_id()).collect(),
            name: None,
            spec: RunnerSpec { tty: true, ..RunnerSpec::default() },
            no_queue: false,
        }
    }

    pub(crate) fn launch(&mut self, project: &str, count: usize) -> Vec<RunnerId> {
        let launch = self.launch_command(project, count);
        match self.user(Command::Launch(launch)) {
            Ok(Reply::Launched { runners, .. }) => runners,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn launch_with_request(&mut self, project: &str, request: Uuid) -> Result<Reply, Rejected> {
        let launch = Command::Launch(self.launch_command(project, 1));
        self.apply(admin(), Some(request), launch).reply.into_result()
    }

    pub(crate) fn assign(&mut self, runner: RunnerId, host: HostId) -> Result<Epoch, String> {
        let assign = Command::Assign(Assign { placements: vec![Placement { runner, host }] });
        match self.system(assign) {
            Ok(Reply::Assigned { placed, .. }) if !placed.is_empty() => Ok(placed[0].1),
            Ok(Reply::Assigned { refused, .. }) => Err(refused[0].reason.clone()),
            Ok(other) => panic!("{other:?}"),
            Err(rejected) => Err(rejected.message),
        }
    }

    pub(crate) fn kill(&mut self, runners: &[RunnerId], force: bool) -> Result<Reply, Rejected> {
        let selector = Selector::Runners(runners.iter().map(ToString::to_string).collect());
        self.user(Command::Kill(Kill { selector, force }))
    }

    pub(crate) fn restart(&mut self, runner: RunnerId) -> Result<Reply, Rejected> {
        self.user(Command::Restart(Restart { runner: runner.to_string() }))
    }
}

/// Hosts.
impl Lab {
    /// A host that joined and connected, with the boot id `boot-<name>`.
    pub(crate) fn host(&mut self, name: &str, slots: u32) -> HostId {
        let host = self.join_host(name, slots);
        self.connect(host, &format!("boot-{name}"), 1, vec![]);
        host
    }

    pub(crate) fn join_host(&mut self, name: &str, slots: u32) -> HostId {
        let token = self.token(Role::Host);
        let id = self.fresh_host_id();
        let joiner =
            Joiner::Host { id, name: Some(name.parse().unwrap()), labels: Default::default(), slots };
        let redeem = self.redeem_command(token, joiner);
        self.as_node(Command::RedeemToken(redeem)).unwrap();
        id
    }

    pub(crate) fn connect_command(
        &self,
        host: HostId,
        boot: &str,
        connection: u64,
        seen: Option<Epoch>,
        observations: Vec<Observation>,
    ) -> HostConnect {
        let facts = HostFacts {
            slots: 0,
            cpu_milli: 4000,
            memory_bytes: 1 << 30,
            features: vec!["pidns".into()],
            fence: Fence::PidNamespace,
        };
        HostConnect {
            host,
            boot_id: boot.into(),
            facts,
            agent_version: "0.1.0".into(),
            gateway: NodeId(1),
            connection,
            seen,
            observations,
        }
    }

    /// A connect of an agent that has seen everything so far.
    pub(crate) fn connect(
        &mut self,
        host: HostId,
        boot: &str,
        connection: u64,
        observations: Vec<Observation>,
    ) {
        let seen = Epoch { incarnation: self.state.incarnation(), index: self.index };
        self.connect_seen(host, boot, connection, Some(seen), observations);
    }

    pub(crate) fn connect_seen(
        &mut self,
        host: HostId,
        boot: &str,
        connection: u64,
        seen: Option<Epoch>,
        observations: Vec<Observation>,
    ) {
        let connect = self.connect_command(host, boot, connection, seen, observations);
        match self.as_host(host, Command::HostConnect(connect)) {
            Ok(Reply::Connected { .. }) => {}
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn observed(
        &self,
        runner: RunnerId,
        epoch: Epoch,
        rev: u64,
        state: RunnerState,
    ) -> Observation {
        Observation {
            runner,
            epoch,
            rev,
            state,
            pid: 4242,
            exit: None,
            reason: String::new(),
            started_at: Some(self.now),
            fence: Fence::PidNamespace,
        }
    }

    pub(crate) fn report_command(&self, host: HostId, observations: Vec<Observation>) -> Report {
        let record = self.state.host(host).unwrap();
        let host_epoch = record.host_epoch.unwrap_or(Epoch { incarnation: 0, index: 0 });
        Report { host, host_epoch, connection: record.connection, observations }
    }

    pub(crate) fn report(
        &mut self,
        host: HostId,
        observations: Vec<Observation>,
    ) -> Result<Vec<ObservedKey>, Rejected> {
        let report = self.report_command(host, observations);
        match self.as_host(host, Command::Report(report))? {
            Reply::Observed { acknowledged } => Ok(acknowledged),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn unreachable(&mut self, host: HostId) -> Result<Reply, Rejected> {
        let host_epoch = self.state.host(host).unwrap().host_epoch.unwrap();
        self.system(Command::HostUnreachable(HostUnreachable { host, host_epoch }))
    }

    pub(crate) fn reachable(&mut self, host: HostId) -> Result<Reply, Rejected> {
        let host_epoch = self.state.host(host).unwrap().host_epoch.unwrap();
        self.system(Command::HostReachable(HostReachable { host, host_epoch }))
    }

    /// Two hosts, so that their leases are bounded.
    pub(crate) fn two_hosts(&mut self, slots: u32) -> (HostId, HostId) {
        let (a, b) = (self.join_host("a", slots), self.join_host("b", slots));
        self.connect(a, "boot-a", 1, vec![]);
        self.connect(b, "boot-b", 1, vec![]);
        (a, b)
    }

    /// Launches one that may be replaced, with this restart policy.
    pub(crate) fn launch_policy(&mut self, restart: RestartPolicy) -> Result<RunnerId, Rejected> {
        let mut launch = self.launch_command("web", 1);
        (launch.spec.on_disconnect, launch.spec.restart) = (OnDisconnect::Stop, restart);
        let runner = launch.ids[0];
        self.user(Command::Launch(launch)).map(|_| runner)
    }

    /// A runner of this policy, placed on `host` and, if `running`, known to run.
    pub(crate) fn placed(&mut self, host: HostId, policy: OnDisconnect, running: bool) -> (RunnerId, Epoch) {
        let mut launch = self.launch_command("web", 1);
        launch.spec.on_disconnect = policy;
        let runner = launch.ids[0];
        self.user(Command::Launch(launch)).unwrap();
        let epoch = self.assign(runner, host).unwrap();
        if running {
            self.report(host, vec![self.observed(runner, epoch, 1, RunnerState::Running)]).unwrap();
        }
        (runner, epoch)
    }

    pub(crate) fn fence_command(&self, host: HostId, waited_ms: u64, runners: &[RunnerId]) -> FenceHost {
        let record = self.state.host(host).unwrap();
        let host_epoch = record.host_epoch.or(record.fenced).unwrap_or(Epoch { incarnation: 0, index: 0 });
        FenceHost { host, host_epoch, waited_ms, runners: self.covered(runners) }
    }

    /// These runners in their present epochs.
    pub(crate) fn covered(&self, runners: &[RunnerId]) -> Vec<Covered> {
        let epoch = |id: &RunnerId| self.state.runner(*id).and_then(|runner| runner.epoch);
        let none = Epoch { incarnation: 0, index: 0 };
        runners.iter().map(|id| Covered { runner: *id, epoch: epoch(id).unwrap_or(none) }).collect()
    }

    pub(crate) fn fence(
        &mut self,
        host: HostId,
        waited_ms: u64,
        runners: &[RunnerId],
    ) -> Result<Vec<RunnerId>, Rejected> {
        let fence = self.fence_command(host, waited_ms, runners);
        fenced(self.system(Command::FenceHost(fence)))
    }

    pub(crate) fn confirm_reboot(&mut self, host: HostId, waited_ms: u64) -> Result<Vec<RunnerId>, Rejected> {
        let waiting = query::reboot_waiting(&self.state, host);
        let runners = waiting.iter().map(|line| Covered { runner: line.runner, epoch: line.epoch }).collect();
        let rebooted = self.state.host(host).unwrap().rebooted;
        let host_epoch = rebooted.map_or(Epoch { incarnation: 0, index: 0 }, |reboot| reboot.old);
        fenced(self.system(Command::ConfirmReboot(ConfirmReboot { host, host_epoch, waited_ms, runners })))
    }

    pub(crate) fn lease_bounded(&mut self, host: HostId) -> Result<Reply, Rejected> {
        let host_epoch = self.state.host(host).unwrap().host_epoch.unwrap();
        let maintenance = self.state.cluster().unwrap().maintenance.map_or(0, |newest| newest.at);
        self.system(Command::LeaseBounded(LeaseBounded { host, host_epoch, maintenance }))
    }

    pub(crate) fn maintenance(&mut self, for_ms: u64) -> Result<Reply, Rejected> {
        self.user(Command::SetMaintenance(SetMaintenance { for_ms }))
    }

    pub(crate) fn cordon(&mut self, host: &str, cordoned: bool) -> Result<Reply, Rejected> {
        self.user(Command::CordonHost(CordonHost { host: host.into(), cordoned }))
    }

    pub(crate) fn remove_host(&mut self, host: &str) -> Result<Reply, Rejected> {
        self.user(Command::RemoveHost(RemoveHost { host: host.into(), force: true }))
    }
}

/// Tokens.
impl Lab {
    pub(crate) fn token_command(&mut self, role: Role) -> CreateToken {
        let id: TokenId = self.fresh_id().parse().unwrap();
        CreateToken { id, role, ttl_ms: 0, labels: Default::default(), secret_sha256: secret_of(id) }
    }

    pub(crate) fn token(&mut self, role: Role) -> TokenId {
        let create = self.token_command(role);
        let id = create.id;
        self.user(Command::CreateToken(create)).unwrap();
        id
    }

    pub(crate) fn redeem_command(&mut self, token: TokenId, joiner: Joiner) -> RedeemToken {
        RedeemToken { token, secret_sha256: secret_of(token), spki: self.fresh_spki(), joiner }
    }

    pub(crate) fn join_user(&mut self, token: TokenId, name: &str) -> Result<Reply, Rejected> {
        let redeem = self.redeem_command(token, Joiner::User { name: Some(name.parse().unwrap()) });
        self.as_node(Command::RedeemToken(redeem))
    }
}

/// Long enough for the default hold, and not long enough for it.
pub(crate) const HOLD_WAITED: u64 = 121_200;
pub(crate) const HOLD_NOT_WAITED: u64 = 121_199;

/// The same for the default lease.
pub(crate) const LEASE_WAITED: u64 = 15_150;

fn fenced(reply: Result<Reply, Rejected>) -> Result<Vec<RunnerId>, Rejected> {
    match reply? {
        Reply::Fenced { covered, .. } => Ok(covered.iter().map(|one| one.runner).collect()),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn admin() -> Actor {
    Actor::User("admin".parse().unwrap())
}

fn secret_of(token: TokenId) -> [u8; 32] {
    let mut secret = [0x5e; 32];
    secret[..10].copy_from_slice(token.as_str().as_bytes());
    secret
}

/// The rows that a database holds after writing these changes.
pub(crate) fn written(changes: &Changes) -> Vec<stratavore_model::Row> {
    let keys: BTreeSet<_> = changes.rows().map(|change| change.key.to_bytes()).collect();
    assert!(!keys.is_empty());
    changes.rows().filter_map(|change| change.row).collect()
}
