//! Viewers: one drives, many look, none holds anybody up, and no byte is lost or comes twice.

use stratavore_agent::runner::ClientError;
use stratavore_proto::v1;
use stratavore_proto::v1::attach_request::Message as Ask;

use super::support::*;

fn numbers(text: &str) -> Vec<u64> {
    text.lines().filter_map(|line| line.trim_end().strip_prefix('n')?.parse().ok()).collect()
}

/// Prints numbered lines as fast as it can, then waits for a line.
fn flood(lines: u64) -> v1::RunnerStart {
    shell(&format!("stty -opost -echo; seq -f 'n%.0f' 1 {lines}; read go; echo done"), true)
}

#[tokio::test]
async fn reconnecting_at_an_offset_under_a_flood_loses_and_doubles_nothing() {
    let place = Place::new();
    let lines = 400_000;
    let client = place.start(flood(lines)).await;
    let mut all = Vec::new();
    let mut visits = 0;
    let last = format!("n{lines}\n");
    while !all.ends_with(last.as_bytes()) {
        let mut viewer = Viewer::open(&client, raw_from(all.len() as u64)).await;
        let stop_at = 30_000 * (visits % 7 + 1);
        while viewer.output.len() < stop_at
            && !viewer.output.ends_with(last.as_bytes())
            && viewer.step().await
        {}
        assert_eq!(viewer.jumps, 0);
        all.extend_from_slice(&viewer.output);
        visits += 1;
    }
    assert!(visits > 5, "{visits} visits");
    assert_eq!(numbers(&String::from_utf8(all).unwrap()), (1..=lines).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_terminal_viewer_goes_on_from_its_offset_without_a_snapshot() {
    let place = Place::new();
    let client = place.start(flood(1000)).await;
    let mut first = Viewer::open(&client, raw_from(0)).await;
    first.until_text("n500\n").await;
    let from = first.next.unwrap();
    let open = v1::AttachOpen { from_offset: Some(from), ..sized(40, 120) };
    let mut second = Viewer::open(&client, open).await;
    second.type_in("\n").await;
    second.until_exit().await;
    assert_eq!((second.snapshots, second.jumps), (0, 0));
    first.until_exit().await;
    assert!(first.text().ends_with(&second.text()));
}

#[tokio::test]
async fn an_offset_that_rotated_away_becomes_a_snapshot_or_a_gap() {
    let mut place = Place::new();
    place.launcher = place.launcher.clone().with_log_limits(64 * 1024, 2);
    let client = place.start(flood(100_000)).await;
    let mut all = Viewer::open(&client, observing()).await;
    all.until("the last line", |viewer| viewer.text().contains("n100000") || viewer.screen.ends_with(b"x"))
        .await;
    let mut screen =
        Viewer::open(&client, v1::AttachOpen { observe: true, from_offset: Some(0), ..Default::default() })
            .await;
    screen.until("a snapshot", |viewer| viewer.snapshots == 1).await;
    let mut raw = Viewer::open(&client, raw_from(0)).await;
    raw.until_text("n100000").await;
    assert!(numbers(&raw.text())[0] > 1, "what is gone is gone");
    let end = *numbers(&raw.text()).last().unwrap();
    assert_eq!(end, 100_000);
}

#[tokio::test]
async fn a_stopped_viewer_stalls_nobody_and_gets_the_present_when_it_wakes() {
    let place = Place::new();
    let lines = 600_000;
    let client = place.start(flood(lines)).await;
    let mut asleep = Viewer::open(&client, observing()).await;
    let mut raw_asleep = Viewer::open(&client, raw_from(0)).await;
    let mut awake = Viewer::open(&client, raw_from(0)).await;
    awake.until_text(&format!("n{lines}\n")).await;
    assert_eq!(numbers(&awake.text()), (1..=lines).collect::<Vec<_>>());
    client.input(b"\n".to_vec(), false, "test").await.unwrap();
    awake.until_exit().await;
    // The screen viewer skips what it slept through, the raw one reads it all from the log.
    asleep.until_exit().await;
    assert!(asleep.snapshots >= 2, "{} snapshots", asleep.snapshots);
    raw_asleep.until_exit().await;
    assert_eq!(raw_asleep.output, awake.output);
}

#[tokio::test]
async fn one_drives_and_others_are_refused_or_take_over() {
    let place = Place::new();
    let client = place.start(shell("stty -echo; while read line; do echo said:$line; done", true)).await;
    let mut driver = Viewer::try_open(&client, sized(30, 100), "anna").await.unwrap();
    assert!(driver.ready.driver);
    match Viewer::try_open(&client, sized(10, 10), "bert").await {
        Err(ClientError::Refused { code, message }) => {
            assert_eq!(code, "driver_taken");
            assert!(message.contains("anna"), "{message}");
        }
        other => panic!("{:?}", other.map(|viewer| viewer.ready)),
    }
    let mut observer =
        Viewer::try_open(&client, v1::AttachOpen { observe: true, ..sized(10, 10) }, "bert").await.unwrap();
    assert!(!observer.ready.driver);
    assert_eq!(
        observer.ready.size,
        Some(v1::WindowSize { rows: 30, cols: 100 }),
        "an observer changes no size"
    );
    assert_eq!(observer.ready.driver_name, "anna");
    observer.type_in("observer\n").await;
    observer
        .until("it is told so", |viewer| viewer.driver.as_ref().is_some_and(|driver| !driver.driver))
        .await;
    driver.type_in("driver\n").await;
    observer.until_text("said:driver").await;
    assert!(!observer.text().contains("said:observer"));
    observer.send(Ask::TakeDriver(true)).await;
    observer.until("the wheel", |viewer| viewer.driver.as_ref().is_some_and(|driver| driver.driver)).await;
    driver
        .until("it lost the wheel", |viewer| viewer.driver.as_ref().is_some_and(|driver| !driver.driver))
        .await;
    assert_eq!(driver.driver.as_ref().unwrap().driver_name, "bert");
    observer.type_in("now\n").await;
    driver.until_text("said:now").await;
    drop(observer);
    driver
        .until("nobody drives", |viewer| {
            viewer.driver.as_ref().is_some_and(|driver| driver.driver_name.is_empty())
        })
        .await;
    let stolen =
        Viewer::try_open(&client, v1::AttachOpen { steal: true, ..sized(20, 60) }, "carl").await.unwrap();
    assert!(stolen.ready.driver);
    assert_eq!(stolen.ready.size, Some(v1::WindowSize { rows: 20, cols: 60 }));
}

#[tokio::test]
async fn typing_without_attaching_respects_the_driver() {
    let place = Place::new();
    let client = place.start(shell("read a; echo $a; read b; echo $b", true)).await;
    let mut driver = Viewer::open(&client, sized(24, 80)).await;
    match client.input(b"x\n".to_vec(), false, "script").await {
        Err(ClientError::Refused { code, .. }) => assert_eq!(code, "driver_taken"),
        other => panic!("{other:?}"),
    }
    client.input(b"stolen\n".to_vec(), true, "script").await.unwrap();
    driver.until_text("stolen\r\nstolen").await;
    drop(driver);
    within(async {
        while client.input(b"free\n".to_vec(), false, "script").await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(end(&client).await.exit.unwrap().code, Some(0));
    match client.input(b"late\n".to_vec(), false, "script").await {
        Err(ClientError::Refused { code, .. }) => assert_eq!(code, "runner_ended"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn whoever_attaches_after_the_end_sees_the_last_screen_and_the_exit() {
    let place = Place::new();
    let client = place.start(shell("echo the last words; exit 5", true)).await;
    end(&client).await;
    let mut late = Viewer::open(&client, sized(24, 80)).await;
    let exit = late.until_exit().await;
    assert_eq!(exit.code, Some(5));
    assert!(String::from_utf8_lossy(&late.screen).contains("the last words"));
}

#[tokio::test]
async fn garbage_on_the_socket_harms_nobody() {
    use std::io::Write;
    let place = Place::new();
    let client = place.start(shell("echo up; read x; echo alive", true)).await;
    let socket = place.identity().socket;
    for garbage in [&b"\xff\xff\xff\xff"[..], b"\0\0\0\0", b"\x05\0\0\0\x04abcd", b"GET / HTTP/1.1\r\n\r\n"] {
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        stream.write_all(garbage).unwrap();
    }
    client.input(b"\n".to_vec(), false, "test").await.unwrap();
    assert_eq!(end(&client).await.exit.unwrap().code, Some(0));
}

#[tokio::test]
async fn a_viewer_that_is_behind_still_gets_the_end_after_the_reaping() {
    let place = Place::new();
    let lines = 300_000;
    let client = place.start(shell(&format!("stty -opost; seq -f 'n%.0f' 1 {lines}; exit 6"), true)).await;
    let mut behind = Viewer::open(&client, raw_from(0)).await;
    end(&client).await;
    client.reap().await.unwrap();
    assert_eq!(behind.until_exit().await.code, Some(6));
    assert_eq!(numbers(&behind.text()), (1..=lines).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_raw_viewer_is_told_where_now_is() {
    let place = Place::new();
    let client = place.start(shell("stty -echo; echo before; read go", true)).await;
    let mut first = Viewer::open(&client, raw_from(0)).await;
    first.until_text("before\r\n").await;
    let mut second = Viewer::open(&client, v1::AttachOpen { raw: true, ..Default::default() }).await;
    second.until("the offset of now", |viewer| viewer.next.is_some()).await;
    assert_eq!((second.next, second.text().as_str()), (first.next, ""));
}
