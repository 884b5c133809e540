//! A snapshot: the whole state of the screen as bytes for any terminal of its size.

use super::Screen;
use super::modes::{AUTOWRAP, CURSOR_VISIBLE, Charsets, INSERT, NEWLINE, ORIGIN, SYNC};

impl Screen {
    /// Bytes that draw this state on any terminal of the same size, whatever it showed before. Output that follows
    /// the bytes taken so far goes on right behind them.
    pub fn snapshot(&mut self) -> Vec<u8> {
        self.catch_up();
        let mut out = Vec::with_capacity(4096);
        // Synchronized output hides the drawing; then everything that would bend it is switched off.
        out.extend_from_slice(
            b"\x1b[?2026h\x1b[!p\x1b[?25l\x1b[?6l\x1b[4l\x1b[20l\x1b[?7h\x1b[r\x1b(B\x1b)B\x0f",
        );
        self.modes.write_kitty(true, &mut out);
        out.extend_from_slice(b"\x1b[?1049l");
        self.modes.write_kitty(false, &mut out);
        if self.parser.screen().alternate_screen() {
            // The program's main screen lies underneath and shows again when it leaves the alternate one.
            self.parser.process(b"\x1b[?47l");
            out.extend_from_slice(self.parser.screen().contents_formatted().as_bytes());
            self.write_saved(0, &mut out);
            self.parser.process(b"\x1b[?47h");
            out.extend_from_slice(b"\x1b[?1049h");
            Charsets::default().write(&mut out);
            self.modes.write_kitty(true, &mut out);
        }
        out.extend_from_slice(self.parser.screen().contents_formatted().as_bytes());
        self.modes.write(&mut out);
        let shown = usize::from(self.parser.screen().alternate_screen());
        self.write_saved(shown, &mut out);
        out.extend_from_slice(b"\x1b7");
        Charsets::default().write(&mut out);
        self.write_position(&mut out);
        self.modes.charsets.write(&mut out);
        out.extend_from_slice(if self.modes.private(CURSOR_VISIBLE) { b"\x1b[?25h" } else { b"\x1b[?25l" });
        if !self.modes.private(SYNC) {
            out.extend_from_slice(b"\x1b[?2026l");
        }
        out.extend_from_slice(&self.scanner.held());
        out
    }

    /// Scroll region, origin mode, cursor, attributes and what bends printing, in the order in which they may be set.
    fn write_position(&self, out: &mut Vec<u8>) {
        let screen = self.parser.screen();
        if let Some((top, bottom)) = self.modes.region {
            out.extend_from_slice(format!("\x1b[{};{}r", top + 1, bottom + 1).as_bytes());
        }
        let top = self.modes.region.map_or(0, |(top, _)| top);
        let origin = if self.modes.private(ORIGIN) { top } else { 0 };
        if self.modes.private(ORIGIN) {
            out.extend_from_slice(b"\x1b[?6h");
        }
        self.write_cursor(screen.cursor_position(), origin, out);
        out.extend_from_slice(screen.attributes_formatted().as_bytes());
        for (mode, on) in [(INSERT, self.modes.ansi(INSERT)), (NEWLINE, self.modes.ansi(NEWLINE))] {
            if on {
                out.extend_from_slice(format!("\x1b[{mode}h").as_bytes());
            }
        }
        if !self.modes.private(AUTOWRAP) {
            out.extend_from_slice(b"\x1b[?7l");
        }
    }

    /// Puts the cursor where DECSC kept it on one of the screens (home, if it never did), ready to be saved again.
    fn write_saved(&self, screen: usize, out: &mut Vec<u8>) {
        let Some(saved) = &self.modes.saved[screen] else {
            out.extend_from_slice(b"\x1b[H\x1b[m");
            return Charsets::default().write(out);
        };
        let row = saved.position.0.min(self.size().rows - 1);
        self.write_cursor((row, saved.position.1), 0, out);
        out.extend_from_slice(saved.attributes.as_bytes());
        saved.charsets.write(out);
    }

    /// Puts the cursor on a cell of the screen now shown, rows counted from `origin`. A column behind the last one means
    /// that a wrap is pending. Only printing in the last column brings that about, so what stands there is printed again.
    fn write_cursor(&self, (row, col): (u16, u16), origin: u16, out: &mut Vec<u8>) {
        let (screen, last) = (self.parser.screen(), self.size().cols - 1);
        let is_second_half = screen.cell(row, last).is_some_and(vt100::Cell::is_wide_continuation);
        let at = if col > last && is_second_half { last - 1 } else { col.min(last) };
        out.extend_from_slice(format!("\x1b[{};{}H", row.saturating_sub(origin) + 1, at + 1).as_bytes());
        if let Some(cell) = screen.cell(row, at).filter(|_| col > last) {
            write_style(cell, out);
            out.extend_from_slice(if cell.has_contents() { cell.contents() } else { " " }.as_bytes());
        }
    }
}

/// The colours and attributes of a cell, whatever were in force.
fn write_style(cell: &vt100::Cell, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\x1b[0");
    let attributes =
        [(cell.bold(), 1), (cell.dim(), 2), (cell.italic(), 3), (cell.underline(), 4), (cell.inverse(), 7)];
    for (_, number) in attributes.into_iter().filter(|(on, _)| *on) {
        out.extend_from_slice(format!(";{number}").as_bytes());
    }
    for (colour, number) in [(cell.fgcolor(), 38), (cell.bgcolor(), 48)] {
        match colour {
            vt100::Color::Default => {}
            vt100::Color::Idx(index) => out.extend_from_slice(format!(";{number};5;{index}").as_bytes()),
            vt100::Color::Rgb(r, g, b) => {
                out.extend_from_slice(format!(";{number};2;{r};{g};{b}").as_bytes());
            }
        }
    }
    out.push(b'm');
}
