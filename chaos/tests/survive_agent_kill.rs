//! Survival 1: `kill -9` of the agent under output. The runner lives, a restarted agent adopts it, attached clients go on
//! without a lost or doubled byte, and the exit status arrives.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Stdio;

use stratavore_chaos::eventually::{SOON, eventually, eventually_true};
use stratavore_chaos::farm::LocalFarm;
use stratavore_chaos::numbered::{assert_whole, numbers, total};
use stratavore_chaos::processes::is_alive;

/// Fast enough that every instant of the outage would show in the output, slow enough to stay in the log.
const LINES_PER_SECOND: &str = "20000";
/// The runner's exit code: no code that a shell or a signal makes by accident.
const EXIT_CODE: i64 = 42;

/// A runner that writes numbered lines between two files' appearance.
struct Flood {
    runner: String,
    go: PathBuf,
    stop: PathBuf,
}

impl Flood {
    fn start(farm: &LocalFarm) -> Self {
        farm.project("demo");
        let (go, stop) = (farm.path("go"), farm.path("stop"));
        let code = EXIT_CODE.to_string();
        let command =
            farm.probe(&["lines", &go.to_string_lossy(), &stop.to_string_lossy(), LINES_PER_SECOND, &code]);
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        Self { runner: farm.running("demo", &[], &command), go, stop }
    }

    fn go(&self) {
        fs::write(&self.go, "").expect("let the runner start");
    }

    fn stop(&self) {
        fs::write(&self.stop, "").expect("let the runner end");
    }

    fn check_exit(&self, farm: &LocalFarm) {
        let ended = farm.await_runner(&self.runner, "terminated");
        assert_eq!(ended["exit"]["code"], EXIT_CODE, "{ended}");
        let waited = farm.cli(&["wait", &self.runner, "--propagate-exit"]);
        waited.exits(i32::try_from(EXIT_CODE).expect("a small number"));
    }
}

/// Kills the agent and starts it again, as soon as `arrived` has grown by some thousand lines, three times.
fn kill_agent_under_output(farm: &mut LocalFarm, flood: &Flood, mut arrived: impl FnMut() -> usize) {
    let child = farm.pid_of(&flood.runner);
    for _ in 0..3 {
        let before = arrived();
        eventually_true("output to flow", SOON, || arrived() > before + 5_000);
        farm.kill_agent(0);
        assert!(is_alive(child), "the runner died with its agent");
        farm.start_agent(0);
        assert_eq!(farm.pid_of(&flood.runner), child, "another process than before is shown as the runner");
    }
    let before = arrived();
    eventually_true("output to flow after the last restart", SOON, || arrived() > before + 5_000);
    assert!(is_alive(child));
}

#[test]
fn a_client_on_raw_stdout_loses_nothing() {
    let mut farm = LocalFarm::start();
    let flood = Flood::start(&farm);
    let received = farm.path("received");
    let mut attach = farm.cli_command(&["attach", &flood.runner, "--from-start"]);
    let log = File::create(farm.path("logs/attach.log")).unwrap();
    let out = File::create(&received).unwrap();
    let mut client = attach.stdin(Stdio::null()).stdout(out).stderr(log).spawn().unwrap();
    eventually_true("the client to receive", SOON, || {
        fs::read_to_string(&received).is_ok_and(|t| t.contains("waiting"))
    });
    flood.go();
    let arrived = || numbers(&fs::read(&received).unwrap_or_default()).len();
    kill_agent_under_output(&mut farm, &flood, arrived);
    flood.stop();
    let status = eventually("the client to end with its runner", SOON, || {
        client.try_wait().ok().flatten().ok_or("it runs")
    });
    assert!(status.success(), "attach ended with {status}");
    assert_whole(&fs::read(&received).unwrap());
    flood.check_exit(&farm);
}

#[test]
fn a_client_on_a_terminal_loses_nothing() {
    let mut farm = LocalFarm::start();
    let flood = Flood::start(&farm);
    let mut client = farm.terminal(&["attach", &flood.runner], 24, 80);
    client.shows("waiting");
    flood.go();
    kill_agent_under_output(&mut farm, &flood, || numbers(&client.raw()).len());
    flood.stop();
    eventually("the last line", SOON, || total(&client.raw()).ok_or("not there"));
    let status = client.wait();
    assert!(status.success(), "attach ended with {status}");
    assert_whole(&client.raw());
    assert!(client.is_cooked(), "the outer terminal is left in raw mode");
    flood.check_exit(&farm);
}

#[test]
fn an_exit_while_no_agent_runs_is_reported_by_the_next_one() {
    let mut farm = LocalFarm::start();
    let flood = Flood::start(&farm);
    flood.go();
    let child = farm.pid_of(&flood.runner);
    farm.kill_agent(0);
    flood.stop();
    eventually_true("the runner to end", SOON, || !is_alive(child));
    farm.start_agent(0);
    flood.check_exit(&farm);
    let logs = farm.cli(&["logs", &flood.runner]).ok();
    assert_whole(logs.stdout.as_bytes());
}

#[test]
fn a_long_outage_shows_the_runner_lost_and_its_return_recovers_it() {
    let mut farm = LocalFarm::start();
    let flood = Flood::start(&farm);
    let before = farm.runner(&flood.runner);
    farm.kill_agent(0);
    let lost = farm.await_runner(&flood.runner, "lost");
    assert_eq!(lost["epoch"], before["epoch"]);
    farm.await_host("host-0", "unreachable");
    farm.start_agent(0);
    let back = farm.await_runner(&flood.runner, "running");
    assert_eq!(
        (&back["epoch"], &back["pid"]),
        (&before["epoch"], &before["pid"]),
        "a kept runner is never replaced"
    );
    let types: Vec<String> = farm
        .events()
        .iter()
        .filter(|e| e["runner"] == before["id"])
        .filter_map(|e| Some(e["type"].as_str()?.to_owned()))
        .collect();
    let lost = types.iter().position(|t| t == "runner.lost").expect("an event runner.lost");
    assert!(
        types[lost..].iter().any(|t| t == "runner.recovered"),
        "no runner.recovered after runner.lost: {types:?}"
    );
    flood.go();
    flood.stop();
    flood.check_exit(&farm);
}
