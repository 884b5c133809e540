//! P4: clocks an hour apart. The cluster's time follows the voters' median, whoever leads; a single wrong clock drives it
//! ahead, and an administrator can lower it again.

use std::time::{SystemTime, UNIX_EPOCH};

use stratavore_chaos::eventually::{SOON, eventually};
use stratavore_chaos::farm::{LocalFarm, Plan, text};

const HOUR_MS: i64 = 3_600_000;

fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    i64::try_from(since.as_millis()).expect("a clock before the year 292 million")
}

/// How far the time of the newest event is ahead of this machine's, in milliseconds.
fn events_ahead_ms(farm: &LocalFarm) -> i64 {
    let newest = farm.events().pop().expect("an event");
    let time = text(&newest, "time");
    let date = run_date(&time);
    date - unix_ms()
}

/// Milliseconds of an RFC 3339 time, by the system's own tool.
fn run_date(time: &str) -> i64 {
    let output = std::process::Command::new("date").args(["--utc", "+%s%3N", "--date", time]).output();
    let output = output.expect("run date");
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or_else(|_| panic!("no time: {time}"))
}

#[test]
fn p4_a_leader_whose_clock_is_an_hour_off_hands_leadership_over_and_moves_no_time() {
    for ahead in [HOUR_MS, -HOUR_MS] {
        let mut farm = Plan::default().nodes(3).agents(0).start();
        farm.project("demo");
        let wrong = farm.follower();
        let id = farm.node_id(wrong);
        farm.stop_node_at(wrong);
        farm.nodes[wrong].clock_ahead_ms = ahead;
        farm.start_node_at(wrong);
        let healthy = (0..3).find(|at| *at != wrong).expect("another node");
        eventually("status to warn about the clock", SOON, || {
            let node = farm.node_as_shown(wrong, healthy)?;
            let off = node["clock_ahead_ms"].as_i64().filter(|off| (off - ahead).abs() < 60_000);
            let table = farm.cli_through(healthy, &["cluster", "status"]).ok();
            let alarm = format!("alarm: the clock of node {id} is");
            if off.is_some() && table.stdout.contains(&alarm) { Ok(()) } else { Err(table.stdout) }
        });
        // It can be told to lead, and gives that back by itself.
        farm.cli(&["cluster", "transfer-leader", &id]).ok();
        farm.project("while-it-may-lead");
        farm.await_another_leader(wrong);
        let log = farm.nodes[wrong].process.as_ref().expect("a started node").log();
        assert!(log.contains("another node leads, because this one's clock is off"), "{log}");
        for through in 0..3 {
            farm.cli_through(through, &["new", &format!("by-{through}"), "--path", "/tmp"]).ok();
        }
        let off = |event: &serde_json::Value| event["type"] == "node.clock_off";
        eventually(
            "the event",
            SOON,
            || if farm.events().iter().any(off) { Ok(()) } else { Err("not told") },
        );
        let moved = events_ahead_ms(&farm);
        assert!(moved.abs() < 60_000, "the cluster's time is {moved} ms ahead");
    }
}

#[test]
fn p4_one_wrong_clock_is_noticed_and_the_time_lowered_again() {
    let mut farm = LocalFarm::empty();
    farm.init_node();
    farm.nodes[0].clock_ahead_ms = HOUR_MS;
    farm.start_node();
    farm.project("late");
    let token = farm.token("user", &[]);
    assert!(events_ahead_ms(&farm) > HOUR_MS / 2, "one voter's clock is all there is");
    // The clock was set right: the cluster's time stands still until somebody lowers it.
    farm.stop_node_at(0);
    farm.nodes[0].clock_ahead_ms = 0;
    farm.start_node();
    farm.project("still-late");
    assert!(events_ahead_ms(&farm) > HOUR_MS / 2, "time does not go back by itself");
    let reset = farm.cli(&["cluster", "clock", "reset", "-o", "json"]).ok().json();
    assert!((run_date(&text(&reset, "now")) - unix_ms()).abs() < 60_000, "{reset}");
    farm.project("in-time");
    assert!(events_ahead_ms(&farm).abs() < 60_000);
    let events = farm.events();
    let told =
        events.iter().find(|event| event["reason"].as_str().is_some_and(|why| why.contains("was lowered")));
    assert_eq!(told.map(|event| text(event, "type")).as_deref(), Some("system.alert"), "{events:?}");
    // Its promise was made in another time.
    let mut login = farm.bare_command(&["login", "--server", &farm.nodes[0].join_server(), "--token-file"]);
    stratavore_chaos::ran::run(login.arg(&token)).refused(4, &["token"]);
}
