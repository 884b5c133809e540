//! P5, P10, P13 over interleavings: a network that delays, reorders, repeats and loses, crashes of the agent, clocks 1 %
//! apart. Whenever the leader's rules would allow a fence, what it covers must be dead.

use proptest::prelude::*;
use stratavore_proto::v1;
use stratavore_proto::v1::agent_message::Message as Up;
use stratavore_proto::v1::node_message::Message as Down;

use super::deadline::Deadline;
use super::lease_field::{Field, LEASE_MS, MS};
use super::on_tick;
use super::world::key;
use crate::epoch::{Epoch, RunnerKey};

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
                field.reach_leader(&message);
            }
        }
        Act::UpAgain(n) => {
            if let Some(message) = (!field.up.is_empty()).then(|| field.up[n % field.up.len()].clone()) {
                field.reach_leader(&message);
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

#[test]
fn p13_a_start_that_crosses_the_end_of_maintenance_is_lowered_before_the_host_counts_as_bounded() {
    use Act::{Down, Launch, Maintain, Pass, Start, Tick, Up};
    let mut field = Field::new(990, false);
    // Armed under the wide grant, up after the bounding one.
    let widened = [Maintain(true), Pass(1), Tick, Pass(1), Up(0), Maintain(false)];
    let crossing = [Pass(2100), Tick, Down(0), Launch(false, LEASE_MS), Pass(2100), Up(0), Down(0), Start(0)];
    for act in widened.into_iter().chain(crossing).chain([Tick, Up(0)]) {
        play(&mut field, act);
    }
    for _ in 0..60 {
        field.pass(5_000);
        field.check();
    }
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
