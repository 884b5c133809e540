//! JSON shapes, tables and help of every command.

use serde_json::Value;
use stratavore_chaos::farm::{LocalFarm, Plan, text};

const RUNNER_FIELDS: [&str; 15] = [
    "id",
    "name",
    "project",
    "state",
    "epoch",
    "host",
    "pid",
    "command",
    "on_disconnect",
    "restart",
    "created_at",
    "started_at",
    "ended_at",
    "reason",
    "exit",
];
const HOST_FIELDS: [&str; 8] = ["id", "name", "state", "labels", "slots", "slots_used", "boot_id", "gateway"];
const NODE_FIELDS: [&str; 6] = ["id", "address", "role", "term", "last_applied", "reachable"];
const PROJECT_FIELDS: [&str; 5] = ["name", "path", "command", "max_runners", "runners"];
const EVENT_FIELDS: [&str; 10] =
    ["id", "index", "ordinal", "time", "type", "project", "runner", "epoch", "host", "reason"];

/// Every field must be there, even when it is not known yet.
#[track_caller]
fn has(value: &Value, fields: &[&str]) {
    for field in fields {
        assert!(value.get(*field).is_some(), "no field '{field}' in {value}");
    }
}

/// `2026-11-21T12:00:00Z` with or without a fraction.
#[track_caller]
fn is_time(value: &Value) {
    let text = value.as_str().unwrap_or_else(|| panic!("{value} is no time"));
    let (date, time) = text.split_once('T').unwrap_or_else(|| panic!("{text} is not RFC 3339"));
    assert!(date.len() == 10 && time.ends_with('Z') && time.len() >= 9, "{text} is not RFC 3339 in UTC");
}

/// Ten characters of lower-case Crockford base32.
#[track_caller]
fn is_id(value: &Value) {
    let id = value.as_str().unwrap_or_default();
    assert!(
        id.len() == 10 && id.chars().all(|c| "0123456789abcdefghjkmnpqrstvwxyz".contains(c)),
        "'{id}' is no id"
    );
}

#[test]
fn a_runner_has_its_shape_from_launch_to_its_end() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let launched = farm.launch("demo", &["--name", "first", "-e", "A=b"], &["sh", "-c", "exit 3"]);
    has(&launched, &RUNNER_FIELDS);
    is_id(&launched["id"]);
    is_time(&launched["created_at"]);
    assert_eq!((&launched["name"], &launched["project"]), (&"first".into(), &"demo".into()));
    assert_eq!((&launched["on_disconnect"], &launched["restart"]), (&"keep".into(), &"never".into()));
    assert_eq!(launched["command"], serde_json::json!(["sh", "-c", "exit 3"]));
    assert!(launched["ended_at"].is_null(), "{launched}");
    let ended = farm.await_runner(&text(&launched, "id"), "terminated");
    has(&ended, &RUNNER_FIELDS);
    assert_eq!((&ended["exit"]["code"], &ended["exit"]["signal"]), (&3.into(), &Value::Null));
    assert_eq!(ended["host"], "host-0");
    let epoch = text(&ended, "epoch");
    let (incarnation, index) = epoch.split_once('.').expect("an epoch is incarnation.index");
    assert_eq!(incarnation, "1");
    assert!(index.parse::<u64>().is_ok_and(|i| i > 0), "{epoch}");
    is_time(&ended["started_at"]);
    is_time(&ended["ended_at"]);
    // Every command that returns runners returns them in this shape.
    for command in [
        &["describe", "first", "-o", "json"][..],
        &["runners", "--all", "-o", "json"],
        &["ps", "-a", "-o", "json"],
    ] {
        let listed = farm.cli(command).ok().items("RunnerList");
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0]["id"], launched["id"]);
        has(&listed[0], &RUNNER_FIELDS);
    }
}

#[test]
fn a_signal_is_told_apart_from_a_code() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let runner = farm.launch("demo", &[], &["sh", "-c", "kill -SEGV $$"]);
    let ended = farm.await_runner(&text(&runner, "id"), "terminated");
    assert_eq!((&ended["exit"]["code"], &ended["exit"]["signal"]), (&Value::Null, &11.into()), "{ended}");
}

#[test]
fn kill_restart_and_wait_print_runner_lists_too() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let runner = farm.running("demo", &[], &["sleep", "100000"]);
    let restarted = farm.cli(&["restart", &runner, "-o", "json"]).ok().items("RunnerList");
    assert_eq!(restarted[0]["id"], runner.as_str());
    farm.await_runner(&runner, "running");
    let killed = farm.cli(&["kill", &runner, "-o", "json"]).ok().items("RunnerList");
    has(&killed[0], &RUNNER_FIELDS);
    assert_eq!(killed[0]["state"], "terminated", "kill returns when the tree is gone");
    let waited = farm.cli(&["wait", &runner, "-o", "json"]).ok().items("RunnerList");
    assert_eq!(waited[0]["state"], "terminated");
}

#[test]
fn hosts_nodes_projects_and_events_have_their_shapes() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let hosts = farm.cli(&["hosts", "-o", "json"]).ok().items("HostList");
    has(&hosts[0], &HOST_FIELDS);
    assert!(hosts[0].get("lease_ms_left").is_some());
    is_id(&hosts[0]["id"]);
    assert_eq!(hosts[0]["slots"], 1000);
    let alias = farm.cli(&["host", "-o", "json"]).ok().items("HostList");
    assert_eq!(alias[0]["id"], hosts[0]["id"]);
    let nodes = farm.cli(&["cluster", "status", "-o", "json"]).ok().items("NodeList");
    has(&nodes[0], &NODE_FIELDS);
    assert_eq!(
        (&nodes[0]["id"], &nodes[0]["role"], &nodes[0]["reachable"]),
        (&1.into(), &"leader".into(), &true.into())
    );
    let projects = farm.cli(&["projects", "-o", "json"]).ok().items("ProjectList");
    has(&projects[0], &PROJECT_FIELDS);
    assert_eq!((&projects[0]["name"], &projects[0]["max_runners"]), (&"demo".into(), &100.into()));
    let events = farm.events();
    for event in &events {
        has(event, &EVENT_FIELDS);
        is_time(&event["time"]);
        let id = format!("1.{}.{}", event["index"], event["ordinal"]);
        assert_eq!(event["id"], id.as_str());
    }
    let types: Vec<&str> = events.iter().filter_map(|e| e["type"].as_str()).collect();
    for expected in [
        "cluster.initialized",
        "token.created",
        "token.redeemed",
        "host.joined",
        "host.ready",
        "project.created",
    ] {
        assert!(types.contains(&expected), "no {expected} in {types:?}");
    }
}

#[test]
fn tokens_are_listed_without_their_secrets() {
    let farm = Plan::default().agents(0).start();
    let made = farm.cli(&["token", "create", "--role", "host", "--ttl", "60s", "--label", "a=b"]).ok();
    let token = made
        .stdout
        .split_whitespace()
        .find(|w| w.starts_with("svt1."))
        .expect("a token is printed")
        .to_owned();
    assert!(
        made.stdout.contains("stratavore-agent join") || made.stderr.contains("stratavore-agent join"),
        "{made}"
    );
    let secret = token.rsplit('.').next().unwrap();
    let list = farm.cli(&["token", "list", "-o", "json"]).ok();
    assert!(!list.stdout.contains(secret), "the list gives the secret away");
    let tokens = list.items("TokenList");
    assert_eq!((&tokens[0]["role"], &tokens[0]["state"]), (&"host".into(), &"unused".into()));
    assert!(farm.events().iter().all(|e| !e.to_string().contains(secret)));
}

#[test]
fn tables_are_for_people_and_stay_clean_in_a_pipe() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let runner = farm.running("demo", &["--name", "first"], &["sleep", "100000"]);
    for command in [
        &["status"][..],
        &["runners"],
        &["projects"],
        &["quotas"],
        &["hosts"],
        &["cluster", "status"],
        &["token", "list"],
        &["context", "list"],
        &["version"],
        &["describe", &runner],
        &["explain", &runner],
        &["events", "--since", "0", "--no-follow"],
        &["runners", "--stale"],
        &["status", "--stale"],
    ] {
        let ran = farm.cli(command).ok();
        assert!(!ran.stdout.contains('\x1b'), "escape sequences in a pipe: {ran}");
        assert!(!ran.stdout.trim().is_empty() || command[0] == "context", "nothing printed: {ran}");
    }
    let listed = farm.cli(&["runners"]).ok().stdout;
    assert!(listed.contains("first") && listed.contains("running") && listed.contains("demo"), "{listed}");
}

#[test]
fn help_completion_and_version_need_no_cluster() {
    let farm = LocalFarm::empty();
    let codes = farm.bare(&["help", "exit-codes"]).ok().stdout;
    for code in ["0", "1", "2", "3", "4", "5", "6", "7", "8", "130"] {
        assert!(codes.split_whitespace().any(|w| w == code), "exit code {code} is not explained:\n{codes}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = farm.bare(&["completion", shell]).ok();
        assert!(script.stdout.contains("stratavore"), "{script}");
    }
    let bash = farm.path("completion.bash");
    std::fs::write(&bash, farm.bare(&["completion", "bash"]).stdout).unwrap();
    stratavore_chaos::ran::run(farm.command(std::path::Path::new("bash")).arg("-n").arg(&bash)).ok();
    farm.bare(&["--version"]).ok();
    farm.bare(&["--help"]).ok();
    farm.bare(&["help", "launch"]).ok();
    farm.bare(&[]).exits(2);
    for program in [farm.binaries().node(), farm.binaries().agent()] {
        for flag in ["--help", "--version"] {
            stratavore_chaos::ran::run(farm.command(&program).arg(flag)).ok();
        }
    }
}

#[test]
fn contexts_are_added_used_and_listed() {
    let farm = Plan::default().agents(0).start();
    let admin = farm.admin_context().to_string_lossy().into_owned();
    farm.bare(&["context", "add", "work", "--from", &admin]).ok();
    farm.bare(&["status"]).ok();
    assert!(farm.bare(&["context", "list"]).ok().stdout.contains("work"));
    farm.bare(&["context", "add", "work", "--from", &admin]).refused(5, &["work"]);
    farm.bare(&["context", "use", "nosuch"]).refused(3, &["nosuch"]);
    farm.bare(&["context", "use", "work"]).ok();
    farm.bare(&["--context", "work", "status"]).ok();
}
