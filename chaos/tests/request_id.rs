//! Survival 6: the same `--request-id` twice is one runner, whatever dies between.

use serde_json::Value;
use stratavore_chaos::farm::{LocalFarm, text};
use stratavore_chaos::ran::Ran;

fn launch(farm: &LocalFarm, request: &str, command: &[&str]) -> Ran {
    let mut arguments = vec!["launch", "demo", "--detach", "-o", "json", "--request-id", request, "--"];
    arguments.extend_from_slice(command);
    farm.cli(&arguments)
}

fn only(ran: &Ran) -> Value {
    let mut items = ran.items("RunnerList");
    assert_eq!(items.len(), 1, "{ran}");
    items.swap_remove(0)
}

fn fresh() -> String {
    uuid::Uuid::now_v7().to_string()
}

#[test]
fn the_same_request_twice_is_one_runner() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let request = fresh();
    let first = only(&launch(&farm, &request, &["sleep", "100000"]).ok());
    let second = only(&launch(&farm, &request, &["sleep", "100000"]).ok());
    assert_eq!(first["id"], second["id"]);
    assert_eq!(farm.runners().len(), 1);
    let other = only(&launch(&farm, &fresh(), &["sleep", "100000"]).ok());
    assert_ne!(first["id"], other["id"], "another request id is another runner");
}

#[test]
fn the_answer_survives_the_death_of_the_node_and_the_end_of_the_runner() {
    let mut farm = LocalFarm::start();
    farm.project("demo");
    let request = fresh();
    let first = only(&launch(&farm, &request, &["true"]).ok());
    farm.await_runner(&text(&first, "id"), "terminated");
    farm.kill_node();
    farm.start_node();
    let second = only(&launch(&farm, &request, &["true"]).ok());
    assert_eq!(first["id"], second["id"]);
    assert_eq!(farm.runners().len(), 1, "a retried request started a second runner");
}

#[test]
fn another_payload_under_the_same_id_is_a_conflict() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let request = fresh();
    launch(&farm, &request, &["sleep", "100000"]).ok();
    launch(&farm, &request, &["sleep", "100001"]).refused(5, &["request"]);
    assert_eq!(farm.runners().len(), 1);
}

#[test]
fn twenty_at_once_under_one_id_are_one_runner() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let request = fresh();
    let ids: Vec<String> = std::thread::scope(|scope| {
        let launches: Vec<_> = (0..20)
            .map(|_| scope.spawn(|| text(&only(&launch(&farm, &request, &["sleep", "100000"]).ok()), "id")))
            .collect();
        launches.into_iter().map(|l| l.join().expect("a launch")).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(farm.runners().len(), 1);
}

#[test]
fn other_mutations_keep_their_answer_too() {
    let farm = LocalFarm::start();
    let request = fresh();
    for _ in 0..2 {
        farm.cli(&["new", "demo", "--path", "/tmp", "--request-id", &request]).ok();
    }
    farm.cli(&["new", "demo", "--path", "/tmp", "--request-id", &fresh()]).refused(5, &["demo", "exists"]);
}
