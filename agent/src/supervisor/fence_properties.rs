//! P3 and P17 as far as the core decides them: the end of a host epoch, and two links at once.

use stratavore_proto::v1;
use stratavore_proto::v1::node_message::Message as Down;

use super::world::World;
use super::{Effect, MoveKind};
use crate::epoch::RunnerKey;

fn running(count: usize) -> (World, Vec<RunnerKey>) {
    let mut world = World::new();
    world.connect();
    let keys: Vec<_> = (0..count).map(|_| world.launch()).collect();
    let desired = world.desired(false);
    world.deliver(Down::Desired(desired));
    while world.step() {}
    assert_eq!(world.live().len(), count);
    (world, keys)
}

#[test]
fn p3_what_a_fence_covers_is_killed_and_the_rest_carries_over() {
    let (mut world, keys) = running(2);
    let covered = v1::RunnerEpoch { runner: keys[0].runner().into(), epoch: Some(keys[0].epoch().into()) };
    let refused = v1::Refused { code: "fenced".into(), covered: vec![covered], ..Default::default() };
    world.deliver(Down::Refused(refused));
    let force = world.effects.iter().any(|effect| matches!(effect, Effect::Stop { force: true, .. }));
    assert!(force, "nothing is left to be asked politely");
    while world.step() {}
    assert_eq!(world.live().into_iter().collect::<Vec<_>>(), keys[1..]);
    assert!(world.core.renewal(world.now_ns).is_none(), "an ended host epoch is not renewed");
    let hello = world.core.hello(9);
    assert_eq!(hello.host_epoch, None);
    let dead: Vec<_> = hello.runners.iter().filter(|report| report.reason == "host_fenced").collect();
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].runner, keys[0].runner());
}

#[test]
fn p3_a_start_that_a_fence_covers_never_happens() {
    let mut world = World::new();
    world.connect();
    let key = world.launch();
    let desired = world.desired(false);
    world.deliver(Down::Desired(desired));
    let covered = v1::RunnerEpoch { runner: key.runner().into(), epoch: Some(key.epoch().into()) };
    let refused = v1::Refused { code: "fenced".into(), covered: vec![covered], ..Default::default() };
    world.deliver(Down::Refused(refused));
    while world.step() {}
    assert!(world.executed.is_empty() && world.live().is_empty());
}

#[test]
fn p17_a_node_without_a_leader_gives_advice_and_one_that_stops_does_not() {
    for (code, kind) in [("no_leader", MoveKind::Advised), ("stopping", MoveKind::Leaving)] {
        let (mut world, _) = running(0);
        world.deliver(Down::GoAway(v1::GoAway { code: code.into(), ..Default::default() }));
        let asked =
            world.effects.iter().any(|effect| matches!(effect, Effect::Move(wish) if wish.kind == kind));
        assert!(asked, "{code}");
    }
}

#[test]
fn p17_a_link_that_was_replaced_asks_for_no_further_move() {
    let (mut world, _) = running(0);
    world.deliver(Down::GoAway(v1::GoAway { code: "replaced".into(), ..Default::default() }));
    assert!(!world.effects.iter().any(|effect| matches!(effect, Effect::Move(_))), "{:?}", world.effects);
}

#[test]
fn p17_a_second_link_takes_nothing_away_from_the_one_that_may_stay() {
    let (mut world, keys) = running(1);
    while world.core.take_observed().is_some() {}
    world.exit(&keys[0], "exited");
    // A hello goes out on another link, which comes to nothing.
    drop(world.core.hello(7));
    let observed = world.core.take_observed().expect("the present link still reports it");
    assert_eq!(observed.runners[0].reason, "exited");
}
