//! The outer terminal while it is lent to a runner: raw mode, its size, and giving it back.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use stratavore_proto::v1;

use super::queries::Modes;

/// Puts every mode a program may have switched on back to what a shell expects: mouse, focus reports, bracketed
/// paste, synchronised output, cursor keys, keypad, insert mode, wrap, reverse video, kitty keyboard and
/// modifyOtherKeys, cursor shape, scroll region. Nothing in it moves the cursor but the last, which homes it.
const RESET: &[u8] = b"\x1b[?9l\x1b[?1000l\x1b[?1001l\x1b[?1002l\x1b[?1003l\x1b[?1005l\x1b[?1006l\x1b[?1015l\
    \x1b[?1016l\x1b[?1004l\x1b[?2004l\x1b[?2026l\x1b[?2031l\x1b[?1l\x1b>\x1b[4l\x1b[?7h\x1b[?5l\
    \x1b[<99u\x1b[=0u\x1b[>4m\x1b[0 q\x1b[r";

/// Saves and brings back the cursor, and with it colours and character sets.
const SAVE_CURSOR: &[u8] = b"\x1b7";
const RESTORE_CURSOR: &[u8] = b"\x1b8";

/// Colours off, ASCII, cursor shown: after everything that could bring others back.
const PLAIN: &[u8] = b"\x1b[0m\x1b(B\x0f\x1b[?25h";

/// Keeps and brings back the title that the program of the runner may change.
const TITLE_PUSH: &[u8] = b"\x1b[22;0t";
const TITLE_POP: &[u8] = b"\x1b[23;0t";

/// The outer terminal, lent to a runner until this is dropped, also by a panic or a signal.
#[derive(Debug)]
pub(crate) struct LentTerminal {
    input: OwnedFd,
    /// How stdin was found; `None` when it is no terminal and has no modes.
    cooked: Option<Termios>,
    modes: Modes,
    returned: bool,
}

impl LentTerminal {
    /// Switches the terminal of stdin, if it is one, to raw mode.
    ///
    /// # Errors
    /// When it refuses.
    pub(crate) fn lend() -> io::Result<Self> {
        let input = rustix::stdio::stdin().try_clone_to_owned()?;
        let cooked = if input.is_terminal() { Some(tcgetattr(&input)?) } else { None };
        let terminal = Self { input, cooked, modes: Modes::default(), returned: false };
        terminal.raw()?;
        stdout()?.write_all(TITLE_PUSH)?;
        Ok(terminal)
    }

    /// Raw mode, also again after the program was stopped and went on.
    ///
    /// # Errors
    /// When the terminal refuses.
    pub(crate) fn raw(&self) -> io::Result<()> {
        let Some(cooked) = &self.cooked else { return Ok(()) };
        let mut raw = cooked.clone();
        raw.make_raw();
        Ok(tcsetattr(&self.input, OptionalActions::Drain, &raw)?)
    }

    /// Notes what the runner's program has switched on.
    pub(crate) fn set_modes(&mut self, modes: Modes) {
        self.modes = modes;
    }

    /// Resets what the runner's program switched on, then line mode as it was found. Further calls do nothing.
    pub(crate) fn give_back(&mut self) {
        if std::mem::replace(&mut self.returned, true) {
            return;
        }
        // A terminal that is gone needs no reset.
        if let Ok(mut output) = stdout() {
            drop(output.write_all(&reset_trailer(self.modes)));
        }
        if let Some(cooked) = &self.cooked {
            tcsetattr(&self.input, OptionalActions::Drain, cooked).ok();
        }
    }
}

impl Drop for LentTerminal {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// What is written so that the outer terminal is sane again. With the alternate screen on, leaving it brings back
/// what stood there before and the cursor with it; without, what follows begins on the line below the cursor, and
/// what a full-screen program drew below that is erased.
pub(crate) fn reset_trailer(modes: Modes) -> Vec<u8> {
    let mut trailer = Vec::new();
    let mut write = |bytes: &[u8]| trailer.extend_from_slice(bytes);
    if modes.origin {
        // Leaving it homes the cursor; then the bottom is the only place that is surely free.
        write(b"\x1b[?6l\x1b[999;1H");
    }
    write(SAVE_CURSOR);
    write(RESET);
    if modes.alternate {
        write(b"\x1b[?1049l");
    } else {
        write(RESTORE_CURSOR);
        // Leaving an alternate screen that is not on moves the cursor on some terminals.
        write(SAVE_CURSOR);
        write(b"\x1b[?1049l");
        write(RESTORE_CURSOR);
    }
    write(PLAIN);
    write(TITLE_POP);
    write(if modes.alternate { b"\r\n" } else { b"\x1b[J\r\n" });
    trailer
}

/// What puts every mode back that a program may have switched on, while the terminal stays lent.
pub(crate) fn reset_modes() -> Vec<u8> {
    [b"\x1b[?6l".as_slice(), RESET, b"\x1b[?1049l", PLAIN].concat()
}

/// Moves what the terminal shows into its scrollback, so that the runner's screen overwrites nothing.
pub(crate) fn keep_present_screen(rows: u32) -> Vec<u8> {
    let mut lines = b"\r\n".repeat(rows as usize);
    lines.extend_from_slice(b"\x1b[H");
    lines
}

/// The size of the terminal at stdout, `None` when it is none or does not know.
pub(crate) fn window_size() -> Option<v1::WindowSize> {
    let size = tcgetwinsize(rustix::stdio::stdout()).ok()?;
    (size.ws_row > 0 && size.ws_col > 0)
        .then(|| v1::WindowSize { rows: u32::from(size.ws_row), cols: u32::from(size.ws_col) })
}

/// Stdout without a buffer in between: what a runner writes is shown at once.
///
/// # Errors
/// When stdout is closed.
pub(crate) fn stdout() -> io::Result<File> {
    Ok(File::from(rustix::stdio::stdout().as_fd().try_clone_to_owned()?))
}

/// Stderr without a buffer in between.
///
/// # Errors
/// When stderr is closed.
pub(crate) fn stderr() -> io::Result<File> {
    Ok(File::from(rustix::stdio::stderr().as_fd().try_clone_to_owned()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trailer_ends_what_programs_switch_on() {
        for (alternate, origin) in [(false, false), (true, false), (false, true)] {
            let trailer = String::from_utf8(reset_trailer(Modes { alternate, origin })).unwrap();
            for mode in [
                "[0m", "[?1000l", "[?1002l", "[?1003l", "[?1006l", "[?1004l", "[?2004l", "[?2026l", "[?1049l",
            ] {
                assert!(trailer.contains(&format!("\x1b{mode}")), "{mode}");
            }
            for mode in ["[?1l", ">", "[<99u", "[>4m", "[?25h", "[?7h", "[0 q", "[r"] {
                assert!(trailer.contains(&format!("\x1b{mode}")), "{mode}");
            }
            assert!(trailer.ends_with("\r\n"));
            assert_eq!(trailer.contains("\x1b[?6l"), origin, "it would home the cursor");
        }
    }
}
