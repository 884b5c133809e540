//! A person at a terminal: a PTY, a program on it, and a screen that shows what that person would see.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::eventually::{SOON, eventually};
use crate::processes;

/// How long the last bytes of a program that has ended may take through the terminal.
const LAST_BYTES: Duration = Duration::from_secs(5);

/// One cell as a person sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The character; a blank cell is one space.
    pub text: String,
    /// Colours and attributes.
    pub look: Look,
}

/// Colours and attributes of a cell.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)]
pub struct Look {
    /// Foreground.
    pub foreground: vt100::Color,
    /// Background.
    pub background: vt100::Color,
    /// Bold.
    pub bold: bool,
    /// Underlined.
    pub underline: bool,
    /// Inverse.
    pub inverse: bool,
}

/// A whole screen, comparable cell by cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Rows of cells.
    pub rows: Vec<Vec<Cell>>,
    /// Row and column of the cursor, counted from 0.
    pub cursor: (u16, u16),
}

impl Grid {
    /// What `screen` shows.
    #[must_use]
    pub fn of(screen: &vt100::Screen) -> Self {
        let (rows, cols) = screen.size();
        let row =
            |r: u16| (0..cols.get()).map(|c| screen.cell(r, c).map_or_else(Cell::blank, Cell::of)).collect();
        Self { rows: (0..rows.get()).map(row).collect(), cursor: screen.cursor_position() }
    }

    /// The text of every row, trailing blanks cut.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.rows
            .iter()
            .map(|row| row.iter().map(|c| c.text.as_str()).collect::<String>().trim_end().to_owned())
            .collect()
    }

    /// The first difference in words, `None` when every cell and the cursor agree.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<String> {
        if self.rows.len() != other.rows.len() {
            return Some(format!("{} rows against {}", self.rows.len(), other.rows.len()));
        }
        for (r, (ours, theirs)) in self.rows.iter().zip(&other.rows).enumerate() {
            if ours.len() != theirs.len() {
                return Some(format!("row {r}: {} columns against {}", ours.len(), theirs.len()));
            }
            if let Some(c) = ours.iter().zip(theirs).position(|(a, b)| a != b) {
                let (here, there) = (&self.lines()[r], &other.lines()[r]);
                return Some(format!(
                    "row {r}, column {c}: {:?} against {:?}\n  here:  {here}\n  there: {there}",
                    ours[c], theirs[c]
                ));
            }
        }
        (self.cursor != other.cursor)
            .then(|| format!("cursor at {:?} against {:?}", self.cursor, other.cursor))
    }
}

impl Cell {
    fn of(cell: &vt100::Cell) -> Self {
        let text = if cell.has_contents() { cell.contents() } else { " " };
        Self {
            text: text.to_owned(),
            look: Look {
                foreground: cell.fgcolor(),
                background: cell.bgcolor(),
                bold: cell.bold(),
                underline: cell.underline(),
                inverse: cell.inverse(),
            },
        }
    }

    fn blank() -> Self {
        Self {
            text: " ".to_owned(),
            look: Look {
                foreground: vt100::Color::Default,
                background: vt100::Color::Default,
                bold: false,
                underline: false,
                inverse: false,
            },
        }
    }
}

impl fmt::Display for Grid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.lines() {
            writeln!(f, "|{line}")?;
        }
        write!(f, "cursor {:?}", self.cursor)
    }
}

/// Rows and columns as vt100 wants them; 0 counts as 1.
#[must_use]
pub fn size(rows: u16, cols: u16) -> (NonZeroU16, NonZeroU16) {
    (NonZeroU16::new(rows).unwrap_or(NonZeroU16::MIN), NonZeroU16::new(cols).unwrap_or(NonZeroU16::MIN))
}

/// Everything that arrived, and the screen it makes.
struct Arrived {
    parser: vt100::Parser,
    raw: Vec<u8>,
}

/// A program on a PTY of its own. Killed when dropped.
pub struct Terminal {
    master: Arc<OwnedFd>,
    child: Child,
    arrived: Arc<(Mutex<Arrived>, Condvar)>,
    reading: Arc<AtomicBool>,
    /// Nobody has the terminal open any more and everything has been read.
    ended: Arc<AtomicBool>,
}

impl fmt::Debug for Terminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terminal").field("child", &self.child.id()).finish_non_exhaustive()
    }
}

impl Terminal {
    /// Starts `command` on a new terminal of that size, as the leader of a session that the terminal controls.
    /// `probe` is the program that arranges this.
    ///
    /// # Panics
    /// When the host gives no PTY or the program cannot be started.
    #[must_use]
    pub fn start(probe: &Path, command: &Command, rows: u16, cols: u16) -> Self {
        let (master, slave) = open(rows, cols);
        let duplicate = || Stdio::from(slave.try_clone().expect("duplicate the terminal"));
        let mut wrapped = wrap(probe, command);
        wrapped.stdin(duplicate()).stdout(duplicate()).stderr(duplicate());
        let child = wrapped.spawn().expect("start a program on the terminal");
        let (r, c) = size(rows, cols);
        let nothing = Arrived { parser: vt100::Parser::new(r, c, 0), raw: Vec::new() };
        let arrived = Arc::new((Mutex::new(nothing), Condvar::new()));
        let (master, reading) = (Arc::new(master), Arc::new(AtomicBool::new(true)));
        let ended = Arc::new(AtomicBool::new(false));
        let reader = (master.clone(), arrived.clone(), reading.clone(), ended.clone());
        std::thread::spawn(move || {
            read_all(&reader.0, &reader.1, &reader.2);
            reader.3.store(true, Ordering::Release);
        });
        Self { master, child, arrived, reading, ended }
    }

    fn arrived(&self) -> MutexGuard<'_, Arrived> {
        self.arrived.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Types.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn type_bytes(&self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = rustix::io::write(&self.master, rest).expect("type into the terminal");
            rest = &rest[taken..];
        }
    }

    /// Changes the size, as dragging the window's corner would.
    pub fn resize(&self, rows: u16, cols: u16) {
        let (r, c) = size(rows, cols);
        self.arrived().parser.set_size(r, c);
        set_size(&self.master, rows, cols);
    }

    /// What the screen shows now.
    #[must_use]
    pub fn grid(&self) -> Grid {
        Grid::of(self.arrived().parser.screen())
    }

    /// Answers a question about the screen's modes.
    pub fn with_screen<T>(&self, ask: impl FnOnce(&vt100::Screen) -> T) -> T {
        ask(self.arrived().parser.screen())
    }

    /// Every byte that arrived so far.
    #[must_use]
    pub fn raw(&self) -> Vec<u8> {
        self.arrived().raw.clone()
    }

    /// How many bytes arrived so far.
    #[must_use]
    pub fn arrived_bytes(&self) -> usize {
        self.arrived().raw.len()
    }

    /// Waits until that many bytes have arrived, woken by their arrival.
    ///
    /// # Panics
    /// When they have not within `bound`.
    #[track_caller]
    pub fn await_bytes(&self, bytes: usize, bound: Duration) {
        let (_arrived, late) = self
            .arrived
            .1
            .wait_timeout_while(self.arrived(), bound, |a| a.raw.len() < bytes)
            .unwrap_or_else(PoisonError::into_inner);
        assert!(!late.timed_out(), "byte {bytes} has not arrived within {} s", bound.as_secs());
    }

    /// Waits until the screen shows `text`.
    ///
    /// # Panics
    /// When it does not within a minute; shows the screen.
    #[track_caller]
    pub fn shows(&self, text: &str) {
        let what = format!("'{text}' on the screen");
        eventually(&what, SOON, || {
            let grid = self.grid();
            if grid.lines().iter().any(|l| l.contains(text)) { Ok(()) } else { Err(format!("\n{grid}")) }
        });
    }

    /// Waits until `text` has arrived anywhere in the byte stream.
    ///
    /// # Panics
    /// When it does not within a minute; shows the end of what arrived.
    #[track_caller]
    pub fn receives(&self, text: &str) {
        let what = format!("'{text}' in the stream");
        eventually(&what, SOON, || {
            let raw = String::from_utf8_lossy(&self.raw()).into_owned();
            if raw.contains(text) { Ok(()) } else { Err(format!("…{}", last(&raw, 400))) }
        });
    }

    /// Waits until nothing has arrived for `quiet`: for programs that draw in several steps.
    ///
    /// # Panics
    /// When it goes on for a minute.
    #[track_caller]
    pub fn settles(&self, quiet: Duration) {
        let mut last = (self.arrived_bytes(), Instant::now());
        eventually("the screen to settle", SOON, || {
            let now = self.arrived_bytes();
            if now != last.0 {
                last = (now, Instant::now());
            }
            if last.1.elapsed() >= quiet { Ok(()) } else { Err(format!("{now} bytes")) }
        });
    }

    /// Stops or resumes taking what the program writes: a viewer that reads nothing.
    pub fn read_on(&self, reading: bool) {
        self.reading.store(reading, Ordering::Release);
    }

    /// Whether the terminal is in the state a shell leaves it in: echo and line editing on.
    #[must_use]
    pub fn is_cooked(&self) -> bool {
        tcgetattr(&*self.master)
            .is_ok_and(|t| t.local_modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG))
    }

    /// Process id of the program.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or(0)
    }

    /// Any signal to the program.
    pub fn signal(&self, signal: Signal) {
        processes::signal(self.pid(), signal);
    }

    /// Waits for the program's end, and until everything it wrote has arrived.
    ///
    /// # Panics
    /// When it still runs after a minute; shows the screen.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let status =
            eventually("the program on the terminal to exit", SOON, || match self.child.try_wait() {
                Ok(Some(status)) => Ok(status),
                _ => Err(format!("it still runs; screen:\n{}", self.grid())),
            });
        // A background child of a shell may hold the terminal open for ever; then what there is must do.
        let deadline = Instant::now() + LAST_BYTES;
        while !self.ended.load(Ordering::Acquire) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        status
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.reading.store(true, Ordering::Release);
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A new terminal of that size: master, and the side that a program gets.
///
/// # Panics
/// When the host gives no PTY.
#[must_use]
pub fn open(rows: u16, cols: u16) -> (OwnedFd, File) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("open a PTY");
    grantpt(&master).expect("grant the PTY");
    unlockpt(&master).expect("unlock the PTY");
    set_size(&master, rows, cols);
    let name = ptsname(&master, Vec::new()).expect("name of the PTY");
    let path = Path::new(std::ffi::OsStr::from_bytes(name.as_bytes()));
    let slave = File::options().read(true).write(true).open(path).expect("open the terminal");
    (master, slave)
}

/// `probe terminal PROGRAM …` with the environment and directory of `command`.
fn wrap(probe: &Path, command: &Command) -> Command {
    let mut wrapped = Command::new(probe);
    wrapped.arg("terminal").arg(command.get_program()).args(command.get_args()).env_clear();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            wrapped.env(name, value);
        }
    }
    if let Some(directory) = command.get_current_dir() {
        wrapped.current_dir(directory);
    }
    wrapped
}

fn set_size(master: &OwnedFd, rows: u16, cols: u16) {
    let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(master, size).expect("set the terminal's size");
}

fn read_all(master: &Arc<OwnedFd>, (arrived, news): &(Mutex<Arrived>, Condvar), reading: &AtomicBool) {
    /// A PTY gives at most a page at a time.
    const READ_BYTES: usize = 4096;
    let mut buffer = [0; READ_BYTES];
    let mut input = File::from(master.try_clone().expect("duplicate the PTY"));
    loop {
        while !reading.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(5));
        }
        // EIO: the last program on the terminal has gone.
        let Ok(taken @ 1..) = input.read(&mut buffer) else { return };
        let mut arrived = arrived.lock().unwrap_or_else(PoisonError::into_inner);
        arrived.raw.extend_from_slice(&buffer[..taken]);
        arrived.parser.process(&buffer[..taken]);
        news.notify_all();
    }
}

fn last(text: &str, chars: usize) -> String {
    let skip = text.chars().count().saturating_sub(chars);
    text.chars().skip(skip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(bytes: &[u8]) -> Grid {
        let (rows, cols) = size(3, 10);
        let mut parser = vt100::Parser::new(rows, cols, 0);
        parser.process(bytes);
        Grid::of(parser.screen())
    }

    #[test]
    fn a_colour_alone_is_a_difference() {
        let plain = drawn(b"abc");
        assert_eq!(plain.difference(&drawn(b"abc")), None);
        let red = plain.difference(&drawn(b"a\x1b[31mb\x1b[mc")).unwrap();
        assert!(red.contains("row 0, column 1"), "{red}");
    }

    #[test]
    fn the_cursor_alone_is_a_difference() {
        assert!(drawn(b"abc").difference(&drawn(b"abc\r")).unwrap().contains("cursor"));
    }
}
