//! Keystroke echo, and how fast one runner's output reaches a viewer, each beside a bare terminal in the same run.

use std::fs::File;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::bench::Figure;
use crate::bench::samples::Samples;
use crate::eventually::SOON;
use crate::farm::LocalFarm;
use crate::terminal::{self, Terminal};

/// Keystrokes per figure.
const KEYS: usize = 2000;
/// Output of the flood: some seconds at terminal speed.
const FLOOD_BYTES: u64 = 256 * 1024 * 1024;
/// Reads of the viewer.
const READ_BYTES: usize = 64 * 1024;

fn echo_samples(terminal: &Terminal) -> Samples {
    let mut samples = Samples::default();
    for key in 0..KEYS {
        let before = terminal.arrived_bytes();
        let started = Instant::now();
        terminal.type_bytes(&[b'a' + u8::try_from(key % 26).unwrap_or(0)]);
        terminal.await_bytes(before + 1, SOON);
        samples.push(started.elapsed());
        // People pause between keys; without a pause two keys could share one packet.
        std::thread::sleep(Duration::from_millis(1));
    }
    samples
}

/// From a key on the client's terminal to the child and back on that terminal.
#[must_use]
pub fn echo() -> Vec<Figure> {
    let farm = LocalFarm::start();
    farm.project("bench");
    let command = farm.probe(&["echo"]);
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let mut bare_command = farm.command(&farm.binaries().probe());
    let bare = farm.terminal_of(bare_command.arg("echo"), 24, 80);
    bare.shows("ready");
    let reference = echo_samples(&bare);
    let runner = farm.running("bench", &[], &words);
    let client = farm.terminal(&["attach", &runner], 24, 80);
    client.shows("ready");
    client.settles(Duration::from_millis(200));
    let ours = echo_samples(&client);
    vec![
        Figure::new("echo_p50", ours.p50(), "ms", "<= 1 ms"),
        Figure::new("echo_p99", ours.p99(), "ms", ""),
        Figure::new("reference_bare_echo_p50", reference.p50(), "ms", ""),
    ]
}

/// Reads until `bytes` have come or the stream ends; bytes and time since the first.
fn drain(mut input: impl Read, bytes: u64) -> (u64, Duration) {
    let mut buffer = vec![0; READ_BYTES];
    let (mut taken, mut started) = (0, None);
    while taken < bytes {
        let Ok(n @ 1..) = input.read(&mut buffer) else { break };
        let _ = *started.get_or_insert_with(Instant::now);
        taken += n as u64;
    }
    (taken, started.map_or(Duration::ZERO, |s| s.elapsed()))
}

#[allow(clippy::cast_precision_loss)]
fn megabytes_per_second((bytes, took): (u64, Duration)) -> f64 {
    bytes as f64 / 1e6 / took.as_secs_f64().max(1e-9)
}

fn bare(farm: &LocalFarm, go: &std::path::Path) -> (u64, Duration) {
    let (master, slave) = terminal::open(24, 80);
    let duplicate = || Stdio::from(slave.try_clone().expect("duplicate the terminal"));
    let probe = farm.binaries().probe();
    let mut command = Command::new(&probe);
    command.arg("terminal").arg(&probe).arg("flood").arg(go).arg(FLOOD_BYTES.to_string());
    let child = command.stdin(duplicate()).stdout(duplicate()).stderr(duplicate()).spawn();
    let mut child = child.expect("start the flood");
    drop(slave);
    let mut input = File::from(master);
    await_word(&mut input);
    std::fs::write(go, "").expect("let the flood go");
    let measured = drain(input, FLOOD_BYTES);
    child.wait().ok();
    measured
}

/// Reads up to the word that says the flood is ready.
fn await_word(input: &mut impl Read) {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(b"waiting\n") && matches!(input.read(&mut byte), Ok(1)) {
        seen.push(byte[0]);
    }
}

fn viewed(farm: &LocalFarm, go: &std::path::Path) -> (u64, Duration) {
    let command = farm.probe(&["flood", &go.to_string_lossy(), &FLOOD_BYTES.to_string()]);
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let runner = farm.running("bench", &[], &words);
    let mut attach = farm.cli_command(&["attach", &runner, "--from-start"]);
    let mut child =
        attach.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("attach");
    let mut input = child.stdout.take().expect("a pipe");
    await_word(&mut input);
    std::fs::write(go, "").expect("let the flood go");
    let measured = drain(input, FLOOD_BYTES);
    child.kill().ok();
    child.wait().ok();
    measured
}

/// Output of one runner to one viewer through shim, agent and node, against a bare read loop on a terminal.
#[must_use]
pub fn flood() -> Vec<Figure> {
    let farm = LocalFarm::start();
    farm.project("bench");
    let reference = megabytes_per_second(bare(&farm, &farm.path("go-bare")));
    let measured = viewed(&farm, &farm.path("go-viewed"));
    let ours = megabytes_per_second(measured);
    #[allow(clippy::cast_precision_loss)]
    let whole = measured.0 as f64 / FLOOD_BYTES as f64;
    vec![
        Figure::new("output_ratio", ours / reference, "ratio", ">= 0.5"),
        Figure::new("output_viewer", ours, "MB/s", ""),
        Figure::new("output_received_share", whole, "ratio", "1"),
        Figure::new("reference_bare_output", reference, "MB/s", ""),
    ]
}
