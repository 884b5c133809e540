//! Tests: every command, row and event comes back as it was stored.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::command::{
    AdoptRunner, Assign, ConfirmReboot, CordonHost, CreateProject, CreateToken, CutKeys, DeclareHostDead,
    DeclareRunnerDead, DrainHost, EventRetention, FenceHost, Finalize, ForgoList, HostConnect, HostReachable,
    HostUnreachable, InitCluster, Joiner, Kill, LabelHost, Launch, LeaseBounded, NodeNote, NoteNode,
    Observation, Placement, RaiseIncarnation, RedeemToken, RegisterKey, RemoveHost, RemoveNode, Report,
    ReserveNode, ResetClock, Restart, RevokeToken, Selector, SetMaintenance, SetNodeAddress, SetQuota, Trim,
};
use model::{Actor, Command, Entry, Epoch, EventId, HostId, Millis, NodeId, Row, RunnerId, TokenId};
use stratavore_model as model;
use uuid::Uuid;

use super::{RecordError, decode_entry, decode_event, decode_row, encode_entry, encode_event, encode_row};

fn runner() -> RunnerId {
    RunnerId::from_random([1; 10])
}

fn host() -> HostId {
    HostId::from_random([2; 10])
}

fn token() -> TokenId {
    TokenId::from_random([3; 10])
}

const EPOCH: Epoch = Epoch { incarnation: 2, index: 77 };
const EVENT: EventId = EventId { incarnation: 2, index: 77, ordinal: 3 };

fn labels() -> model::Labels {
    BTreeMap::from([("zone".into(), "a".into()), ("gpu".into(), String::new())])
}

fn spec() -> model::RunnerSpec {
    model::RunnerSpec {
        command: vec!["claude".into(), "--flag".into()],
        env: vec![("A".into(), "1".into()), ("A".into(), "2".into())],
        workdir: "/srv".into(),
        tty: true,
        slots: 2,
        cpu_milli: 1500,
        memory_bytes: 1 << 40,
        labels: labels(),
        host: "h1".into(),
        on_disconnect: model::OnDisconnect::Stop,
        hold_ms: 9,
        restart: model::RestartPolicy::OnFailure,
    }
}

fn exit() -> model::Exit {
    model::Exit {
        code: Some(-1),
        signal: Some(0),
        reason: "exited".into(),
        core_dumped: true,
        oom_killed: true,
        user_cpu_ms: 1,
        system_cpu_ms: 2,
        max_rss_bytes: 3,
        leftovers: vec!["77 sleep".into()],
    }
}

fn observation() -> Observation {
    Observation {
        runner: runner(),
        epoch: EPOCH,
        rev: 5,
        state: model::RunnerState::Failed,
        pid: 4242,
        exit: Some(exit()),
        reason: "why".into(),
        started_at: Some(Millis(0)),
        fence: model::Fence::PidNamespace,
    }
}

fn addresses() -> model::NodeAddresses {
    model::NodeAddresses { grpc: "a:1".into(), quic: "a:2".into(), raft: "a:3".into(), join: "a:4".into() }
}

fn cluster_commands() -> Vec<Command> {
    let lease = model::LeaseNumbers { ttl_ms: 1, renew_ms: 2, kill_grace_ms: 3, hold_ms: 4, hold_max_ms: 5 };
    vec![
        Command::InitCluster(Box::new(InitCluster {
            cluster: "0123456789abcdef".parse().unwrap(),
            nonce: [9; 16],
            lease,
            ca_cert_der: vec![1, 2],
            ca_key_der: model::SecretBytes::new(vec![3, 4]),
            node: NodeId(1),
            node_addresses: addresses(),
            node_spki: [5; 32],
            node_version: "0.1".into(),
            admin: "admin".parse().unwrap(),
            admin_spki: [6; 32],
            version: 7,
            node_max_version: 8,
        })),
        Command::RaiseIncarnation(RaiseIncarnation { n: 4, nonce: [8; 16], reason: "r".into() }),
        Command::RegisterKey(RegisterKey { present: [1; 32], new: [2; 32] }),
        Command::SetNodeAddress(SetNodeAddress {
            node: NodeId(7),
            addresses: addresses(),
            version: "v".into(),
            max_version: 9,
        }),
        Command::RemoveNode(RemoveNode { node: NodeId(7) }),
        Command::Finalize(Finalize { version: 3 }),
        Command::SetMaintenance(SetMaintenance { for_ms: 4 }),
        Command::AdoptRunner(AdoptRunner {
            runner: "r".into(),
            project: "p".parse().unwrap(),
            name: Some("n".parse().unwrap()),
        }),
        Command::ReserveNode(ReserveNode { spki: [3; 32] }),
        Command::NoteNode(NoteNode { node: NodeId(7), what: NodeNote::ClockOff, text: "t".into() }),
        Command::CutKeys(CutKeys {
            keys: vec![([4; 32], Actor::Host(host())), ([5; 32], Actor::Node(NodeId(7)))],
        }),
        Command::Trim(Trim { elapsed_ms: 6, events: EventRetention { age_ms: 1, count: 2, bytes: 3 } }),
        Command::ResetClock(ResetClock { to: Millis(12) }),
    ]
}

fn runner_commands() -> Vec<Command> {
    let launch = |name: Option<&str>| {
        Command::Launch(Launch {
            project: "p".parse().unwrap(),
            ids: vec![runner(), RunnerId::from_random([4; 10])],
            name: name.map(|name| name.parse().unwrap()),
            spec: spec(),
            no_queue: true,
        })
    };
    let kill = |selector| Command::Kill(Kill { selector, force: true });
    let report = Report { host: host(), host_epoch: EPOCH, connection: 3, observations: vec![observation()] };
    vec![
        Command::CreateProject(CreateProject {
            name: "p".parse().unwrap(),
            path: "/p".into(),
            command: vec!["c".into()],
            max_runners: 3,
        }),
        Command::SetQuota(SetQuota { project: "p".parse().unwrap(), max_runners: 9 }),
        launch(None),
        launch(Some("n")),
        Command::Assign(Assign { placements: vec![Placement { runner: runner(), host: host() }] }),
        Command::Report(report),
        kill(Selector::Runners(vec!["a".into(), "b".into()])),
        kill(Selector::Project("p".parse().unwrap())),
        kill(Selector::All),
        Command::Restart(Restart { runner: "r".into() }),
    ]
}

fn host_and_token_commands() -> Vec<Command> {
    let facts = model::HostFacts {
        slots: 1,
        cpu_milli: 2,
        memory_bytes: 3,
        features: vec!["cgroup2".into()],
        fence: model::Fence::Weak,
    };
    let redeem = |joiner| {
        Command::RedeemToken(RedeemToken { token: token(), secret_sha256: [7; 32], spki: [8; 32], joiner })
    };
    let connect = HostConnect {
        host: host(),
        boot_id: "b".into(),
        facts,
        agent_version: "0.1".into(),
        gateway: NodeId(1),
        connection: 9,
        seen: Some(EPOCH),
        observations: vec![observation()],
    };
    vec![
        Command::HostConnect(connect),
        Command::HostUnreachable(HostUnreachable { host: host(), host_epoch: EPOCH }),
        Command::HostReachable(HostReachable { host: host(), host_epoch: EPOCH }),
        Command::CordonHost(CordonHost { host: "h".into(), cordoned: true }),
        Command::LabelHost(LabelHost { host: "h".into(), set: labels(), remove: vec!["x".into()] }),
        Command::RemoveHost(RemoveHost { host: "h".into(), force: true }),
        Command::CreateToken(CreateToken {
            id: token(),
            role: model::Role::User,
            ttl_ms: 5,
            labels: labels(),
            secret_sha256: [7; 32],
        }),
        Command::RevokeToken(RevokeToken { id: token() }),
        redeem(Joiner::Host { id: host(), name: Some("h".parse().unwrap()), labels: labels(), slots: 8 }),
        redeem(Joiner::Node { addresses: addresses(), version: "v".into(), max_version: 2 }),
        redeem(Joiner::User { name: None }),
    ]
}

fn fence_commands() -> Vec<Command> {
    let runners = vec![model::Covered { runner: runner(), epoch: EPOCH }];
    let later = Epoch { index: 78, ..EPOCH };
    vec![
        Command::FenceHost(FenceHost {
            host: host(),
            host_epoch: later,
            waited_ms: 5,
            runners: runners.clone(),
        }),
        Command::LeaseBounded(LeaseBounded { host: host(), host_epoch: EPOCH, maintenance: 8 }),
        Command::ConfirmReboot(ConfirmReboot { host: host(), host_epoch: later, waited_ms: 6, runners }),
        Command::ForgoList(ForgoList { host: host(), waited_ms: 7 }),
        Command::DeclareRunnerDead(DeclareRunnerDead { runner: "r".into() }),
        Command::DeclareHostDead(DeclareHostDead { host: "h".into() }),
        Command::DrainHost(DrainHost { host: "h".into() }),
    ]
}

fn entry(command: Command) -> Entry {
    Entry {
        actor: Actor::Host(host()),
        request_id: Some(Uuid::from_u128(77)),
        at: Millis(u64::MAX),
        term: Some(0),
        command,
    }
}

#[test]
fn every_command_comes_back() {
    let mut commands = cluster_commands();
    commands.extend(runner_commands());
    commands.extend(host_and_token_commands());
    commands.extend(fence_commands());
    let mut names: Vec<&str> = commands.iter().map(Command::name).collect();
    names.dedup();
    assert_eq!(names.len(), 36, "one of each kind but the batch: {names:?}");
    commands.push(Command::Batch(commands.iter().cloned().map(entry).collect()));
    for command in commands {
        let entry = entry(command);
        assert_eq!(decode_entry(encode_entry(&entry)).unwrap(), entry);
        let bare = Entry { request_id: None, term: None, actor: Actor::System, ..entry };
        assert_eq!(decode_entry(encode_entry(&bare)).unwrap(), bare);
    }
}

fn runner_row() -> model::RunnerRecord {
    model::RunnerRecord {
        id: runner(),
        name: "n".parse().unwrap(),
        project: "p".parse().unwrap(),
        spec: Arc::new(spec()),
        state: model::RunnerState::Paused,
        lost: Some(model::Lost::NotListed),
        want: model::Want::Stop { force: false },
        restart_wanted: true,
        admitted: true,
        queued: model::QueuePlace { index: 1, ordinal: 2 },
        epoch: Some(EPOCH),
        host: Some(host()),
        pinned: Some(host()),
        rev: 3,
        pid: 4,
        fence: model::Fence::Cgroup,
        exit: Some(Arc::new(exit())),
        reason: "r".into(),
        created_at: Millis(5),
        started_at: Some(Millis(6)),
        ended_at: Some(Millis(7)),
        created_by: Actor::User("u".parse().unwrap()),
        request_id: Some(Uuid::from_u128(8)),
        ordinal: 9,
        stop_request_id: Some(Uuid::from_u128(10)),
        restarts: 11,
        settled: true,
        on_disconnect: model::OnDisconnect::Stop,
        hold_ms: 12,
        retry: Some(model::Retry {
            attempts: 13,
            not_before: Millis(14),
            placed_at: Millis(15),
            last: Some(model::LastStart { epoch: EPOCH, host: host(), exit: Arc::new(exit()) }),
        }),
    }
}

fn host_row() -> model::HostRecord {
    model::HostRecord {
        id: host(),
        name: "h".parse().unwrap(),
        state: model::HostState::Unreachable,
        labels: labels(),
        slots: 1,
        cpu_milli: 2,
        memory_bytes: 3,
        features: vec!["f".into()],
        fence: model::Fence::Unknown,
        boot_id: "b".into(),
        previous_boot_id: "a".into(),
        host_epoch: Some(EPOCH),
        connection: 4,
        gateway: Some(NodeId(5)),
        cordoned: true,
        spki: [6; 32],
        joined_at: Millis(7),
        since: Millis(8),
        agent_version: "v".into(),
        fenced: Some(Epoch { index: 76, ..EPOCH }),
        covered: BTreeMap::from([(runner(), EPOCH)]),
        rebooted: Some(model::Reboot { old: Epoch { index: 75, ..EPOCH }, at: EPOCH }),
        lease: model::HostLease { ttl_ms: 9, bound: model::LeaseBound::Bounding, widened_ms: 10 },
        unlisted: true,
        draining: true,
        cloned: true,
    }
}

fn token_row(state: model::TokenState) -> Row {
    Row::Token(model::TokenRecord {
        id: token(),
        role: model::Role::Host,
        secret_sha256: [1; 32],
        labels: labels(),
        created_at: Millis(2),
        expires_at: Millis(3),
        created_by: Actor::System,
        state,
    })
}

fn dedup_row(reply: model::StoredReply) -> Row {
    Row::Dedup(model::DedupRecord {
        actor: Actor::Node(NodeId(1)),
        request_id: Uuid::from_u128(2),
        payload: [3; 32],
        at: Millis(4),
        reply,
    })
}

fn small_rows() -> Vec<Row> {
    vec![
        Row::Cluster(Box::new(model::ClusterRecord {
            id: "0123456789abcdef".parse().unwrap(),
            incarnation: model::Incarnation { n: 2, nonce: [1; 16] },
            created_at: Millis(1),
            lease: model::LeaseNumbers::default(),
            ca_cert_der: vec![1],
            ca_key_der: model::SecretBytes::new(vec![2]),
            version: 3,
            next_node: NodeId(4),
            raised_at_index: 5,
            maintenance: Some(model::Maintenance { until: Millis(6), hold_ms: 7, at: 8 }),
        })),
        Row::Clock(model::ClockRecord { now: Millis(1), age: Millis(2), dedup_floor: Millis(3) }),
        Row::Node(model::NodeRecord {
            id: NodeId(1),
            addresses: addresses(),
            spki: [1; 32],
            version: "v".into(),
            joined_at: Millis(2),
            removed: true,
            max_version: 3,
        }),
        Row::User(model::UserRecord { name: "u".parse().unwrap(), created_at: Millis(1), removed: true }),
        Row::Key(model::KeyRecord {
            spki: [1; 32],
            identity: Actor::Host(host()),
            registered_at: Millis(2),
            token: Some(token()),
            removed: true,
        }),
        Row::Project(model::ProjectRecord {
            name: "p".parse().unwrap(),
            path: "/p".into(),
            command: vec!["c".into()],
            max_runners: 1,
            created_at: Millis(2),
            names_given: 3,
        }),
        Row::Segment(model::SegmentRecord {
            first: EVENT,
            last: EVENT,
            count: 1,
            bytes: 2,
            newest: Millis(3),
        }),
    ]
}

#[test]
fn every_row_comes_back() {
    use model::{StoredReply, TokenState};
    let used = TokenState::Used { spki: [4; 32], identity: Actor::Host(host()), at: Millis(5) };
    let states = [TokenState::Unused, used, TokenState::Revoked { at: Millis(6) }];
    let replies = [
        StoredReply::Done,
        StoredReply::Project("p".parse().unwrap()),
        StoredReply::Launched { runners: vec![runner()], count: 3, queued: "quota_reached".into() },
        StoredReply::Stopping { runners: vec![runner()], count: 1 },
        StoredReply::Restarted(runner()),
        StoredReply::Host(host()),
        StoredReply::Token(token()),
    ];
    let mut rows = small_rows();
    rows.push(Row::Host(host_row()));
    rows.push(Row::Runner(runner_row()));
    rows.push(Row::Runner(model::RunnerRecord {
        want: model::Want::Run,
        lost: None,
        exit: None,
        retry: None,
        ..runner_row()
    }));
    rows.extend(states.map(token_row));
    rows.extend(replies.map(dedup_row));
    let mut tables: Vec<model::Table> = rows.iter().map(Row::table).collect();
    tables.sort_unstable();
    tables.dedup();
    assert_eq!(tables, model::Table::ALL, "one of each table at least");
    for row in rows {
        assert_eq!(decode_row(&encode_row(&row)).unwrap(), row);
    }
}

#[test]
fn every_kind_of_event_comes_back() {
    for kind in model::EventKind::ALL {
        let event = model::RecordedEvent {
            id: EVENT,
            at: Millis(1),
            actor: Actor::User("u".parse().unwrap()),
            kind: *kind,
            project: Some("p".parse().unwrap()),
            runner: Some(runner()),
            epoch: Some(EPOCH),
            host: Some(host()),
            host_name: Some("h".parse().unwrap()),
            reason: "r".into(),
        };
        assert_eq!(decode_event(&encode_event(&event)).unwrap(), event);
    }
}

#[test]
fn p22_what_a_newer_version_wrote_is_refused_not_skipped() {
    // Field 900 of a row, set by nobody yet.
    assert_eq!(decode_row(&[0xa2, 0x38, 0x00]), Err(RecordError::Unknown("table")));
    let mut stored = super::Stored::store(&runner_row());
    stored.state = 99;
    let row = stratavore_proto::raft::Row { row: Some(stratavore_proto::raft::row::Row::Runner(stored)) };
    let bytes = prost::Message::encode_to_vec(&row);
    assert_eq!(decode_row(&bytes), Err(RecordError::Unknown("runner state")));
}
