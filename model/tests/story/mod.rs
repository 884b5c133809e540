//! A fixed history in which every command succeeds at least once, some are refused, and time passes. What it leads to is
//! recorded: as a digest for the state machine, as stored bytes for the log (P22). Append to a copy, never change it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "the log that is written once is that of the newest version")]

use stratavore_model::command::{
    AdoptRunner, CutKeys, DeclareHostDead, DeclareRunnerDead, DrainHost, EventRetention, Finalize, ForgoList,
    Joiner, LabelHost, NodeNote, NoteNode, RaiseIncarnation, RedeemToken, RegisterKey, RemoveNode,
    ReserveNode, ResetClock, RevokeToken, SetNodeAddress, Trim,
};
use stratavore_model::{
    Actor, Command, Entry, Epoch, HostId, NodeAddresses, NodeId, OnDisconnect, RestartPolicy, Role,
    RunnerState,
};

use super::lab::{HOLD_WAITED, LEASE_WAITED, Lab, admin, founded_by};

/// The newest version that the programs of that history knew.
const KNOWN: u32 = 2;

/// From a cluster of version 1 to one that has seen everything of version 2.
pub(crate) fn version_2() -> Lab {
    let mut lab = founded_by(1, KNOWN);
    one_node(&mut lab);
    members(&mut lab);
    fences(&mut lab);
    operators(&mut lab);
    recovery(&mut lab);
    lab
}

/// From where version 2 ends to what version 3 brought.
pub(crate) fn version_3() -> Lab {
    let mut lab = version_2();
    let (addresses, version) = (node_at("10.0.0.1:1"), String::from("0.3.0"));
    let set = SetNodeAddress { node: NodeId(1), addresses, version, max_version: 3 };
    lab.as_node(Command::SetNodeAddress(set)).unwrap();
    let others: Vec<_> = lab.state.nodes().filter(|node| !node.removed && node.id != NodeId(1)).collect();
    let others: Vec<NodeId> = others.into_iter().map(|node| node.id).collect();
    for node in others {
        lab.user(Command::RemoveNode(RemoveNode { node })).unwrap();
    }
    lab.user(Command::ReserveNode(ReserveNode { spki: [60; 32] })).unwrap_err();
    lab.launch_policy(RestartPolicy::Always).unwrap_err();
    lab.user(Command::Finalize(Finalize { version: 3 })).unwrap();
    restarts(&mut lab);
    notes(&mut lab);
    restore(&mut lab);
    lab
}

fn notes(lab: &mut Lab) {
    for what in [NodeNote::Quarantined, NodeNote::Rebuilt, NodeNote::ClockOff] {
        let text = String::from("why");
        lab.as_node(Command::NoteNode(NoteNode { node: NodeId(1), what, text })).unwrap();
    }
}

fn restore(lab: &mut Lab) {
    let spki = [60; 32];
    lab.user(Command::ReserveNode(ReserveNode { spki })).unwrap();
    lab.user(Command::ReserveNode(ReserveNode { spki: [61; 32] })).unwrap();
    let (host, h) = (lab.host("g", 4), lab.host("h", 4));
    let cut = lab.state.host(host).unwrap().spki;
    let raise = RaiseIncarnation { n: 5, nonce: [7; 16], reason: "restore from a backup".into() };
    lab.system(Command::RaiseIncarnation(raise)).unwrap();
    let token = lab.token(Role::Node);
    let joiner = Joiner::Node { addresses: node_at("10.0.0.9:1"), version: "0.3.0".into(), max_version: 3 };
    let redeem = RedeemToken { spki, ..lab.redeem_command(token, joiner) };
    lab.system(Command::RedeemToken(redeem)).unwrap();
    lab.user(Command::RemoveNode(RemoveNode { node: NodeId(1) })).unwrap();
    let keys = vec![(cut, Actor::Host(host)), ([62; 32], Actor::User("alice".parse().unwrap()))];
    lab.system(Command::CutKeys(CutKeys { keys })).unwrap();
    let stranger = lab.fresh_runner_id();
    let epoch = Epoch { incarnation: 4, index: 9000 };
    lab.connect(h, "boot-h", 2, vec![lab.observed(stranger, epoch, 3, RunnerState::Running)]);
    let (runner, project, name) = (stranger.to_string(), "web".parse().unwrap(), "found".parse().unwrap());
    lab.user(Command::AdoptRunner(AdoptRunner { runner, project, name: Some(name) })).unwrap();
}

fn one_node(lab: &mut Lab) {
    let (a, b) = (lab.host("a", 4), lab.host("b", 2));
    lab.create_project("web", 3).unwrap();
    let runners = lab.launch("web", 5);
    let request = lab.v7(1000);
    lab.launch_with_request("web", request).unwrap();
    lab.launch_with_request("web", request).unwrap();
    let first = lab.assign(runners[0], a).unwrap();
    let second = lab.assign(runners[1], b).unwrap();
    lab.pass(1500);
    lab.report(a, vec![lab.observed(runners[0], first, 1, RunnerState::Running)]).unwrap();
    lab.report(b, vec![lab.observed(runners[1], second, 1, RunnerState::Failed)]).unwrap();
    lab.restart(runners[1]).unwrap();
    lab.kill(&[runners[0], runners[3]], true).unwrap();
    lab.unreachable(a).unwrap();
    lab.reachable(a).unwrap();
    lab.cordon("b", true).unwrap();
    lab.set_quota("web", 4).unwrap();
    lab.set_quota("nothing", 4).unwrap_err();
    let set = [("zone".to_owned(), "x".to_owned())].into();
    lab.user(Command::LabelHost(LabelHost { host: "a".into(), set, remove: vec![] })).unwrap();
    let token = lab.token(Role::User);
    lab.join_user(token, "alice").unwrap();
    let unused = lab.token(Role::User);
    lab.user(Command::RevokeToken(RevokeToken { id: unused })).unwrap();
    let present = lab.state.host(a).unwrap().spki;
    lab.as_host(a, Command::RegisterKey(RegisterKey { present, new: [77; 32] })).unwrap();
    lab.connect(a, "boot-a2", 2, vec![]);
    lab.remove_host("b").unwrap();
    lab.kill(&runners[1..2], false).unwrap();
}

fn node_at(raft: &str) -> NodeAddresses {
    NodeAddresses { raft: raft.into(), ..NodeAddresses::default() }
}

fn members(lab: &mut Lab) {
    let (version, max_version) = (String::from("0.2.0"), KNOWN);
    let set = SetNodeAddress { node: NodeId(1), addresses: node_at("10.0.0.1:1"), version, max_version };
    lab.as_node(Command::SetNodeAddress(set)).unwrap();
    for (raft, max_version) in [("10.0.0.2:1", 1), ("127.0.0.1:1", 2), ("10.0.0.3:1", 2)] {
        let token = lab.token(Role::Node);
        let joiner = Joiner::Node { addresses: node_at(raft), version: "0.2.0".into(), max_version };
        let redeem = lab.redeem_command(token, joiner);
        lab.as_node(Command::RedeemToken(redeem)).ok();
    }
    lab.user(Command::Finalize(Finalize { version: 2 })).unwrap_err();
    lab.user(Command::RemoveNode(RemoveNode { node: NodeId(2) })).unwrap();
    lab.user(Command::Finalize(Finalize { version: 2 })).unwrap();
}

fn fences(lab: &mut Lab) {
    let (c, d) = (lab.host("c", 9), lab.host("d", 9));
    lab.set_quota("web", 30).unwrap();
    let a = lab.state.hosts().find(|host| host.name.as_str() == "a").unwrap().id;
    lab.lease_bounded(a).unwrap();
    let (kept, kept_epoch) = lab.placed(c, OnDisconnect::Keep, true);
    let (starting, _) = lab.placed(c, OnDisconnect::Keep, false);
    let (stopped, epoch) = lab.placed(c, OnDisconnect::Stop, true);
    lab.pass(20_000);
    lab.fence(c, LEASE_WAITED, &[kept, starting, stopped]).unwrap();
    lab.fence(c, HOLD_WAITED, &[stopped]).unwrap();
    lab.fence(c, HOLD_WAITED, &[kept]).unwrap_err();
    lab.assign(stopped, d).unwrap();
    let alive = vec![lab.observed(stopped, epoch, 2, RunnerState::Running)];
    let connect = lab.connect_command(c, "boot-c", 2, None, alive);
    lab.as_host(c, Command::HostConnect(connect)).unwrap_err();
    lab.connect(c, "boot-c", 3, vec![lab.observed(kept, kept_epoch, 1, RunnerState::Running)]);
    lab.maintenance(60_000).unwrap();
    lab.maintenance(0).unwrap();
    lab.lease_bounded(c).unwrap();
    lab.placed(c, OnDisconnect::Stop, true);
    lab.connect(c, "boot-c2", 4, vec![]);
    lab.confirm_reboot(c, HOLD_WAITED).unwrap();
}

fn operators(lab: &mut Lab) {
    let (e, f) = (lab.host("e", 9), lab.host("f", 9));
    let (kept, _) = lab.placed(e, OnDisconnect::Keep, true);
    lab.placed(e, OnDisconnect::Stop, true);
    lab.placed(f, OnDisconnect::Stop, true);
    lab.user(Command::DrainHost(DrainHost { host: "f".into() })).unwrap();
    lab.remove_host("f").unwrap();
    lab.unreachable(e).unwrap();
    let declared = DeclareRunnerDead { runner: kept.to_string() };
    lab.user(Command::DeclareRunnerDead(declared)).unwrap();
    lab.user(Command::DeclareHostDead(DeclareHostDead { host: "e".into() })).unwrap();
    let entries = ["one", "two"].map(|name| {
        let create = stratavore_model::command::CreateProject {
            name: name.parse().unwrap(),
            path: "/srv".into(),
            command: vec![],
            max_runners: 1,
        };
        let command = Command::CreateProject(create);
        Entry { actor: admin(), request_id: None, at: lab.now, term: None, command }
    });
    lab.user(Command::Batch(entries.into())).unwrap();
}

fn recovery(lab: &mut Lab) {
    let raise = RaiseIncarnation { n: 2, nonce: [8; 16], reason: "quorum lost".into() };
    lab.system(Command::RaiseIncarnation(raise)).unwrap();
    let named = |lab: &Lab, name: &str| -> HostId {
        lab.state.hosts().find(|host| host.name.as_str() == name).unwrap().id
    };
    let (c, d) = (named(lab, "c"), named(lab, "d"));
    lab.connect(d, "boot-d", 2, vec![]);
    lab.system(Command::ForgoList(ForgoList { host: c, waited_ms: u64::MAX })).ok();
    lab.pass(3_600_000);
    let events = EventRetention { age_ms: 1, count: 1, bytes: 1 };
    lab.system(Command::Trim(Trim { elapsed_ms: 60_000, events })).unwrap();
    let to = lab.state.now().minus(1000);
    lab.now = to;
    lab.apply(Actor::User("alice".parse().unwrap()), None, Command::ResetClock(ResetClock { to }));
}

fn restarts(lab: &mut Lab) {
    let host = lab.host("r", 9);
    for host in lab.state.unlisted_hosts().collect::<Vec<_>>() {
        lab.connect(host, "boot-again", 3, vec![]);
    }
    lab.set_quota("web", 20).unwrap();
    lab.launch_policy(RestartPolicy::Never).unwrap();
    for policy in [RestartPolicy::OnFailure, RestartPolicy::Always] {
        let runner = lab.launch_policy(policy).unwrap();
        for wait in [1000, 2000, 4000, 0] {
            let epoch = lab.assign(runner, host).unwrap();
            lab.report(host, vec![lab.observed(runner, epoch, 1, RunnerState::Failed)]).unwrap();
            lab.pass(wait);
        }
        lab.restart(runner).unwrap();
    }
}
