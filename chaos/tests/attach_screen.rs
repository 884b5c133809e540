//! Survival 5: what a person sees. Compared cell by cell with the same program natively in tmux at the same size.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use stratavore_chaos::eventually::{SOON, eventually, eventually_true};
use stratavore_chaos::farm::LocalFarm;
use stratavore_chaos::numbered::{assert_whole, numbers, total};
use stratavore_chaos::terminal::Terminal;
use stratavore_chaos::tmux::Tmux;

/// The default detach keys: Ctrl-] and d.
const DETACH: &[u8] = b"\x1dd";
/// A drawing program that has been silent for so long has finished drawing.
const QUIET: Duration = Duration::from_millis(400);
/// TERM of runners: the base environment's.
const TERM: &str = "xterm-256color";

fn installed(program: &str) -> bool {
    let found =
        std::env::var_os("PATH").is_some_and(|p| std::env::split_paths(&p).any(|d| d.join(program).exists()));
    if !found {
        eprintln!("not tested: {program} is not installed");
    }
    found
}

/// Waits until the client's screen is the reference's, cell by cell, cursor included.
#[track_caller]
fn same(client: &Terminal, reference: &Tmux) {
    eventually("the same screen as in tmux", SOON, || {
        let (ours, theirs) = (client.grid(), reference.grid());
        match ours.difference(&theirs) {
            None => Ok(()),
            Some(difference) => Err(format!("{difference}\nours:\n{ours}\ntmux:\n{theirs}")),
        }
    });
}

fn detach(client: &mut Terminal) {
    client.type_bytes(DETACH);
    let status = client.wait();
    assert!(status.success(), "attach ended with {status} after a detach");
}

/// The outer terminal as a shell expects it after any program.
#[track_caller]
fn assert_sane(client: &Terminal) {
    assert!(client.is_cooked(), "the line discipline is left raw");
    client.with_screen(|screen| {
        assert!(!screen.alternate_screen(), "left on the alternate screen");
        assert!(!screen.hide_cursor(), "the cursor is left hidden");
        assert!(!screen.bracketed_paste(), "bracketed paste is left on");
        assert!(!screen.application_cursor(), "application cursor keys are left on");
        assert!(!screen.application_keypad(), "the application keypad is left on");
        assert_eq!(screen.mouse_protocol_mode(), vt100::MouseProtocolMode::None, "mouse reports are left on");
        assert_eq!((screen.fgcolor(), screen.bgcolor()), (vt100::Color::Default, vt100::Color::Default));
        assert!(!screen.bold() && !screen.inverse() && !screen.underline(), "attributes are left on");
    });
}

/// Attaches at `first`, works, detaches, re-attaches at `second`: the screen must be tmux's at `second`.
fn drawn_right_on_reattach(
    command: &[&str],
    first: (u16, u16),
    second: (u16, u16),
    keys: &[&[u8]],
    live: &[u8],
    settled: &str,
) {
    if !installed("tmux") || !installed(command[0]) {
        return;
    }
    let farm = LocalFarm::start();
    farm.project("demo");
    let runner = farm.running("demo", &[], command);
    let mut client = farm.terminal(&["attach", &runner], first.0, first.1);
    client.shows(settled);
    for key in keys {
        client.type_bytes(key);
        client.settles(QUIET);
    }
    detach(&mut client);
    assert_sane(&client);

    let again = farm.terminal(&["attach", &runner], second.0, second.1);
    let home = farm.path("home");
    let reference = Tmux::start(&home, TERM, command, second.0, second.1).expect("tmux is installed");
    eventually_true("the reference to draw", SOON, || {
        reference.grid().lines().iter().any(|l| l.contains(settled))
    });
    for key in keys {
        reference.type_bytes(key);
        reference.settles(QUIET);
    }
    same(&again, &reference);
    assert_eq!(
        again.with_screen(vt100::Screen::alternate_screen),
        reference.alternate(),
        "the alternate screen"
    );
    // And it is live: the next key has the same effect in both.
    again.type_bytes(live);
    reference.type_bytes(live);
    same(&again, &reference);
}

/// A text with colours, wide characters and lines longer than the terminal, and a vim that has no reason to differ.
fn vim(directory: &std::path::Path) -> Vec<String> {
    let text = directory.join("text.rs");
    let source: String = (1..200)
        .map(|i| {
            format!(
                "fn line_{i}() -> &'static str {{ \"{}漢字 {}\" }} // {}\n",
                "wide ",
                i,
                "long ".repeat(i % 30)
            )
        })
        .collect();
    fs::write(&text, source).expect("write the text");
    let settings = "set nocompatible laststatus=2 number hlsearch background=dark noshowcmd noruler nomodeline shortmess+=FI ttimeoutlen=10 | syntax on";
    let words =
        ["vim", "-u", "NONE", "-i", "NONE", "-n", "-c", settings, &text.to_string_lossy()].map(str::to_owned);
    words.to_vec()
}

fn vim_case(first: (u16, u16), second: (u16, u16)) {
    let directory = tempfile::tempdir().expect("a directory");
    let command = vim(directory.path());
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    // Deterministic at every size: a search highlighted, the cursor at the file's top, the command line empty.
    drawn_right_on_reattach(
        &command,
        first,
        second,
        &[b"/line_7\r", b"gg", b":echo\r"],
        b"\x0c",
        "fn line_1()",
    );
}

#[test]
fn vim_is_drawn_right_on_a_larger_terminal() {
    vim_case((24, 80), (43, 133));
}

#[test]
fn vim_is_drawn_right_on_a_smaller_terminal() {
    vim_case((50, 160), (15, 61));
}

/// Switch off the load line, the tasks and CPU lines (at the third press), and the memory lines (at the third press);
/// one at a time, because top takes a burst for one unknown key.
const TOP_KEYS: [&[u8]; 7] = [b"l", b"t", b"t", b"t", b"m", b"m", b"m"];

/// `top` with everything off that differs between two moments (load, tasks, memory): it shows one idle process.
fn top_case(first: (u16, u16), second: (u16, u16)) {
    let mut idle = std::process::Command::new("sleep").arg("100000").spawn().expect("an idle process");
    let pid = idle.id().to_string();
    let result = std::panic::catch_unwind(|| {
        drawn_right_on_reattach(&["top", "-d", "3600", "-p", &pid], first, second, &TOP_KEYS, b"x", "sleep");
    });
    idle.kill().ok();
    idle.wait().ok();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn top_is_drawn_right_on_a_larger_terminal() {
    top_case((24, 80), (40, 120));
}

#[test]
fn top_is_drawn_right_on_a_smaller_terminal() {
    top_case((40, 140), (18, 70));
}

#[test]
fn a_resize_while_attached_redraws() {
    if !installed("tmux") || !installed("vim") {
        return;
    }
    let farm = LocalFarm::start();
    farm.project("demo");
    let directory = tempfile::tempdir().expect("a directory");
    let command = vim(directory.path());
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let runner = farm.running("demo", &[], &command);
    let client = farm.terminal(&["attach", &runner], 24, 80);
    client.shows("fn line_1()");
    client.resize(31, 101);
    let home = farm.path("home");
    let reference = Tmux::start(&home, TERM, &command, 31, 101).expect("tmux is installed");
    client.type_bytes(b":echo\r");
    reference.type_bytes(b":echo\r");
    same(&client, &reference);
}

#[test]
fn every_mode_is_restored_on_attach_and_taken_back_on_detach() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let command = farm.probe(&["modes"]);
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let runner = farm.running("demo", &[], &command);
    eventually_true("the program to have drawn", SOON, || {
        farm.cli(&["screen", &runner]).stdout.contains("inverse")
    });
    let mut client = farm.terminal(&["attach", &runner], 24, 80);
    client.shows("red and bold");
    client.shows("inverse");
    client.with_screen(|screen| {
        assert!(screen.alternate_screen(), "alternate screen");
        assert!(screen.hide_cursor(), "hidden cursor");
        assert!(screen.bracketed_paste(), "bracketed paste");
        assert!(screen.application_cursor(), "application cursor keys");
        assert_eq!(screen.mouse_protocol_mode(), vt100::MouseProtocolMode::ButtonMotion);
        assert_eq!(screen.mouse_protocol_encoding(), vt100::MouseProtocolEncoding::Sgr);
    });
    client.receives("stratavore modes");
    let grid = client.grid();
    assert_eq!(grid.lines()[2], "    red and bold");
    let cell = &grid.rows[2][4];
    assert!(cell.look.bold && cell.look.foreground == vt100::Color::Idx(1), "{cell:?}");
    assert!(grid.rows[6][8].look.inverse);
    detach(&mut client);
    assert_sane(&client);
}

#[test]
fn the_shell_around_an_attach_goes_on_as_if_nothing_had_been() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let command = farm.probe(&["modes"]);
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let runner = farm.running("demo", &[], &command);
    let mut shell = farm.command(std::path::Path::new("/bin/sh"));
    shell.env("PS1", "outer> ");
    let outer = farm.terminal_of(&shell, 24, 80);
    outer.shows("outer>");
    let line = format!(
        "{} --context {} attach {runner}\r",
        farm.binaries().cli().display(),
        farm.admin_context().display()
    );
    outer.type_bytes(line.as_bytes());
    outer.shows("red and bold");
    outer.type_bytes(DETACH);
    eventually_true("the shell's screen to be back", SOON, || {
        !outer.with_screen(vt100::Screen::alternate_screen)
    });
    outer.type_bytes(b"echo st''ill he''re\r");
    outer.shows("still here");
    assert!(!outer.with_screen(vt100::Screen::hide_cursor));
}

#[test]
fn an_observers_keys_never_reach_the_child_and_the_drivers_all_do() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let record = farm.path("keys");
    let command = farm.probe(&["keys", &record.to_string_lossy()]);
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let runner = farm.running("demo", &[], &command);
    let typed = || String::from_utf8_lossy(&fs::read(&record).unwrap_or_default()).into_owned();
    let driver = farm.terminal(&["attach", &runner], 24, 80);
    driver.shows("ready");
    let observer = farm.terminal(&["attach", &runner, "--observe"], 24, 80);
    observer.shows("ready");
    observer.type_bytes(b"observer was here\r\x03\x1a");
    driver.type_bytes(b"driver");
    eventually("the driver's keys", SOON, || if typed().contains("driver") { Ok(()) } else { Err(typed()) });
    assert_eq!(typed(), "driver", "something else than the driver's keys arrived");

    let mut second = farm.terminal(&["attach", &runner], 24, 80);
    let status = second.wait();
    assert_eq!(status.code(), Some(5), "a second driver must be refused:\n{}", second.grid());
    let send = farm.cli(&["send", &runner, "sent"]);
    send.refused(5, &["steal"]);

    let thief = farm.terminal(&["attach", &runner, "--steal"], 24, 80);
    thief.shows("ready");
    thief.type_bytes(b"+thief");
    eventually("the thief's keys", SOON, || if typed().contains("+thief") { Ok(()) } else { Err(typed()) });
    driver.type_bytes(b"late");
    observer.type_bytes(b"later");
    thief.type_bytes(b"+end");
    eventually(
        "the thief's last keys",
        SOON,
        || if typed().contains("+end") { Ok(()) } else { Err(typed()) },
    );
    assert_eq!(typed(), "driver+thief+end");
}

#[test]
fn a_stopped_viewer_stalls_nobody() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let (go, stop) = (farm.path("go"), farm.path("stop"));
    let command = farm.probe(&["lines", &go.to_string_lossy(), &stop.to_string_lossy(), "100000", "0"]);
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let runner = farm.running("demo", &[], &command);
    let mut live = farm.terminal(&["attach", &runner], 24, 80);
    live.shows("waiting");
    // One viewer whose program is stopped, one whose terminal takes nothing any more.
    let stopped = farm.terminal(&["attach", &runner, "--observe"], 24, 80);
    stopped.shows("waiting");
    let clogged = farm.terminal(&["attach", &runner, "--observe"], 24, 80);
    clogged.shows("waiting");
    stopped.signal(Signal::STOP);
    clogged.read_on(false);
    fs::write(&go, "").unwrap();
    // Far more than every buffer on the way to a stopped viewer holds.
    eventually("the live viewer to see a million lines", SOON, || {
        let seen = numbers(&live.raw()).len();
        if seen >= 1_000_000 { Ok(()) } else { Err(seen) }
    });
    fs::write(&stop, "").unwrap();
    let status = live.wait();
    assert!(status.success(), "the live viewer ended with {status}");
    assert_whole(&live.raw());
    let ended = farm.await_runner(&runner, "terminated");
    assert_eq!(ended["exit"]["code"], 0);
    // On waking they see the present, not the whole past, and end with their runner.
    stopped.signal(Signal::CONT);
    clogged.read_on(true);
    for (what, mut viewer) in [("whose terminal was clogged", clogged), ("that was stopped", stopped)] {
        let status = viewer.wait();
        assert!(status.success(), "the viewer {what} ended with {status}");
        assert!(viewer.is_cooked(), "the viewer {what} left its terminal raw");
        assert!(total(&viewer.raw()).is_some(), "the viewer {what} never saw the end:\n{}", viewer.grid());
    }
}

#[test]
fn detach_leaves_the_runner_running_and_ctrl_c_reaches_the_runner_not_the_client() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let runner = farm.running(
        "demo",
        &[],
        &["sh", "-c", "trap 'echo in''terrupted' INT; while :; do sleep 0.1; done"],
    );
    let mut client = farm.terminal(&["attach", &runner], 24, 80);
    client.settles(QUIET);
    client.type_bytes(b"\x03");
    client.shows("interrupted");
    detach(&mut client);
    assert_eq!(farm.runner(&runner)["state"], "running");
}

#[test]
fn a_killed_client_frees_the_keyboard_at_once() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let command = farm.probe(&["echo"]);
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let runner = farm.running("demo", &[], &command);
    let mut first = farm.terminal(&["attach", &runner], 24, 80);
    first.shows("ready");
    first.signal(Signal::KILL);
    first.wait();
    eventually("the keyboard to be free", SOON, || {
        let sent = farm.cli(&["send", &runner, "hello again"]);
        if sent.code == Some(0) { Ok(()) } else { Err(sent.to_string()) }
    });
    let second = farm.terminal(&["attach", &runner], 24, 80);
    second.shows("hello again");
}

#[test]
fn screen_prints_the_grid_that_a_client_sees() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let command = farm.probe(&["modes"]);
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let runner = farm.running("demo", &[], &command);
    let client = farm.terminal(&["attach", &runner], 24, 80);
    client.shows("inverse");
    let printed = farm.cli(&["screen", &runner]).ok().stdout;
    let trimmed = |lines: Vec<String>| lines.join("\n").trim_end().to_owned();
    let printed = trimmed(printed.lines().map(|l| l.trim_end().to_owned()).collect());
    // For a moment the last line says how to leave.
    eventually("the same grid", SOON, || {
        let seen = trimmed(client.grid().lines());
        if seen == printed { Ok(()) } else { Err(format!("{printed}\n---\n{seen}")) }
    });
}

#[test]
fn a_terminal_that_hangs_up_ends_the_client_and_not_the_runner() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let runner = farm.running("demo", &[], &["sleep", "100000"]);
    let client = farm.terminal(&["attach", &runner], 24, 80);
    client.settles(QUIET);
    let pid = client.pid();
    client.signal(Signal::HUP);
    eventually_true("the client to end", SOON, || !stratavore_chaos::processes::is_alive(pid));
    assert_eq!(farm.runner(&runner)["state"], "running");
}
