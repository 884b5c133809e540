//! What an observer sees whose window is not the driver's, and what everybody is told at first.

use stratavore_chaos::eventually::{SOON, eventually};
use stratavore_chaos::farm::LocalFarm;
use stratavore_chaos::terminal::Terminal;

#[track_caller]
fn rows(what: &str, client: &Terminal, wanted: &[(usize, &str)]) {
    eventually(what, SOON, || {
        let lines = client.grid().lines();
        let fits = |(row, text): &(usize, &str)| lines.get(*row).is_some_and(|line| line.trim_end() == *text);
        if wanted.iter().all(fits) { Ok(()) } else { Err(lines.join("\n")) }
    });
}

/// Draws a frame of a full screen: text at all four corners, then the cursor to a place.
fn corners(rows: u16, cols: u16, word: &str, cursor: (u16, u16)) -> String {
    let right = cols - 2;
    format!(
        "printf '\\033[H\\033[2J{word}-left\\033[1;{right}Hrig\\033[{rows};1Hbottom\\033[{};{}H'",
        cursor.0, cursor.1
    )
}

#[test]
fn an_observer_with_a_smaller_window_sees_the_part_around_the_cursor_and_nothing_wrapped() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let first = corners(30, 100, "first", (2, 5));
    let second = corners(30, 100, "second", (30, 1));
    let runner =
        farm.running("demo", &[], &["sh", "-c", &format!("read a; {first}; read a; {second}; read a")]);
    let driver = farm.terminal(&["attach", &runner], 30, 100);
    driver.type_bytes(b"\r");
    rows("the driver's whole screen", &driver, &[(29, "bottom")]);
    let mut observer = farm.terminal(&["attach", &runner, "--observe"], 10, 40);
    rows("the upper left part", &observer, &[(0, "first-left"), (1, ""), (9, "")]);
    driver.type_bytes(b"\r");
    rows("the lower left part", &observer, &[(9, "bottom"), (0, "")]);
    // With room for all of it, all of it.
    observer.resize(30, 100);
    let right = format!("second-left{}rig", " ".repeat(86));
    rows("the whole screen", &observer, &[(0, &right), (29, "bottom")]);
    observer.resize(5, 20);
    rows("a part again", &observer, &[(4, "bottom")]);
    observer.type_bytes(b"\x1dd");
    assert!(observer.wait().success());
    assert!(observer.is_cooked(), "the terminal is left raw");
}

#[test]
fn a_person_is_told_how_to_leave_and_the_line_goes_without_a_trace() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let runner =
        farm.running("demo", &[], &["sh", "-c", "printf 'ready\\033[24;1Hlast line\\033[2;1H'; exec cat"]);
    let mut client = farm.terminal(&["attach", &runner], 24, 80);
    rows(
        "the greeting",
        &client,
        &[(0, "ready"), (23, &format!(" attached to {runner}; detach: Ctrl-] then d"))],
    );
    rows("the line that it covered", &client, &[(0, "ready"), (23, "last line")]);
    client.type_bytes(b"x\r");
    rows("the cursor's place", &client, &[(1, "x"), (2, "x")]);
    client.type_bytes(b"\x1dd");
    assert!(client.wait().success());
}
