//! What a person may mistype.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use stratavore_chaos::eventually::{SOON, eventually_true};
use stratavore_chaos::farm::{LocalFarm, Plan, text};
use stratavore_chaos::ran::run;

/// Longer than a runner's argv and environment may be (48 KiB, P23), shorter than what the kernel lets us pass.
const TOO_LONG_BYTES: usize = 60 * 1024;

#[test]
fn an_unknown_project_is_not_found_and_says_how_to_make_it() {
    let farm = Plan::default().agents(0).start();
    farm.cli(&["launch", "nosuch", "--detach", "--", "true"])
        .refused(3, &["nosuch", "stratavore new nosuch"]);
    farm.cli(&["nosuch"]).refused(3, &["nosuch", "stratavore new nosuch"]);
    farm.cli(&["quotas", "set", "nosuch", "max-runners", "3"]).refused(3, &["nosuch"]);
    assert!(
        farm.cli(&["projects", "-o", "json"]).ok().items("ProjectList").is_empty(),
        "a project was made silently"
    );
}

#[test]
fn a_mistyped_command_is_a_usage_error_with_the_right_word() {
    let farm = Plan::default().agents(0).start();
    farm.cli(&["runers"]).exits(2).says(&["runners"]);
    farm.cli(&["statsu"]).exits(2).says(&["status"]);
    farm.cli(&["runners", "--al"]).exits(2).says(&["--all"]);
    farm.cli(&["launch", "demo", "--cuont", "2"]).exits(2).says(&["--count"]);
}

#[test]
fn bad_names_are_refused_with_the_rule() {
    let farm = Plan::default().agents(0).start();
    let long = "a".repeat(64);
    for name in ["Demo", "-demo", "de_mo", "dé", "a b", "", long.as_str(), "../x"] {
        let ran = farm.cli(&["new", "--path", "/tmp", "--", name]);
        assert_eq!(ran.code, Some(2), "name '{name}': {ran}");
        let ran = farm.cli(&["new", name, "--path", "/tmp"]);
        assert_eq!(ran.code, Some(2), "name '{name}': {ran}");
    }
    farm.cli(&["new", "Demo", "--path", "/tmp"]).refused(2, &["a-z"]);
    farm.cli(&["new", "runners", "--path", "/tmp"]).refused(2, &["runners"]);
    let longest = "a".repeat(63);
    farm.cli(&["new", &longest, "--path", "/tmp"]).ok();
    farm.cli(&["launch", &longest, "--detach", "--name", "Not A Name", "--", "true"]).refused(2, &["name"]);
}

#[test]
fn a_project_of_that_name_is_a_conflict() {
    let farm = Plan::default().agents(0).start();
    farm.project("demo");
    farm.cli(&["new", "demo", "--path", "/tmp"]).refused(5, &["demo", "exists"]);
}

#[test]
fn a_missing_program_and_a_missing_directory_are_named_by_the_failed_runner() {
    let farm = LocalFarm::start();
    farm.project("demo");
    for tty in [&[][..], &["--no-tty"]] {
        let runner = farm.launch("demo", tty, &["/no/such/program"]);
        let failed = farm.await_runner(&text(&runner, "id"), "failed");
        assert_eq!(failed["exit"]["reason"], "program_missing", "{failed}");
        let waited = farm.cli(&["wait", &text(&runner, "id"), "--propagate-exit"]);
        assert_ne!(waited.code, Some(0), "what never ran did not succeed: {waited}");
        let mut flags = vec!["--workdir", "/no/such/directory"];
        flags.extend_from_slice(tty);
        let runner = farm.launch("demo", &flags, &["true"]);
        let failed = farm.await_runner(&text(&runner, "id"), "failed");
        assert_eq!(failed["exit"]["reason"], "workdir_missing", "{failed}");
    }
    let plain = farm.path("work/plain-file");
    fs::write(&plain, "not a program").unwrap();
    let runner = farm.launch("demo", &[], &[&plain.to_string_lossy()]);
    let failed = farm.await_runner(&text(&runner, "id"), "failed");
    assert!(
        matches!(failed["exit"]["reason"].as_str(), Some("program_missing" | "start_failed")),
        "{failed}"
    );
    farm.cli(&["attach", &text(&runner, "id")]).refused(1, &["has failed"]);
}

#[test]
fn a_project_whose_directory_is_missing_can_be_made_and_its_runner_says_so() {
    let farm = LocalFarm::start();
    farm.cli(&["new", "ghost", "--path", "/no/such/directory"]).ok();
    let runner = farm.launch("ghost", &[], &["true"]);
    let failed = farm.await_runner(&text(&runner, "id"), "failed");
    assert_eq!(failed["exit"]["reason"], "workdir_missing", "{failed}");
    let described = farm.cli(&["describe", &text(&runner, "id")]).ok();
    assert!(
        described.stdout.contains("/no/such/directory"),
        "describe does not name the directory: {described}"
    );
}

#[test]
fn unknown_and_ambiguous_runners_are_told_apart() {
    let farm = LocalFarm::start();
    farm.project("demo");
    for command in ["describe", "explain", "attach", "screen", "logs", "kill", "restart", "wait"] {
        farm.cli(&[command, "nosuchrunner"]).refused(3, &["nosuchrunner"]);
    }
    // 33 runners share at least one first character of 32: one prefix is ambiguous for certain.
    farm.cli(&["launch", "demo", "--count", "33", "--detach", "--", "sleep", "100000"]).ok();
    let firsts: Vec<char> = farm.runners().iter().filter_map(|r| r["id"].as_str()?.chars().next()).collect();
    let twice = firsts
        .iter()
        .find(|c| firsts.iter().filter(|d| d == c).count() > 1)
        .expect("a shared first character");
    farm.cli(&["describe", &twice.to_string()])
        .refused(5, &[&twice.to_string(), "could be", "more characters"]);
}

#[test]
fn values_out_of_bounds_are_usage_errors() {
    let farm = Plan::default().agents(0).start();
    farm.project("demo");
    for flags in [
        &["--count", "0"][..],
        &["--count", "1001"],
        &["--count", "many"],
        &["--slots", "0"],
        &["--cpu", "-1"],
        &["--memory", "lots"],
        &["--label", "no-value"],
        &["--hold", "soon"],
        &["--request-id", "not-a-uuid"],
        &["--restart", "sometimes"],
        &["--restart", "always", "--on-disconnect", "keep"],
        &["-o", "xml"],
    ] {
        let mut arguments = vec!["launch", "demo", "--detach"];
        arguments.extend_from_slice(flags);
        arguments.extend(["--", "true"]);
        let ran = farm.cli(&arguments);
        assert_eq!(ran.code, Some(2), "{ran}");
    }
    let long = "x".repeat(TOO_LONG_BYTES);
    farm.cli(&["launch", "demo", "--detach", "--", "echo", &long]).refused(2, &["49152"]);
    let variable = format!("A={long}");
    farm.cli(&["launch", "demo", "--detach", "-e", &variable, "--", "true"]).refused(2, &["49152"]);
    assert!(farm.runners().is_empty(), "a refused launch left a runner");
}

#[test]
fn what_contradicts_itself_is_refused_with_that_reason() {
    let farm = Plan::default().agents(0).start();
    farm.project("demo");
    for policy in ["on-failure", "always"] {
        let flags =
            ["launch", "demo", "--detach", "--restart", policy, "--on-disconnect", "keep", "--", "true"];
        farm.cli(&flags).refused(2, &["--restart", "keep"]);
    }
    farm.bare(&["up", "--nodes", "7"]).exits(2).says(&["7"]);
    farm.bare(&["up", "--nodes", "2"]).refused(2, &["--allow-even"]);
    assert!(farm.runners().is_empty());
}

#[test]
fn a_wrong_context_says_which_and_what_to_do() {
    let farm = Plan::default().agents(0).start();
    run(&mut farm.bare_command(&["--context", "nosuch", "status"])).refused(3, &["nosuch", "context"]);
    run(&mut farm.bare_command(&["--context", "/no/such/file.yaml", "status"]))
        .refused(3, &["/no/such/file.yaml"]);
    let broken = farm.path("broken.yaml");
    fs::write(&broken, "contexts: [\n").unwrap();
    let use_broken = |mode| {
        fs::set_permissions(&broken, PermissionsExt::from_mode(mode)).unwrap();
        run(&mut farm.bare_command(&["--context", &broken.to_string_lossy(), "status"]))
    };
    use_broken(0o644).refused(4, &["can be read by others", "chmod 600"]);
    use_broken(0o600).refused(2, &["broken.yaml"]);
    // No context at all: the first thing a new user sees.
    let ran = farm.bare(&["status"]);
    let code = ran.code.unwrap_or(0);
    assert!(matches!(code, 3 | 7), "{ran}");
    ran.refused(code, &["stratavore up"]);
}

#[test]
fn certificates_of_another_cluster_are_refused_as_such() {
    let farm = Plan::default().agents(0).start();
    let other = Plan::default().agents(0).start();
    let endpoint = format!("127.0.0.1:{}", other.ports().grpc);
    let ran = farm.cli(&["--cluster", &endpoint, "--timeout", "10s", "status"]);
    ran.refused(4, &["another cluster"]);
}

#[test]
fn an_unreachable_cluster_is_exit_7_and_says_where_it_looked() {
    let mut farm = Plan::default().agents(0).start();
    farm.project("demo");
    farm.kill_node();
    let endpoint = format!("127.0.0.1:{}", farm.ports().grpc);
    farm.cli(&["--timeout", "3s", "status"]).refused(7, &[&endpoint]);
    let ran = farm.cli(&["--timeout", "3s", "launch", "demo", "--detach", "--", "true"]);
    assert!(matches!(ran.code, Some(7 | 8)), "{ran}");
    // A peer that accepts and says nothing is a timeout, not a hang.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let ran = farm.cli(&["--cluster", &address, "--timeout", "3s", "status"]);
    assert!(matches!(ran.code, Some(7 | 8)), "{ran}");
    assert!(ran.took < SOON, "{ran}");
}

#[test]
fn a_command_that_needs_a_terminal_says_so_for_a_runner_without_one() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let runner = farm.running("demo", &["--no-tty"], &["sleep", "100000"]);
    farm.cli(&["screen", &runner]).refused(5, &["terminal"]);
    farm.cli(&["send", &runner, "--key", "nokey"]).exits(2);
}

#[test]
fn a_pipe_that_is_closed_early_is_no_error() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let runner = farm.running("demo", &[], &["sh", "-c", "seq 1 200000; sleep 100000"]);
    eventually_true("some output", SOON, || {
        farm.cli(&["logs", &runner, "--tail", "1"]).stdout.contains("200000")
    });
    let line = format!(
        "{} --context {} logs {runner} | head -n 1",
        farm.binaries().cli().display(),
        farm.admin_context().display()
    );
    let ran = run(farm.command(std::path::Path::new("/bin/sh")).args(["-c", &line]));
    assert_eq!((ran.code, ran.stdout.trim(), ran.stderr.trim()), (Some(0), "1", ""), "{ran}");
}
