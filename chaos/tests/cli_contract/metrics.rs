//! `/metrics`, `/healthz`, `/readyz`.

use std::process::{Command, Stdio};

use stratavore_chaos::eventually::{SOON, eventually};
use stratavore_chaos::farm::LocalFarm;
use stratavore_chaos::http;

#[test]
fn health_and_readiness_answer() {
    let farm = LocalFarm::start();
    let port = farm.ports().metrics;
    assert_eq!(http::get(port, "/healthz").unwrap().0, 200);
    assert_eq!(http::get(port, "/readyz").unwrap().0, 200);
    assert_eq!(http::get(port, "/nosuch").unwrap().0, 404);
}

#[test]
fn the_promised_metrics_are_there_and_follow_the_truth() {
    let farm = LocalFarm::start();
    farm.project("demo");
    farm.running("demo", &[], &["sleep", "100000"]);
    let port = farm.ports().metrics;
    eventually("one running runner in the metrics", SOON, || {
        let (_, text) = http::get(port, "/metrics").map_err(|e| e.to_string())?;
        let value = |line: &str| text.lines().find_map(|l| l.strip_prefix(line)?.trim().parse::<f64>().ok());
        let running = value("stratavore_runners{state=\"running\"}");
        let project = value("stratavore_runners_by_project{project=\"demo\"}");
        if running == Some(1.0) && project == Some(1.0) { Ok(()) } else { Err(text) }
    });
    let (_, text) = http::get(port, "/metrics").unwrap();
    for name in ["stratavore_daemon_uptime_seconds", "stratavore_heartbeat_latency_seconds"] {
        assert!(text.lines().any(|l| l.starts_with(name)), "no {name} in:\n{text}");
    }
}

#[test]
fn promtool_finds_nothing_to_complain_about() {
    let farm = LocalFarm::start();
    farm.project("demo");
    farm.running("demo", &[], &["sleep", "100000"]);
    let (_, text) = http::get(farm.ports().metrics, "/metrics").unwrap();
    let tool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut tool) = tool else {
        return eprintln!("not tested: promtool is not installed (Debian: apt-get install prometheus)");
    };
    std::io::Write::write_all(&mut tool.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let output = tool.wait_with_output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}\n{text}");
}
