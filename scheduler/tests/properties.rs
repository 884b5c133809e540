//! Over random clusters: what is planned is feasible, complete, deterministic, taken by apply, and explained alike.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../model/tests/lab/mod.rs"]
mod lab;

use std::collections::{BTreeMap, BTreeSet};

use lab::Lab;
use proptest::prelude::*;
use stratavore_model::command::{Assign, LabelHost, Launch, PLACEMENTS_MAX, Placement};
use stratavore_model::{
    Command, Exit, HostId, HostLoad, Need, Reply, RestartPolicy, RunnerId, RunnerState, invariant, misfit,
};
use stratavore_scheduler::{Plan, Policy, View, explain, plan, plan_ahead};

#[derive(Debug, Clone)]
struct HostIs {
    slots: u32,
    zone: u8,
    cordoned: bool,
    ready: bool,
    away: bool,
}

#[derive(Debug, Clone)]
struct Wish {
    project: u8,
    count: usize,
    slots: u32,
    cpu_milli: u32,
    memory_mib: u64,
    zone: Option<u8>,
    pinned: Option<u8>,
    after_ms: u64,
}

fn hosts() -> impl Strategy<Value = Vec<HostIs>> {
    let flag = || prop::bool::weighted(0.15);
    let host = (1..8u32, 0..3u8, flag(), prop::bool::weighted(0.9), flag())
        .prop_map(|(slots, zone, cordoned, ready, away)| HostIs { slots, zone, cordoned, ready, away });
    prop::collection::vec(host, 0..8)
}

fn wishes() -> impl Strategy<Value = Vec<Wish>> {
    let option = |max: u8| prop::option::weighted(0.25, 0..max);
    let cpu = prop_oneof![3 => Just(0u32), 1 => 500..3000u32];
    let memory = prop_oneof![3 => Just(0u64), 1 => 100..600u64];
    let wish = (0..4u8, 1..4usize, 1..4u32, cpu, memory, option(3), option(8), 0..100_000u64).prop_map(
        |(project, count, slots, cpu_milli, memory_mib, zone, pinned, after_ms)| Wish {
            project,
            count,
            slots,
            cpu_milli,
            memory_mib,
            zone,
            pinned,
            after_ms,
        },
    );
    prop::collection::vec(wish, 0..25)
}

fn build(hosts: &[HostIs], wishes: &[Wish]) -> Lab {
    let mut lab = Lab::new();
    lab.checked = false;
    for (at, host) in hosts.iter().enumerate() {
        let name = format!("h{at}");
        let id = if host.ready { lab.host(&name, host.slots) } else { lab.join_host(&name, host.slots) };
        let set = [("zone".to_owned(), host.zone.to_string())].into();
        lab.user(Command::LabelHost(LabelHost { host: name.clone(), set, remove: vec![] })).unwrap();
        lab.cordon(&name, host.cordoned).unwrap();
        if host.ready && host.away {
            lab.unreachable(id).unwrap();
        }
    }
    for project in 0..4 {
        lab.create_project(&format!("p{project}"), 3 + 4 * project).unwrap();
    }
    for wish in wishes {
        lab.pass(wish.after_ms);
        let mut launch: Launch = lab.launch_command(&format!("p{}", wish.project), wish.count);
        launch.spec.slots = wish.slots;
        launch.spec.cpu_milli = wish.cpu_milli;
        launch.spec.memory_bytes = wish.memory_mib << 20;
        if let Some(zone) = wish.zone {
            launch.spec.labels.insert("zone".into(), zone.to_string());
        }
        if let Some(pinned) = wish.pinned.filter(|at| usize::from(*at) < hosts.len()) {
            launch.spec.host = format!("h{pinned}");
        }
        lab.user(Command::Launch(launch)).unwrap();
    }
    lab
}

fn planned(lab: &Lab, policy: Policy) -> Plan {
    plan(&View::of(&lab.state).with_policy(policy), lab.now)
}

fn commit(lab: &mut Lab, plan: &Plan) -> (usize, usize) {
    let placements = plan.assign.iter().map(|&(runner, host)| Placement { runner, host }).collect();
    match lab.system(Command::Assign(Assign { placements })) {
        Ok(Reply::Assigned { placed, refused }) => (placed.len(), refused.len()),
        other => panic!("{other:?}"),
    }
}

/// Places one after the other with the model's own predicates and counts what each host would carry.
fn loads_after(lab: &Lab, plan: &Plan) -> BTreeMap<HostId, HostLoad> {
    let mut loads: BTreeMap<_, _> = lab.state.hosts().map(|h| (h.id, lab.state.host_load(h.id))).collect();
    for (runner, host) in &plan.assign {
        let runner = lab.state.runner(*runner).unwrap();
        let need = Need::of(runner);
        let load = loads.get_mut(host).unwrap();
        assert_eq!(misfit(lab.state.host(*host).unwrap(), load, &need), None, "{runner:?} on {host}");
        load.runners += 1;
        load.slots += need.slots;
        load.cpu_milli += need.cpu_milli;
        load.memory_bytes += need.memory_bytes;
    }
    loads
}

fn policies() -> impl Strategy<Value = Policy> {
    prop_oneof![Just(Policy::Spread), Just(Policy::BinPack)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_is_feasible_complete_and_taken(hosts in hosts(), wishes in wishes(), policy in policies()) {
        let mut lab = build(&hosts, &wishes);
        let plan = planned(&lab, policy);
        let loads = loads_after(&lab, &plan);
        // Everyone in the queue was looked at, once, unless every slot is taken.
        let looked_at: Vec<RunnerId> =
            plan.assign.iter().map(|(id, _)| *id).chain(plan.unplaced.iter().map(|u| u.runner)).collect();
        let queue: BTreeSet<_> = lab.state.queue().collect();
        let once: BTreeSet<_> = looked_at.iter().copied().collect();
        prop_assert_eq!(looked_at.len(), once.len());
        if plan.full {
            let taken = plan.assign.iter().filter_map(|(id, _)| lab.state.runner(*id));
            prop_assert_eq!(taken.map(|runner| u64::from(Need::of(runner).slots)).sum::<u64>(), lab.state.free_slots());
            prop_assert!(once.is_subset(&queue));
        } else {
            prop_assert_eq!(once, queue);
        }
        // Nobody was left out who fits even now.
        for unplaced in &plan.unplaced {
            let need = Need::of(lab.state.runner(unplaced.runner).unwrap());
            let fits = lab.state.hosts().any(|host| misfit(host, &loads[&host.id], &need).is_none());
            prop_assert!(!fits, "{:?} fits somewhere", unplaced);
            let named: u32 = unplaced.reasons.iter().map(|reason| reason.hosts).sum();
            prop_assert_eq!(named as usize, hosts.len());
        }
        prop_assert_eq!(commit(&mut lab, &plan), (plan.assign.len(), 0));
        prop_assert_eq!(invariant::check(&lab.state), vec![]);
        for host in lab.state.hosts() {
            prop_assert_eq!(invariant::check_placed(&lab.state, host.id), vec![]);
        }
        prop_assert!(planned(&lab, policy).assign.is_empty(), "a second plan finds nothing");
    }

    #[test]
    fn the_same_view_gives_the_same_plan(hosts in hosts(), wishes in wishes(), policy in policies()) {
        let lab = build(&hosts, &wishes);
        let again = stratavore_model::State::from_rows(lab.state.rows());
        let other = plan(&View::of(&again).with_policy(policy), lab.now);
        prop_assert_eq!(planned(&lab, policy), other);
    }

    #[test]
    fn explain_says_what_plan_does(hosts in hosts(), wishes in wishes(), policy in policies()) {
        let mut lab = build(&hosts, &wishes);
        let plan = planned(&lab, policy);
        let view = View::of(&lab.state).with_policy(policy);
        if let Some((runner, host)) = plan.assign.first() {
            // Whoever was placed first saw the hosts as they are: it got the best one.
            let explained = explain(&view, *runner, lab.now).unwrap();
            prop_assert!(explained.hosts[0].feasible);
            let chosen = explained.hosts.iter().find(|verdict| verdict.host == *host).unwrap();
            prop_assert!(chosen.feasible);
            prop_assert_eq!(chosen.score, explained.hosts[0].score);
        }
        commit(&mut lab, &plan);
        let view = View::of(&lab.state).with_policy(policy);
        let mut positions = BTreeSet::new();
        for runner in lab.state.runners() {
            let explained = explain(&view, runner.id, lab.now).unwrap();
            let waits = runner.state == RunnerState::Pending && runner.admitted;
            if waits {
                prop_assert!(explained.hosts.iter().all(|verdict| !verdict.feasible), "{:?}", explained);
                prop_assert!(explained.summary.starts_with("no_"), "{}", explained.summary);
                prop_assert!(positions.insert(explained.queue_position));
            }
            prop_assert_eq!(explained.queue_position > 0, runner.state == RunnerState::Pending);
        }
        prop_assert_eq!(positions.len(), lab.state.queue().len());
        prop_assert_eq!(positions.last().copied().unwrap_or(0) as usize, lab.state.queue().len());
    }
}

/// Hosts `h0`, `h1`, … with so many slots each, one project per entry of `wanted`, launched in that order.
fn farm(slots: &[u32], wanted: &[usize]) -> Lab {
    let mut lab = Lab::new();
    for (at, slots) in slots.iter().enumerate() {
        lab.host(&format!("h{at}"), *slots);
    }
    for (at, count) in wanted.iter().enumerate() {
        let project = format!("p{at}");
        lab.create_project(&project, 10_000).unwrap();
        if *count > 0 {
            lab.launch(&project, *count);
        }
    }
    lab
}

fn per_host(plan: &Plan) -> Vec<usize> {
    let mut counts = BTreeMap::new();
    for (_, host) in &plan.assign {
        *counts.entry(*host).or_insert(0) += 1;
    }
    let mut counts: Vec<_> = counts.into_values().collect();
    counts.sort_unstable();
    counts
}

#[test]
fn spread_evens_out_and_bin_pack_fills_up() {
    let lab = farm(&[10, 10, 10], &[12]);
    assert_eq!(per_host(&planned(&lab, Policy::Spread)), [4, 4, 4]);
    assert_eq!(per_host(&planned(&lab, Policy::BinPack)), [2, 10]);
}

#[test]
fn projects_share_what_is_short() {
    // The first project came first with many; the second one's few do not wait behind all of them.
    let lab = farm(&[6], &[20, 3]);
    let plan = planned(&lab, Policy::Spread);
    let of = |project: &str| {
        let runner = |id| lab.state.runner(id).unwrap();
        plan.assign.iter().filter(|(id, _)| runner(*id).project.as_str() == project).count()
    };
    assert_eq!((of("p0"), of("p1")), (3, 3));
}

#[test]
fn within_a_project_the_oldest_goes_first() {
    let mut lab = farm(&[2], &[0]);
    let first = lab.launch("p0", 1);
    let later = lab.launch("p0", 2);
    let plan = planned(&lab, Policy::Spread);
    let placed: Vec<_> = plan.assign.iter().map(|(id, _)| *id).collect();
    assert_eq!(placed, [first[0], later[0]]);
}

#[test]
fn long_waiting_beats_a_small_share() {
    let mut lab = farm(&[3], &[1, 0]);
    let plan = planned(&lab, Policy::Spread);
    commit(&mut lab, &plan);
    let patient = lab.launch("p0", 1)[0];
    lab.pass(10 * 60_000);
    lab.launch("p1", 2);
    assert_eq!(planned(&lab, Policy::Spread).assign[0].0, patient);
}

#[test]
fn a_plan_fits_into_one_entry_and_says_that_there_is_more() {
    let mut lab = farm(&[4000], &[1000, 1000]);
    lab.checked = false;
    let first = planned(&lab, Policy::Spread);
    assert_eq!((first.assign.len(), first.more), (PLACEMENTS_MAX, true));
    commit(&mut lab, &first);
    let second = planned(&lab, Policy::Spread);
    assert_eq!((second.assign.len(), second.more), (2000 - PLACEMENTS_MAX, false));
}

#[test]
fn one_that_fits_nowhere_holds_nobody_up() {
    let mut lab = farm(&[4], &[0]);
    let mut huge = lab.launch_command("p0", 1);
    huge.spec.slots = 99;
    lab.user(Command::Launch(huge)).unwrap();
    lab.launch("p0", 2);
    let plan = planned(&lab, Policy::Spread);
    assert_eq!((plan.assign.len(), plan.unplaced.len()), (2, 1));
}

#[test]
fn a_full_cluster_costs_no_look_at_its_queue() {
    let mut lab = farm(&[2], &[5]);
    let plan = planned(&lab, Policy::Spread);
    assert_eq!((plan.assign.len(), plan.unplaced.len(), plan.full, plan.more), (2, 0, true, false));
    commit(&mut lab, &plan);
    let plan = planned(&lab, Policy::Spread);
    assert_eq!((plan.assign.len(), plan.unplaced.len(), plan.full), (0, 0, true));
}

#[test]
fn places_planned_ahead_are_those_of_the_loop_and_never_jump_the_queue() {
    let mut lab = farm(&[3, 1], &[0]);
    let launch = lab.launch_command("p0", 5);
    let ahead = |lab: &Lab, count| {
        plan_ahead(&View::of(&lab.state), &Need::of_spec(&launch.spec, None), count, lab.now)
    };
    let guessed = ahead(&lab, 5);
    lab.launch("p0", 5);
    let plan = planned(&lab, Policy::Spread);
    assert_eq!(guessed, plan.assign.iter().map(|(_, host)| *host).collect::<Vec<_>>());
    assert_eq!(guessed.len(), 4, "four slots");
    assert_eq!(ahead(&lab, 1), [], "others wait");
}

#[test]
fn a_back_off_is_waited_out_explained_and_holds_nobody_up() {
    let mut lab = farm(&[4], &[0]);
    lab.create_project("web", 5).unwrap();
    let host = lab.state.hosts().next().unwrap().id;
    let runner = lab.launch_policy(RestartPolicy::OnFailure).unwrap();
    let epoch = lab.assign(runner, host).unwrap();
    let mut failed = lab.observed(runner, epoch, 1, RunnerState::Terminated);
    failed.exit = Some(Exit { code: Some(7), reason: "exited".into(), ..Exit::default() });
    lab.report(host, vec![failed]).unwrap();
    let summary = |lab: &Lab| explain(&View::of(&lab.state), runner, lab.now).unwrap().summary;
    assert!(
        summary(&lab)
            .starts_with("restart_backoff: its last start exited with 7; restart 1 of 3 comes in 1 s"),
        "{}",
        summary(&lab)
    );
    let launch = lab.launch_command("p0", 1);
    let need = Need::of_spec(&launch.spec, None);
    assert_eq!(plan_ahead(&View::of(&lab.state), &need, 1, lab.now), [host], "it is not in the way");
    let other = lab.launch("p0", 1)[0];
    let plan = planned(&lab, Policy::Spread);
    assert_eq!(plan.assign, [(other, host)]);
    commit(&mut lab, &plan);
    lab.pass(1000);
    let plan = planned(&lab, Policy::Spread);
    assert_eq!(plan.assign, [(runner, host)]);
    assert_eq!(commit(&mut lab, &plan), (1, 0));
    let said = "restart 1 of 3 by its policy, the start before exited with 7";
    assert!(summary(&lab).ends_with(said), "{}", summary(&lab));
}

#[test]
fn explanations_name_the_reason_and_the_way_out() {
    let mut lab = farm(&[1], &[2]);
    lab.set_quota("p0", 1).unwrap();
    let waiting = lab.launch("p0", 1)[0];
    let summary = |lab: &Lab, id| explain(&View::of(&lab.state), id, lab.now).unwrap().summary;
    assert!(
        summary(&lab, waiting).starts_with("quota_reached: project p0 has 2 of 1"),
        "{}",
        summary(&lab, waiting)
    );
    let plan = planned(&lab, Policy::Spread);
    commit(&mut lab, &plan);
    assert!(plan.full);
    let full = lab.state.queue().next().unwrap();
    assert_eq!(summary(&lab, full), "no_capacity: 1 of 1 hosts would do and are full");
    let verdict = &explain(&View::of(&lab.state), full, lab.now).unwrap().hosts[0];
    assert_eq!(verdict.reasons, ["has 0 of 1 slots free, 1 needed"]);
    assert!(summary(&lab, plan.assign[0].0).starts_with("it is starting on host h0"));
    let unknown = lab.fresh_runner_id();
    assert_eq!(explain(&View::of(&lab.state), unknown, lab.now), None);
}
