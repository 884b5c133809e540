//! Line drawing as old programs do it (VT100 character sets), turned into the characters that are meant: an emulator that
//! knows UTF-8 only would show `lqqk` for the upper edge of a box.

/// What 0x60 to 0x7e stand for in the line drawing set.
const DRAWN: [char; 31] = [
    '◆', '▒', '␉', '␌', '␍', '␊', '°', '±', '␤', '␋', '┘', '┐', '┌', '└', '┼', '⎺', '⎻', '─', '⎼', '⎽', '├',
    '┤', '┴', '┬', '│', '≤', '≥', 'π', '≠', '£', '·',
];

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Ground,
    Escape,
    /// The next byte names the set for G0 or G1.
    Designate(usize),
    Csi,
    /// OSC, DCS and the like, to their end.
    Text,
    TextEscape,
}

/// The filter of one terminal.
#[derive(Debug, Clone, Default)]
pub(crate) struct Graphics {
    state: State,
    /// Whether G0 and G1 draw lines.
    drawing: [bool; 2],
    /// G1 is in use.
    shifted: bool,
}

impl Graphics {
    /// The next chunk with its line drawing as UTF-8.
    pub(crate) fn translate(&mut self, chunk: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(chunk.len());
        for byte in chunk {
            self.byte(*byte, &mut out);
        }
        out
    }

    fn byte(&mut self, byte: u8, out: &mut Vec<u8>) {
        match (self.state, byte) {
            (State::Designate(set), _) => {
                self.drawing[set] = byte == b'0';
                self.state = State::Ground;
                return;
            }
            (State::Escape, b'(' | b')') => {
                self.state = State::Designate(usize::from(byte == b')'));
                return;
            }
            (State::Ground, 0x0e | 0x0f) => {
                self.shifted = byte == 0x0e;
                return;
            }
            (State::Ground, 0x60..=0x7e) if self.drawing[usize::from(self.shifted)] => {
                let drawn = DRAWN[usize::from(byte - 0x60)];
                out.extend_from_slice(drawn.encode_utf8(&mut [0; 4]).as_bytes());
                return;
            }
            // Held until what follows says that it is no designation.
            (State::Ground, 0x1b) => {
                self.state = State::Escape;
                return;
            }
            (State::Escape, _) => out.push(0x1b),
            _ => {}
        }
        self.state = match (self.state, byte) {
            (State::Escape, b'[') => State::Csi,
            (State::Escape, b']' | b'P' | b'_' | b'^' | b'X') => State::Text,
            (State::Csi, 0x40..=0x7e) | (State::Text, 0x07) | (State::TextEscape, b'\\') => State::Ground,
            (State::Text | State::TextEscape, 0x1b) => State::TextEscape,
            (State::Text | State::TextEscape, _) => State::Text,
            (State::Csi, _) => State::Csi,
            _ => State::Ground,
        };
        out.push(byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_are_drawn_and_everything_else_passes() {
        let mut graphics = Graphics::default();
        let mut shown = |chunk: &str| String::from_utf8(graphics.translate(chunk.as_bytes())).unwrap();
        assert_eq!(
            shown("lqk \u{6f22}\x1b[31mq\x1b]0;title q\x07"),
            "lqk \u{6f22}\x1b[31mq\x1b]0;title q\x07"
        );
        assert_eq!(shown("\x1b(0lq\x1b[1mk"), "┌─\x1b[1m┐");
        assert_eq!(shown("\x1b]0;lq\x1b\\x\x1b(Bx"), "\x1b]0;lq\x1b\\│x");
        assert_eq!(shown("\x1b)0a\x0ea\x0fa"), "a▒a");
        assert_eq!((shown("\x1b"), shown("Mq")), (String::new(), "\x1bMq".to_owned()), "cut in two");
    }

    #[test]
    fn a_designation_cut_in_two_leaves_nothing_behind() {
        let mut graphics = Graphics::default();
        for piece in ["\x1b", "(", "0"] {
            assert!(graphics.translate(piece.as_bytes()).is_empty());
        }
        assert_eq!(graphics.translate(b"x"), "│".as_bytes());
    }
}
