//! Stopping leaves no process behind, whatever the processes try.

use stratavore_agent::runner::FencePreference;
use stratavore_proto::v1::RunnerState;

use super::support::*;

/// A daemon as bad as they come: forked twice, in its own session, with a clean environment, deaf to TERM, HUP and
/// INT. It is found from outside by its last argument.
pub(crate) fn daemonise(tag: &str) -> String {
    let deaf = "trap \"\" TERM HUP INT; while :; do sleep 1; done";
    format!(
        "(setsid env -i sh -c '(setsid sh -c \"{}\" deaf {tag} </dev/null >/dev/null 2>&1 &)' &)",
        deaf.replace('"', "\\\"")
    )
}

fn tag() -> String {
    format!("tree-{}", fresh_id())
}

async fn the_tree_is_killed(fence: FencePreference, force: bool) {
    let place = Place::with_fence(fence);
    let tag = tag();
    let client = place.start(shell(&format!("{}; exec sleep 1000", daemonise(&tag)), true)).await;
    until("the daemon runs", || !tagged(&tag).is_empty()).await;
    client.stop(force, "").await.unwrap();
    let ended = end(&client).await;
    assert_eq!(tagged(&tag), Vec::<i32>::new(), "{}", ended.fence);
    let exit = ended.exit.unwrap();
    assert_eq!(exit.leftovers, Vec::<String>::new());
    assert_eq!((ended.state, exit.reason.as_str()), (RunnerState::Terminated.into(), "stopped"));
    let wanted = match fence {
        FencePreference::Auto => ended.fence.as_str(),
        FencePreference::Cgroup => "cgroup",
        FencePreference::PidNamespace => "pidns",
        FencePreference::Weak => "weak",
    };
    assert_eq!(ended.fence, wanted);
}

/// Whether this host lets us use that fence; said, not hidden, when not.
pub(crate) fn possible(fence: FencePreference) -> bool {
    let features = stratavore_agent::runner::Host::prepare(SCOPE).features();
    let has = |name: &str| features.iter().any(|feature| feature == name);
    let possible = match fence {
        FencePreference::Cgroup => has("cgroup2"),
        FencePreference::PidNamespace => has("pidns") || has("userns"),
        _ => true,
    };
    if !possible {
        eprintln!("skipped: this host has no {fence:?} for this user (features {features:?})");
    }
    possible
}

#[tokio::test]
async fn a_deaf_daemon_is_killed_under_every_fence() {
    let fences = [
        FencePreference::Weak,
        FencePreference::Auto,
        FencePreference::Cgroup,
        FencePreference::PidNamespace,
    ];
    for fence in fences.into_iter().filter(|fence| possible(*fence)) {
        for force in [false, true] {
            the_tree_is_killed(fence, force).await;
        }
    }
}

#[tokio::test]
async fn a_command_that_ends_takes_its_tree_with_it() {
    for fence in [FencePreference::Weak, FencePreference::Auto, FencePreference::PidNamespace] {
        if !possible(fence) {
            continue;
        }
        let place = Place::with_fence(fence);
        let tag = tag();
        let script = format!(
            "{}; while ! grep -q deaf /proc/*/cmdline 2>/dev/null; do :; done; exit 3",
            daemonise(&tag)
        );
        let client = place.start(shell(&script, false)).await;
        let ended = end(&client).await;
        assert_eq!(tagged(&tag), Vec::<i32>::new());
        assert_eq!(ended.exit.unwrap().code, Some(3), "the command's own exit, not that of the sweep");
    }
}

#[tokio::test]
async fn an_interrupt_is_enough_for_those_who_listen() {
    let place = Place::new();
    let client =
        place.start(shell("trap 'echo bye; exit 9' INT; echo up; while :; do sleep 0.05; done", true)).await;
    let mut viewer = Viewer::open(&client, raw_from(0)).await;
    viewer.until_text("up").await;
    client.stop(false, "host_stopped").await.unwrap();
    let exit = viewer.until_exit().await;
    assert!(viewer.text().contains("bye"));
    assert_eq!((exit.code, exit.reason.as_str()), (Some(9), "host_stopped"));
    let revs = end(&client).await.rev;
    assert_eq!(revs, 4, "starting, running, stopping, terminated");
}

#[tokio::test]
async fn the_end_is_recorded_once_and_stays() {
    let place = Place::new();
    // Deaf to the interrupt, ended by TERM: the ladder is half way up when the tree is gone.
    let client = place.start(shell("trap '' INT; echo up; exec sleep 1000", false)).await;
    let mut viewer = Viewer::open(&client, raw_from(0)).await;
    viewer.until_text("up").await;
    client.stop(false, "").await.unwrap();
    let ended = end(&client).await;
    // Well past every further rung, KILL and its patience included.
    let waited = std::time::Instant::now();
    until("time passes", || waited.elapsed().as_millis() > 6500).await;
    let record = stratavore_agent::shim::exit::read(&place.dir()).unwrap().unwrap().observation.unwrap();
    for seen in [client.observation(), record] {
        assert_eq!(
            (seen.rev, seen.ended_at_unix_ms, seen.exit),
            (ended.rev, ended.ended_at_unix_ms, ended.exit.clone())
        );
    }
}

#[tokio::test]
async fn an_idle_interactive_shell_stops_without_a_kill() {
    let place = Place::new();
    let client = place.start(command(&["bash", "--norc", "-i"], true)).await;
    let mut viewer = Viewer::open(&client, sized(24, 80)).await;
    viewer.type_in("echo re''ady\n").await;
    viewer.until_text("ready").await;
    client.stop(false, "").await.unwrap();
    let exit = viewer.until_exit().await;
    assert_ne!(exit.signal, Some(9), "{exit:?}");
}

#[tokio::test]
async fn the_death_of_the_shim_kills_a_fenced_tree() {
    for fence in [FencePreference::Cgroup, FencePreference::PidNamespace] {
        if !possible(fence) {
            continue;
        }
        let place = Place::with_fence(fence);
        let tag = tag();
        let client = place.start(shell(&format!("{}; exec sleep 1000", daemonise(&tag)), true)).await;
        until("the daemon runs", || !tagged(&tag).is_empty()).await;
        stratavore_agent::shim::fence::descend::signal_all(
            &[place.identity().pid],
            rustix::process::Signal::KILL,
        );
        // Nobody adopts: what happens now happens without any agent.
        until("the tree dies with its shim", || tagged(&tag).is_empty()).await;
        drop(client);
    }
}

#[tokio::test]
async fn memory_limits_hold_where_the_host_has_them() {
    let features = stratavore_agent::runner::Host::prepare(SCOPE).features();
    if !features.iter().any(|feature| feature == "limit-memory") {
        eprintln!("skipped: this host cannot limit memory for this user");
        return;
    }
    let place = Place::new();
    let start = stratavore_proto::v1::RunnerStart {
        memory_bytes: 48 * 1024 * 1024,
        ..shell("exec tail /dev/zero", false)
    };
    let client = place.start(start).await;
    let ended = end(&client).await;
    let exit = ended.exit.unwrap();
    assert!(exit.oom_killed, "{exit:?}");
    assert_eq!((ended.state, exit.reason.as_str()), (RunnerState::Failed.into(), "oom"));
}

#[tokio::test]
async fn a_host_that_goes_down_stops_its_runners() {
    let place = Place::new();
    let client = place.start(command(&["sleep", "1000"], true)).await;
    let shim = place.identity().pid;
    stratavore_agent::shim::fence::descend::signal_all(&[shim], rustix::process::Signal::TERM);
    let ended = end(&client).await;
    assert_eq!(ended.reason, "host_stopped");
    assert_eq!(stratavore_agent::shim::exit::read(&place.dir()).unwrap().unwrap().observation, Some(ended));
}
