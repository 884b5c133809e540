//! P10, P11, P13 with real shims, real trees and the kernel's clock.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};
use stratavore_agent::runner::{Adoption, FencePreference, StartError};
use stratavore_agent::shim::wire::Lease;
use stratavore_proto::v1::RunnerState;

use super::support::*;

const REASON: &str = "lease_expired";

/// Far enough away for a start on a busy machine, near enough to be waited for.
const NEAR: Duration = Duration::from_secs(6);

fn now() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap(), u32::try_from(time.tv_nsec).unwrap())
}

fn ns(at: Duration) -> u64 {
    u64::try_from(at.as_nanos()).unwrap()
}

fn leased(fence: FencePreference, deadline: Duration) -> Place {
    let mut place = Place::with_fence(fence);
    place.lease = Lease { deadline_ns: ns(deadline), ..Default::default() };
    // Longer than the second that KILL comes ahead, so that there is a ladder before it.
    place.kill_grace = Duration::from_secs(3);
    place
}

fn fences() -> impl Iterator<Item = FencePreference> {
    let strong = [FencePreference::Cgroup, FencePreference::PidNamespace];
    strong.into_iter().filter(|fence| super::tree::possible(*fence))
}

/// Deaf to everything but KILL, with a daemon that has left its session.
fn deaf(tag: &str) -> String {
    format!("{}; trap '' TERM INT HUP; while :; do sleep 1; done", super::tree::daemonise(tag))
}

#[tokio::test]
async fn p11_a_stopped_shim_is_dead_at_its_deadline_and_its_tree_with_it() {
    for fence in fences() {
        let deadline = now() + NEAR;
        let place = leased(fence, deadline);
        let tag = format!("deadline-{}", fresh_id());
        let client = place.start(shell(&deaf(&tag), true)).await;
        until("the daemon runs", || !tagged(&tag).is_empty()).await;
        let shim = place.identity().pid;
        kill_process(Pid::from_raw(shim).unwrap(), Signal::STOP).unwrap();
        assert!(now() < deadline, "this machine is too slow for the test");
        until("the tree is gone", || tagged(&tag).is_empty()).await;
        let late =
            now().checked_sub(deadline).expect("nothing ends a stopped shim but the kernel, at the deadline");
        eprintln!("deadline_to_dead_{fence:?} {} ms", late.as_millis());
        assert!(late < Duration::from_secs(5), "{late:?}");
        drop(client);
        match place.launcher.adopt(&place.dir()).await.unwrap() {
            Adoption::ShimLost(end) => {
                assert_eq!((end.state(), end.reason.as_str()), (RunnerState::Failed, REASON))
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn p11_the_ladder_ends_a_runner_before_the_deadline() {
    for (fence, script, wanted) in [
        (
            FencePreference::Auto,
            "trap 'exit 9' INT TERM; while :; do sleep 0.1; done".to_owned(),
            (Some(9), None),
        ),
        (
            FencePreference::Auto,
            "trap '' INT TERM HUP; while :; do sleep 0.1; done".to_owned(),
            (None, Some(9)),
        ),
    ] {
        let deadline = now() + NEAR;
        let place = leased(fence, deadline);
        let client = place.start(shell(&script, false)).await;
        let end = end(&client).await;
        let exit = end.exit.clone().unwrap();
        assert_eq!((end.state(), end.reason.as_str()), (RunnerState::Terminated, REASON));
        assert_eq!((exit.code, exit.signal), wanted);
        assert!(now() < deadline, "the end was still to be told by the shim itself");
        client.reap().await.unwrap();
    }
}

#[tokio::test]
async fn p11_a_frozen_tree_is_thawed_and_ended() {
    if !super::tree::possible(FencePreference::Cgroup) {
        return;
    }
    let place = leased(FencePreference::Cgroup, now() + NEAR);
    let ready = place.path().join("ready");
    let script = format!("trap 'exit 9' INT TERM; : > {}; while :; do sleep 0.1; done", ready.display());
    let client = place.start(shell(&script, false)).await;
    until("the shell listens", || ready.exists()).await;
    let freeze = place.identity().cgroup.join("cgroup.freeze");
    if std::fs::write(&freeze, "1").is_err() {
        eprintln!("skipped: {} cannot be written", freeze.display());
        return;
    }
    let exit = end(&client).await.exit.unwrap();
    assert_eq!((exit.code, exit.reason.as_str()), (Some(9), REASON), "it could still listen");
}

#[tokio::test]
async fn p5_a_later_deadline_is_life_and_no_death_of_the_client_extends_it() {
    let deadline = now() + NEAR;
    let place = leased(FencePreference::Auto, deadline);
    let client = place.start(shell("exec sleep 1000", false)).await;
    // The ladder begins a grace before it, which is after the first deadline still.
    let later = ns(deadline + Duration::from_secs(5));
    assert_eq!(client.set_lease(later, false).await.unwrap().deadline_ns, later);
    assert_eq!(client.set_lease(ns(deadline), false).await.unwrap().deadline_ns, later, "never lowered");
    drop(client);
    // Another connection, as after an agent's restart, finds the same deadline.
    let Adoption::Live(client) = place.launcher.adopt(&place.dir()).await.unwrap() else {
        panic!("it is dead")
    };
    assert_eq!(client.lease().unwrap().deadline_ns, later);
    assert_eq!(end(&client).await.reason, REASON);
    assert!(ns(now()) < later && now() > deadline);
}

#[tokio::test]
async fn p13_a_bounding_grant_lowers_and_an_unbounded_one_frees() {
    let place = Place::new();
    let client = place.start(shell("exec sleep 1000", false)).await;
    let soon = ns(now() + NEAR);
    assert_eq!(client.set_lease(soon, false).await.unwrap().deadline_ns, 0);
    assert_eq!(client.set_lease(soon, true).await.unwrap().deadline_ns, soon);
    assert_eq!(client.set_lease(0, false).await.unwrap().deadline_ns, 0);
    assert_eq!(client.set_lease(soon, true).await.unwrap().deadline_ns, soon);
    assert_eq!(end(&client).await.reason, REASON);
}

#[tokio::test]
async fn p10_a_start_behind_its_deadline_executes_nothing() {
    let place = leased(FencePreference::Auto, now() + Duration::from_millis(500));
    let trace = place.path().join("executed");
    let script = format!("echo yes > {}", trace.display());
    match place.try_start(shell(&script, false)).await {
        Err(StartError::Shim(message)) => assert!(message.contains("deadline"), "{message}"),
        other => panic!("{other:?}"),
    }
    assert!(!trace.exists());
    // Nothing ran, so nothing has ended: with a later deadline it may.
    let Place { launcher, .. } = &place;
    let mut spec = place.spec(shell(&script, false));
    spec.lease.deadline_ns = 0;
    let client = launcher.start(&place.dir(), spec).await.unwrap();
    let end = end(&client).await;
    assert!(trace.exists(), "{end:?}");
}
