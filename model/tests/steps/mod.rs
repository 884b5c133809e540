//! Random steps, weighted so that most of them have something to work on.

use proptest::prelude::*;
use stratavore_model::{RestartPolicy, RunnerState};

/// One step; numbers pick among what there is.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    CreateProject {
        name: u8,
        max: u32,
    },
    SetQuota {
        project: u8,
        max: u32,
    },
    Launch {
        project: u8,
        count: usize,
        slots: u32,
        no_queue: bool,
        request: bool,
        stop: bool,
        restart: RestartPolicy,
    },
    Retry {
        request: u8,
        same: bool,
    },
    Join {
        slots: u32,
    },
    Connect {
        host: u8,
        reboot: Option<u8>,
        older: bool,
        upto: u8,
        list: u64,
        state: RunnerState,
        weak: bool,
    },
    Assign {
        runner: u16,
        host: u8,
    },
    Report {
        runner: u16,
        rev: i8,
        state: RunnerState,
        old_epoch: bool,
    },
    Unreachable {
        host: u8,
    },
    Reachable {
        host: u8,
    },
    Kill {
        runner: u16,
        force: bool,
    },
    KillProject {
        project: u8,
    },
    Restart {
        runner: u16,
    },
    Cordon {
        host: u8,
        cordoned: bool,
    },
    RemoveHost {
        host: u8,
        force: bool,
    },
    CreateToken {
        ttl_ms: u64,
    },
    Redeem {
        token: u8,
        key: u8,
    },
    Revoke {
        token: u8,
    },
    Pass {
        ms: u64,
    },
    Trim,
    Fence {
        host: u8,
        waited: u8,
        list: u64,
        old: bool,
    },
    LeaseBounded {
        host: u8,
    },
    ConfirmReboot {
        host: u8,
        waited: u8,
    },
    DeclareRunnerDead {
        runner: u16,
    },
    DeclareHostDead {
        host: u8,
    },
    Drain {
        host: u8,
    },
    Maintain {
        minutes: u8,
    },
    JoinNode {
        max_version: u32,
    },
    RemoveNode {
        node: u8,
    },
    Finalize {
        version: u32,
    },
    ForgoList {
        host: u8,
    },
}

fn reported() -> impl Strategy<Value = RunnerState> {
    prop_oneof![
        1 => Just(RunnerState::Starting),
        4 => Just(RunnerState::Running),
        1 => Just(RunnerState::Paused),
        1 => Just(RunnerState::Stopping),
        2 => Just(RunnerState::Terminated),
        1 => Just(RunnerState::Failed),
    ]
}

fn cluster_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..4u8, 1..5u32).prop_map(|(name, max)| Step::CreateProject { name, max }),
        2 => (any::<u8>(), 1..6u32).prop_map(|(project, max)| Step::SetQuota { project, max }),
        2 => (1..6u32).prop_map(|slots| Step::Join { slots }),
        2 => any::<u8>().prop_map(|host| Step::Unreachable { host }),
        2 => any::<u8>().prop_map(|host| Step::Reachable { host }),
        2 => any::<(u8, bool)>().prop_map(|(host, cordoned)| Step::Cordon { host, cordoned }),
        1 => (any::<u8>(), prop::bool::weighted(0.3)).prop_map(|(host, force)| Step::RemoveHost { host, force }),
        2 => (0..600_000u64).prop_map(|ttl_ms| Step::CreateToken { ttl_ms }),
        4 => (any::<u8>(), 0..4u8).prop_map(|(token, key)| Step::Redeem { token, key }),
        1 => any::<u8>().prop_map(|token| Step::Revoke { token }),
        2 => (0..200_000u64).prop_map(|ms| Step::Pass { ms }),
        1 => Just(Step::Trim),
    ]
}

/// Whether it may be replaced, and what its own exit means; sometimes the two that contradict each other.
fn policies() -> impl Strategy<Value = (bool, RestartPolicy)> {
    prop_oneof![
        6 => any::<bool>().prop_map(|stop| (stop, RestartPolicy::Never)),
        3 => Just((true, RestartPolicy::OnFailure)),
        3 => Just((true, RestartPolicy::Always)),
        1 => Just((false, RestartPolicy::Always)),
    ]
}

fn runner_step() -> impl Strategy<Value = Step> {
    let connect =
        (any::<u8>(), prop::option::weighted(0.4, any::<u8>()), prop::bool::weighted(0.1), any::<u8>());
    prop_oneof![
        6 => (any::<u8>(), 1..4usize, 1..3u32, any::<(bool, bool)>(), policies()).prop_map(
            |(project, count, slots, (no_queue, request), (stop, restart))| {
                Step::Launch { project, count, slots, no_queue, request, stop, restart }
            },
        ),
        2 => any::<(u8, bool)>().prop_map(|(request, same)| Step::Retry { request, same }),
        7 => (connect, any::<u64>(), reported(), prop::bool::weighted(0.1)).prop_map(
            |((host, reboot, older, upto), list, state, weak)| {
                Step::Connect { host, reboot, older, upto, list, state, weak }
            },
        ),
        20 => any::<(u16, u8)>().prop_map(|(runner, host)| Step::Assign { runner, host }),
        14 => (any::<u16>(), -1..3i8, reported(), prop::bool::weighted(0.1)).prop_map(
            |(runner, rev, state, old_epoch)| Step::Report { runner, rev, state, old_epoch },
        ),
        4 => any::<(u16, bool)>().prop_map(|(runner, force)| Step::Kill { runner, force }),
        1 => any::<u8>().prop_map(|project| Step::KillProject { project }),
        4 => any::<u16>().prop_map(|runner| Step::Restart { runner }),
    ]
}

fn fence_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (any::<(u8, u8, u64)>(), prop::bool::weighted(0.05))
            .prop_map(|((host, waited, list), old)| Step::Fence { host, waited, list, old }),
        3 => any::<u8>().prop_map(|host| Step::LeaseBounded { host }),
        8 => any::<(u8, u8)>().prop_map(|(host, waited)| Step::ConfirmReboot { host, waited }),
        2 => any::<u16>().prop_map(|runner| Step::DeclareRunnerDead { runner }),
        1 => any::<u8>().prop_map(|host| Step::DeclareHostDead { host }),
        1 => any::<u8>().prop_map(|host| Step::Drain { host }),
        1 => (0..3u8).prop_map(|minutes| Step::Maintain { minutes }),
        1 => (1..4u32).prop_map(|max_version| Step::JoinNode { max_version }),
        1 => any::<u8>().prop_map(|node| Step::RemoveNode { node }),
        1 => (1..5u32).prop_map(|version| Step::Finalize { version }),
        1 => any::<u8>().prop_map(|host| Step::ForgoList { host }),
    ]
}

pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(prop_oneof![4 => runner_step(), 2 => cluster_step(), 1 => fence_step()], 200..400)
}
