//! Names of keys and the bytes a terminal sends for them: for `send --key` and `--detach-keys`.

/// Keys with a name, in the form an xterm sends in its normal modes.
const NAMED: [(&str, &str); 34] = [
    ("enter", "\r"),
    ("return", "\r"),
    ("tab", "\t"),
    ("backtab", "\x1b[Z"),
    ("esc", "\x1b"),
    ("escape", "\x1b"),
    ("space", " "),
    ("backspace", "\x7f"),
    ("up", "\x1b[A"),
    ("down", "\x1b[B"),
    ("right", "\x1b[C"),
    ("left", "\x1b[D"),
    ("home", "\x1b[H"),
    ("end", "\x1b[F"),
    ("insert", "\x1b[2~"),
    ("delete", "\x1b[3~"),
    ("pageup", "\x1b[5~"),
    ("pagedown", "\x1b[6~"),
    ("f1", "\x1bOP"),
    ("f2", "\x1bOQ"),
    ("f3", "\x1bOR"),
    ("f4", "\x1bOS"),
    ("f5", "\x1b[15~"),
    ("f6", "\x1b[17~"),
    ("f7", "\x1b[18~"),
    ("f8", "\x1b[19~"),
    ("f9", "\x1b[20~"),
    ("f10", "\x1b[21~"),
    ("f11", "\x1b[23~"),
    ("f12", "\x1b[24~"),
    ("comma", ","),
    ("plus", "+"),
    ("minus", "-"),
    ("caret", "^"),
];

/// Names that completion offers.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    NAMED.iter().map(|(name, _)| *name).chain(["ctrl-c", "ctrl-d", "ctrl-z", "alt-x"])
}

/// The bytes of a key: a name, one character, `ctrl-X` (also `c-x`, `^X`) or `alt-KEY` (also `m-KEY`).
///
/// # Errors
/// What is wrong with the name, for a person.
pub(crate) fn bytes(key: &str) -> Result<Vec<u8>, String> {
    let lower = key.to_ascii_lowercase().replace('_', "-");
    if let Some((_, bytes)) = NAMED.iter().find(|(name, _)| *name == lower) {
        return Ok(bytes.as_bytes().to_vec());
    }
    let mut characters = key.chars();
    if let (Some(only), None) = (characters.next(), characters.next()) {
        return Ok(only.to_string().into_bytes());
    }
    let stripped =
        |prefixes: &[&str]| prefixes.iter().find_map(|p| lower.strip_prefix(p).map(|_| &key[p.len()..]));
    if let Some(rest) = stripped(&["ctrl-", "c-", "^"]) {
        return control(rest).map(|byte| vec![byte]).ok_or_else(|| unknown(key));
    }
    if let Some(rest) = stripped(&["alt-", "meta-", "m-"]) {
        let mut bytes_with_prefix = vec![0x1b];
        bytes_with_prefix.extend(bytes(rest)?);
        return Ok(bytes_with_prefix);
    }
    Err(unknown(key))
}

/// The control character of a key: `ctrl-a` is 1, `ctrl-]` is 29, `ctrl-space` is 0, `ctrl-?` is 127.
fn control(key: &str) -> Option<u8> {
    match key.to_ascii_lowercase().as_str() {
        "space" | "@" => Some(0),
        "?" | "backspace" => Some(0x7f),
        one if one.len() == 1 => match one.as_bytes()[0] {
            letter @ b'a'..=b'z' => Some(letter - b'a' + 1),
            mark @ b'['..=b'_' => Some(mark - b'@'),
            _ => None,
        },
        _ => None,
    }
}

fn unknown(key: &str) -> String {
    format!("\"{key}\" is no key; use enter, tab, esc, space, up, home, f5, ctrl-c, alt-x or one character")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_bytes() {
        let cases: [(&str, &[u8]); 15] = [
            ("enter", b"\r"),
            ("Enter", b"\r"),
            ("esc", b"\x1b"),
            ("UP", b"\x1b[A"),
            ("f5", b"\x1b[15~"),
            ("ctrl-c", b"\x03"),
            ("C-c", b"\x03"),
            ("^C", b"\x03"),
            ("ctrl-]", b"\x1d"),
            ("ctrl-\\", b"\x1c"),
            ("ctrl-space", b"\0"),
            ("alt-x", b"\x1bx"),
            ("alt-enter", b"\x1b\r"),
            ("x", b"x"),
            ("é", "é".as_bytes()),
        ];
        for (name, expected) in cases {
            assert_eq!(bytes(name).unwrap(), expected, "{name}");
        }
    }

    #[test]
    fn unknown_names_are_refused() {
        for name in ["", "enterr", "ctrl-", "ctrl-é", "ctrl-1x", "alt-", "hyper-x"] {
            assert!(bytes(name).is_err(), "{name}");
        }
    }

    #[test]
    fn every_offered_name_works() {
        for name in names() {
            assert!(bytes(name).is_ok(), "{name}");
        }
    }
}
