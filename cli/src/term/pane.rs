//! A window into a terminal that is larger than ours: what an observer with a smaller one sees. The runner's screen is
//! kept here at its own size, and the part around the cursor is drawn.

use std::fmt::Write;
use std::num::NonZeroU16;
use std::panic::{AssertUnwindSafe, catch_unwind};

use stratavore_proto::v1::WindowSize;

use super::graphics::Graphics;

/// The screen and where we look at it.
pub(crate) struct Pane {
    parser: vt100::Parser,
    graphics: Graphics,
    size: (u16, u16),
    top: u16,
    left: u16,
}

impl std::fmt::Debug for Pane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pane").field("size", &self.size).finish_non_exhaustive()
    }
}

fn side(cells: u32) -> u16 {
    u16::try_from(cells).unwrap_or(u16::MAX).max(1)
}

fn emulator((rows, cols): (u16, u16)) -> vt100::Parser {
    let side = |cells| NonZeroU16::new(cells).unwrap_or(NonZeroU16::MIN);
    vt100::Parser::new(side(rows), side(cols), 0)
}

/// Whether a screen of this size does not fit into a window of that size.
pub(crate) fn is_larger(screen: &WindowSize, window: &WindowSize) -> bool {
    screen.rows > window.rows || screen.cols > window.cols
}

impl Pane {
    /// A blank screen.
    pub(crate) fn new(screen: &WindowSize) -> Self {
        let size = (side(screen.rows), side(screen.cols));
        Self { parser: emulator(size), graphics: Graphics::default(), size, top: 0, left: 0 }
    }

    /// Takes a runner's output. An emulator that fails on it is replaced by a blank one.
    pub(crate) fn feed(&mut self, output: &[u8]) {
        let output = self.graphics.translate(output);
        if catch_unwind(AssertUnwindSafe(|| self.parser.process(&output))).is_err() {
            self.parser = emulator(self.size);
        }
    }

    /// Draws what fits a window, which moves as little as it takes to show the cursor.
    pub(crate) fn paint(&mut self, window: &WindowSize) -> Vec<u8> {
        let screen = self.parser.screen();
        let (rows, cols) = (side(window.rows).min(self.size.0), side(window.cols).min(self.size.1));
        let (row, col) = screen.cursor_position();
        let col = col.min(self.size.1 - 1);
        self.top = follow(self.top, row, rows, self.size.0);
        self.left = follow(self.left, col, cols, self.size.1);
        let mut out = String::from("\x1b[?2026h\x1b[?25l\x1b[?7l");
        for line in 0..rows {
            // Writing into a String cannot fail.
            write!(out, "\x1b[{};1H\x1b[0m\x1b[2K", line + 1).ok();
            self.line(self.top + line, cols, &mut out);
        }
        out.push_str("\x1b[0m\x1b[J");
        write!(out, "\x1b[{};{}H", row - self.top + 1, col - self.left + 1).ok();
        if !screen.hide_cursor() {
            out.push_str("\x1b[?25h");
        }
        out.push_str("\x1b[?7h\x1b[?2026l");
        out.into_bytes()
    }

    fn line(&self, row: u16, cols: u16, out: &mut String) {
        let screen = self.parser.screen();
        let mut style = None;
        for col in self.left..self.left + cols {
            let Some(cell) = screen.cell(row, col) else { return };
            let cut = cell.is_wide() && col + 1 == self.left + cols;
            if cell.is_wide_continuation() && col > self.left {
                continue;
            }
            let wanted = Style::of(cell);
            if style != Some(wanted) {
                wanted.write(out);
                style = Some(wanted);
            }
            let text = if cell.has_contents() && !cut { cell.contents() } else { " " };
            out.push_str(text);
        }
    }
}

/// Where a window of `length` cells begins that shows cell `at` of `whole`.
fn follow(begin: u16, at: u16, length: u16, whole: u16) -> u16 {
    let begin = if at < begin { at } else { begin.max((at + 1).saturating_sub(length)) };
    begin.min(whole - length)
}

/// How a cell looks.
#[derive(Clone, Copy, PartialEq)]
struct Style {
    attributes: [bool; 5],
    colours: [vt100::Color; 2],
}

impl Style {
    fn of(cell: &vt100::Cell) -> Self {
        Self {
            attributes: [cell.bold(), cell.dim(), cell.italic(), cell.underline(), cell.inverse()],
            colours: [cell.fgcolor(), cell.bgcolor()],
        }
    }

    fn write(self, out: &mut String) {
        out.push_str("\x1b[0");
        for (on, number) in self.attributes.into_iter().zip([1, 2, 3, 4, 7]) {
            if on {
                write!(out, ";{number}").ok();
            }
        }
        for (colour, number) in self.colours.into_iter().zip([38, 48]) {
            match colour {
                vt100::Color::Default => {}
                vt100::Color::Idx(index) => drop(write!(out, ";{number};5;{index}")),
                vt100::Color::Rgb(r, g, b) => drop(write!(out, ";{number};2;{r};{g};{b}")),
            }
        }
        out.push('m');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn size(rows: u32, cols: u32) -> WindowSize {
        WindowSize { rows, cols }
    }

    /// What a terminal of that size shows after the painting, and where its cursor is.
    fn shown(pane: &mut Pane, window: &WindowSize) -> (Vec<String>, (u16, u16)) {
        let mut terminal = emulator((side(window.rows), side(window.cols)));
        terminal.process(b"old text that must go\r\nand more");
        terminal.process(&pane.paint(window));
        let screen = terminal.screen();
        let rows = screen.rows(0, side(window.cols)).map(|row| row.trim_end().to_owned()).collect();
        (rows, screen.cursor_position())
    }

    #[test]
    fn the_part_around_the_cursor_is_shown_and_nothing_wraps() {
        let mut pane = Pane::new(&size(6, 20));
        pane.feed(b"\x1b[Haaaaaaaaaaaaaaaaaaaa\x1b[2Hsecond\x1b[6;3Hlast");
        assert_eq!(
            shown(&mut pane, &size(3, 8)),
            (vec![String::new(), String::new(), "  last".to_owned()], (2, 6))
        );
        pane.feed(b"\x1b[1;20H");
        assert_eq!(
            shown(&mut pane, &size(3, 8)),
            (vec!["a".repeat(8), String::new(), String::new()], (0, 7))
        );
        pane.feed(b"\x1b[2;1H");
        assert_eq!(
            shown(&mut pane, &size(3, 8)),
            (vec!["a".repeat(8), "second".to_owned(), String::new()], (1, 0))
        );
    }

    #[test]
    fn a_window_that_is_larger_in_one_direction_shows_all_of_that() {
        let mut pane = Pane::new(&size(4, 6));
        pane.feed(b"one\r\ntwo\r\nthree\r\nfour");
        let (rows, cursor) = shown(&mut pane, &size(2, 40));
        assert_eq!((rows, cursor), (vec!["three".to_owned(), "four".to_owned()], (1, 4)));
        assert!(is_larger(&size(4, 6), &size(2, 40)) && is_larger(&size(4, 6), &size(9, 5)));
        assert!(!is_larger(&size(4, 6), &size(4, 6)));
    }

    #[test]
    fn colours_survive_and_a_wide_character_is_not_cut_in_half() {
        let mut pane = Pane::new(&size(2, 10));
        pane.feed("\x1b[31;1mred\x1b[0m \u{6f22}\u{5b57}\x1b[2;1H".as_bytes());
        let window = size(2, 5);
        let mut terminal = emulator((2, 5));
        terminal.process(&pane.paint(&window));
        let screen = terminal.screen();
        assert_eq!(screen.rows(0, 5).next().unwrap().trim_end(), "red");
        let cell = screen.cell(0, 0).unwrap();
        assert!(cell.bold() && cell.fgcolor() == vt100::Color::Idx(1));
    }
}
