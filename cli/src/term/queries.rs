//! Takes questions to the terminal out of a runner's output. The runner's own screen has answered them already;
//! if the outer terminal answered too, its answer would arrive as typed text.
//!
//! A pure state machine over bytes; on its way it notes the modes that decide how the outer terminal is left.

/// A sequence longer than this is passed on as it is: no question is that long.
const SEQUENCE_BYTES_MAX: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ground,
    Escape,
    Csi,
    /// OSC, DCS or APC, the byte says which; held until it ends or is too long to be a question.
    Text(u8),
    TextEscape(u8),
    /// The rest of a control string too long to be held.
    Passing,
    PassingEscape,
}

/// The filter of one attached terminal.
#[derive(Debug)]
pub(crate) struct QueryFilter {
    state: State,
    held: Vec<u8>,
    modes: Modes,
}

/// Modes that decide how the outer terminal is left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Modes {
    /// The alternate screen is on.
    pub(crate) alternate: bool,
    /// The cursor is counted from the scroll region's top.
    pub(crate) origin: bool,
}

impl Default for QueryFilter {
    fn default() -> Self {
        Self { state: State::Ground, held: Vec::new(), modes: Modes::default() }
    }
}

impl QueryFilter {
    /// Filters the next chunk into `out`. An incomplete sequence at its end is held until the next.
    pub(crate) fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        let mut rest = chunk;
        while let Some((&byte, tail)) = rest.split_first() {
            if self.state == State::Ground {
                // Text is by far the most: it passes in whole runs.
                let run = rest.iter().position(|b| matches!(b, 0x1b | 0x05)).unwrap_or(rest.len());
                out.extend_from_slice(&rest[..run]);
                rest = &rest[run..];
                if run > 0 {
                    continue;
                }
            }
            rest = tail;
            self.byte(byte, out);
        }
    }

    /// What the output has switched on.
    pub(crate) fn modes(&self) -> Modes {
        self.modes
    }

    fn byte(&mut self, byte: u8, out: &mut Vec<u8>) {
        match self.state {
            State::Ground => match byte {
                0x1b => self.hold(byte, State::Escape, out),
                // ENQ asks for the answerback string.
                0x05 => {}
                _ => out.push(byte),
            },
            State::Escape => match byte {
                b'[' => self.hold(byte, State::Csi, out),
                b']' | b'P' | b'_' => self.hold(byte, State::Text(byte), out),
                // DECID asks who the terminal is.
                b'Z' => self.drop_held(),
                0x1b => {
                    out.append(&mut self.held);
                    self.hold(byte, State::Escape, out);
                }
                _ => self.pass(byte, out),
            },
            State::Csi => match byte {
                0x40..=0x7e => {
                    self.held.push(byte);
                    self.note_modes();
                    if is_csi_query(&self.held[2..]) { self.drop_held() } else { self.release(out) }
                }
                0x1b => {
                    out.append(&mut self.held);
                    self.hold(byte, State::Escape, out);
                }
                0x18 | 0x1a => self.pass(byte, out),
                _ => self.hold(byte, State::Csi, out),
            },
            State::Text(kind) => match byte {
                0x07 if kind == b']' => self.end_of_text(byte, kind, out),
                0x1b => self.hold(byte, State::TextEscape(kind), out),
                0x18 | 0x1a => self.pass(byte, out),
                _ => self.hold(byte, State::Text(kind), out),
            },
            State::TextEscape(kind) => match byte {
                b'\\' => self.end_of_text(byte, kind, out),
                _ => {
                    // ESC ended the string and begins something new.
                    self.held.pop();
                    out.append(&mut self.held);
                    self.held.push(0x1b);
                    self.state = State::Escape;
                    self.byte(byte, out);
                }
            },
            State::Passing => {
                out.push(byte);
                match byte {
                    0x07 | 0x18 | 0x1a => self.state = State::Ground,
                    0x1b => self.state = State::PassingEscape,
                    _ => {}
                }
            }
            State::PassingEscape => {
                out.push(byte);
                self.state = if byte == b'\\' { State::Ground } else { State::Passing };
            }
        }
    }

    fn hold(&mut self, byte: u8, state: State, out: &mut Vec<u8>) {
        self.held.push(byte);
        self.state = state;
        if self.held.len() > SEQUENCE_BYTES_MAX {
            let text = matches!(state, State::Text(_) | State::TextEscape(_));
            self.release(out);
            if text {
                self.state = if byte == 0x1b { State::PassingEscape } else { State::Passing };
            }
        }
    }

    fn pass(&mut self, byte: u8, out: &mut Vec<u8>) {
        self.held.push(byte);
        self.release(out);
    }

    fn release(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.held);
        self.state = State::Ground;
    }

    fn drop_held(&mut self) {
        self.held.clear();
        self.state = State::Ground;
    }

    fn end_of_text(&mut self, byte: u8, kind: u8, out: &mut Vec<u8>) {
        self.held.push(byte);
        let body_end = if byte == 0x07 { 1 } else { 2 };
        let body = &self.held[2..self.held.len() - body_end];
        if is_text_query(kind, body) { self.drop_held() } else { self.release(out) }
    }

    fn note_modes(&mut self) {
        let Some(body) = self.held[2..].strip_prefix(b"?") else { return };
        let Some((last, parameters)) = body.split_last() else { return };
        if !matches!(last, b'h' | b'l') {
            return;
        }
        for mode in parameters.split(|b| *b == b';') {
            match mode {
                b"47" | b"1047" | b"1049" => self.modes.alternate = *last == b'h',
                b"6" => self.modes.origin = *last == b'h',
                _ => {}
            }
        }
    }
}

/// `body` is what stands between `ESC [` and the end, final byte included.
fn is_csi_query(body: &[u8]) -> bool {
    let Some((last, parameters)) = body.split_last() else { return false };
    match last {
        // DA1, DA2, DA3: who are you.
        b'c' => true,
        // DSR: where is the cursor, are you well, which colour scheme.
        b'n' => !parameters.starts_with(b">"),
        // XTVERSION; without the mark it sets the LEDs or the cursor's shape.
        b'q' => parameters.starts_with(b">"),
        // DECRQM: how is this mode.
        b'p' => parameters.ends_with(b"$"),
        // Kitty keyboard: which flags; without the question mark it restores the cursor or sets flags.
        b'u' => parameters == b"?",
        // XTQMODKEYS.
        b'm' => parameters.starts_with(b"?"),
        // DECREQTPARM and DECRQCRA's kin.
        b'x' => !parameters.ends_with(b"$") && !parameters.ends_with(b"*"),
        b'y' => parameters.ends_with(b"*"),
        b'w' => parameters.ends_with(b"$"),
        // XTWINOPS: reports begin at 11; 22 and 23 push and pop the title.
        b't' => {
            let first = parameters.split(|b| *b == b';').next().unwrap_or_default();
            matches!(first, b"11" | b"13" | b"14" | b"15" | b"16" | b"18" | b"19" | b"20" | b"21")
        }
        // XTSMGRAPHICS reads attributes.
        b'S' => parameters.starts_with(b"?"),
        _ => false,
    }
}

/// OSC with a question mark for a value, DECRQSS and XTGETTCAP, kitty's graphics queries.
fn is_text_query(kind: u8, body: &[u8]) -> bool {
    match kind {
        b']' => body.split(|b| *b == b';').skip(1).any(|field| field == b"?"),
        b'P' => body.starts_with(b"$q") || body.starts_with(b"+q"),
        _ => {
            body.starts_with(b"G")
                && body.split(|b| matches!(b, b',' | b';' | b'G')).any(|field| field == b"a=q")
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filtered(chunks: &[&[u8]]) -> Vec<u8> {
        let mut filter = QueryFilter::default();
        let mut out = Vec::new();
        for chunk in chunks {
            filter.push(chunk, &mut out);
        }
        out
    }

    #[test]
    fn questions_are_dropped() {
        for query in [
            "\x1b[c",
            "\x1b[0c",
            "\x1b[>c",
            "\x1b[=c",
            "\x1b[6n",
            "\x1b[5n",
            "\x1b[?6n",
            "\x1b[?996n",
            "\x1b[>q",
            "\x1b[>0q",
            "\x1b[?2026$p",
            "\x1b[4$p",
            "\x1b[?u",
            "\x1b[14t",
            "\x1b[18t",
            "\x1b[21t",
            "\x1b[?4m",
            "\x1b]10;?\x07",
            "\x1b]11;?\x1b\\",
            "\x1b]4;1;?\x07",
            "\x1b]52;c;?\x07",
            "\x1bP$qm\x1b\\",
            "\x1bP+q544e\x1b\\",
            "\x1b_Gi=1,a=q,s=1;AAAA\x1b\\",
            "\x1bZ",
            "\x05",
        ] {
            let text = format!("a{query}b");
            assert_eq!(filtered(&[text.as_bytes()]), b"ab", "{query:?}");
            for at in 0..text.len() {
                assert_eq!(
                    filtered(&[&text.as_bytes()[..at], &text.as_bytes()[at..]]),
                    b"ab",
                    "{query:?} at {at}"
                );
            }
        }
    }

    #[test]
    fn everything_else_passes_untouched() {
        for text in [
            "plain",
            "\x1b[31m",
            "\x1b[>4;2m",
            "\x1b[?1049h",
            "\x1b[2 q",
            "\x1b[u",
            "\x1b[>1u",
            "\x1b[<u",
            "\x1b[=1;1u",
            "\x1b[22;0t",
            "\x1b[8;24;80t",
            "\x1b]0;title?\x07",
            "\x1b]8;;http://x/?q\x1b\\",
            "\x1bPq#0\x1b\\",
            "\x1b7",
            "\x1b_Ga=T;AA\x1b\\",
            "\x1b\x1b[A",
            "日本",
            "\x1b(B",
            "\x1b]0;a\x1b[31m",
        ] {
            assert_eq!(filtered(&[text.as_bytes()]), text.as_bytes(), "{text:?}");
        }
    }

    #[test]
    fn a_long_control_string_streams_through() {
        let sixel = format!("\x1bPq{}\x1b\\after", "x".repeat(10_000));
        assert_eq!(filtered(&[sixel.as_bytes()]), sixel.as_bytes());
    }

    #[test]
    fn modes_are_noted() {
        let mut filter = QueryFilter::default();
        let mut out = Vec::new();
        filter.push(b"\x1b[?1049", &mut out);
        assert!(!filter.modes().alternate);
        filter.push(b"h", &mut out);
        assert!(filter.modes().alternate);
        filter.push(b"\x1b[?25;1049l", &mut out);
        assert!(!filter.modes().alternate);
    }

    proptest! {
        #[test]
        fn chunking_changes_nothing(bytes in prop::collection::vec(
            prop::sample::select(b"\x1b[]P_?;:$+q>cnptu0123459mhl\x07\\aG=\x05".to_vec()), 0..200), at: prop::sample::Index) {
            let at = at.index(bytes.len() + 1);
            prop_assert_eq!(filtered(&[&bytes[..at], &bytes[at..]]), filtered(&[&bytes]));
        }

        #[test]
        fn text_without_escapes_is_untouched(text in "[^\x1b\x05]*") {
            prop_assert_eq!(filtered(&[text.as_bytes()]), text.as_bytes());
        }
    }
}
