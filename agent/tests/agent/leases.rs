//! P3, P5, P9, P11, P13 with the real agent: who dies without contact, who lives, and by when.

use std::time::Duration;

use stratavore_proto::v1;
use stratavore_proto::v1::RunnerState::{Running, Terminated};
use stratavore_proto::v1::node_message::Message as Down;
use tokio::time::Instant;

use crate::support::{Control, Farm, alive, epoch, run_order, unique_id, until, within};

/// Long against a grace of 3 s and the load of a busy machine, short against a test's patience.
const LEASE: Duration = Duration::from_secs(9);

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap()
}

fn leased(runner: &str, index: u64, keep: bool) -> v1::DesiredRunner {
    let mut order = run_order(runner, index, "exec sleep 1000");
    let start = order.start.as_mut().unwrap();
    (start.keep, start.hold_ms, start.host_epoch) = (keep, millis(LEASE), Some(epoch(1)));
    order
}

/// A `stop` and a `keep` runner, both running and acknowledged, under bounded grants.
async fn two(farm: &Farm) -> (crate::support::Agent, Control, v1::Observation, v1::Observation) {
    let (stop, keep) = (unique_id(), unique_id());
    let agent = farm.agent();
    let mut control = farm.gateway.accept().await;
    control.grants = v1::Grant::default();
    control.lease_ms = millis(LEASE);
    control.welcome(11, vec![leased(&stop, 10, false), leased(&keep, 11, true)]).await;
    let (mut stop_runs, mut keep_runs) = (None, None);
    while stop_runs.is_none() || keep_runs.is_none() {
        for report in within("both run", control.next_reports()).await {
            if report.state() == Running {
                control.acknowledge(&report).await;
                let place = if report.runner == stop { &mut stop_runs } else { &mut keep_runs };
                *place = Some(report);
            }
        }
    }
    control.grants_more(3).await;
    (agent, control, stop_runs.unwrap(), keep_runs.unwrap())
}

async fn stop_dies_and_keep_lives(since: Instant, stop: &v1::Observation, keep: &v1::Observation) {
    until("the stop runner is dead", || !alive(stop.pid)).await;
    let after = since.elapsed();
    eprintln!("last_grant_to_dead {} ms of {}", after.as_millis(), LEASE.as_millis());
    assert!(after <= LEASE, "{after:?}");
    tokio::time::sleep_until(since + LEASE + Duration::from_secs(1)).await;
    assert!(alive(keep.pid));
}

#[tokio::test]
async fn p11_with_the_agent_killed_stop_dies_by_the_deadline_and_keep_lives() {
    let farm = Farm::joined().await;
    let (agent, _control, stop, keep) = two(&farm).await;
    let since = Instant::now();
    agent.kill().await;
    stop_dies_and_keep_lives(since, &stop, &keep).await;
    let _agent = farm.agent();
    let again = farm.gateway.accept().await;
    let reason = |runner: &str| {
        let listed = again.hello.runners.iter().find(|report| report.runner == runner).unwrap();
        (listed.state(), listed.reason.clone())
    };
    assert_eq!(reason(&stop.runner), (Terminated, "lease_expired".into()));
    assert_eq!(reason(&keep.runner).0, Running);
}

#[tokio::test]
async fn p5_without_grants_stop_dies_by_the_deadline_and_keep_lives() {
    let farm = Farm::joined().await;
    let (_agent, control, stop, keep) = two(&farm).await;
    let since = Instant::now();
    control.connection.close(0u32.into(), b"cut off");
    stop_dies_and_keep_lives(since, &stop, &keep).await;
}

#[tokio::test]
async fn p3_a_fence_kills_what_it_covers_and_the_rest_carries_over() {
    let farm = Farm::joined().await;
    let (_agent, mut control, stop, keep) = two(&farm).await;
    let covered = vec![v1::RunnerEpoch { runner: stop.runner.clone(), epoch: stop.epoch }];
    let refused = v1::Refused { code: "fenced".into(), message: "the host epoch has ended".into(), covered };
    control.send(Down::Refused(refused)).await;
    let shown = within("the list shows it dead", async {
        loop {
            let mut again = farm.gateway.accept().await;
            assert_eq!(again.hello.host_epoch, None);
            let dead =
                |report: &v1::Observation| report.runner == stop.runner && report.state() == Terminated;
            if again.hello.runners.iter().any(dead) {
                break again;
            }
            // As a cluster answers a list in which a covered one lives.
            let covered = vec![v1::RunnerEpoch { runner: stop.runner.clone(), epoch: stop.epoch }];
            let refused = v1::Refused { code: "covered_alive".into(), covered, ..Default::default() };
            again.send(Down::Refused(refused)).await;
        }
    })
    .await;
    assert!(!alive(stop.pid) && alive(keep.pid));
    let reasons: Vec<_> = shown.hello.runners.iter().map(|report| report.reason.as_str()).collect();
    assert!(reasons.contains(&"host_fenced"), "{reasons:?}");
}

#[tokio::test]
async fn p13_a_host_that_was_alone_says_when_its_shims_hold_a_deadline() {
    let farm = Farm::joined().await;
    let (_agent, mut control, stop, keep) = two(&farm).await;
    control.grants = v1::Grant { unbounded: true, ..Default::default() };
    control.grants_more(3).await;
    assert!(!control.renewals.last().unwrap().bounded);
    control.grants = v1::Grant { bounding: true, ..Default::default() };
    within("every shim is bounded", async {
        while !control.renewals.last().unwrap().bounded {
            control.grants_more(1).await;
        }
    })
    .await;
    // Grants go on: the bounded one lives past any single deadline, and the silence of the gateway ends it.
    control.grants = v1::Grant::default();
    control.grants_more(3).await;
    let since = Instant::now();
    control.connection.close(0u32.into(), b"cut off");
    stop_dies_and_keep_lives(since, &stop, &keep).await;
}
