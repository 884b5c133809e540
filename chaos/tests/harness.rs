//! The harness itself, against programs that are not ours: what it reports must be true before it may judge anything.

use std::net::{IpAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use stratavore_chaos::eventually::{SOON, eventually};
use stratavore_chaos::network::Network;
use stratavore_chaos::numbered::{assert_whole, total};
use stratavore_chaos::terminal::Terminal;
use stratavore_chaos::tmux::Tmux;

/// A drawing program that has been silent for so long has finished drawing.
const QUIET: Duration = Duration::from_millis(300);
const PROBE: &str = env!("CARGO_BIN_EXE_stratavore-probe");

fn on_terminal(program: &str, arguments: &[&str], rows: u16, cols: u16) -> Terminal {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
        .env("TERM", "xterm-256color")
        .env("LANG", "C.UTF-8")
        .env("HOME", "/nonexistent")
        .env("PS1", "outer> ");
    Terminal::start(Path::new(PROBE), &command, rows, cols)
}

#[test]
fn a_program_on_a_terminal_sees_its_size_its_keys_and_its_end() {
    let mut shell = on_terminal("/bin/sh", &[], 30, 90);
    shell.shows("outer>");
    assert!(shell.is_cooked());
    shell.type_bytes(b"stty size\r");
    shell.shows("30 90");
    shell.resize(20, 70);
    shell.type_bytes(b"stty size\r");
    shell.shows("20 70");
    shell.type_bytes(b"exit 7\r");
    assert_eq!(shell.wait().code(), Some(7));
}

#[test]
fn modes_are_seen_on_the_screen() {
    let shown = on_terminal(PROBE, &["modes"], 24, 80);
    shown.shows("inverse");
    assert!(!shown.is_cooked());
    shown.with_screen(|screen| {
        assert!(screen.alternate_screen() && screen.hide_cursor() && screen.bracketed_paste());
        assert!(screen.application_cursor());
        assert_eq!(screen.mouse_protocol_mode(), vt100::MouseProtocolMode::ButtonMotion);
    });
}

#[test]
fn echo_gives_every_key_back_and_a_viewer_may_stop_reading() {
    let echo = on_terminal(PROBE, &["echo"], 24, 80);
    echo.shows("ready");
    let before = echo.arrived_bytes();
    echo.type_bytes(b"abc");
    echo.await_bytes(before + 3, SOON);
    echo.read_on(false);
    echo.settles(Duration::from_millis(50));
    let stopped_at = echo.arrived_bytes();
    echo.type_bytes(&[b'x'; 64]);
    echo.read_on(true);
    echo.await_bytes(stopped_at + 64, SOON);
}

#[test]
fn numbered_lines_arrive_whole() {
    let directory = tempfile::tempdir().unwrap();
    let (go, stop) = (directory.path().join("go"), directory.path().join("stop"));
    let mut lines =
        on_terminal(PROBE, &["lines", &go.to_string_lossy(), &stop.to_string_lossy(), "20000", "42"], 24, 80);
    lines.shows("waiting");
    std::fs::write(&go, "").unwrap();
    eventually("some lines", SOON, || {
        if lines.arrived_bytes() > 100_000 { Ok(()) } else { Err(lines.arrived_bytes()) }
    });
    std::fs::write(&stop, "").unwrap();
    eventually("the total", SOON, || total(&lines.raw()).ok_or("not yet"));
    assert_eq!(lines.wait().code(), Some(42));
    assert_whole(&lines.raw());
}

/// The comparison that judges attach: the same program on our terminal and in tmux must already agree without us.
fn agrees_with_tmux(command: &[&str], keys: &[&[u8]], settled: &str) {
    let home = tempfile::tempdir().expect("a directory");
    let Some(reference) = Tmux::start(home.path(), "xterm-256color", command, 33, 101) else {
        return eprintln!("not tested: tmux is not installed");
    };
    let native = on_terminal(command[0], &command[1..], 33, 101);
    native.shows(settled);
    eventually("the reference to draw", SOON, || {
        let grid = reference.grid();
        if grid.lines().iter().any(|l| l.contains(settled)) { Ok(()) } else { Err(grid) }
    });
    for key in keys {
        native.type_bytes(key);
        native.settles(QUIET);
        reference.type_bytes(key);
        reference.settles(QUIET);
    }
    eventually("equal screens", SOON, || native.grid().difference(&reference.grid()).map_or(Ok(()), Err));
    // And it notices one key more: a deleted character in vim, a highlighted column in top.
    native.type_bytes(b"x");
    eventually("a difference", SOON, || native.grid().difference(&reference.grid()).ok_or("still the same"));
}

#[test]
fn vim_looks_the_same_on_our_terminal_and_in_tmux() {
    let directory = tempfile::tempdir().unwrap();
    let text = directory.path().join("text.rs");
    let source: String =
        (1..200).map(|i| format!("fn line_{i}() {{ \"漢字 {}\" }}\n", "long ".repeat(i % 30))).collect();
    std::fs::write(&text, source).unwrap();
    let settings =
        "set nocompatible laststatus=2 number hlsearch background=dark noshowcmd noruler | syntax on";
    let text = text.to_string_lossy();
    let command = ["vim", "-u", "NONE", "-i", "NONE", "-n", "-c", settings, &text];
    agrees_with_tmux(&command, &[b"/line_7\r", b"gg", b":echo\r"], "fn line_1()");
}

#[test]
fn top_looks_the_same_on_our_terminal_and_in_tmux() {
    let mut idle = Command::new("sleep").arg("100000").spawn().unwrap();
    let pid = idle.id().to_string();
    let outcome = std::panic::catch_unwind(|| {
        agrees_with_tmux(
            &["top", "-d", "3600", "-p", &pid],
            &[b"l", b"t", b"t", b"t", b"m", b"m", b"m"],
            "sleep",
        );
    });
    idle.kill().unwrap();
    idle.wait().unwrap();
    outcome.unwrap();
}

/// What a TCP connection from a member comes to, in the shell's words; empty when it stands.
fn connecting(network: &Network, from: &str, to: (IpAddr, u16)) -> String {
    let mut shell = network.command(from, Path::new("timeout"));
    let output = shell
        .args(["2", "bash", "-c", &format!("exec 3<>/dev/tcp/{}/{}", to.0, to.1)])
        .output()
        .expect("run a shell");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { String::new() } else { format!("no: {said}") }
}

#[test]
fn a_pulled_cable_cuts_one_member_off_and_parted_members_see_only_others() {
    if !Network::is_possible() {
        return eprintln!("not tested: making networks needs root");
    }
    let mut network = Network::create();
    let (_, one) = network.join("one");
    let (_, two) = network.join("two");
    assert_eq!(network.join("one").1, one, "a member joins once");
    let IpAddr::V4(address) = one else { panic!("{one}") };
    let [a, b, c, _] = address.octets();
    let outside = TcpListener::bind((IpAddr::from([a, b, c, 1]), 0)).unwrap();
    let outside = (outside.local_addr().unwrap().ip(), outside.local_addr().unwrap().port(), outside);
    let outside = |network: &Network, from| connecting(network, from, (outside.0, outside.1));
    let nobody_listens = |network: &Network| connecting(network, "one", (two, 9)).contains("refused");

    assert_eq!(outside(&network, "one"), "");
    assert!(nobody_listens(&network), "one does not reach two");
    network.cut("one");
    assert_ne!(outside(&network, "one"), "");
    assert_eq!(outside(&network, "two"), "");
    network.heal("one");
    eventually("the cable to work again", SOON, || {
        let said = outside(&network, "one");
        if said.is_empty() { Ok(()) } else { Err(said) }
    });
    network.part("one", "two");
    assert!(!nobody_listens(&network), "one still reaches two");
    assert_eq!(outside(&network, "one"), "");
    network.join_again("one", "two");
    eventually("the parted to meet again", SOON, || {
        if nobody_listens(&network) { Ok(()) } else { Err("apart") }
    });
}
