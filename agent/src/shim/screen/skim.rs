//! Lines that have scrolled away before anybody could look need not be drawn.
//!
//! A flood of lines (a build, `cat`) costs the emulator more than all the rest of its way to the viewer. Of such a
//! chunk only the end leaves a trace: what comes before moves nothing but the cursor and the colours. This finds how
//! much that is, as long as nothing but text, line feeds, returns, tabs and colours stands in it. In pieces of 256 KiB
//! that makes 2 to 3 ns a byte of CPU out of 30 to 60.

use super::Screen;
use super::modes::{AUTOWRAP, INSERT, NEWLINE};
use super::scan::Token;
use super::size::Size;

/// Bytes per row of the screen from which a chunk may hold lines that scroll away within it.
const SKIM_FROM: usize = 4;

/// Longest colour sequence understood here; a longer one ends the search.
const STYLE_MAX: usize = 64;

/// Text passed in one step, so that a place to cut is found in a line without end, too.
const RUN_MAX: usize = 1024;

/// Bytes looked at together when measuring a run of text: one or two vector registers.
const STRIDE: usize = 32;

/// The front of a chunk that leaves no trace on the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    /// Its length; it ends between two characters and between two sequences.
    pub(super) bytes: usize,
    /// Column of the cursor behind it, on the last row. The number of columns means that a wrap is pending.
    pub(super) col: u16,
    /// Where in it the colours begin that are in force behind it; earlier ones were reset.
    pub(super) styles_from: usize,
}

impl Screen {
    /// Takes from a flood of lines what scrolls away within it, without drawing it; the rest remains to be scanned.
    pub(super) fn skim<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let size = self.size();
        if bytes.len() < SKIM_FROM * usize::from(size.rows) || !self.prints_plainly() {
            return bytes;
        }
        // What an earlier chunk has begun is finished first.
        let begun = if self.scanner.held().is_empty() {
            0
        } else {
            bytes.iter().position(|b| *b == b'\n').unwrap_or(0)
        };
        let (begun, rest) = bytes.split_at(begun);
        self.scan(begun);
        if !self.scanner.held().is_empty() || !self.prints_plainly() {
            return rest;
        }
        let col = self.facts().cursor.1;
        let Some(cut) = cut(rest, size, col) else { return rest };
        for body in styles(&rest[cut.styles_from..cut.bytes]) {
            self.token(Token::Csi(body));
        }
        let (col, pending) = if cut.col < size.cols { (cut.col + 1, "") } else { (size.cols, " ") };
        self.run.extend_from_slice(format!("\x1b[{};{col}H{pending}", size.rows).as_bytes());
        &rest[cut.bytes..]
    }

    /// Whether text, line feeds and returns do what they do on a terminal just switched on.
    fn prints_plainly(&self) -> bool {
        self.modes.region.is_none()
            && !self.modes.charsets.drawing()
            && !self.modes.ansi(INSERT)
            && !self.modes.ansi(NEWLINE)
            && self.modes.private(AUTOWRAP)
    }
}

/// The longest front of `input` known to leave no trace on a screen of `size` whose cursor is in column `col` of any
/// row: behind it the cursor is on the last row, and everything that it drew is scrolled away by what follows.
/// Requires a scroll region of the whole screen, wrapping on, and no mode that gives text another meaning.
pub(super) fn cut(input: &[u8], size: Size, col: u16) -> Option<Cut> {
    let mut walk = Walk { cols: size.cols, at: 0, col: Some(col), styles_from: 0, printed: false };
    let (mut rows, mut last, mut found) = (0, None, None);
    while let Some(step) = walk.step(input) {
        rows += step.rows;
        // Between two places as many rows have come as there are, so nothing before the first is left. A letter must be
        // among them, since a sequence repeats the last one (REP).
        if let (true, true, true, Some(col)) = (rows >= size.rows.into(), walk.printed, step.apart, walk.col)
        {
            found = last.replace(Cut { bytes: walk.at, col, styles_from: walk.styles_from });
            rows = 0;
            walk.printed = false;
        }
    }
    found
}

/// The colour sequences in a piece of input that [`cut`] has passed, without their `ESC [`.
pub(super) fn styles(input: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = input;
    std::iter::from_fn(move || {
        let at = rest.iter().position(|byte| *byte == 0x1b)?;
        let length = style(&rest[at..])?;
        let body = &rest[at + 2..at + length];
        rest = &rest[at + length..];
        Some(body)
    })
}

/// What one element did.
struct Step {
    /// New rows that it certainly began.
    rows: usize,
    /// What follows does not combine with it.
    apart: bool,
}

struct Walk {
    cols: u16,
    at: usize,
    /// Unknown behind characters whose width is not looked up here, until the next return.
    col: Option<u16>,
    styles_from: usize,
    printed: bool,
}

impl Walk {
    /// Passes one element; `None` at what is not understood, and at the end.
    fn step(&mut self, input: &[u8]) -> Option<Step> {
        let rest = &input[self.at..];
        let mut rows = 0;
        let first = *rest.first()?;
        let passed = match first {
            b'\n' => {
                rows = 1;
                1
            }
            b'\r' => {
                self.col = Some(0);
                1
            }
            b'\t' => {
                self.col = self.col.map(|col| (col / 8 * 8 + 8).min(self.cols - 1));
                1
            }
            0x1b => {
                let length = style(rest)?;
                if resets(&rest[2..length - 1]) {
                    self.styles_from = self.at;
                }
                length
            }
            0x20..=0x7e => {
                let length = plain(&rest[..rest.len().min(RUN_MAX)]);
                if let Some(col) = self.col {
                    let (wraps, col) = behind(col, length, self.cols);
                    rows = wraps;
                    self.col = Some(col);
                }
                self.printed = true;
                length
            }
            0x80.. => {
                self.col = None;
                rest.iter().position(|byte| *byte < 0x80).unwrap_or(rest.len())
            }
            _ => return None,
        };
        self.at += passed;
        Some(Step { rows, apart: first == b'\n' || input.get(self.at).is_some_and(u8::is_ascii) })
    }
}

/// Length of the printable ASCII at the front.
fn plain(bytes: &[u8]) -> usize {
    let is_plain = |byte: u8| byte.wrapping_sub(0x20) < 0x5f;
    let mut at = 0;
    for stride in bytes.chunks_exact(STRIDE) {
        // Without a branch inside, so that the compiler takes the whole stride at once.
        if !stride.iter().fold(true, |all, byte| all & is_plain(*byte)) {
            break;
        }
        at += STRIDE;
    }
    at + bytes[at..].iter().position(|byte| !is_plain(*byte)).unwrap_or(bytes.len() - at)
}

/// How many rows `printed` narrow characters begin, and the column behind them; a full row leaves its wrap pending.
fn behind(col: u16, printed: usize, cols: u16) -> (usize, u16) {
    let (total, cols) = (usize::from(col) + printed, usize::from(cols));
    let wraps = total.saturating_sub(1) / cols;
    let col = total - wraps * cols;
    (wraps, u16::try_from(col).unwrap_or(0))
}

/// Length of the colour sequence at the front, `None` when something else stands there or it is not complete.
fn style(bytes: &[u8]) -> Option<usize> {
    let body = bytes.strip_prefix(b"\x1b[")?;
    let end = body.iter().take(STYLE_MAX).position(|byte| !matches!(byte, b'0'..=b'9' | b';' | b':'))?;
    (body[end] == b'm').then_some(end + 3)
}

/// Whether these parameters begin with a reset of everything.
fn resets(parameters: &[u8]) -> bool {
    matches!(parameters, [] | [b'0'] | [b';', ..] | [b'0', b';', ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { rows: 3, cols: 10 };

    #[test]
    fn a_flood_keeps_only_its_end() {
        let text = "0123456789abc\r\n".repeat(100);
        let cut = cut(text.as_bytes(), SIZE, 4).unwrap();
        assert_eq!(cut.col, naive(text.as_bytes(), 4, cut.bytes));
        let kept = text.len() - cut.bytes;
        // Two of its rows to the line.
        assert!((15..=6 * 15).contains(&kept), "{kept}");
    }

    /// The column behind so many bytes.
    fn naive(text: &[u8], col: u16, bytes: usize) -> u16 {
        text[..bytes].iter().fold(col, |col, byte| match byte {
            b'\n' => col,
            b'\r' => 0,
            _ if col == SIZE.cols => 1,
            _ => col + 1,
        })
    }

    #[test]
    fn the_column_is_counted_where_no_return_is() {
        let text = "1234567\n".repeat(9);
        for length in 0..text.len() {
            if let Some(cut) = cut(&text.as_bytes()[..length], SIZE, 3) {
                assert_eq!(cut.col, naive(text.as_bytes(), 3, cut.bytes), "{cut:?}");
            }
        }
        assert_eq!((behind(3, 7, 10), behind(10, 1, 10), behind(10, 10, 10)), ((0, 10), (1, 1), (1, 10)));
        assert_eq!(behind(0, 0, 10), (0, 0));
    }

    #[test]
    fn a_line_without_end_is_cut_within() {
        let text = "x".repeat(5000);
        let cut = cut(text.as_bytes(), SIZE, 10).unwrap();
        assert_eq!(usize::from(cut.col), (cut.bytes - 1) % 10 + 1);
        assert!(text.len() - cut.bytes >= 30);
    }

    #[test]
    fn nothing_combines_across_the_cut() {
        let text = "1#\u{fe0f}".repeat(500);
        assert_eq!(cut(text.as_bytes(), SIZE, 0), None);
    }

    #[test]
    fn what_is_not_understood_ends_it() {
        for stop in ["\x1b[H", "\x1b7", "\x08", "\x1b[1", "\x0e", "\x7f"] {
            let text = format!("{}{stop}{}", "line\r\n".repeat(5), "line\r\n".repeat(50));
            assert_eq!(cut(text.as_bytes(), SIZE, 0), None, "{stop:?}");
        }
        assert_eq!(cut("\n".repeat(100).as_bytes(), SIZE, 0), None, "nothing printed");
        assert_eq!(cut("\u{6f22}\n".repeat(100).as_bytes(), SIZE, 0), None, "columns unknown");
        assert!(cut("\u{6f22}x\r\n".repeat(100).as_bytes(), SIZE, 0).is_some());
    }

    #[test]
    fn only_colours_since_the_last_reset_are_kept() {
        let text = format!("\x1b[31mred\x1b[0;1mbold\x1b[4m{}", "line\r\n".repeat(20));
        let cut = cut(text.as_bytes(), SIZE, 0).unwrap();
        let kept: Vec<&[u8]> = styles(&text.as_bytes()[cut.styles_from..cut.bytes]).collect();
        assert_eq!(kept, [b"0;1m".as_ref(), b"4m"]);
    }
}
