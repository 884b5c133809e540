//! Agents come and go; the directory says what is.

use std::process::Command;

use rustix::process::Signal;
use stratavore_agent::runner::{AdoptError, Adoption, FencePreference};
use stratavore_agent::shim::fence::descend::{Stat, signal_all};
use stratavore_agent::shim::identity::Identity;
use stratavore_proto::v1::RunnerState;

use super::support::*;

/// Directory the dying agent below is told to use.
const PLACE: &str = "SHIM_TEST_PLACE";

/// Not a test: what `the_runner_outlives_the_process_that_started_it` runs as its agent. It starts a runner, and dies
/// as an agent dies under `kill -9`.
#[tokio::test]
#[ignore = "the body of another test's helper process"]
async fn an_agent_that_dies() {
    let Some(path) = std::env::var_os(PLACE) else { return };
    let place = Place::new();
    let sockets = std::path::Path::new(&path).join("s");
    std::fs::create_dir_all(&sockets).unwrap();
    let launcher =
        stratavore_agent::runner::Launcher::new(stratavore_agent::runner::Host::default(), sockets)
            .with_program(program());
    let script =
        "n=0; while [ $n -lt 20000 ]; do echo line $n; n=$((n+1)); done; read go; echo went; exit 42";
    let dir = std::path::Path::new(&path).join("runner");
    launcher.start(&dir, place.spec(shell(script, true))).await.unwrap();
    signal_all(&[i32::try_from(std::process::id()).unwrap()], Signal::KILL);
}

#[tokio::test]
async fn the_runner_outlives_the_process_that_started_it() {
    let place = Place::new();
    let helper = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "adoption::an_agent_that_dies", "--ignored", "--nocapture"])
        .env(PLACE, place.path())
        .output()
        .unwrap();
    assert!(!helper.status.success(), "it was killed: {helper:?}");
    let Adoption::Live(client) = place.launcher.adopt(&place.dir()).await.unwrap() else {
        panic!("not alive")
    };
    assert_eq!(client.observation().state(), RunnerState::Running);
    let mut viewer = Viewer::open(&client, raw_from(0)).await;
    viewer.until_text("line 19999").await;
    client.input(b"\n".to_vec(), false, "test").await.unwrap();
    let exit = viewer.until_exit().await;
    assert_eq!(exit.code, Some(42));
    let text = viewer.text();
    let numbers: Vec<u32> =
        text.lines().filter_map(|line| line.strip_prefix("line ")?.trim_end().parse().ok()).collect();
    assert_eq!(numbers, (0..20000).collect::<Vec<_>>());
    client.reap().await.unwrap();
}

#[tokio::test]
async fn a_shim_that_was_killed_is_lost_and_its_tree_gone() {
    for fence in [FencePreference::Weak, FencePreference::Auto] {
        let place = Place::with_fence(fence);
        let tag = format!("lost-{}", fresh_id());
        // Ignores the hangup that the dying terminal sends.
        let client = place
            .start(shell(
                &format!("trap '' HUP; sh -c 'trap \"\" HUP; while :; do sleep 1; done' x {tag}"),
                true,
            ))
            .await;
        until("it runs", || !tagged(&tag).is_empty()).await;
        let watch = client.watch();
        signal_all(&[place.identity().pid], Signal::KILL);
        until("the client sees it", || watch.has_changed().is_err()).await;
        let observation = match place.launcher.adopt(&place.dir()).await.unwrap() {
            Adoption::ShimLost(observation) => observation,
            other => panic!("{other:?}"),
        };
        assert_eq!(observation.reason, "shim_lost");
        assert_eq!(observation.state(), RunnerState::Failed);
        assert_eq!(tagged(&tag), Vec::<i32>::new());
        assert!(observation.rev > 4, "newer than everything the shim has said");
        match place.launcher.adopt(&place.dir()).await.unwrap() {
            Adoption::Exited(again) => assert_eq!(again, observation),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_mute_shim_is_killed() {
    let place = Place::new();
    let client = place.start(command(&["sleep", "1000"], true)).await;
    let identity = place.identity();
    signal_all(&[identity.pid], Signal::STOP);
    drop(client);
    match place.launcher.adopt(&place.dir()).await.unwrap() {
        Adoption::ShimLost(observation) => assert_eq!(observation.reason, "shim_lost"),
        other => panic!("{other:?}"),
    }
    assert!(Stat::read(identity.pid).is_none_or(|stat| !stat.alive()));
}

#[tokio::test]
async fn another_boot_means_rebooted() {
    let place = Place::new();
    std::fs::create_dir(place.dir()).unwrap();
    let identity = Identity {
        protocol: 1,
        runner: place.runner.clone(),
        incarnation: 1,
        index: 42,
        pid: 1,
        start_ticks: 1,
        child: 2,
        boot_id: "another boot".into(),
        socket: place.path().join("gone.sock"),
        fence: "weak".into(),
        cgroup: Default::default(),
        started_at_unix_ms: 1,
    };
    identity.write(&place.dir()).unwrap();
    match place.launcher.adopt(&place.dir()).await.unwrap() {
        Adoption::ShimLost(observation) => assert_eq!(observation.reason, "host_rebooted"),
        other => panic!("{other:?}"),
    }
    // So that the place does not look for a process to kill.
    std::fs::remove_dir_all(place.dir()).unwrap();
}

#[tokio::test]
async fn an_empty_directory_never_ran() {
    let place = Place::new();
    std::fs::create_dir(place.dir()).unwrap();
    assert!(matches!(place.launcher.adopt(&place.dir()).await.unwrap(), Adoption::Empty));
    let client = place.start(command(&["true"], false)).await;
    assert_eq!(end(&client).await.exit.unwrap().code, Some(0));
}

#[tokio::test]
async fn a_copied_directory_kills_nothing() {
    let place = Place::new();
    let client = place.start(command(&["sleep", "1000"], true)).await;
    let copy = place.path().join("copy");
    let copied = Command::new("cp").arg("-r").arg(place.dir()).arg(&copy).status().unwrap();
    assert!(copied.success());
    let pid = place.identity().pid;
    match place.launcher.adopt(&copy).await {
        Err(AdoptError::Copied { pid: named }) => assert_eq!(named, pid),
        other => panic!("{other:?}"),
    }
    assert!(Stat::read(pid).unwrap().alive());
    client.stop(true, "").await.unwrap();
    assert_eq!(end(&client).await.state(), RunnerState::Terminated);
}
