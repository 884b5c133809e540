//! Answers to what programs ask their terminal. The shim answers always and alone: with nobody attached a program
//! would otherwise hang at its start, and with several viewers it would get several answers.

use super::csi::Csi;
use super::modes::{INSERT, Modes, NEWLINE};

/// Primary device attributes: a VT220 with colour, what every program understands.
const DEVICE_ATTRIBUTES: &str = "\x1b[?62;22c";

/// Secondary device attributes: xterm's type, a patch level from which programs use SGR mouse reports.
const SECONDARY_ATTRIBUTES: &str = "\x1b[>41;354;0c";

/// Foreground, background and cursor colours that are told: light on black, as most terminals are set up.
const COLOURS: [(&str, &str); 3] =
    [("10", "rgb:c0c0/c0c0/c0c0"), ("11", "rgb:0000/0000/0000"), ("12", "rgb:c0c0/c0c0/c0c0")];

/// What the emulator knows at the moment of a question.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    pub(super) rows: u16,
    pub(super) cols: u16,
    /// Zero based; the column may be one past the last (pending wrap).
    pub(super) cursor: (u16, u16),
    pub(super) alternate: bool,
}

/// The answer to a control sequence, if it is a question.
#[must_use]
pub(super) fn csi(csi: &Csi, modes: &Modes, facts: Facts) -> Option<String> {
    match (csi.prefix, csi.intermediate, csi.action) {
        (0, 0, b'c') if csi.param(0) == 0 => Some(DEVICE_ATTRIBUTES.into()),
        (b'>', 0, b'c') if csi.param(0) == 0 => Some(SECONDARY_ATTRIBUTES.into()),
        (0, 0, b'n') => status(csi.param(0), modes, facts),
        (b'?', 0, b'n') => private_status(csi.param(0), modes, facts),
        (b'>', 0, b'q') if csi.param(0) == 0 => {
            Some(format!("\x1bP>|stratavore({})\x1b\\", env!("CARGO_PKG_VERSION")))
        }
        // With a parameter it is an answer; a terminal that echoes must not make us talk to ourselves.
        (b'?', 0, b'u') if csi.params.is_empty() => {
            Some(format!("\x1b[?{}u", modes.kitty_flags(facts.alternate)))
        }
        (b'?', 0, b'm') if csi.param(0) == 4 => Some(format!("\x1b[>4;{}m", modes.modify_other_keys)),
        (b'?', b'$', b'p') => {
            let mode = csi.param(0);
            Some(format!("\x1b[?{mode};{}$y", private_mode(mode, modes, facts)))
        }
        (0, b'$', b'p') => {
            let mode = csi.param(0);
            let known = [INSERT, NEWLINE].contains(&mode);
            let value = if known { set_or_reset(modes.ansi(mode)) } else { 0 };
            Some(format!("\x1b[{mode};{value}$y"))
        }
        (0, 0, b't') if csi.param(0) == 18 => Some(format!("\x1b[8;{};{}t", facts.rows, facts.cols)),
        _ => None,
    }
}

fn status(what: u16, modes: &Modes, facts: Facts) -> Option<String> {
    match what {
        5 => Some("\x1b[0n".into()),
        6 => Some(position("\x1b[", "", modes, facts)),
        _ => None,
    }
}

fn private_status(what: u16, modes: &Modes, facts: Facts) -> Option<String> {
    match what {
        6 => Some(position("\x1b[?", ";1", modes, facts)),
        // Colour scheme: dark, as the colours above.
        996 => Some("\x1b[?997;1n".into()),
        _ => None,
    }
}

fn position(lead: &str, page: &str, modes: &Modes, facts: Facts) -> String {
    let top = match modes.region {
        Some((top, _)) if modes.private(super::modes::ORIGIN) => top,
        _ => 0,
    };
    let row = facts.cursor.0.saturating_sub(top) + 1;
    let col = facts.cursor.1.min(facts.cols.saturating_sub(1)) + 1;
    format!("{lead}{row};{col}{page}R")
}

fn private_mode(mode: u16, modes: &Modes, facts: Facts) -> u8 {
    match mode {
        47 | 1047 | 1049 => set_or_reset(facts.alternate),
        _ if Modes::knows(mode) => set_or_reset(modes.private(mode)),
        _ => 0,
    }
}

const fn set_or_reset(on: bool) -> u8 {
    if on { 1 } else { 2 }
}

/// The answer to an operating system command, ended as the question was.
#[must_use]
pub(super) fn osc(body: &[u8], bel: bool) -> Option<String> {
    let mut parts = body.split(|byte| *byte == b';');
    let first = std::str::from_utf8(parts.next()?).ok()?;
    let number: u16 = first.parse().ok()?;
    let end = if bel { "\x07" } else { "\x1b\\" };
    // `OSC 10 ; ? ; ?` asks for 10 and 11: each further part means the next colour.
    let mut answer = String::new();
    for (at, part) in (number..).zip(parts) {
        let colour = COLOURS.iter().find(|(name, _)| name.parse() == Ok(at));
        if let (b"?", Some((name, value))) = (part, colour) {
            answer.push_str(&format!("\x1b]{name};{value}{end}"));
        }
    }
    (!answer.is_empty()).then_some(answer)
}

/// The answer to a device control string: settings that are known, and a clear no for all others.
#[must_use]
pub(super) fn dcs(body: &[u8], modes: &Modes, facts: Facts) -> Option<String> {
    if body.starts_with(b"+q") {
        return Some("\x1bP0+r\x1b\\".into());
    }
    let setting = body.strip_prefix(b"$q")?;
    let value = match setting {
        b" q" => format!("{} q", modes.cursor_style.unwrap_or(0)),
        b"r" => {
            let (top, bottom) = modes.region.unwrap_or((0, facts.rows - 1));
            format!("{};{}r", top + 1, bottom + 1)
        }
        b"\"p" => "62;1\"p".into(),
        _ => return Some("\x1bP0$r\x1b\\".into()),
    };
    Some(format!("\x1bP1$r{value}\x1b\\"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: Facts = Facts { rows: 40, cols: 120, cursor: (4, 120), alternate: false };

    fn ask(body: &str) -> Option<String> {
        csi(&Csi::parse(body.as_bytes()).unwrap(), &Modes::default(), FACTS)
    }

    #[test]
    fn questions_are_answered() {
        let expected = [
            ("c", "\x1b[?62;22c"),
            ("0c", "\x1b[?62;22c"),
            ("5n", "\x1b[0n"),
            ("6n", "\x1b[5;120R"),
            ("?6n", "\x1b[?5;120;1R"),
            ("?u", "\x1b[?0u"),
            ("?2026$p", "\x1b[?2026;2$y"),
            ("?25$p", "\x1b[?25;1$y"),
            ("?9999$p", "\x1b[?9999;0$y"),
            ("4$p", "\x1b[4;2$y"),
            ("18t", "\x1b[8;40;120t"),
        ];
        for (question, answer) in expected {
            assert_eq!(ask(question).as_deref(), Some(answer), "{question}");
        }
        assert!(ask(">q").unwrap().starts_with("\x1bP>|stratavore("));
    }

    #[test]
    fn answers_and_settings_are_not_questions() {
        for body in ["?62;22c", "1m", "2J", "5;120R", "?25h", "8;40;120t", "21t", ">1u", "?0u"] {
            assert_eq!(ask(body), None, "{body}");
        }
        assert_eq!(osc(b"11;rgb:1/1/1", true), None);
        assert_eq!(osc(b"2;?", true), None);
        assert_eq!(osc(b"nonsense", true), None);
    }

    #[test]
    fn colours_are_told_with_the_same_terminator() {
        assert_eq!(osc(b"11;?", true).unwrap(), "\x1b]11;rgb:0000/0000/0000\x07");
        assert_eq!(osc(b"10;?", false).unwrap(), "\x1b]10;rgb:c0c0/c0c0/c0c0\x1b\\");
        assert_eq!(osc(b"10;?;?", true).unwrap().matches("rgb:").count(), 2);
    }

    #[test]
    fn unknown_settings_get_a_no() {
        let modes = Modes::default();
        assert_eq!(dcs(b"$q q", &modes, FACTS).unwrap(), "\x1bP1$r0 q\x1b\\");
        assert_eq!(dcs(b"$qm", &modes, FACTS).unwrap(), "\x1bP0$r\x1b\\");
        assert_eq!(dcs(b"+q544e", &modes, FACTS).unwrap(), "\x1bP0+r\x1b\\");
        assert_eq!(dcs(b"0;1|17/ab", &modes, FACTS), None);
    }
}
