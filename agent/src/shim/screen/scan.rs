//! Cuts a program's output into text, controls and whole escape sequences, across any chunking.
//!
//! What is not whole yet stays here, so that the emulator behind always stands between two sequences: a snapshot plus
//! the held bytes is the exact state. Follows the state machine of `vte` (which the emulator uses): C0 controls inside
//! a sequence act at once, CAN and SUB abort, ESC restarts, bytes above 0x7f are text only outside of sequences.

/// Longest CSI or ESC sequence kept: the longest legitimate ones (SGR with many colours) stay below 300 bytes.
const SEQUENCE_MAX: usize = 1024;

/// Longest OSC or DCS string kept; longer ones (clipboard, images) pass by without being looked at.
const STRING_MAX: usize = 4096;

/// One element of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// Printable bytes, whole UTF-8 characters as far as they are valid.
    Text(&'a [u8]),
    Control(u8),
    /// Everything after ESC: intermediates, then the final byte.
    Escape(&'a [u8]),
    /// Everything after ESC [: parameters, intermediates, final byte.
    Csi(&'a [u8]),
    /// Content, and whether BEL ended it.
    Osc(&'a [u8], bool),
    Dcs(&'a [u8]),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ground,
    Utf8,
    Escape,
    Csi,
    Osc,
    Dcs,
    /// SOS, PM, APC: ignored up to the terminator.
    Ignored,
}

/// The scanner; see the module.
#[derive(Debug)]
pub(super) struct Scanner {
    state: State,
    /// The unfinished sequence from its ESC on (or the unfinished character).
    held: Vec<u8>,
    /// The unfinished sequence outgrew its bound; `held` is only its beginning.
    overlong: bool,
}

impl Default for Scanner {
    fn default() -> Self {
        Self { state: State::Ground, held: Vec::new(), overlong: false }
    }
}

impl Scanner {
    /// Scans `input` and hands every whole element to `sink`, in order.
    pub(super) fn scan(&mut self, input: &[u8], mut sink: impl FnMut(Token<'_>)) {
        let mut at = 0;
        while at < input.len() {
            at = match self.state {
                State::Ground => self.ground(input, at, &mut sink),
                State::Utf8 => self.character(input, at, &mut sink),
                _ => self.sequence(input, at, &mut sink),
            };
        }
    }

    /// Bytes that belong to an unfinished element: sent after a snapshot they put a viewer's terminal into this state.
    #[must_use]
    pub(super) fn held(&self) -> Vec<u8> {
        if !self.overlong {
            return self.held.clone();
        }
        // The middle of an overlong string is not kept. A string of the same kind with a number nobody uses swallows
        // the rest of it.
        match self.state {
            State::Osc => b"\x1b]99999;".to_vec(),
            State::Dcs => b"\x1bP99999z".to_vec(),
            State::Ignored => b"\x1b_".to_vec(),
            _ => self.held.clone(),
        }
    }

    fn ground(&mut self, input: &[u8], at: usize, sink: &mut impl FnMut(Token<'_>)) -> usize {
        let byte = input[at];
        if byte == 0x1b {
            self.begin();
            return at + 1;
        }
        if is_control(byte) {
            sink(Token::Control(byte));
            return at + 1;
        }
        let end = input[at..].iter().position(|byte| is_control(*byte)).map_or(input.len(), |n| at + n);
        let tail = if end == input.len() { unfinished_tail(&input[at..]) } else { 0 };
        if at < end - tail {
            sink(Token::Text(&input[at..end - tail]));
        }
        if tail > 0 {
            self.held.extend_from_slice(&input[end - tail..]);
            self.state = State::Utf8;
        }
        end
    }

    /// Completes a character whose first bytes came in an earlier chunk.
    fn character(&mut self, input: &[u8], at: usize, sink: &mut impl FnMut(Token<'_>)) -> usize {
        let mut next = at;
        if input[at] & 0xc0 == 0x80 {
            self.held.push(input[at]);
            next += 1;
            if unfinished_tail(&self.held) == self.held.len() {
                return next;
            }
        }
        sink(Token::Text(&self.held));
        self.reset();
        next
    }

    fn sequence(&mut self, input: &[u8], at: usize, sink: &mut impl FnMut(Token<'_>)) -> usize {
        let byte = input[at];
        match (self.state, byte) {
            (_, 0x18 | 0x1a) => self.reset(),
            (State::Osc, 0x07) => self.finish(sink, true),
            (_, 0x1b) => {
                self.finish(sink, false);
                self.begin();
            }
            (State::Osc | State::Dcs | State::Ignored, _) => return self.string(input, at),
            (_, 0x00..=0x1f) => sink(Token::Control(byte)),
            (_, 0x7f..=0xff) => {}
            (State::Escape, _) => self.escape(byte, sink),
            (_, 0x40..=0x7e) => {
                self.hold(byte, SEQUENCE_MAX);
                self.finish(sink, false);
            }
            _ => self.hold(byte, SEQUENCE_MAX),
        }
        at + 1
    }

    fn escape(&mut self, byte: u8, sink: &mut impl FnMut(Token<'_>)) {
        self.hold(byte, SEQUENCE_MAX);
        if byte < 0x30 {
            return;
        }
        self.state = match (self.held.len(), byte) {
            (2, b'[') => State::Csi,
            (2, b']') => State::Osc,
            (2, b'P') => State::Dcs,
            (2, b'X' | b'^' | b'_') => State::Ignored,
            _ => {
                if !self.overlong {
                    sink(Token::Escape(&self.held[1..]));
                }
                self.reset();
                return;
            }
        };
    }

    /// Takes the run of string bytes up to something that may end it.
    fn string(&mut self, input: &[u8], at: usize) -> usize {
        let ends = |byte: &u8| matches!(byte, 0x07 | 0x18 | 0x1a | 0x1b);
        let run = input[at..].iter().position(ends).unwrap_or(input.len() - at).max(1);
        let room = STRING_MAX.saturating_sub(self.held.len());
        self.held.extend_from_slice(&input[at..at + run.min(room)]);
        self.overlong |= run > room;
        at + run
    }

    fn hold(&mut self, byte: u8, max: usize) {
        if self.held.len() < max {
            self.held.push(byte);
        } else {
            self.overlong = true;
        }
    }

    fn begin(&mut self) {
        self.held.clear();
        self.held.push(0x1b);
        self.overlong = false;
        self.state = State::Escape;
    }

    /// Hands over a finished sequence. ESC ends strings; it drops an unfinished CSI or ESC.
    fn finish(&mut self, sink: &mut impl FnMut(Token<'_>), bel: bool) {
        if !self.overlong && self.held.len() >= 2 {
            let body = &self.held[2..];
            match self.state {
                State::Csi if body.last().is_some_and(|byte| (0x40..=0x7e).contains(byte)) => {
                    sink(Token::Csi(body))
                }
                State::Osc => sink(Token::Osc(body, bel)),
                State::Dcs => sink(Token::Dcs(body)),
                _ => {}
            }
        }
        self.reset();
    }

    fn reset(&mut self) {
        self.held.clear();
        // A long string must not keep its buffer for the life of the runner.
        self.held.shrink_to(64);
        self.overlong = false;
        self.state = State::Ground;
    }
}

const fn is_control(byte: u8) -> bool {
    byte < 0x20 || byte == 0x7f
}

/// Length of an unfinished UTF-8 character at the end of `text` (0 when it ends on a boundary or is invalid anyway).
fn unfinished_tail(text: &[u8]) -> usize {
    for back in 1..=text.len().min(3) {
        let byte = text[text.len() - back];
        let need = match byte {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            0x80..=0xbf => continue,
            _ => return 0,
        };
        return if back < need { back } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(chunks: &[&[u8]]) -> Vec<String> {
        let mut scanner = Scanner::default();
        let mut out: Vec<String> = Vec::new();
        for chunk in chunks {
            scanner.scan(chunk, |token| match token {
                Token::Text(text) => {
                    let text = String::from_utf8_lossy(text).into_owned();
                    match out.last_mut() {
                        Some(last) if last.starts_with("T:") => last.push_str(&text),
                        _ => out.push(format!("T:{text}")),
                    }
                }
                Token::Control(byte) => out.push(format!("C:{byte}")),
                Token::Escape(body) => out.push(format!("E:{}", String::from_utf8_lossy(body))),
                Token::Csi(body) => out.push(format!("[:{}", String::from_utf8_lossy(body))),
                Token::Osc(body, bel) => out.push(format!("]:{}:{bel}", String::from_utf8_lossy(body))),
                Token::Dcs(body) => out.push(format!("P:{}", String::from_utf8_lossy(body))),
            });
        }
        out
    }

    const SAMPLE: &[u8] = "a\u{e9}\u{1f600}b\r\n\x1b[1;31mred\x1b]2;title\x07\x1b]11;?\x1b\\\x1bP$q q\x1b\\\x1b(0\x1b7x\x1b[3\n4Hy".as_bytes();

    #[test]
    fn elements_come_out_whole() {
        let expected = [
            "T:a\u{e9}\u{1f600}b",
            "C:13",
            "C:10",
            "[:1;31m",
            "T:red",
            "]:2;title:true",
            "]:11;?:false",
            "E:\\",
            "P:$q q",
            "E:\\",
            "E:(0",
            "E:7",
            "T:x",
            "C:10",
            "[:34H",
            "T:y",
        ];
        assert_eq!(tokens(&[SAMPLE]), expected);
    }

    #[test]
    fn chunking_changes_nothing() {
        let whole = tokens(&[SAMPLE]);
        for size in 1..SAMPLE.len() {
            let chunks: Vec<&[u8]> = SAMPLE.chunks(size).collect();
            assert_eq!(tokens(&chunks), whole, "chunks of {size}");
        }
    }

    #[test]
    fn an_endless_string_holds_little_and_swallows_its_rest() {
        let mut scanner = Scanner::default();
        scanner.scan(b"\x1b]52;c;", |_| {});
        for _ in 0..1000 {
            scanner.scan(&[b'A'; 1000], |token| panic!("{token:?}"));
        }
        assert!(scanner.held.len() <= STRING_MAX);
        assert_eq!(scanner.held(), b"\x1b]99999;");
        let mut rest = Vec::new();
        scanner.scan(b"AA\x07after", |token| rest.push(format!("{token:?}")));
        assert_eq!(rest.len(), 1);
        assert!(scanner.held().is_empty());
    }

    #[test]
    fn what_is_held_finishes_the_sequence_elsewhere() {
        let mut scanner = Scanner::default();
        scanner.scan(b"text\x1b[1;3", |_| {});
        assert_eq!(scanner.held(), b"\x1b[1;3");
        scanner.scan(b"1m\xe2\x82", |_| {});
        assert_eq!(scanner.held(), b"\xe2\x82");
    }
}
