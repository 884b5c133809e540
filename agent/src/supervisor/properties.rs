//! What holds for every history of launches, stops, crashes, power cuts, lags and full disks.

use proptest::prelude::*;
use stratavore_proto::v1;
use stratavore_proto::v1::node_message::Message as Down;

use super::world::{Dir, World, identity, key};
use super::{Core, Effect, Finish, Inventory, LinkEvent, STARTS_MAX, on_link};
use crate::epoch::{Epoch, RunnerKey};

#[derive(Debug, Clone)]
enum Act {
    Launch,
    Want(usize, v1::Want, bool),
    Push,
    PushFull,
    PushPart(usize),
    Step(usize),
    Exit(usize),
    Exchange,
    Connect,
    Disconnect,
    Keep,
    Stale,
    Crash,
    CrashInIntend,
    CutPower(bool),
    Disk(bool),
    Defer(bool),
    Tick,
}

fn act() -> impl Strategy<Value = Act> {
    let want = prop_oneof![Just(v1::Want::Stop), Just(v1::Want::Gone)];
    prop_oneof![
        6 => Just(Act::Launch),
        2 => (any::<usize>(), want, any::<bool>()).prop_map(|(n, want, force)| Act::Want(n, want, force)),
        5 => Just(Act::Push),
        2 => Just(Act::PushFull),
        1 => any::<usize>().prop_map(Act::PushPart),
        12 => (1..6usize).prop_map(Act::Step),
        3 => any::<usize>().prop_map(Act::Exit),
        4 => Just(Act::Exchange),
        4 => Just(Act::Connect),
        2 => Just(Act::Disconnect),
        1 => Just(Act::Keep),
        2 => Just(Act::Stale),
        2 => Just(Act::Crash),
        1 => Just(Act::CrashInIntend),
        1 => any::<bool>().prop_map(Act::CutPower),
        1 => any::<bool>().prop_map(Act::Disk),
        1 => any::<bool>().prop_map(Act::Defer),
        2 => Just(Act::Tick),
    ]
}

fn pick(world: &World, n: usize) -> Option<RunnerKey> {
    let keys: Vec<&RunnerKey> = world.cluster.keys().collect();
    (!keys.is_empty()).then(|| keys[n % keys.len()].clone())
}

fn play(world: &mut World, act: Act) {
    match act {
        Act::Launch => drop(world.launch()),
        Act::Want(n, want, force) => {
            if let Some(key) = pick(world, n) {
                world.want(&key, want, force);
            }
        }
        Act::Push | Act::PushFull => {
            let desired = world.desired(matches!(act, Act::PushFull));
            world.deliver(Down::Desired(desired));
        }
        Act::PushPart(n) => {
            let mut part = world.desired(true);
            part.runners.truncate(n % (part.runners.len() + 1));
            part.more = true;
            world.deliver(Down::Desired(part));
            let whole = world.desired(true);
            if n % 3 == 0 {
                world.disconnect();
            } else {
                world.deliver(Down::Desired(whole));
            }
        }
        Act::Step(n) => {
            for _ in 0..n {
                world.step();
            }
        }
        Act::Exit(n) => {
            if let Some(key) = pick(world, n) {
                world.exit(&key, "exited");
            }
        }
        Act::Exchange => world.exchange(),
        Act::Connect => world.connect(),
        Act::Disconnect => world.disconnect(),
        Act::Keep => world.stale = Some(world.desired(true)),
        Act::Stale => {
            if let Some(stale) = world.stale.clone() {
                world.deliver(Down::Desired(stale));
            }
        }
        Act::Crash => world.crash(),
        Act::CrashInIntend => {
            let intend = world.effects.iter().find_map(|effect| match effect {
                Effect::Intend { keys, seen } => Some((keys.clone(), *seen)),
                _ => None,
            });
            if let Some((keys, seen)) = intend {
                world.intend(keys, seen, false);
                world.crash();
            }
        }
        Act::CutPower(lost) => world.cut_power(lost),
        Act::Disk(full) => world.set_disk(full),
        Act::Defer(on) => world.defer = on.then(|| "no processes".to_owned()),
        Act::Tick => world.tick(1_000_000_000),
    }
    for (key, times) in &world.executed {
        assert_eq!(*times, 1, "{key} was executed {times} times");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 768, ..ProptestConfig::default() })]

    /// Never twice, never forgotten, and the cluster and the host agree once the faults are over.
    #[test]
    fn p2_every_order_is_carried_out_once(acts in proptest::collection::vec(act(), 1..120)) {
        let mut world = World::new();
        for act in acts {
            play(&mut world, act);
        }
        world.settle();
        for (key, placed) in &world.cluster {
            let lives = world.live().contains(key);
            if placed.absent {
                // Only a power cut, or an order that it be gone, can make an epoch vanish.
                prop_assert!(world.power_was_cut || placed.want == v1::Want::Gone, "{key} vanished");
                prop_assert!(!lives);
                continue;
            }
            let wanted = placed.ended.is_none() && placed.want == v1::Want::Run;
            let lost = world.power_was_cut && !world.dirs.contains_key(key);
            prop_assert!(lives == wanted || lost, "{key}: wanted {wanted}, lives {lives}, {placed:?}");
        }
        for (key, dir) in &world.dirs {
            let open = matches!(dir, Dir::Empty | Dir::Ended { acknowledged: false, .. });
            prop_assert!(!open, "{key} is left open: {dir:?}");
        }
        prop_assert_eq!(world.core.live() as usize, world.live().len());
    }

    /// A halt ends everything without any node, whatever happened before.
    #[test]
    fn a_halt_leaves_nothing_alive(acts in proptest::collection::vec(act(), 1..60)) {
        let mut world = World::new();
        for act in acts {
            play(&mut world, act);
        }
        world.disconnect();
        world.defer = None;
        world.halt(Finish::HostStopped);
        while world.step() {}
        prop_assert_eq!(world.finished, Some(Finish::HostStopped));
        prop_assert!(world.live().is_empty());
    }
}

fn connected() -> World {
    let mut world = World::new();
    world.connect();
    world
}

fn run_all(world: &mut World) {
    let desired = world.desired(false);
    world.deliver(Down::Desired(desired));
    while world.step() {}
}

#[test]
fn starts_are_bounded_and_all_happen() {
    let mut world = connected();
    let keys: Vec<_> = (0..3 * STARTS_MAX).map(|_| world.launch()).collect();
    run_all(&mut world);
    assert_eq!(world.live().len(), keys.len());
}

#[test]
fn an_end_is_reported_until_acknowledged_and_only_then_reaped() {
    let mut world = connected();
    let key = world.launch();
    run_all(&mut world);
    world.disconnect();
    world.exit(&key, "exited");
    world.crash();
    world.connect();
    assert_eq!(world.cluster[&key].ended.as_ref().unwrap().reason, "exited");
    while world.step() {}
    assert!(matches!(world.dirs[&key], Dir::Ended { acknowledged: true, .. }));
}

#[test]
fn p14_a_set_removes_nothing_newer_than_itself() {
    let mut world = connected();
    let old = world.desired(true);
    let key = world.launch();
    run_all(&mut world);
    let mut set = old;
    set.runners.clear();
    world.deliver(Down::Desired(set));
    while world.step() {}
    assert!(world.live().contains(&key));
}

#[test]
fn p14_a_newer_full_set_removes_what_it_does_not_name() {
    let mut world = connected();
    let key = world.launch();
    run_all(&mut world);
    world.cluster.clear();
    world.index += 1;
    let set = world.desired(true);
    world.deliver(Down::Desired(set));
    while world.step() {}
    assert!(!world.live().contains(&key));
}

#[test]
fn p14_a_restored_cluster_does_not_kill_what_it_never_knew() {
    let mut world = connected();
    let key = world.launch();
    run_all(&mut world);
    world.cluster.clear();
    world.incarnation = 2;
    world.index = 1;
    world.connect();
    while world.step() {}
    assert!(world.live().contains(&key), "quarantined, not killed");
    let gone = v1::DesiredRunner {
        runner: key.runner().into(),
        epoch: Some(key.epoch().into()),
        want: v1::Want::Gone.into(),
        ..Default::default()
    };
    let index = Some(v1::Epoch { incarnation: 2, index: 2 });
    world.deliver(Down::Desired(v1::Desired { index, full: false, runners: vec![gone], more: false }));
    while world.step() {}
    assert!(world.live().is_empty());
}

#[test]
fn p1_an_older_incarnation_is_refused() {
    let mut world = connected();
    world.incarnation = 2;
    world.index = 5;
    run_all(&mut world);
    world.incarnation = 1;
    world.index = 99;
    let key = world.launch();
    run_all(&mut world);
    assert!(!world.live().contains(&key));
    let welcome = v1::Welcome { protocol: 1, incarnation: 1, ..Default::default() };
    assert!(world.core.check_welcome(&welcome).unwrap_err().contains("incarnation"));
}

#[test]
fn a_stop_before_the_start_is_an_end_too() {
    let mut world = connected();
    let key = world.launch();
    world.want(&key, v1::Want::Stop, false);
    run_all(&mut world);
    world.exchange();
    let end = world.cluster[&key].ended.clone().unwrap();
    assert_eq!((end.state(), end.reason.as_str()), (v1::RunnerState::Terminated, "stopped"));
    assert!(world.executed.is_empty());
}

#[test]
fn force_follows_a_stop_once() {
    let mut world = connected();
    let key = world.launch();
    run_all(&mut world);
    for force in [false, false, true, true] {
        world.want(&key, v1::Want::Stop, force);
        let desired = world.desired(false);
        world.deliver(Down::Desired(desired));
    }
    let sent: Vec<bool> = world
        .effects
        .iter()
        .filter_map(|effect| if let Effect::Stop { force, .. } = effect { Some(*force) } else { None })
        .collect();
    assert_eq!(sent, [false, true]);
}

#[test]
fn a_set_in_several_frames_counts_with_its_last() {
    let mut world = connected();
    while world.step() {}
    let first = world.launch();
    let second = world.launch();
    let whole = world.desired(true);
    for (at, key) in [&first, &second].into_iter().enumerate() {
        let mut part = whole.clone();
        part.index = Some(world.at().into());
        part.runners.retain(|order| order.runner == key.runner());
        part.more = at == 0;
        world.deliver(Down::Desired(part));
        assert_eq!(world.core.seen() == world.at(), at == 1);
        assert_eq!(world.step(), at == 1, "nothing is started before the set is whole");
    }
    while world.step() {}
    assert_eq!(world.live().len(), 2);
}

#[test]
fn a_full_disk_holds_starts_and_says_why() {
    let mut world = connected();
    world.set_disk(true);
    let key = world.launch();
    run_all(&mut world);
    assert_eq!(world.core.report(&key).unwrap().reason, "disk_full");
    assert!(world.durable_seen < key.epoch(), "an order that is only in memory is not durably seen");
    world.set_disk(false);
    while world.step() {}
    assert!(world.live().contains(&key));
}

#[test]
fn a_start_that_keeps_failing_becomes_a_failed_launch() {
    let mut world = connected();
    let key = world.launch();
    world.defer = Some("no processes".into());
    run_all(&mut world);
    for _ in 0..10 {
        world.tick(2_000_000_000);
        while world.step() {}
    }
    world.exchange();
    let end = world.cluster[&key].ended.clone().unwrap();
    assert_eq!((end.state(), end.reason.as_str()), (v1::RunnerState::Failed, "start_failed: no processes"));
}

#[test]
fn the_list_of_a_full_host_fits_one_frame_whatever_there_is_to_say() {
    let long = "x".repeat(5000);
    let ended = |n: u64| v1::Observation {
        runner: format!("{n:010}"),
        epoch: Some(v1::Epoch { incarnation: 1, index: 1 << 40 }),
        rev: 1 << 40,
        state: v1::RunnerState::Failed.into(),
        pid: u32::MAX,
        reason: long.clone(),
        log_end: 1 << 40,
        started_at_unix_ms: 1 << 41,
        ended_at_unix_ms: 1 << 41,
        fence: "cgroup".into(),
        exit: Some(v1::Exit {
            reason: long.clone(),
            leftovers: vec![long.clone(); 99],
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut world = World::new();
    let inventory = Inventory { observed: (0..4000).map(ended).collect(), ..Inventory::default() };
    world.core = Core::new(identity(), inventory);
    let hello = v1::AgentMessage { message: Some(v1::agent_message::Message::Hello(world.core.hello(1))) };
    let mut frame = bytes::BytesMut::new();
    stratavore_proto::frame::encode(&hello, &mut frame).unwrap();
}

#[test]
fn removal_stops_everything_and_ends_the_agent() {
    let mut world = connected();
    world.launch();
    run_all(&mut world);
    world.deliver(Down::Removed(v1::Removed { reason: "by admin".into() }));
    while world.step() {}
    assert_eq!((world.finished, world.live().len()), (Some(Finish::Removed), 0));
    let mut revoked = World::new();
    let mut out = vec![];
    on_link(&mut revoked.core, LinkEvent::Revoked, 0, &mut out);
    assert_eq!(out, [Effect::Finish(Finish::Removed)]);
}

#[test]
fn silence_of_two_periods_asks_for_another_node_ever_more_rarely() {
    let mut world = connected();
    for _ in 0..20 {
        world.tick(2_000_000_000);
    }
    let asked = world.effects.iter().filter(|effect| matches!(effect, Effect::Move(_))).count();
    assert_eq!(asked, 4, "after 2, 4, 8 and 16");
}

#[test]
fn a_cluster_that_forgot_an_acknowledged_end_is_told_again() {
    let mut world = connected();
    let key = world.launch();
    run_all(&mut world);
    world.exit(&key, "exited");
    world.exchange();
    while world.step() {}
    let told = world.cluster.get_mut(&key).unwrap().ended.take().unwrap();
    run_all(&mut world);
    world.exchange();
    assert!(world.cluster[&key].ended.is_none(), "a change says nothing about what it does not know");
    let full = world.desired(true);
    world.deliver(Down::Desired(full));
    while world.step() {}
    world.exchange();
    assert_eq!(world.cluster[&key].ended.as_ref(), Some(&told));
    assert_eq!(world.executed[&key], 1);
}

#[test]
fn p5_a_grant_counts_only_as_the_echo_of_a_renewal() {
    let mut world = connected();
    world.tick(1);
    let renewal = world.effects.iter().find_map(|effect| match effect {
        Effect::Send(message) => match &**message {
            v1::agent_message::Message::Renewal(renewal) => Some(renewal.clone()),
            _ => None,
        },
        _ => None,
    });
    let mut foreign = renewal.clone().unwrap();
    foreign.boot_id = "another".into();
    world.now_ns += 5_000_000;
    world.deliver(Down::Grant(v1::Grant { renewal: Some(foreign), unbounded: false, ..Default::default() }));
    assert_eq!(world.core.last_rtt_us(), 0);
    world.deliver(Down::Grant(v1::Grant { renewal, unbounded: false, ..Default::default() }));
    assert_eq!(world.core.last_rtt_us(), 5_000);
}

#[test]
fn unusable_orders_are_ignored() {
    let mut world = connected();
    let mut desired = world.desired(false);
    desired.index = Some(v1::Epoch { incarnation: 1, index: 50 });
    desired.runners = vec![
        v1::DesiredRunner { runner: "../../etc".into(), ..Default::default() },
        v1::DesiredRunner { runner: "0000000001".into(), epoch: None, ..Default::default() },
        v1::DesiredRunner {
            runner: "0000000001".into(),
            epoch: Some(v1::Epoch { incarnation: 1, index: 3 }),
            want: 77,
            ..Default::default()
        },
        v1::DesiredRunner {
            runner: "0000000001".into(),
            epoch: Some(v1::Epoch { incarnation: 1, index: 99 }),
            want: v1::Want::Run.into(),
            start: Some(v1::RunnerStart::default()),
            ..Default::default()
        },
    ];
    world.deliver(Down::Desired(desired));
    while world.step() {}
    assert!(world.live().is_empty());
    assert!(
        world.core.report(&key(1, Epoch::new(1, 99))).is_none(),
        "no set orders what is newer than itself"
    );
}
