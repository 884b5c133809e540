//! A snapshot must be the state: whatever a program printed, in whatever chunks, a terminal that is given a snapshot
//! and then the rest shows the same as one that saw everything.

use proptest::prelude::*;

use super::size::{COLS_MAX, ROWS_MAX, SIDE_MIN};
use super::*;

const SIZE: Size = Size { rows: 12, cols: 40 };

type Shown = (Vec<String>, (u16, u16), bool);

/// Cells with their colours, cursor, and which screen.
fn shown(screen: &mut Screen) -> Shown {
    let facts = screen.facts();
    let view = screen.parser.screen();
    let styled = |cell: &vt100::Cell| {
        let plain = (vt100::Color::Default, vt100::Color::Default, false, false);
        let style = (cell.fgcolor(), cell.bgcolor(), cell.bold(), cell.inverse());
        let style = if style == plain { String::new() } else { format!("{style:?}") };
        format!("{style}{}", if cell.has_contents() { cell.contents() } else { " " })
    };
    let row = |row| (0..SIZE.cols).filter_map(|col| view.cell(row, col)).map(styled).collect::<String>();
    let rows = (0..SIZE.rows).map(row).collect();
    (rows, (facts.cursor.0, facts.cursor.1.min(SIZE.cols - 1)), facts.alternate)
}

fn differences(left: &Shown, right: &Shown) -> Vec<String> {
    let rows = left.0.iter().zip(&right.0).enumerate().filter(|(_, (left, right))| left != right);
    let mut found: Vec<String> = rows
        .map(|(at, (left, right))| format!("row {at}: {:?} / {:?}", left.trim_end(), right.trim_end()))
        .collect();
    if (left.1, left.2) != (right.1, right.2) {
        found.push(format!("cursor, alternate: {:?} / {:?}", (left.1, left.2), (right.1, right.2)));
    }
    found
}

/// One that saw everything, and one that joined after `cut` bytes.
fn both(bytes: &[u8], cut: usize) -> (Screen, Screen) {
    let mut whole = Screen::new(SIZE);
    whole.feed(&bytes[..cut]);
    let mut joined = Screen::new(SIZE);
    joined.feed(b"garbage of before\x1b[?1049h\x1b[5;9r\x1b[?6h\x1b[4h\x1b(0\x1b[31m\x1b[?7l");
    joined.feed(&whole.snapshot());
    whole.feed(&bytes[cut..]);
    joined.feed(&bytes[cut..]);
    (whole, joined)
}

fn assert_joined(bytes: &[u8], cut: usize) {
    let (mut whole, mut joined) = both(bytes, cut);
    let found = differences(&shown(&mut whole), &shown(&mut joined));
    assert!(found.is_empty(), "cut at {cut} of {:?}: {found:#?}", String::from_utf8_lossy(bytes));
    for mode in [1, 25, 1000, 1002, 1003, 1004, 1006, 2004, 2026, AUTOWRAP] {
        assert_eq!(whole.modes.private(mode), joined.modes.private(mode), "mode {mode}, cut at {cut}");
    }
    assert_eq!(whole.modes.title, joined.modes.title);
    assert_eq!(whole.modes.region, joined.modes.region);
    assert_eq!(whole.modes.charsets, joined.modes.charsets);
    for alternate in [false, true] {
        assert_eq!(whole.modes.kitty_flags(alternate), joined.modes.kitty_flags(alternate));
    }
}

/// A full-screen program's life: shell, alternate screen, colours, region scrolling, wide characters, modes, and out.
const SESSION: &str = "$ vim x\r\n\x1b[?1049h\x1b[?1h\x1b=\x1b[?2004h\x1b[?1002h\x1b[?1006h\x1b[?1004h\x1b[>1u\x1b]2;x - VIM\x1b\\\
    \x1b[2;10r\x1b[1;1H\x1b[1;44mtop line\x1b[m\x1b[10;1Hbottom of region\n\n\x1b[2;10H\x1bM\x1b[38;2;1;2;3mrgb\
    \u{6f22}\u{5b57} wide \u{e9}\x1b[2 q\x1b[?25l\x1b(0lqk\x1b(B\x1b[5;39Hwrap around\x1b[?2026h\x1b[7;1Hpart\x1b[?2026l\
    \x1b[r\x1b[12;1H\x1b[7m-- INSERT --\x1b[m\x1b[3;4H\x1b[?25h\x1b[<u\x1b[?1002l\x1b[?2004l\x1b[?1049l\x1b[?1l\x1b>done\r\n$ ";

#[test]
fn a_snapshot_at_any_byte_goes_on_as_if_one_had_watched() {
    for cut in 0..=SESSION.len() {
        assert_joined(SESSION.as_bytes(), cut);
    }
}

#[test]
fn the_screen_equals_a_plain_emulator_where_both_know_the_sequences() {
    let text = "plain\r\n\x1b[1;31mred\x1b[0m\x1b[5;5Hmiddle\x1b[2K\x1b[3;1Hthird\x1b[K\x1b[10;1H\n\n\nscrolled \u{6f22}";
    let mut native = vt100::Parser::new(side(SIZE.rows), side(SIZE.cols), 0);
    native.process(text.as_bytes());
    let mut screen = Screen::new(SIZE);
    for chunk in text.as_bytes().chunks(3) {
        screen.feed(chunk);
    }
    let mut replayed = vt100::Parser::new(side(SIZE.rows), side(SIZE.cols), 0);
    replayed.process(&screen.snapshot());
    for view in [screen.parser.screen(), replayed.screen()] {
        assert_eq!(view.contents_formatted(), native.screen().contents_formatted());
        assert_eq!(view.cursor_position(), native.screen().cursor_position());
    }
}

#[test]
fn a_pending_wrap_is_restored_wherever_the_cursor_is() {
    let full = "x".repeat(usize::from(SIZE.cols));
    let start = format!("\x1b[2;5r\x1b[1;31;44m\x1b[3;1H{full}");
    for then in [
        "",
        "\n",
        "\n\n\n",
        "\x1b[K",
        "\x1b[2K",
        "\x1b[M",
        "\x1b[?1049h",
        "\x1b7",
        "\x1b7\x1b[H",
        "\x1b7\x1b[?1049h",
    ] {
        for (wide, back) in [(false, ""), (true, ""), (false, "\x1b8"), (false, "\x1b[?1049l\x1b8")] {
            let wide = if wide { "\x1b[3;39H\u{6f22}" } else { "" };
            let before = format!("{start}{wide}{then}");
            assert_joined(format!("{before}{back}next").as_bytes(), before.len());
        }
    }
}

#[test]
fn the_main_screen_is_under_the_alternate_one() {
    let mut screen = Screen::new(SIZE);
    screen.feed(b"before\r\n$ vim\x1b[?1049h\x1b[Hfull screen");
    let mut viewer = Screen::new(SIZE);
    viewer.feed(&screen.snapshot());
    assert!(viewer.text().alternate);
    viewer.feed(b"\x1b[?1049l");
    let text = viewer.text();
    assert_eq!(text.rows[0], "before");
    assert_eq!((text.cursor_row, text.cursor_col), (1, 5));
}

#[test]
fn questions_in_the_stream_are_answered_in_order_and_bounded() {
    let mut screen = Screen::new(SIZE);
    screen.feed(b"ab\x1b[6n\x1b[c\x1b[5n");
    assert_eq!(screen.take_answers(), b"\x1b[1;3R\x1b[?62;22c\x1b[0n");
    for _ in 0..10_000 {
        screen.feed(b"\x1b[5n");
    }
    assert!(screen.take_answers().len() <= ANSWERS_MAX);
}

#[test]
fn no_wrap_and_insert_do_what_they_say() {
    let mut screen = Screen::new(Size { rows: 3, cols: 5 });
    screen.feed(b"\x1b[?7labcdefgh\x1b[?7h\r\n123\r\x1b[4hX\x1b[4l");
    assert_eq!(screen.text().rows[..2], ["abcdh".to_owned(), "X123".to_owned()]);
}

#[test]
fn what_was_taken_is_drawn_before_anybody_looks() {
    let mut screen = Screen::new(SIZE);
    assert!(!screen.take(b"one\x1b[6n"), "a little may wait");
    assert!(screen.is_behind() && screen.take_answers().is_empty());
    assert_eq!(screen.text().rows[0], "one");
    assert!(!screen.is_behind());
    assert_eq!(screen.take_answers(), b"\x1b[1;4R");
    assert!(!screen.take(b"\r\ntwo"));
    let mut viewer = Screen::new(SIZE);
    viewer.feed(&screen.snapshot());
    assert_eq!(viewer.text().rows[1], "two");
    assert!(!screen.take(b"\x1b[12;40Hx"));
    screen.resize(Size { rows: 12, cols: 50 });
    assert_eq!(screen.text().rows[11].len(), 40, "drawn at the size that it was printed for");
    let much = vec![b'x'; UNDRAWN_MAX];
    assert!(screen.take(&much), "a lot may not");
}

#[test]
fn sizes_stay_within_bounds() {
    assert_eq!(Size::clamped(0, 0), Size { rows: SIDE_MIN, cols: SIDE_MIN });
    assert_eq!(Size::clamped(u32::MAX, 70_000), Size { rows: ROWS_MAX, cols: COLS_MAX });
    let mut screen = Screen::new(DEFAULT_SIZE);
    screen.feed(b"\x1b[40;120Hx\x1b[10;20r");
    for (rows, cols) in [(2, 2), (500, 1000), (1, 1), (24, 80)] {
        screen.resize(Size::clamped(rows, cols));
        screen.feed(b"text that wraps \x1b[999;999Hy\r\n");
    }
    assert_eq!(screen.failures(), 0);
}

/// Pieces that programs really send, so that random streams reach deep states.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "[a-z \u{6f22}\u{e9}\u{1f600}\u{301}]{0,12}".prop_map(String::into_bytes),
        "\u{1b}\\[[0-9;:]{0,8}[@A-HJ-MPSTXZ`abdefgmrsu]".prop_map(String::into_bytes),
        "\u{1b}\\[\\?(1|6|7|25|47|1000|1002|1004|1006|1047|1048|1049|2004|2026)[hl]"
            .prop_map(String::into_bytes),
        "\u{1b}\\[[<=>?]?[0-9;]{0,5}( q|u|m|n|\\$p|!p)".prop_map(String::into_bytes),
        "\u{1b}[78DEMc=>]".prop_map(String::into_bytes),
        "\u{1b}[()][0B]".prop_map(String::into_bytes),
        "[\u{8}\t\n\r\u{e}\u{f}]{1,3}".prop_map(String::into_bytes),
        "\u{1b}\\]2;[a-z]{0,5}(\u{7}|\u{1b}\\\\)".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 0..20),
    ]
}

/// What programs do to a screen, without what no terminal agrees on.
fn stroke() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "[a-z ]{0,30}".prop_map(String::into_bytes),
        "[\u{6f22}\u{e9}]{0,4}".prop_map(String::into_bytes),
        "\u{1b}\\[[0-9]{1,2};[0-9]{1,2}H".prop_map(String::into_bytes),
        "\u{1b}\\[[0-9]?[ABCDGJKLMPSTX@d]".prop_map(String::into_bytes),
        "\u{1b}\\[(0|1|7|31|44|38;5;200|38;2;1;2;3)m".prop_map(String::into_bytes),
        "\u{1b}\\[[1-6];[7-9]r".prop_map(String::into_bytes),
        "\u{1b}\\[\\?(1|25|1000|1002|1004|1006|1049|2004|2026)[hl]".prop_map(String::into_bytes),
        "\u{1b}[78DEM]".prop_map(String::into_bytes),
        "\u{1b}[()][0B]|\u{e}|\u{f}|\r|\n|\u{8}|\t".prop_map(String::into_bytes),
        "\u{1b}\\[(>[0-9]u|<u|>4;[0-2]m|[0-6] q)".prop_map(String::into_bytes),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn joining_anywhere_is_the_same_as_having_watched(
        strokes in proptest::collection::vec(stroke(), 1..40), part in 0usize..1000,
    ) {
        let bytes = strokes.concat();
        assert_joined(&bytes, bytes.len() * part / 1000);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_break_the_emulator(
        pieces in proptest::collection::vec(piece(), 0..60), rows in 0u32..30, cols in 0u32..50, split in 1usize..50,
    ) {
        let bytes = pieces.concat();
        let mut screen = Screen::new(SIZE);
        for chunk in bytes.chunks(split) {
            screen.feed(chunk);
        }
        screen.resize(Size::clamped(rows, cols));
        screen.feed(&bytes);
        let snapshot = screen.snapshot();
        let mut viewer = Screen::new(screen.size());
        viewer.feed(&snapshot);
        prop_assert_eq!(screen.failures(), 0);
        prop_assert_eq!(viewer.failures(), 0);
        prop_assert!(viewer.take_answers().is_empty(), "a snapshot asks nothing");
    }
}

/// Lines as floods have them, and now and then something that no skimming may pass over.
fn flood_piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        12 => "[ -~]{0,60}(\r\n|\n)".prop_map(String::into_bytes),
        3 => "[a-z \t\u{e9}\u{6f22}\u{1f600}\u{301}]{0,20}(\r\n|\n|\r)".prop_map(String::into_bytes),
        3 => "\u{1b}\\[(0|1|7|31|44|0;32|38;5;200|38:2::1:2:3|)m".prop_map(String::into_bytes),
        1 => "[ -~]{500,3000}".prop_map(String::into_bytes),
        1 => "[#1]{30}[#1\u{fe0f}]{0,9}".prop_map(String::into_bytes),
        1 => "\n{1,30}".prop_map(String::into_bytes),
        1 => stroke(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_scrolls_away_need_not_be_drawn(
        floods in proptest::collection::vec((proptest::collection::vec(flood_piece(), 0..80), any::<bool>()), 1..6),
        rest in proptest::collection::vec(stroke(), 0..10),
    ) {
        let (mut skimmed, mut drawn) = (Screen::new(SIZE), Screen::new(SIZE));
        let chunks = floods.into_iter().map(|(pieces, cut)| {
            let mut bytes = pieces.concat();
            // Chunks end anywhere, also inside a sequence.
            bytes.truncate(bytes.len() - usize::from(cut && !bytes.is_empty()));
            bytes
        });
        for chunk in chunks.chain(rest) {
            skimmed.feed(&chunk);
            drawn.scan(&chunk);
            drawn.flush();
            let found = differences(&shown(&mut skimmed), &shown(&mut drawn));
            prop_assert!(found.is_empty(), "{found:#?} after {:?}", String::from_utf8_lossy(&chunk));
            prop_assert_eq!(skimmed.snapshot(), drawn.snapshot());
        }
    }
}
