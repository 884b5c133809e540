//! The event log from outside: order, resumption, filters, following.

use serde_json::Value;
use stratavore_chaos::eventually::{SOON, eventually};
use stratavore_chaos::farm::{LocalFarm, text};

fn position(event: &Value) -> (u64, u64) {
    (event["index"].as_u64().expect("an index"), event["ordinal"].as_u64().expect("an ordinal"))
}

fn since(farm: &LocalFarm, id: &str, more: &[&str]) -> Vec<Value> {
    let mut arguments = vec!["events", "--since", id, "--no-follow", "-o", "json"];
    arguments.extend_from_slice(more);
    farm.cli(&arguments).ok().json_lines()
}

#[test]
fn events_are_in_order_and_resume_after_any_of_them() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let runner = farm.launch("demo", &[], &["true"]);
    farm.await_runner(&text(&runner, "id"), "terminated");
    let all = farm.events();
    let positions: Vec<_> = all.iter().map(position).collect();
    assert!(positions.windows(2).all(|w| w[0] < w[1]), "out of order: {positions:?}");
    for (at, event) in all.iter().enumerate() {
        let rest = since(&farm, &text(event, "id"), &[]);
        assert_eq!(rest[..], all[at + 1..], "resumed after {}", event["id"]);
    }
    // A bare index means: after everything of that index.
    let index = position(&all[1]).0;
    let rest = since(&farm, &index.to_string(), &[]);
    assert!(rest.iter().all(|e| position(e).0 > index));
    let own: Vec<String> =
        all.iter().filter(|e| e["runner"] == runner["id"]).map(|e| text(e, "type")).collect();
    let order = ["runner.launched", "runner.placed", "runner.started", "runner.stopped"];
    let places: Vec<_> = order.iter().map(|t| own.iter().position(|o| o == t)).collect();
    assert!(places.iter().all(Option::is_some) && places.windows(2).all(|w| w[0] < w[1]), "{own:?}");
}

#[test]
fn filters_by_project_and_type() {
    let farm = LocalFarm::start();
    farm.project("one");
    farm.project("two");
    for project in ["one", "two"] {
        let runner = farm.launch(project, &[], &["true"]);
        farm.await_runner(&text(&runner, "id"), "terminated");
    }
    let one = since(&farm, "0", &["--project", "one"]);
    assert!(!one.is_empty() && one.iter().all(|e| e["project"] == "one"), "{one:?}");
    let started = since(&farm, "0", &["--type", "runner.started"]);
    assert_eq!(started.len(), 2);
    let runner = since(&farm, "0", &["--type", "runner.*"]);
    assert!(runner.len() > 4 && runner.iter().all(|e| text(e, "type").starts_with("runner.")), "{runner:?}");
    let both = since(&farm, "0", &["--type", "project.created,runner.started"]);
    assert_eq!(both.len(), 4);
}

#[test]
fn following_shows_what_happens_next_and_survives_the_nodes_death() {
    let mut farm = LocalFarm::start();
    farm.project("demo");
    let last = text(farm.events().last().unwrap(), "id");
    let file = farm.path("followed");
    let mut command = farm.cli_command(&["events", "--since", &last, "-o", "json"]);
    let out = std::fs::File::create(&file).unwrap();
    let mut follower = command.stdin(std::process::Stdio::null()).stdout(out).spawn().unwrap();
    let seen = || -> Vec<Value> {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect()
    };
    let sees = |runner: &Value| {
        eventually("the follower to see the runner's end", SOON, || {
            let seen = seen();
            let found = seen.iter().any(|e| e["runner"] == runner["id"] && e["type"] == "runner.stopped");
            if found { Ok(()) } else { Err(format!("{seen:?}")) }
        });
    };
    sees(&farm.launch("demo", &[], &["true"]));
    farm.kill_node();
    farm.start_node();
    sees(&farm.launch("demo", &[], &["true"]));
    follower.kill().unwrap();
    follower.wait().unwrap();
    let followed = seen();
    let after = since(&farm, &last, &[]);
    assert_eq!(followed[..], after[..followed.len()], "a follower lost or doubled an event over the restart");
}

#[test]
fn a_bad_position_is_a_usage_error() {
    let farm = LocalFarm::start();
    for bad in ["x", "1.2.3.4", "1.x.0", "-1"] {
        let ran = farm.cli(&["events", "--no-follow", "--since", bad]);
        assert_eq!(ran.code, Some(2), "{ran}");
    }
    let future = since(&farm, "999999999", &[]);
    assert!(future.is_empty());
}
