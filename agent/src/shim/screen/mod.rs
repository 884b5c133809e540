//! The server-side screen: what a terminal would show now, and everything it would have to know to go on from here.
//!
//! `vt100` keeps the cells. In front of it a scanner lets only whole sequences through, translates what the emulator
//! does not know into what it does, latches modes and answers questions. A snapshot is a byte string that brings any
//! xterm-like terminal of the same size into this state.

mod answer;
mod csi;
mod modes;
mod scan;
mod size;
mod skim;
mod snapshot;

use std::num::NonZeroU16;
use std::panic::{AssertUnwindSafe, catch_unwind};

use stratavore_proto::v1;

use answer::Facts;
use csi::Csi;
use modes::{AUTOWRAP, CURSOR_VISIBLE, INSERT, Modes, NEWLINE, ORIGIN, Saved, line_drawing};
use scan::{Scanner, Token};
pub use size::{DEFAULT_SIZE, Size};

/// Answers waiting to be sent to the program; a program that only asks and never reads gets no more.
const ANSWERS_MAX: usize = 4096;

/// Output that may wait to be drawn: some milliseconds of work, and little beside the rest of a shim.
const UNDRAWN_MAX: usize = 256 * 1024;

/// Kept of the buffer for undrawn output when there is no flood.
const UNDRAWN_KEPT: usize = 4 * 1024;

/// The screen; see the module.
pub struct Screen {
    parser: vt100::Parser,
    /// Output taken, but not drawn yet.
    undrawn: Vec<u8>,
    scanner: Scanner,
    modes: Modes,
    /// Bytes for the emulator, collected over one chunk: it is faster fed in runs.
    run: Vec<u8>,
    answers: Vec<u8>,
    /// How often the emulator failed on its input and was replaced by a blank one.
    failures: u64,
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen")
            .field("size", &self.size())
            .field("modes", &self.modes)
            .finish_non_exhaustive()
    }
}

impl Screen {
    /// A blank screen.
    #[must_use]
    pub fn new(size: Size) -> Self {
        Self {
            parser: emulator(size),
            undrawn: Vec::new(),
            scanner: Scanner::default(),
            modes: Modes::default(),
            run: Vec::new(),
            answers: Vec::new(),
            failures: 0,
        }
    }

    /// Its size in cells.
    #[must_use]
    pub fn size(&self) -> Size {
        let (rows, cols) = self.parser.screen().size();
        Size { rows: rows.get(), cols: cols.get() }
    }

    /// Takes a chunk of output, to be drawn when there is time for it: in a flood large pieces cost far less, and the
    /// viewers need not wait. True when so much waits that there must be time now. Questions in it are answered when
    /// it is drawn.
    #[must_use]
    pub fn take(&mut self, bytes: &[u8]) -> bool {
        self.undrawn.extend_from_slice(bytes);
        self.undrawn.len() >= UNDRAWN_MAX
    }

    /// Whether output waits to be drawn.
    #[must_use]
    pub const fn is_behind(&self) -> bool {
        !self.undrawn.is_empty()
    }

    /// Draws what was taken.
    pub fn catch_up(&mut self) {
        let mut undrawn = std::mem::take(&mut self.undrawn);
        self.feed(&undrawn);
        if undrawn.len() < UNDRAWN_KEPT {
            undrawn.shrink_to(UNDRAWN_KEPT);
        }
        undrawn.clear();
        self.undrawn = undrawn;
    }

    /// Takes a chunk of output and draws it. Never panics: an emulator that fails on a chunk is replaced by a blank one, since the
    /// program behind must not die of what it prints.
    pub fn feed(&mut self, bytes: &[u8]) {
        let rest = self.skim(bytes);
        self.scan(rest);
        self.flush();
    }

    fn scan(&mut self, bytes: &[u8]) {
        let mut scanner = std::mem::take(&mut self.scanner);
        scanner.scan(bytes, |token| self.token(token));
        self.scanner = scanner;
    }

    /// What the program asked for in what was drawn since the last call; goes to its input.
    pub fn take_answers(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.answers)
    }

    /// How often the emulator had to be replaced.
    #[must_use]
    pub const fn failures(&self) -> u64 {
        self.failures
    }

    /// Changes the size; as in xterm the scroll region becomes the whole screen.
    pub fn resize(&mut self, size: Size) {
        if size == self.size() {
            return;
        }
        self.catch_up();
        self.modes.region = None;
        for saved in self.modes.saved.iter_mut().flatten() {
            saved.position.1 = saved.position.1.min(size.cols - 1);
        }
        let resized =
            catch_unwind(AssertUnwindSafe(|| self.parser.set_size(side(size.rows), side(size.cols))));
        if resized.is_err() {
            self.replace(size);
        }
    }

    /// The grid as text, trailing blanks cut.
    #[must_use]
    pub fn text(&mut self) -> v1::GetScreenResponse {
        self.catch_up();
        let screen = self.parser.screen();
        let size = self.size();
        let (row, col) = screen.cursor_position();
        v1::GetScreenResponse {
            rows: screen.rows(0, size.cols).map(|row| row.trim_end().to_owned()).collect(),
            size: Some(size.wire()),
            cursor_row: row.into(),
            cursor_col: col.min(size.cols - 1).into(),
            alternate: screen.alternate_screen(),
            title: self.modes.title.clone(),
            cursor_hidden: !self.modes.private(CURSOR_VISIBLE),
        }
    }

    fn token(&mut self, token: Token<'_>) {
        match token {
            Token::Text(text) => self.print(text),
            Token::Control(0x0e) => self.modes.charsets.shifted = true,
            Token::Control(0x0f) => self.modes.charsets.shifted = false,
            Token::Control(byte @ 0x0a..=0x0c) if self.modes.ansi(NEWLINE) => {
                self.run.extend_from_slice(&[byte, b'\r'])
            }
            Token::Control(byte) => self.run.push(byte),
            Token::Escape(body) => self.escape(body),
            Token::Csi(body) => {
                if let Some(csi) = Csi::parse(body) {
                    self.csi(&csi, body);
                }
            }
            Token::Osc(body, bel) => self.osc(body, bel),
            Token::Dcs(body) => {
                let facts = self.facts();
                let answer = answer::dcs(body, &self.modes, facts);
                self.answer(answer);
            }
        }
    }

    /// Text goes through as it is, unless a mode gives it another meaning that the emulator does not know.
    fn print(&mut self, text: &[u8]) {
        let drawing = self.modes.charsets.drawing();
        let insert = self.modes.ansi(INSERT);
        let wrap = self.modes.private(AUTOWRAP);
        if !drawing && !insert && wrap {
            self.run.extend_from_slice(text);
            return;
        }
        for c in String::from_utf8_lossy(text).chars() {
            let c = if drawing && c.is_ascii() { line_drawing(u8::try_from(c).unwrap_or(b' ')) } else { c };
            let width = if is_wide(c) { 2 } else { 1 };
            if insert || !wrap {
                self.flush();
                let (_, col) = self.parser.screen().cursor_position();
                let cols = self.size().cols;
                if !wrap && col + width > cols {
                    self.run.extend_from_slice(format!("\x1b[{}G", cols - width + 1).as_bytes());
                } else if insert && col < cols {
                    self.run.extend_from_slice(format!("\x1b[{width}@").as_bytes());
                }
            }
            self.run.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }

    fn escape(&mut self, body: &[u8]) {
        match body {
            [b'D'] => self.run.push(b'\n'),
            [b'E'] => self.run.extend_from_slice(b"\r\n"),
            [b'7'] => {
                self.save();
                self.run.extend_from_slice(b"\x1b7");
            }
            [b'8'] => {
                self.run.extend_from_slice(b"\x1b8");
                self.restore();
            }
            [b'=' | b'>'] => self.modes.keypad = body[0] == b'=',
            [b'M'] => self.run.extend_from_slice(b"\x1bM"),
            [b'c'] => {
                self.modes.reset();
                self.run.extend_from_slice(b"\x1bc");
            }
            [b'(', set] => self.modes.charsets.lines[0] = *set == b'0',
            [b')', set] => self.modes.charsets.lines[1] = *set == b'0',
            _ => {}
        }
    }

    fn save(&mut self) {
        let facts = self.facts();
        self.modes.saved[usize::from(facts.alternate)] = Some(Saved {
            position: facts.cursor,
            attributes: self.parser.screen().attributes_formatted(),
            charsets: self.modes.charsets,
        });
    }

    /// Follows the emulator's own restore: that one keeps a single set of attributes for both screens, a terminal one
    /// for each.
    fn restore(&mut self) {
        let alternate = usize::from(self.facts().alternate);
        let saved = self.modes.saved[alternate].as_ref();
        self.modes.charsets = saved.map(|saved| saved.charsets).unwrap_or_default();
        let attributes = saved.map_or("\x1b[m", |saved| &saved.attributes);
        self.run.extend_from_slice(attributes.as_bytes());
    }

    fn csi(&mut self, csi: &Csi, body: &[u8]) {
        if matches!(csi.action, b'c' | b'n' | b'p' | b'q' | b't' | b'u')
            || (csi.prefix == b'?' && csi.action == b'm')
        {
            let facts = self.facts();
            let answer = answer::csi(csi, &self.modes, facts);
            if answer.is_some() {
                return self.answer(answer);
            }
        }
        match (csi.prefix, csi.intermediate, csi.action) {
            (b'?', 0, b'h' | b'l') => {
                for at in 0..csi.params.len() {
                    self.private_mode(csi.param(at), csi.action == b'h');
                }
            }
            (0, 0, b'h' | b'l') => {
                for at in 0..csi.params.len() {
                    self.modes.set_ansi(csi.param(at), csi.action == b'h');
                }
            }
            (0, 0, b'm') => {
                if let Some(plain) = csi::plain_sgr(csi) {
                    self.run.extend_from_slice(format!("\x1b[{plain}m").as_bytes());
                }
            }
            (b'>', 0, b'm') if csi.param(0) == 4 => self.modes.set_modify_other_keys(csi.param(1)),
            (b'>', 0, b'n') if csi.param(0) == 4 => self.modes.set_modify_other_keys(0),
            (b'<' | b'=' | b'>', 0, b'u') => {
                let alternate = self.facts().alternate;
                self.modes.kitty(csi, alternate);
            }
            (0, b' ', b'q') => self.modes.cursor_style = Some(csi.param(0).min(6)),
            (0, b'!', b'p') => self.soft_reset(),
            (0, 0, b'r') => self.scroll_region(csi),
            (0, 0, b's') => self.escape(b"7"),
            (0, 0, b'u') => self.escape(b"8"),
            (0, 0, b'a') => self.moved(csi, b'C'),
            (0, 0, b'e') => self.moved(csi, b'B'),
            (0, 0, b'I') => self.forward_tabs(csi.param_or(0, 1)),
            (0, 0, b'Z') => self.back_tabs(csi.param_or(0, 1)),
            (0, 0, b'@'..=b'H' | b'J'..=b'M' | b'P' | b'S' | b'T' | b'X' | b'`' | b'b' | b'd' | b'f')
            | (b'?', 0, b'J' | b'K') => {
                self.run.extend_from_slice(b"\x1b[");
                self.run.extend_from_slice(body);
            }
            _ => {}
        }
    }

    fn moved(&mut self, csi: &Csi, action: u8) {
        self.run.extend_from_slice(format!("\x1b[{}{}", csi.param_or(0, 1), char::from(action)).as_bytes());
    }

    fn forward_tabs(&mut self, count: u16) {
        for _ in 0..count.min(size::COLS_MAX / 8) {
            self.run.push(b'\t');
        }
    }

    fn back_tabs(&mut self, count: u16) {
        let col = self.facts().cursor.1.min(self.size().cols - 1);
        let stop = col.div_ceil(8).saturating_sub(count) * 8;
        self.run.extend_from_slice(format!("\x1b[{}G", stop + 1).as_bytes());
    }

    fn private_mode(&mut self, mode: u16, on: bool) {
        self.modes.set_private(mode, on);
        let alternate = self.facts().alternate;
        match (mode, on) {
            (ORIGIN | CURSOR_VISIBLE | 1049 | 47, _) => self.emulator_mode(mode, on),
            (1047, true) => self.emulator_mode(47, true),
            (1047, false) if alternate => {
                self.run.extend_from_slice(b"\x1b[2J");
                self.emulator_mode(47, false);
            }
            (1048, true) => self.escape(b"7"),
            (1048, false) => self.escape(b"8"),
            _ => {}
        }
    }

    fn emulator_mode(&mut self, mode: u16, on: bool) {
        // The alternate screen keeps no scroll region of its own in xterm; in the emulator it does.
        if matches!(mode, 47 | 1049) {
            self.flush();
            let (before, region) = (self.facts().alternate, self.modes.region);
            if (mode, on) == (1049, true) {
                self.save();
                self.modes.saved[1] = None;
            }
            self.run.extend_from_slice(format!("\x1b[?{mode}{}", if on { 'h' } else { 'l' }).as_bytes());
            self.flush();
            if (mode, on) == (1049, false) {
                self.restore();
            }
            // 1049 also clears the emulator's alternate grid, region and all, when that is shown already.
            if before != on || (mode, on) == (1049, true) {
                self.carry_region(region);
            }
            return;
        }
        self.run.extend_from_slice(format!("\x1b[?{mode}{}", if on { 'h' } else { 'l' }).as_bytes());
    }

    /// Gives the grid now shown the scroll region in force, without moving its cursor.
    fn carry_region(&mut self, region: Option<(u16, u16)>) {
        let (row, col) = self.parser.screen().cursor_position();
        let (top, bottom) = region.unwrap_or_else(|| (0, self.size().rows - 1));
        let col = col.min(self.size().cols - 1);
        self.run.extend_from_slice(
            format!("\x1b[?6l\x1b[{};{}r\x1b[{};{}H", top + 1, bottom + 1, row + 1, col + 1).as_bytes(),
        );
        if self.modes.private(ORIGIN) {
            self.modes.set_private(ORIGIN, false);
        }
    }

    fn scroll_region(&mut self, csi: &Csi) {
        let rows = self.size().rows;
        let top = csi.param_or(0, 1);
        let bottom = csi.param_or(1, rows).min(rows);
        if top >= bottom {
            return;
        }
        self.modes.region = (top > 1 || bottom < rows).then_some((top - 1, bottom - 1));
        self.run.extend_from_slice(format!("\x1b[{top};{bottom}r").as_bytes());
    }

    fn soft_reset(&mut self) {
        let (row, col) = self.facts().cursor;
        let col = col.min(self.size().cols - 1);
        self.modes.soft_reset();
        // The cursor stays where it is, the saved one goes home.
        self.run.extend_from_slice(b"\x1b[?6l\x1b[r\x1b[m\x1b[H\x1b7\x1b[?25h");
        self.run.extend_from_slice(format!("\x1b[{};{}H", row + 1, col + 1).as_bytes());
    }

    fn osc(&mut self, body: &[u8], bel: bool) {
        if let Some(title) = body.strip_prefix(b"0;").or_else(|| body.strip_prefix(b"2;")) {
            self.modes.set_title(title);
        } else {
            self.answer(answer::osc(body, bel));
        }
    }

    fn answer(&mut self, answer: Option<String>) {
        if let Some(answer) = answer.filter(|answer| self.answers.len() + answer.len() <= ANSWERS_MAX) {
            self.answers.extend_from_slice(answer.as_bytes());
        }
    }

    /// The emulator's state now; what is collected goes to it first.
    fn facts(&mut self) -> Facts {
        self.flush();
        let screen = self.parser.screen();
        let size = self.size();
        Facts {
            rows: size.rows,
            cols: size.cols,
            cursor: screen.cursor_position(),
            alternate: screen.alternate_screen(),
        }
    }

    fn flush(&mut self) {
        if self.run.is_empty() {
            return;
        }
        let run = std::mem::take(&mut self.run);
        let fed = catch_unwind(AssertUnwindSafe(|| self.parser.process(&run)));
        if fed.is_err() {
            self.replace(self.size());
        }
        // Keeps the buffer, but not one that a burst has blown up.
        self.run = run;
        self.run.clear();
        self.run.shrink_to(super::wire::CHUNK_BYTES_MAX);
    }

    fn replace(&mut self, size: Size) {
        self.failures += 1;
        self.parser = emulator(size);
        self.modes.region = None;
    }
}

fn emulator(size: Size) -> vt100::Parser {
    // No scrollback: 2000 lines of it cost 12 MiB in every shim. History comes from the log.
    vt100::Parser::new(side(size.rows), side(size.cols), 0)
}

fn side(value: u16) -> NonZeroU16 {
    NonZeroU16::new(value).unwrap_or(NonZeroU16::MIN)
}

/// Whether a character takes two cells: the blocks that terminals agree on.
const fn is_wide(c: char) -> bool {
    matches!(c, '\u{1100}'..='\u{115f}' | '\u{2e80}'..='\u{303e}' | '\u{3041}'..='\u{a4cf}' | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}' | '\u{fe30}'..='\u{fe6f}' | '\u{ff00}'..='\u{ff60}' | '\u{ffe0}'..='\u{ffe6}'
        | '\u{1f300}'..='\u{1f64f}' | '\u{1f900}'..='\u{1f9ff}' | '\u{20000}'..='\u{3fffd}')
}

#[cfg(test)]
mod tests;
