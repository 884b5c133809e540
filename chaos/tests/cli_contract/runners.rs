//! What happens to runners: their world, their output, their ends.

use std::fs;

use serde_json::Value;
use stratavore_chaos::eventually::{SOON, eventually, eventually_true};
use stratavore_chaos::farm::{LocalFarm, text};
use stratavore_chaos::processes::is_alive;
use stratavore_chaos::ran::run;

/// What a finished runner wrote.
fn output_of(farm: &LocalFarm, flags: &[&str], command: &[&str]) -> String {
    let runner = text(&farm.launch("demo", flags, command), "id");
    farm.await_runner(&runner, "terminated");
    farm.cli(&["logs", &runner]).ok().stdout.replace('\r', "")
}

#[test]
fn a_runner_has_the_promised_world_and_nothing_else() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let said = output_of(&farm, &["-e", "A=b=c", "-e", "EMPTY=", "--no-tty"], &["env"]);
    let names: Vec<&str> = said.lines().filter_map(|l| l.split_once('=').map(|(n, _)| n)).collect();
    for name in [
        "PATH",
        "HOME",
        "USER",
        "SHELL",
        "LANG",
        "TERM",
        "STRATAVORE_RUNNER_ID",
        "STRATAVORE_EPOCH",
        "STRATAVORE_PROJECT",
        "A",
        "EMPTY",
    ] {
        assert!(names.contains(&name), "no {name} in:\n{said}");
    }
    let allowed = ["PATH", "HOME", "USER", "SHELL", "LANG", "TERM", "A", "EMPTY"];
    let strange: Vec<_> =
        names.iter().filter(|n| !allowed.contains(n) && !n.starts_with("STRATAVORE_")).collect();
    assert!(strange.is_empty(), "the agent's own environment leaks: {strange:?}");
    assert!(said.contains("A=b=c\n") && said.contains("STRATAVORE_PROJECT=demo\n"), "{said}");
    let work = farm.work();
    assert_eq!(output_of(&farm, &[], &["pwd"]).trim(), work.to_string_lossy());
    let elsewhere = farm.path("home").to_string_lossy().into_owned();
    assert_eq!(output_of(&farm, &["--workdir", &elsewhere], &["pwd"]).trim(), elsewhere);
    assert_eq!(
        output_of(&farm, &[], &["sh", "-c", "test -t 0 && test -t 1 && echo terminal"]).trim(),
        "terminal"
    );
    assert_eq!(output_of(&farm, &["--no-tty"], &["sh", "-c", "test -t 1 || echo pipes"]).trim(), "pipes");
    assert_eq!(output_of(&farm, &[], &["printf", "%s|", "a b", "", "c'd\"e", "*"]).trim(), "a b||c'd\"e|*|");
}

#[test]
fn no_file_descriptor_of_shim_or_agent_leaks_into_a_runner() {
    let farm = LocalFarm::start();
    farm.project("demo");
    for flags in [&[][..], &["--no-tty"]] {
        let said = output_of(&farm, flags, &["sh", "-c", "ls /proc/self/fd | tr '\\n' ' '"]);
        // 3 is the directory that ls itself reads.
        assert_eq!(said.trim(), "0 1 2 3", "{flags:?}");
    }
}

#[test]
fn a_project_without_a_command_starts_the_hosts_shell_and_with_one_that() {
    let farm = LocalFarm::start();
    let work = farm.work().to_string_lossy().into_owned();
    farm.cli(&["new", "shell", "--path", &work]).ok();
    let shell = farm.cli(&["launch", "shell", "--detach", "-o", "json"]).ok().items("RunnerList");
    let id = text(&shell[0], "id");
    farm.await_runner(&id, "running");
    farm.cli(&["send", &id, "echo sum $((6*7))", "--key", "enter"]).ok();
    eventually_true("the shell's answer", SOON, || farm.cli(&["screen", &id]).stdout.contains("sum 42"));
    farm.cli(&["new", "own", "--path", &work, "--", "echo", "own command"]).ok();
    let own = farm.cli(&["own", "--detach", "-o", "json"]).ok().items("RunnerList");
    farm.await_runner(&text(&own[0], "id"), "terminated");
    assert!(farm.cli(&["logs", &text(&own[0], "id")]).ok().stdout.contains("own command"));
}

#[test]
fn logs_tail_since_follow_and_filter() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let go = farm.path("go");
    let script = format!(
        "seq 1 50; printf '\\033[31mred\\033[0m\\033]0;title\\007\\033[2J\\n'; until [ -e {} ]; do sleep 0.05; done; echo last",
        go.display()
    );
    let runner = farm.running("demo", &["--no-tty"], &["sh", "-c", &script]);
    eventually_true("the first output", SOON, || farm.cli(&["logs", &runner]).stdout.contains("red"));
    let tail = farm.cli(&["logs", &runner, "--tail", "3"]).ok().stdout;
    assert_eq!(tail.lines().count(), 3, "{tail}");
    assert!(tail.starts_with("49"), "{tail}");
    let whole = farm.cli(&["logs", &runner]).ok().stdout;
    assert!(
        !whole.contains("\x1b]0;") && !whole.contains("\x1b[2J"),
        "a dangerous sequence reaches the terminal: {whole:?}"
    );
    assert!(farm.cli(&["logs", &runner, "--since", "1h"]).ok().stdout.contains("50"));
    assert_eq!(farm.cli(&["logs", &runner, "--since", "2099-01-01T00:00:00Z"]).ok().stdout.trim(), "");
    std::thread::scope(|scope| {
        let follower = scope.spawn(|| farm.cli(&["logs", &runner, "-f"]));
        fs::write(&go, "").expect("let the runner end");
        let followed = follower.join().expect("the follower").ok();
        assert!(followed.stdout.trim_end().ends_with("last"), "{followed}");
        assert!(followed.stdout.starts_with("1\n"), "{followed}");
    });
}

#[test]
fn stdout_and_stderr_of_pipes_stay_apart() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let runner = text(&farm.launch("demo", &["--no-tty"], &["sh", "-c", "echo out; echo err >&2"]), "id");
    farm.await_runner(&runner, "terminated");
    let logs = farm.cli(&["logs", &runner]).ok();
    assert_eq!((logs.stdout.trim(), logs.stderr.trim()), ("out", "err"), "{logs}");
}

#[test]
fn wait_tells_the_end_a_state_and_the_exit_code() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let go = farm.path("go");
    let script = format!("until [ -e {} ]; do sleep 0.05; done; exit 17", go.display());
    let runner = farm.running("demo", &[], &["sh", "-c", &script]);
    farm.cli(&["wait", &runner, "--for", "running"]).ok();
    farm.cli(&["wait", &runner, "--timeout", "500ms"]).refused(8, &["running"]);
    fs::write(&go, "").unwrap();
    farm.cli(&["wait", &runner]).ok();
    farm.cli(&["wait", &runner, "--propagate-exit"]).exits(17);
    farm.cli(&["wait", &runner, "--for", "running", "--timeout", "1s"]).refused(5, &["terminated"]);
    let killed = text(&farm.launch("demo", &[], &["sh", "-c", "kill -KILL $$"]), "id");
    farm.cli(&["wait", &killed, "--propagate-exit"]).exits(128 + 9);
}

#[test]
fn bulk_kills_end_exactly_what_they_name() {
    let farm = LocalFarm::start();
    farm.project("one");
    farm.project("two");
    let ones: Vec<String> = (0..3).map(|_| farm.running("one", &[], &["sleep", "100000"])).collect();
    let two = farm.running("two", &[], &["sleep", "100000"]);
    let named = farm.running("two", &["--name", "by-name"], &["sleep", "100000"]);
    farm.cli(&["kill", &ones[0], "by-name"]).ok();
    assert_eq!(farm.runner(&named)["state"], "terminated");
    farm.cli(&["kill", "--project", "one"]).ok();
    for one in &ones {
        assert_eq!(farm.runner(one)["state"], "terminated");
    }
    assert_eq!(farm.runner(&two)["state"], "running");
    farm.cli(&["kill", "all"]).ok();
    assert_eq!(farm.runner(&two)["state"], "terminated");
    assert!(farm.cli(&["runners", "-o", "json"]).ok().items("RunnerList").is_empty());
    farm.cli(&["kill", "all"]).ok();
    farm.cli(&["kill", &two]).refused(5, &["terminated"]);
}

#[test]
fn a_bulk_kill_asks_on_a_terminal_and_no_means_no() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let runner = farm.running("demo", &[], &["sleep", "100000"]);
    let mut asked = farm.terminal(&["kill", "all"], 24, 80);
    eventually_true("a question", SOON, || asked.grid().lines().iter().any(|l| l.contains('?')));
    asked.type_bytes(b"n\r");
    assert!(!asked.wait().success());
    assert_eq!(farm.runner(&runner)["state"], "running");
    let mut told = farm.terminal(&["kill", "all", "--yes"], 24, 80);
    assert!(told.wait().success());
    assert_eq!(farm.runner(&runner)["state"], "terminated");
}

#[test]
fn restart_is_a_new_epoch_of_the_same_runner() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let runner = farm.running(
        "demo",
        &["--name", "again"],
        &["sh", "-c", "echo epoch $STRATAVORE_EPOCH; sleep 100000"],
    );
    let before = farm.runner(&runner);
    let pid = farm.pid_of(&runner);
    farm.cli(&["restart", "again"]).ok();
    let after = farm.await_runner_that(&runner, "to run anew", |r| {
        r["state"] == "running" && r["epoch"] != before["epoch"]
    });
    assert!(!is_alive(pid), "two epochs of one runner at once");
    assert_eq!((&after["id"], &after["name"]), (&before["id"], &before["name"]));
    let index = |r: &Value| text(r, "epoch").split_once('.').and_then(|(_, i)| i.parse::<u64>().ok());
    assert!(index(&after) > index(&before));
    let epoch = text(&after, "epoch");
    eventually("the new epoch's own output", SOON, || {
        let logs = farm.cli(&["logs", &runner]).stdout;
        if logs.contains(&format!("epoch {epoch}")) { Ok(()) } else { Err(logs) }
    });
    farm.cli(&["kill", &runner]).ok();
    farm.cli(&["restart", &runner]).ok();
    farm.await_runner(&runner, "running");
}

#[test]
fn launch_count_names_and_smart_launch() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let three =
        farm.cli(&["launch", "demo", "--count", "3", "--detach", "-o", "json", "--", "sleep", "100000"]).ok();
    let three = three.items("RunnerList");
    assert_eq!(three.len(), 3);
    let mut names: Vec<String> = three.iter().map(|r| text(r, "name")).collect();
    assert!(names.iter().all(|n| n.starts_with("demo-")), "{names:?}");
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 3);
    farm.cli(&["launch", "demo", "--detach", "--name", &names[0], "--", "true"]).refused(5, &[&names[0]]);
    let named = farm.running("demo", &["--name", "mine"], &["sleep", "100000"]);
    assert_eq!(
        farm.cli(&["describe", "mine", "-o", "json"]).ok().items("RunnerList")[0]["id"],
        named.as_str()
    );
    // An id's unique beginning is enough, a bare project attaches to what lives.
    let prefix = &named[..9];
    assert_eq!(
        farm.cli(&["describe", prefix, "-o", "json"]).ok().items("RunnerList")[0]["id"],
        named.as_str()
    );
    let client = farm.terminal(&["demo", "--name", "fourth", "--", "echo", "smart launch"], 24, 80);
    client.receives("smart launch");
}

#[test]
fn a_launch_on_a_terminal_attaches_and_elsewhere_returns() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let mut client = farm.terminal(&["launch", "demo", "--", "sh", "-c", "echo attached; exit 4"], 24, 80);
    client.receives("attached");
    assert!(client.wait().success(), "a launch does not pass on the runner's exit code");
    let piped = farm.cli(&["launch", "demo", "--", "sleep", "100000"]).ok();
    assert!(piped.took < SOON, "a launch without a terminal must not attach");
}

#[test]
fn what_a_client_pipes_into_a_runner_without_terminal_arrives_with_its_end() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let runner = farm.running("demo", &["--no-tty"], &["sh", "-c", "wc -c; exit 3"]);
    let input = farm.path("input");
    fs::write(&input, vec![b'x'; 300_000]).unwrap();
    let line = format!(
        "{} --context {} attach {runner} < {}",
        farm.binaries().cli().display(),
        farm.admin_context().display(),
        input.display()
    );
    let ran = run(farm.command(std::path::Path::new("/bin/sh")).args(["-c", &line]));
    assert_eq!(ran.stdout.trim(), "300000", "{ran}");
    assert_eq!(farm.await_runner(&runner, "terminated")["exit"]["code"], 3);
}

#[test]
fn filters_of_runners() {
    let farm = LocalFarm::start();
    farm.project("one");
    farm.project("two");
    let live = farm.running("one", &[], &["sleep", "100000"]);
    let done = text(&farm.launch("two", &[], &["true"]), "id");
    farm.await_runner(&done, "terminated");
    let listed = |arguments: &[&str]| {
        let mut all = vec!["runners", "-o", "json"];
        all.extend_from_slice(arguments);
        let items = farm.cli(&all).ok().items("RunnerList");
        items.iter().map(|r| text(r, "id")).collect::<Vec<_>>()
    };
    assert_eq!(listed(&[]), [live.as_str()]);
    assert_eq!(listed(&["--all"]).len(), 2);
    assert_eq!(listed(&["--state", "terminated"]), [done.as_str()]);
    assert_eq!(listed(&["--status", "running"]), [live.as_str()]);
    assert_eq!(listed(&["--project", "two", "--all"]), [done]);
    assert!(listed(&["--project", "two"]).is_empty());
    assert_eq!(listed(&["--stale"]), [live]);
}
