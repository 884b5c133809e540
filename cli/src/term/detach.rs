//! Finds the detach keys in what is typed. Pure: bytes in, bytes to send and perhaps "detach" out.
//!
//! Programs may switch the outer terminal to a keyboard protocol that reports Ctrl-] as an escape sequence
//! (kitty's `CSI 93;5u`, xterm's `CSI 27;5;93~`); those spellings count as the same key.

use crate::keys;

/// Ctrl-] then d.
pub(crate) const DEFAULT_KEYS: &str = "ctrl-],d";

/// Longest escape sequence that is looked at as one key.
const SEQUENCE_BYTES_MAX: usize = 24;

/// Modifier bits of the keyboard protocols: control, and the two locks, which mean nothing here.
const MODIFIER_CONTROL: u32 = 4;
const MODIFIER_LOCKS: u32 = 64 | 128;

/// The parser of one attached keyboard.
#[derive(Debug)]
pub(crate) struct DetachParser {
    /// One control or printable character per key.
    keys: Vec<u8>,
    /// How many of them have been typed.
    matched: usize,
    /// What was typed for those, in case they do not end in a detach.
    held: Vec<u8>,
}

/// What came of typed bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Typed {
    /// To send to the runner.
    pub(crate) forward: Vec<u8>,
    /// The detach keys were typed; what came after them is dropped.
    pub(crate) detach: bool,
}

impl DetachParser {
    /// `keys` as `--detach-keys` takes them: key names with commas between.
    ///
    /// # Errors
    /// What is wrong with them, for a person.
    pub(crate) fn new(keys: &str) -> Result<Self, String> {
        let mut parsed = Vec::new();
        for name in keys.split(',') {
            match keys::bytes(name.trim())?.as_slice() {
                [byte] if byte.is_ascii() && *byte != 0x1b => parsed.push(*byte),
                _ => return Err(format!("\"{name}\" cannot be a detach key; use a character or ctrl-X")),
            }
        }
        Ok(Self { keys: parsed, matched: 0, held: Vec::new() })
    }

    /// Takes typed bytes.
    pub(crate) fn push(&mut self, typed: &[u8]) -> Typed {
        let mut forward = Vec::with_capacity(typed.len());
        let mut rest = typed;
        while !rest.is_empty() {
            let (bytes, key) = next_key(rest);
            rest = &rest[bytes.len()..];
            if self.key(bytes, key, &mut forward) {
                return Typed { forward, detach: true };
            }
        }
        Typed { forward, detach: false }
    }

    /// Takes one key; true when it completes the detach keys.
    fn key(&mut self, bytes: &[u8], key: Key, forward: &mut Vec<u8>) -> bool {
        let Key::Pressed(key) = key else {
            // A key's release says nothing new; it goes where its press went.
            if self.matched == 0 {
                forward.extend_from_slice(bytes)
            } else {
                self.held.extend_from_slice(bytes)
            }
            return false;
        };
        if key == Some(self.keys[self.matched]) {
            self.matched += 1;
            if self.matched == self.keys.len() {
                return true;
            }
            self.held.extend_from_slice(bytes);
            return false;
        }
        let prefix_typed_twice = self.matched == 1 && key == Some(self.keys[0]);
        forward.append(&mut self.held);
        self.matched = 0;
        if prefix_typed_twice {
            // The prefix twice sends it once, so that programs that use it stay reachable.
            return false;
        }
        if key == Some(self.keys[0]) && self.keys.len() > 1 {
            self.matched = 1;
            self.held.extend_from_slice(bytes);
        } else {
            forward.extend_from_slice(bytes);
        }
        false
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    /// The character a plain terminal would have sent, when it is a single one.
    Pressed(Option<u8>),
    Released,
}

/// Cuts the first key off `typed`: a byte, or a whole escape sequence of a keyboard protocol.
fn next_key(typed: &[u8]) -> (&[u8], Key) {
    if let Some(length) = sequence_length(typed)
        && let Some(key) = protocol_key(&typed[2..length])
    {
        return (&typed[..length], key);
    }
    (&typed[..1], Key::Pressed(Some(typed[0])))
}

/// The length of the complete CSI sequence at the start of `typed`.
fn sequence_length(typed: &[u8]) -> Option<usize> {
    let body = typed.strip_prefix(b"\x1b[")?;
    let end = body.iter().take(SEQUENCE_BYTES_MAX).position(|b| !matches!(b, b'0'..=b'9' | b';' | b':'))?;
    matches!(body[end], b'u' | b'~').then_some(end + 3)
}

/// Reads `<code>[:…][;<modifiers>[:<event>]][;…]u` or `27;<modifiers>;<code>~`.
fn protocol_key(body: &[u8]) -> Option<Key> {
    let (last, parameters) = body.split_last()?;
    let text = std::str::from_utf8(parameters).ok()?;
    let fields: Vec<Vec<u32>> =
        text.split(';').map(|field| field.split(':').map(|n| n.parse().unwrap_or(0)).collect()).collect();
    let at = |field: usize, sub: usize| fields.get(field).and_then(|f| f.get(sub)).copied();
    let (code, modifiers, event) = match last {
        b'u' => (at(0, 0)?, at(1, 0).unwrap_or(1), at(1, 1).unwrap_or(1)),
        b'~' if at(0, 0) == Some(27) => (at(2, 0)?, at(1, 0)?, 1),
        _ => return None,
    };
    if event == 3 {
        return Some(Key::Released);
    }
    let held = modifiers.saturating_sub(1) & !MODIFIER_LOCKS;
    let code = u8::try_from(code).ok().filter(u8::is_ascii);
    Some(Key::Pressed(match (held, code) {
        (0, code) => code,
        (MODIFIER_CONTROL, Some(code)) => Some(code & 0x1f),
        _ => None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(forward: &[u8], detach: bool) -> Typed {
        Typed { forward: forward.to_vec(), detach }
    }

    fn parser() -> DetachParser {
        DetachParser::new(DEFAULT_KEYS).unwrap()
    }

    #[test]
    fn the_prefix_and_d_detach_also_in_two_reads() {
        assert_eq!(parser().push(b"ab\x1ddignored"), typed(b"ab", true));
        let mut split = parser();
        assert_eq!(split.push(b"x\x1d"), typed(b"x", false));
        assert_eq!(split.push(b"d"), typed(b"", true));
    }

    #[test]
    fn another_key_after_the_prefix_sends_both() {
        let mut parser = parser();
        assert_eq!(parser.push(b"\x1dx"), typed(b"\x1dx", false));
        assert_eq!(parser.push(b"d"), typed(b"d", false));
    }

    #[test]
    fn the_prefix_twice_sends_it_once() {
        let mut parser = parser();
        assert_eq!(parser.push(b"\x1d\x1d"), typed(b"\x1d", false));
        assert_eq!(parser.push(b"d"), typed(b"d", false));
    }

    #[test]
    fn escape_and_arrows_pass_at_once() {
        assert_eq!(parser().push(b"\x1b"), typed(b"\x1b", false));
        assert_eq!(parser().push(b"\x1b[A\x1b[3~"), typed(b"\x1b[A\x1b[3~", false));
    }

    #[test]
    fn keyboard_protocols_are_understood() {
        assert_eq!(parser().push(b"\x1b[93;5ud"), typed(b"", true));
        assert_eq!(parser().push(b"\x1b[93;133u\x1b[93;5:3u\x1b[100u"), typed(b"", true));
        assert_eq!(parser().push(b"\x1b[27;5;93~\x1b[100;1u"), typed(b"", true));
        assert_eq!(parser().push(b"\x1b[97;5u"), typed(b"\x1b[97;5u", false));
        assert_eq!(parser().push(b"\x1b[93;6ud"), typed(b"\x1b[93;6ud", false));
    }

    #[test]
    fn other_keys_can_be_chosen() {
        let mut docker = DetachParser::new("ctrl-p,ctrl-q").unwrap();
        assert_eq!(docker.push(b"a\x10b"), typed(b"a\x10b", false));
        assert_eq!(docker.push(b"\x10\x11"), typed(b"", true));
        let mut single = DetachParser::new("ctrl-q").unwrap();
        assert_eq!(single.push(b"ab\x11"), typed(b"ab", true));
        for bad in ["", "up", "esc", "ctrl-],", "é"] {
            assert!(DetachParser::new(bad).is_err(), "{bad}");
        }
    }
}
