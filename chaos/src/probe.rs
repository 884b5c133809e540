//! The child programs of tests and benchmarks: one small binary without a runtime, so that its own start is cheap.
//!
//! `stratavore-probe <what> [arguments]`; every argument list is short enough to be read where it is used.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use rustix::time::{ClockId, clock_gettime};

/// Writes are of one page: a PTY hands on less than that at a time anyway.
const CHUNK_BYTES: usize = 4096;
/// How often a probe looks for the file it waits for.
const LOOK_EVERY: Duration = Duration::from_millis(2);

fn main() -> ExitCode {
    let stamp = monotonic_ns();
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match run(stamp, &arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("stratavore-probe: {error}");
            ExitCode::from(111)
        }
    }
}

fn run(stamp: u64, arguments: &[OsString]) -> io::Result<ExitCode> {
    let text = |at: usize| arguments.get(at).and_then(|a| a.to_str()).unwrap_or_default();
    match text(0) {
        "stamp" => write_stamp(stamp, Path::new(text(1))),
        "lines" => lines(Path::new(text(1)), Path::new(text(2)), number(text(3))?, number(text(4))?),
        "flood" => flood(Path::new(text(1)), number(text(2))?),
        "echo" => echo(),
        "keys" => keys(Path::new(text(1))),
        "modes" => modes(),
        "hold" => hold(),
        "terminal" => in_terminal(&arguments[1..]),
        other => Err(io::Error::other(format!("unknown probe '{other}'"))),
    }
}

fn number(text: &str) -> io::Result<u64> {
    text.parse().map_err(|_| io::Error::other(format!("'{text}' is not a number")))
}

fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// `stamp FILE`: appends the CLOCK_MONOTONIC time of its own first instruction, in nanoseconds, as one line.
fn write_stamp(stamp: u64, file: &Path) -> io::Result<ExitCode> {
    let mut out = OpenOptions::new().create(true).append(true).open(file)?;
    out.write_all(format!("{stamp}\n").as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn await_file(file: &Path) {
    while !file.exists() {
        std::thread::sleep(LOOK_EVERY);
    }
}

/// `lines GO STOP PER-SECOND CODE`: after GO exists, numbered lines `L00000000E` until STOP exists; exits with CODE.
fn lines(go: &Path, stop: &Path, per_second: u64, code: u64) -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    writeln!(out, "waiting")?;
    out.flush()?;
    await_file(go);
    let started = Instant::now();
    let mut written: u64 = 0;
    while !stop.exists() {
        let due = u64::try_from(started.elapsed().as_millis()).unwrap_or(0) * per_second / 1000;
        let mut batch = String::new();
        while written < due && batch.len() < CHUNK_BYTES {
            batch.push_str(&format!("L{written:08}E\n"));
            written += 1;
        }
        out.write_all(batch.as_bytes())?;
        out.flush()?;
        if batch.is_empty() {
            std::thread::sleep(LOOK_EVERY);
        }
    }
    writeln!(out, "total {written}.")?;
    out.flush()?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// `flood GO BYTES`: after GO exists, BYTES bytes of numbered 64-byte lines as fast as they are taken.
fn flood(go: &Path, bytes: u64) -> io::Result<ExitCode> {
    raw_terminal()?;
    let mut out = io::stdout().lock();
    out.write_all(b"waiting\n")?;
    out.flush()?;
    await_file(go);
    let mut left = bytes;
    let chunk: Vec<u8> = (0..CHUNK_BYTES / 64).flat_map(|i| format!("{i:063}\n").into_bytes()).collect();
    while left > 0 {
        let take = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        out.write_all(&chunk[..take])?;
        left -= take as u64;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Raw mode where stdin is a terminal; nothing where it is a pipe.
fn raw_terminal() -> io::Result<()> {
    if let Ok(mut modes) = tcgetattr(io::stdin()) {
        modes.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &modes)?;
    }
    Ok(())
}

/// `echo`: says `ready`, then gives every byte back itself (not the line discipline).
fn echo() -> io::Result<ExitCode> {
    raw_terminal()?;
    let (mut input, mut out) = (io::stdin().lock(), io::stdout().lock());
    out.write_all(b"ready\r\n")?;
    out.flush()?;
    let mut buffer = [0; CHUNK_BYTES];
    loop {
        let taken = input.read(&mut buffer)?;
        if taken == 0 {
            return Ok(ExitCode::SUCCESS);
        }
        out.write_all(&buffer[..taken])?;
        out.flush()?;
    }
}

/// `keys FILE`: says `ready`, appends every byte of its input to FILE.
fn keys(file: &Path) -> io::Result<ExitCode> {
    raw_terminal()?;
    let mut record = File::create(file)?;
    println!("ready\r");
    io::copy(&mut io::stdin().lock(), &mut record)?;
    Ok(ExitCode::SUCCESS)
}

/// `modes`: draws on the alternate screen with every mode set that a re-attach must restore, then holds.
fn modes() -> io::Result<ExitCode> {
    raw_terminal()?;
    let mut out = io::stdout().lock();
    out.write_all(
        b"\x1b[?1049h\x1b[2J\x1b[?25l\x1b[?2004h\x1b[?1002h\x1b[?1006h\x1b[?1h\x1b]2;stratavore modes\x07",
    )?;
    out.write_all(b"\x1b[3;5H\x1b[1;31mred and bold\x1b[0m\x1b[7;9H\x1b[7minverse\x1b[0m\x1b[10;4H")?;
    out.flush()?;
    hold()
}

/// `hold …`: stays until it is killed; its arguments make it easy to find.
fn hold() -> ! {
    loop {
        std::thread::park();
    }
}

/// `terminal PROGRAM …`: makes stdin the controlling terminal of a new session, then becomes PROGRAM.
fn in_terminal(command: &[OsString]) -> io::Result<ExitCode> {
    let [program, arguments @ ..] = command else { return Err(io::Error::other("no program given")) };
    rustix::process::setsid()?;
    rustix::process::ioctl_tiocsctty(io::stdin())?;
    Err(Command::new(program).args(arguments).exec())
}
