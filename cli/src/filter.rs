//! Runner output made safe for a terminal: printable text, newline, tab and colour (SGR) pass, nothing else does.
//!
//! A pure state machine over bytes, so that a sequence cut anywhere between two chunks is recognised all the same.
//! Control strings (OSC, DCS, APC, PM, SOS) are dropped whole, in their 7-bit and their C1 form, because some
//! terminals answer or execute them. A carriage return that does not end a line becomes a newline, so that a
//! progress bar stays readable.

/// Longest SGR sequence that is passed on; real ones are under 30 bytes.
const SGR_BYTES_MAX: usize = 64;

/// A control string longer than this was never meant as one (or never ends): the text after it is shown again.
const STRING_BYTES_MAX: usize = 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ground,
    Escape,
    /// After ESC and an intermediate (charset selection and the like): one final byte follows.
    EscapeIntermediate,
    Csi,
    /// A CSI too long or malformed: skipped up to its final byte.
    CsiIgnored,
    /// OSC: ends with BEL or ST, and, being one line by nature, with a newline.
    Osc,
    /// DCS, APC, PM, SOS: ends with ST only.
    Text,
}

/// The filter of one output stream.
#[derive(Debug)]
pub(crate) struct LogFilter {
    state: State,
    colour: bool,
    sgr: Vec<u8>,
    string_bytes: usize,
    utf8: Utf8,
    line_empty: bool,
    return_pending: bool,
    sgr_active: bool,
}

impl LogFilter {
    /// A filter at the start of a stream; without `colour` SGR sequences are dropped too.
    pub(crate) fn new(colour: bool) -> Self {
        Self {
            state: State::Ground,
            colour,
            sgr: Vec::new(),
            string_bytes: 0,
            utf8: Utf8::default(),
            line_empty: true,
            return_pending: false,
            sgr_active: false,
        }
    }

    /// Filters the next chunk into `out`.
    pub(crate) fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        for &byte in chunk {
            for unit in self.utf8.push(byte).into_iter().flatten() {
                self.unit(unit, out);
            }
        }
    }

    /// Ends the stream: an incomplete character is shown as such, and a colour still on is switched off.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        if self.utf8.take_incomplete() {
            self.unit(char::REPLACEMENT_CHARACTER, out);
        }
        if self.sgr_active {
            out.extend_from_slice(b"\x1b[0m");
            self.sgr_active = false;
        }
        self.state = State::Ground;
        self.sgr.clear();
    }

    fn unit(&mut self, unit: char, out: &mut Vec<u8>) {
        // ESC, CAN and SUB end whatever was going on, in every state (as a terminal does).
        match unit {
            '\x1b' => return self.enter(State::Escape),
            '\x18' | '\x1a' => return self.enter(State::Ground),
            '\u{9b}' => return self.enter(State::Csi),
            '\u{9d}' => return self.enter(State::Osc),
            '\u{90}' | '\u{98}' | '\u{9e}' | '\u{9f}' => return self.enter(State::Text),
            '\u{9c}' => return self.enter(State::Ground),
            _ => {}
        }
        match self.state {
            State::Ground => self.ground(unit, out),
            State::Escape => self.escape(unit, out),
            State::EscapeIntermediate => match unit {
                '\x20'..='\x2f' => {}
                '\0'..='\x1f' => self.ground(unit, out),
                _ => self.enter(State::Ground),
            },
            State::Csi => self.csi(unit, out),
            State::CsiIgnored => match unit {
                '\x40'..='\x7e' => self.enter(State::Ground),
                '\0'..='\x1f' => self.ground(unit, out),
                _ => {}
            },
            State::Osc => match unit {
                '\x07' => self.enter(State::Ground),
                '\n' => {
                    self.enter(State::Ground);
                    self.ground(unit, out);
                }
                _ => self.swallow(),
            },
            State::Text => self.swallow(),
        }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.sgr.clear();
        self.string_bytes = 0;
    }

    fn swallow(&mut self) {
        self.string_bytes += 1;
        if self.string_bytes > STRING_BYTES_MAX {
            self.enter(State::Ground);
        }
    }

    fn escape(&mut self, unit: char, out: &mut Vec<u8>) {
        match unit {
            '[' => self.enter(State::Csi),
            ']' => self.enter(State::Osc),
            'P' | 'X' | '^' | '_' => self.enter(State::Text),
            '\x20'..='\x2f' => self.enter(State::EscapeIntermediate),
            // Terminals execute controls inside a sequence and then go on with it.
            '\0'..='\x1f' => self.ground(unit, out),
            _ => self.enter(State::Ground),
        }
    }

    fn csi(&mut self, unit: char, out: &mut Vec<u8>) {
        match unit {
            '0'..='9' | ';' | ':' if self.sgr.len() < SGR_BYTES_MAX => self.sgr.push(unit as u8),
            'm' => {
                if self.colour {
                    out.extend_from_slice(b"\x1b[");
                    out.extend_from_slice(&self.sgr);
                    out.push(b'm');
                    self.sgr_active = !matches!(self.sgr.as_slice(), b"" | b"0" | b"00");
                }
                self.enter(State::Ground);
            }
            '\x40'..='\x7e' => self.enter(State::Ground),
            '\0'..='\x1f' => self.ground(unit, out),
            _ => self.enter(State::CsiIgnored),
        }
    }

    fn ground(&mut self, unit: char, out: &mut Vec<u8>) {
        match unit {
            '\n' => {
                self.return_pending = false;
                self.line_empty = true;
                out.push(b'\n');
            }
            '\r' => self.return_pending = !self.line_empty,
            '\t' => self.print('\t', out),
            _ if is_printable(unit) => self.print(unit, out),
            _ => {}
        }
    }

    fn print(&mut self, unit: char, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.return_pending) {
            out.push(b'\n');
        }
        self.line_empty = false;
        out.extend_from_slice(unit.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

/// Neither a control (C0, DEL, C1) nor one of the marks that reorder what a reader sees.
fn is_printable(unit: char) -> bool {
    !unit.is_control() && !matches!(unit, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `text` on one line without any control character: for names, commands and reasons in tables and messages.
pub(crate) fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for unit in text.trim_end().chars() {
        match unit {
            '\n' | '\t' => out.push(' '),
            _ if is_printable(unit) => out.push(unit),
            _ => {}
        }
    }
    out
}

/// Decodes UTF-8 byte by byte; what is not UTF-8 becomes U+FFFD.
#[derive(Debug, Default)]
struct Utf8 {
    bytes: [u8; 4],
    have: usize,
    want: usize,
}

impl Utf8 {
    /// At most two characters: the replacement for a broken one and the one that broke it.
    fn push(&mut self, byte: u8) -> [Option<char>; 2] {
        if self.want > 0 {
            if byte & 0xc0 == 0x80 {
                self.bytes[self.have] = byte;
                self.have += 1;
                return [self.complete(), None];
            }
            self.want = 0;
            return [Some(char::REPLACEMENT_CHARACTER), self.start(byte)];
        }
        [self.start(byte), None]
    }

    fn start(&mut self, byte: u8) -> Option<char> {
        self.want = match byte {
            0x00..=0x7f => return Some(char::from(byte)),
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => return Some(char::REPLACEMENT_CHARACTER),
        };
        self.bytes[0] = byte;
        self.have = 1;
        None
    }

    fn complete(&mut self) -> Option<char> {
        if self.have < self.want {
            return None;
        }
        self.want = 0;
        let text = std::str::from_utf8(&self.bytes[..self.have]).ok();
        Some(text.and_then(|t| t.chars().next()).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn take_incomplete(&mut self) -> bool {
        std::mem::take(&mut self.want) > 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filtered(chunks: &[&[u8]], colour: bool) -> String {
        let mut filter = LogFilter::new(colour);
        let mut out = Vec::new();
        for chunk in chunks {
            filter.push(chunk, &mut out);
        }
        filter.finish(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn colour_passes_and_everything_else_is_dropped() {
        let cases: [(&str, &str); 14] = [
            ("plain\ttext\r\n", "plain\ttext\n"),
            ("\x1b[1;31mred\x1b[0m", "\x1b[1;31mred\x1b[0m"),
            ("\x1b[38:2::1:2:3mx\x1b[m", "\x1b[38:2::1:2:3mx\x1b[m"),
            ("a\x1b[2Jb\x1b[Hc\x1b[?1049hd", "abcd"),
            ("a\x1b]0;title\x07b\x1b]52;c;ZXZpbA==\x1b\\c", "abc"),
            ("a\x1bP+q544e\x1b\\b\x1b_Gpayload\x1b\\c\x1b^pm\x1b\\d\x1bXsos\x1b\\e", "abcde"),
            ("a\u{9b}31mb\u{9d}0;t\u{9c}c\u{90}x\u{9c}d", "a\x1b[31mbcd\x1b[0m"),
            ("a\x08\x07\x0b\x0c\x7fb", "ab"),
            ("\x1b(Ba\x1b=b\x1b>c\x1bMd", "abcd"),
            ("10%\r20%\r\ndone", "10%\n20%\ndone"),
            ("\x1b[?2004h$ ls\r\n\x1b[?2004l\rfile\r\n", "$ ls\nfile\n"),
            ("\x1b[>4;2ma\x1b[?1mb", "ab"),
            ("x\u{202e}y", "xy"),
            ("ünïcödé 日本 🦀", "ünïcödé 日本 🦀"),
        ];
        for (input, expected) in cases {
            assert_eq!(filtered(&[input.as_bytes()], true), expected, "{input:?}");
        }
    }

    #[test]
    fn without_colour_no_escape_is_left() {
        assert_eq!(filtered(&[b"\x1b[31mred\x1b[0m"], false), "red");
    }

    #[test]
    fn colour_is_switched_off_at_the_end() {
        assert_eq!(filtered(&[b"\x1b[31mred"], true), "\x1b[31mred\x1b[0m");
    }

    #[test]
    fn bytes_that_are_not_text_are_shown_as_such() {
        assert_eq!(filtered(&[b"a\xffb\xc3"], true), "a\u{fffd}b\u{fffd}");
        assert_eq!(filtered(&[b"\x9b31m"], true), "\u{fffd}31m");
    }

    #[test]
    fn one_line_keeps_words_apart_and_controls_out() {
        assert_eq!(one_line("a\nb\tc\x1b[31md\r\n"), "a b c[31md");
    }

    /// ESC only as the start of a complete SGR; no C1, no other control but newline and tab.
    fn is_clean(text: &str) -> bool {
        let mut rest = text;
        while let Some(at) = rest.find(|c: char| c.is_control() && c != '\n' && c != '\t') {
            let Some(tail) = rest[at..].strip_prefix("\x1b[") else { return false };
            let end = tail.find(|c: char| !matches!(c, '0'..='9' | ';' | ':'));
            match end {
                Some(end) if tail[end..].starts_with('m') => rest = &tail[end..],
                _ => return false,
            }
        }
        true
    }

    /// Random bytes rarely make a sequence; these pieces make many.
    fn piece() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            any::<Vec<u8>>(),
            prop::sample::select(vec![
                "\x1b", "\x1b[", "[", "]", "31", ";", ":", "m", "\x1b]0;", "\x07", "\x1b\\", "\x1bP",
                "\x1b_", "?", "\u{9b}", "\u{9d}", "\u{90}", "\u{9c}", "\r", "\n", "\t", "\x18", "text", "é",
                "\x1b(", "B",
            ])
            .prop_map(|s| s.as_bytes().to_vec()),
        ]
    }

    proptest! {
        #[test]
        fn whatever_comes_only_colour_escapes(pieces in prop::collection::vec(piece(), 0..40)) {
            let bytes = pieces.concat();
            prop_assert!(is_clean(&filtered(&[&bytes], true)));
            prop_assert!(!filtered(&[&bytes], false).contains('\x1b'));
        }

        #[test]
        fn chunking_changes_nothing(pieces in prop::collection::vec(piece(), 0..20), at in any::<prop::sample::Index>()) {
            let bytes = pieces.concat();
            let at = at.index(bytes.len() + 1);
            prop_assert_eq!(filtered(&[&bytes[..at], &bytes[at..]], true), filtered(&[&bytes], true));
        }
    }
}
