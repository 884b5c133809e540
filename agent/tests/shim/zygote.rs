//! Shims come from a zygote, and live without it.

use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use stratavore_agent::shim::fence::descend::{Stat, all};

use crate::support::{Place, end, shell, until};

/// The zygote of a place: a child of this process with the place's directory in its command line. A fork of it looks
/// the same until it has read its order.
fn zygote(place: &Place) -> Option<i32> {
    let root = place.path().to_string_lossy().into_owned();
    all().into_iter().find(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let mine =
            || Stat::read(*pid).is_some_and(|stat| u32::try_from(stat.parent) == Ok(std::process::id()));
        line.starts_with("stratavore-agent\0zygote\0") && line.contains(&root) && mine()
    })
}

fn command_line(pid: i32) -> String {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    String::from_utf8_lossy(&line).trim_end_matches('\0').to_owned()
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

fn lives(pid: i32) -> bool {
    Stat::read(pid).is_some_and(|stat| stat.alive())
}

#[tokio::test]
async fn a_shim_is_forked_and_shows_whose_it_is() {
    let place = Place::new();
    let client = place.start(shell("exec sleep 1000", true)).await;
    let shim = place.identity().pid;
    assert_eq!(command_line(shim), format!("stratavore-agent\0shim\0{}-1.42", place.runner));
    let mut parent = shim;
    let zygote = zygote(&place).expect("a zygote");
    while parent > 1 && parent != zygote {
        parent = Stat::read(parent).unwrap().parent;
    }
    assert_eq!(parent, zygote, "the shim is no child of the zygote");
    client.stop(true, "").await.unwrap();
    end(&client).await;
}

#[tokio::test]
async fn p11_a_runner_outlives_its_zygote_and_stays_fenced() {
    let place = Place::new();
    let client = place.start(shell("exec sleep 1000", true)).await;
    let (shim, child) = (place.identity().pid, place.identity().child);
    let zygote = zygote(&place).expect("a zygote");
    kill(zygote);
    until("the zygote is gone", || !lives(zygote)).await;
    assert!(lives(shim) && lives(child));
    assert_eq!(client.observation().state(), stratavore_proto::v1::RunnerState::Running);
    let fenced = place.identity().fence != "weak";
    if fenced {
        kill(shim);
        until("the tree is gone", || !lives(child)).await;
    } else {
        client.stop(true, "").await.unwrap();
        end(&client).await;
    }
}

#[tokio::test]
async fn a_dead_zygote_is_replaced_and_a_missing_one_is_done_without() {
    let place = Place::new();
    place.launcher.warm_up().await;
    until("there is a zygote", || zygote(&place).is_some()).await;
    let first = zygote(&place).expect("a zygote");
    kill(first);
    until("the zygote is gone", || !lives(first)).await;
    let client = place.start(shell("exit 7", true)).await;
    assert_eq!(end(&client).await.exit.unwrap().code, Some(7));
    assert!(zygote(&place).is_some_and(|second| second != first));
    client.reap().await.unwrap();

    let other = Place::new();
    // Where a directory lies no socket can be bound.
    std::fs::create_dir(other.path().join("s/zygote.sock")).unwrap();
    let client = other.start(shell("exit 8", true)).await;
    assert_eq!(end(&client).await.exit.unwrap().code, Some(8));
    assert_eq!(zygote(&other), None);
    client.reap().await.unwrap();
}

#[tokio::test]
async fn the_zygote_ends_with_its_agent() {
    let place = Place::new();
    place.launcher.warm_up().await;
    until("there is a zygote", || zygote(&place).is_some()).await;
    let zygote = zygote(&place).expect("a zygote");
    let begun = Instant::now();
    drop(place);
    until("the zygote is gone", || !lives(zygote)).await;
    assert!(begun.elapsed().as_secs() < 30);
}
