//! What a program sets once and expects to stay set: the mode latch. The emulator keeps the cells; a viewer that
//! attaches later also needs the modes, or its keyboard, mouse, paste and redraw break.

use std::collections::BTreeSet;

use super::csi::Csi;

/// Private modes (`CSI ? n h`) that are restored on attach, with whether they are set in a fresh terminal.
/// Order is the order in which they are sent: encodings before the mouse modes that use them.
const PRIVATE: &[(u16, bool)] = &[
    (1, false),    // application cursor keys
    (5, false),    // reverse video
    (12, false),   // blinking cursor
    (45, false),   // reverse wraparound
    (66, false),   // application keypad
    (67, false),   // backarrow sends backspace
    (1005, false), // mouse encodings
    (1006, false),
    (1015, false),
    (1016, false),
    (9, false), // mouse modes
    (1000, false),
    (1002, false),
    (1003, false),
    (1004, false), // focus reports
    (1007, false), // wheel sends arrows on the alternate screen
    (1036, true),  // meta sends escape
    (2004, false), // bracketed paste
    (2031, false), // colour scheme reports
    (2048, false), // in-band resize reports
];

/// Modes handled apart because they change how the snapshot itself is drawn.
pub(super) const ORIGIN: u16 = 6;
pub(super) const AUTOWRAP: u16 = 7;
pub(super) const CURSOR_VISIBLE: u16 = 25;
pub(super) const SYNC: u16 = 2026;

/// ANSI modes.
pub(super) const INSERT: u16 = 4;
pub(super) const NEWLINE: u16 = 20;

/// Depth of the kitty keyboard stack; the protocol lets terminals bound it, the oldest entry goes.
const KITTY_MAX: usize = 16;

/// Longest title kept, in bytes.
const TITLE_MAX: usize = 1024;

/// The latch. `Default` is a terminal just switched on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Modes {
    /// Private modes that differ from their default.
    flipped: BTreeSet<u16>,
    /// Private modes the program ever set or reset: only these are sent, the others are the viewer's own business.
    touched: BTreeSet<u16>,
    ansi: BTreeSet<u16>,
    pub(super) title: String,
    /// DECSCUSR value, once there was one.
    pub(super) cursor_style: Option<u16>,
    pub(super) keypad: bool,
    /// xterm modifyOtherKeys (resource 4).
    pub(super) modify_other_keys: u16,
    kitty: [Vec<u16>; 2],
    kitty_used: bool,
    modify_used: bool,
    /// Scroll region, zero based and inclusive, when it is not the whole screen.
    pub(super) region: Option<(u16, u16)>,
    pub(super) charsets: Charsets,
    /// What DECSC kept, on the main and on the alternate screen.
    pub(super) saved: [Option<Saved>; 2],
}

/// A saved cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Saved {
    /// Zero based.
    pub(super) position: (u16, u16),
    /// The sequences that set its attributes.
    pub(super) attributes: String,
    pub(super) charsets: Charsets,
}

/// Which of G0 and G1 draw lines, and which is shifted in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Charsets {
    pub(super) lines: [bool; 2],
    pub(super) shifted: bool,
}

impl Charsets {
    /// Sequences that set both sets and the shift, whatever they were.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        for (set, lines) in [(b'(', self.lines[0]), (b')', self.lines[1])] {
            out.extend_from_slice(&[0x1b, set, if lines { b'0' } else { b'B' }]);
        }
        out.push(if self.shifted { 0x0e } else { 0x0f });
    }

    /// Whether printed ASCII means line drawing now.
    #[must_use]
    pub(super) const fn drawing(self) -> bool {
        self.lines[self.shifted as usize]
    }
}

impl Modes {
    /// Whether a private mode is set now.
    #[must_use]
    pub(super) fn private(&self, mode: u16) -> bool {
        default_of(mode) != self.flipped.contains(&mode)
    }

    /// Whether an ANSI mode is set now.
    #[must_use]
    pub(super) fn ansi(&self, mode: u16) -> bool {
        self.ansi.contains(&mode)
    }

    /// Whether a private mode is one that this terminal knows (for DECRQM).
    #[must_use]
    pub(super) fn knows(mode: u16) -> bool {
        let apart = [ORIGIN, AUTOWRAP, CURSOR_VISIBLE, SYNC, 47, 1047, 1049];
        apart.contains(&mode) || PRIVATE.iter().any(|(known, _)| *known == mode)
    }

    /// `CSI ? n h` or `l`.
    pub(super) fn set_private(&mut self, mode: u16, on: bool) {
        let known = [ORIGIN, AUTOWRAP, CURSOR_VISIBLE, SYNC].contains(&mode)
            || PRIVATE.iter().any(|(known, _)| *known == mode);
        if !known {
            return;
        }
        self.touched.insert(mode);
        // One mouse protocol and one encoding at a time, as xterm has it: the last one set counts.
        for group in [&[9u16, 1000, 1002, 1003][..], &[1005, 1006, 1015, 1016][..]] {
            if on && group.contains(&mode) {
                self.flipped.retain(|other| !group.contains(other));
            }
        }
        if on == default_of(mode) {
            self.flipped.remove(&mode);
        } else {
            self.flipped.insert(mode);
        }
    }

    /// `CSI n h` or `l`.
    pub(super) fn set_ansi(&mut self, mode: u16, on: bool) {
        if on && [INSERT, NEWLINE].contains(&mode) {
            self.ansi.insert(mode);
        } else {
            self.ansi.remove(&mode);
        }
    }

    /// OSC 0 and 2.
    pub(super) fn set_title(&mut self, title: &[u8]) {
        let title = String::from_utf8_lossy(&title[..title.len().min(TITLE_MAX)]);
        self.title = title.chars().filter(|c| !c.is_control()).collect();
    }

    /// RIS: everything but what tells which of a viewer's settings we have ever changed.
    pub(super) fn reset(&mut self) {
        *self = Self {
            touched: std::mem::take(&mut self.touched),
            cursor_style: self.cursor_style.map(|_| 0),
            kitty_used: self.kitty_used,
            modify_used: self.modify_used,
            ..Self::default()
        };
    }

    /// DECSTR: what a soft reset puts back.
    pub(super) fn soft_reset(&mut self) {
        for mode in [1, 66, ORIGIN, AUTOWRAP, CURSOR_VISIBLE] {
            self.flipped.remove(&mode);
        }
        self.ansi.remove(&INSERT);
        self.keypad = false;
        self.region = None;
        self.charsets = Charsets::default();
        self.saved = [None, None];
    }

    /// `CSI > f u`, `CSI < n u`, `CSI = f ; m u` of the kitty keyboard protocol, on the stack of the shown screen.
    pub(super) fn kitty(&mut self, csi: &Csi, alternate: bool) {
        self.kitty_used = true;
        let stack = &mut self.kitty[usize::from(alternate)];
        match csi.prefix {
            b'>' => {
                if stack.len() >= KITTY_MAX {
                    stack.remove(0);
                }
                stack.push(csi.param(0));
            }
            b'<' => {
                let keep = stack.len().saturating_sub(usize::from(csi.param_or(0, 1)));
                stack.truncate(keep);
            }
            b'=' => {
                let now = stack.pop().unwrap_or(0);
                stack.push(match csi.param_or(1, 1) {
                    2 => now | csi.param(0),
                    3 => now & !csi.param(0),
                    _ => csi.param(0),
                });
            }
            _ => {}
        }
    }

    /// The keyboard flags in force.
    #[must_use]
    pub(super) fn kitty_flags(&self, alternate: bool) -> u16 {
        self.kitty[usize::from(alternate)].last().copied().unwrap_or(0)
    }

    /// `CSI > 4 ; n m`.
    pub(super) const fn set_modify_other_keys(&mut self, value: u16) {
        self.modify_used = true;
        self.modify_other_keys = value;
    }

    /// Sequences that bring any terminal's keyboard stack into this state; before and after switching screens.
    pub(super) fn write_kitty(&self, alternate: bool, out: &mut Vec<u8>) {
        if !self.kitty_used {
            return;
        }
        out.extend_from_slice(format!("\x1b[<{KITTY_MAX}u").as_bytes());
        for flags in &self.kitty[usize::from(alternate)] {
            out.extend_from_slice(format!("\x1b[>{flags}u").as_bytes());
        }
    }

    /// Every mode the program ever touched and that does not change how the snapshot is drawn, set or reset explicitly:
    /// a viewer that fell behind may have any of them left over.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let touched = || PRIVATE.iter().map(|(mode, _)| *mode).filter(|mode| self.touched.contains(mode));
        for mode in touched().filter(|mode| !self.private(*mode)) {
            out.extend_from_slice(format!("\x1b[?{mode}l").as_bytes());
        }
        for mode in touched().filter(|mode| self.private(*mode)) {
            out.extend_from_slice(format!("\x1b[?{mode}h").as_bytes());
        }
        out.extend_from_slice(if self.keypad { b"\x1b=" } else { b"\x1b>" });
        if let Some(style) = self.cursor_style {
            out.extend_from_slice(format!("\x1b[{style} q").as_bytes());
        }
        if self.modify_used {
            out.extend_from_slice(format!("\x1b[>4;{}m", self.modify_other_keys).as_bytes());
        }
        if !self.title.is_empty() {
            out.extend_from_slice(format!("\x1b]2;{}\x1b\\", self.title).as_bytes());
        }
    }
}

fn default_of(mode: u16) -> bool {
    [AUTOWRAP, CURSOR_VISIBLE].contains(&mode) || PRIVATE.iter().any(|(known, on)| *known == mode && *on)
}

/// The DEC special graphics character of an ASCII byte (VT100 manual, table 3-9), or the byte itself.
#[must_use]
pub(super) const fn line_drawing(byte: u8) -> char {
    const GRAPHICS: [char; 32] = [
        ' ', '\u{25c6}', '\u{2592}', '\u{2409}', '\u{240c}', '\u{240d}', '\u{240a}', '\u{b0}', '\u{b1}',
        '\u{2424}', '\u{240b}', '\u{2518}', '\u{2510}', '\u{250c}', '\u{2514}', '\u{253c}', '\u{23ba}',
        '\u{23bb}', '\u{2500}', '\u{23bc}', '\u{23bd}', '\u{251c}', '\u{2524}', '\u{2534}', '\u{252c}',
        '\u{2502}', '\u{2264}', '\u{2265}', '\u{3c0}', '\u{2260}', '\u{a3}', '\u{b7}',
    ];
    if byte >= 0x5f && byte <= 0x7e { GRAPHICS[(byte - 0x5f) as usize] } else { byte as char }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn csi(body: &str) -> Csi {
        Csi::parse(body.as_bytes()).unwrap()
    }

    #[test]
    fn only_what_was_touched_is_sent() {
        let mut modes = Modes::default();
        for mode in [1004, 2004, 1002, 1006] {
            modes.set_private(mode, true);
        }
        modes.set_private(1003, true);
        let mut out = Vec::new();
        modes.write(&mut out);
        let text = String::from_utf8(out).unwrap();
        for set in ["?1004h", "?2004h", "?1003h", "?1006h", "?1002l"] {
            assert!(text.contains(set), "{set} in {text:?}");
        }
        assert!(!text.contains("?12"), "never touched");
        assert!(!text.contains("?1002h"), "the last mouse mode replaces the one before");
        assert!(text.find("?1006h") < text.find("?1003h"));
        modes.reset();
        let mut out = Vec::new();
        modes.write(&mut out);
        assert!(String::from_utf8(out).unwrap().contains("?1003l"), "switched off where it was on");
    }

    #[test]
    fn the_keyboard_stack_is_per_screen_and_bounded() {
        let mut modes = Modes::default();
        modes.kitty(&csi(">1u"), false);
        for flags in 0..100 {
            modes.kitty(&csi(&format!(">{flags}u")), true);
        }
        assert_eq!(modes.kitty_flags(false), 1);
        assert_eq!(modes.kitty_flags(true), 99);
        modes.kitty(&csi("=4;2u"), true);
        assert_eq!(modes.kitty_flags(true), 103);
        modes.kitty(&csi("<99u"), true);
        assert_eq!(modes.kitty_flags(true), 0);
    }

    #[test]
    fn line_drawing_covers_the_frame_characters() {
        let drawn: String = "lqkxmj".bytes().map(line_drawing).collect();
        assert_eq!(drawn, "\u{250c}\u{2500}\u{2510}\u{2502}\u{2514}\u{2518}");
        assert_eq!(line_drawing(b'A'), 'A');
    }
}
