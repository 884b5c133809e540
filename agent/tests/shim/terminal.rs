//! The terminal as programs see it: size, answers, and the same picture for whoever comes later.

use stratavore_proto::v1;
use stratavore_proto::v1::attach_request::Message as Ask;

use super::support::*;

fn grid(bytes: &[&[u8]], rows: u16, cols: u16) -> vt100::Parser {
    let nonzero = |side: u16| std::num::NonZeroU16::new(side).unwrap();
    let mut parser = vt100::Parser::new(nonzero(rows), nonzero(cols), 0);
    for part in bytes {
        parser.process(part);
    }
    parser
}

#[tokio::test]
async fn the_driver_sets_the_size_and_it_stays() {
    let place = Place::new();
    let client =
        place.start(shell("trap 'stty size' WINCH; stty size; while :; do sleep 0.02; done", true)).await;
    let mut viewer = Viewer::open(&client, raw_from(0)).await;
    viewer.until_text("40 120").await;
    let driver = Viewer::open(&client, sized(33, 77)).await;
    viewer.until_text("33 77").await;
    driver.send(Ask::Resize(v1::WindowSize { rows: 20, cols: 50 })).await;
    viewer.until_text("20 50").await;
    drop(driver);
    viewer
        .until("nobody drives", |viewer| {
            viewer.driver.as_ref().is_some_and(|driver| driver.driver_name.is_empty())
        })
        .await;
    assert_eq!(client.screen().await.unwrap().size, Some(v1::WindowSize { rows: 20, cols: 50 }));
}

#[tokio::test]
async fn questions_are_answered_with_nobody_attached() {
    let place = Place::new();
    // Asks for the device attributes, a colour and the cursor, and shows the answers without their escapes.
    let script = "stty raw -echo; printf '\\033[c\\033]11;?\\007\\033[6n'; dd bs=1 count=39 2>/dev/null | tr '\\033\\007' 'EB'; stty sane; echo; echo over";
    let client = place.start(shell(script, true)).await;
    let mut viewer = Viewer::open(&client, raw_from(0)).await;
    viewer.until_text("over").await;
    let text = viewer.text();
    for answer in ["E[?62;22c", "E]11;rgb:0000/0000/0000B", "E[1;1R"] {
        assert!(text.contains(answer), "{answer} in {text:?}");
    }
}

#[tokio::test]
async fn a_late_viewer_sees_what_an_early_one_sees() {
    let place = Place::new();
    let script = "printf '\\033[?1049h\\033[?2004h\\033[2J\\033[5;10H\\033[1;31mred\\033[m\\033[10;3Hplain \\342\\224\\200'; \
        printf '\\033[3;8r\\033[8;1Hscroll\\n\\n\\033[?25l\\033[12;1H'; read x; printf 'after'; read y";
    let client = place.start(shell(script, true)).await;
    let mut early = Viewer::open(&client, raw_from(0)).await;
    early.until("all of it", |viewer| viewer.text().contains("[12;1H")).await;
    let mut late = Viewer::open(&client, sized(40, 120)).await;
    late.until("a snapshot", |viewer| viewer.snapshots == 1).await;
    late.type_in("\n").await;
    late.until_text("after").await;
    early.until_text("after").await;
    let (native, joined) = (grid(&[&early.output], 40, 120), grid(&[&late.screen, &late.output], 40, 120));
    assert_eq!(joined.screen().contents_formatted(), native.screen().contents_formatted());
    assert_eq!(joined.screen().cursor_position(), native.screen().cursor_position());
    assert!(joined.screen().alternate_screen() && joined.screen().bracketed_paste());
    assert!(joined.screen().hide_cursor());
    let text = client.screen().await.unwrap();
    assert!(text.alternate && text.cursor_hidden);
    assert!(text.rows[2].ends_with("red"), "scrolled up twice with its region: {:?}", text.rows);
}

#[tokio::test]
async fn full_screen_programs_redraw_at_another_size() {
    for (argv, sign) in
        [(&["vim", "-u", "NONE", "-N", "/etc/passwd"][..], "root:"), (&["top", "-d", "60"][..], "PID")]
    {
        if !std::path::Path::new("/usr/bin").join(argv[0]).exists() {
            eprintln!("skipped: no {} here", argv[0]);
            continue;
        }
        let place = Place::new();
        let client = place.start(command(argv, true)).await;
        let mut first = Viewer::open(&client, sized(24, 80)).await;
        first
            .until(sign, |viewer| {
                viewer.text().contains(sign) || String::from_utf8_lossy(&viewer.screen).contains(sign)
            })
            .await;
        drop(first);
        within(async {
            while client.observation().viewers > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let (rows, cols) = (31, 97);
        let mut second = Viewer::open(&client, sized(rows, cols)).await;
        second.until("a snapshot", |viewer| viewer.snapshots == 1).await;
        second.until("the redraw", |viewer| viewer.output.len() > 200).await;
        // What the viewer's terminal shows now is what the shim's screen shows.
        for _ in 0..200 {
            let shown = grid(&[&second.screen, &second.output], 31, 97);
            let text = client.screen().await.unwrap();
            let viewed: Vec<String> =
                shown.screen().rows(0, 97).map(|row| row.trim_end().to_owned()).collect();
            if viewed == text.rows && viewed.iter().any(|row| row.contains(sign)) {
                assert_eq!(text.size, Some(v1::WindowSize { rows, cols }));
                break;
            }
            assert!(second.step().await, "{} never agrees", argv[0]);
        }
        client.stop(true, "").await.unwrap();
        end(&client).await;
    }
}

#[tokio::test]
async fn a_program_that_reopens_its_terminal_is_heard() {
    let place = Place::new();
    let client = place
        .start(shell("exec </dev/null >/dev/null 2>&1; sleep 0.1; echo back >/dev/tty; exit 4", true))
        .await;
    let mut viewer = Viewer::open(&client, raw_from(0)).await;
    assert_eq!(viewer.until_exit().await.code, Some(4));
    assert!(viewer.text().contains("back"));
}

#[tokio::test]
async fn the_last_words_of_a_program_are_never_cut() {
    for _ in 0..20 {
        let place = Place::new();
        let client = place.start(shell("stty -opost; seq 1 3000; exit 0", true)).await;
        let mut viewer = Viewer::open(&client, raw_from(0)).await;
        viewer.until_exit().await;
        assert!(viewer.text().ends_with("2999\n3000\n"), "{:?}", viewer.text().lines().last());
    }
}
