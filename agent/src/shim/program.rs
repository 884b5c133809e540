//! The command of one epoch: how it is started, and the ends of its terminal or pipes.

use std::collections::VecDeque;
use std::ffi::CString;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::failure::{self, Step};
use super::fence::{Fence, Kind};
use super::fork::{Child, Namespaces};
use super::screen::Size;
use super::wire::{Order, Stream};

/// Input waiting for a program that does not read; above it the driver's connection is not read either.
pub(super) const INPUT_MAX: usize = 64 * 1024;

/// What a terminal hands out at once when more is waiting.
const BURST_BYTES: usize = 4 * 1024 - 1;

/// How long the next piece of a burst may take. A program in full flow writes one every 50 us.
const BURST_PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000 };

/// A started command.
#[derive(Debug)]
pub(super) struct Program {
    /// What the shim waits for: the command, or the init of its PID namespace.
    pub(super) waited: Pid,
    /// The command, by the host's count.
    pub(super) command: i32,
    pub(super) kind: Kind,
    ends: Ends,
    input: VecDeque<u8>,
    close_input: bool,
    /// Where an init reports the command's end.
    pub(super) init_report: Option<OwnedFd>,
}

#[derive(Debug)]
enum Ends {
    /// The slave is held, too: a program that closes and reopens its terminal must not hang it up.
    Tty {
        master: OwnedFd,
        slave: Option<OwnedFd>,
    },
    Pipes {
        stdin: Option<OwnedFd>,
        out: Option<OwnedFd>,
        err: Option<OwnedFd>,
    },
}

/// Why a command did not start.
#[derive(Debug)]
pub(super) struct Failure {
    /// `program_missing`, `workdir_missing` or `start_failed`.
    pub(super) reason: &'static str,
    pub(super) message: String,
    /// The namespace could not be made; the command itself may well start without one.
    pub(super) namespace: bool,
}

impl Failure {
    pub(super) const fn new(reason: &'static str, message: String) -> Self {
        Self { reason, message, namespace: false }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new("start_failed", error.to_string())
    }
}

impl From<Errno> for Failure {
    fn from(error: Errno) -> Self {
        io::Error::from(error).into()
    }
}

impl Program {
    /// Starts the command. `ready` is called when its process exists but has not exec'd yet: what it writes is on disk
    /// before the first instruction of the command.
    pub(super) fn start(
        order: &Order,
        fence: &Fence,
        size: Size,
        oom_score_adj: &Option<Vec<u8>>,
        ready: impl FnOnce(Pid, Kind) -> io::Result<()>,
    ) -> Result<Self, Failure> {
        let (ends, child_ends) = open_ends(order.tty, size)?;
        let (gate, gate_key) = pipe()?;
        let (report, reporter) = pipe()?;
        let (init_report, init_reporter) = pipe()?;
        let (namespaces, kind) = choose(order, fence);
        let joins = open_joins(order)?;
        let child = Child {
            programs: search(order)?,
            argv: strings(order.command.iter().map(String::as_bytes))?,
            env: environment(order)?,
            workdir: string(order.workdir.as_bytes())?,
            stdio: child_ends.fds(),
            tty: order.tty,
            gate: gate.as_fd(),
            report: reporter.as_fd(),
            init_report: (namespaces != Namespaces::Shared).then(|| init_reporter.as_fd()),
            namespaces,
            cgroup: fence.leaf.as_ref().map(|leaf| leaf.dir()),
            join: joins.iter().map(AsFd::as_fd).collect(),
            oom_score_adj: oom_score_adj.clone(),
            maps: maps(),
        };
        let (waited, kind) = spawn(child, kind).map_err(|error| Failure {
            namespace: namespaces != Namespaces::Shared,
            ..Failure::from(error)
        })?;
        drop((reporter, init_reporter));
        let slave = child_ends.keep_slave();
        ready(waited, kind)?;
        rustix::io::write(&gate_key, b"g")?;
        exec_result(report, order, waited)?;
        let command = if namespaces == Namespaces::Shared { waited.as_raw_pid() } else { child_of(waited) };
        let ends = ends.with_slave(slave);
        ends.make_nonblocking()?;
        let init_report = (namespaces != Namespaces::Shared).then_some(init_report);
        Ok(Self { waited, command, kind, ends, input: VecDeque::new(), close_input: false, init_report })
    }

    /// Whether it has a terminal.
    pub(super) const fn is_tty(&self) -> bool {
        matches!(self.ends, Ends::Tty { .. })
    }

    /// Descriptors to read, with the stream each one carries.
    pub(super) fn outputs(&self) -> impl Iterator<Item = (Stream, BorrowedFd<'_>)> {
        let (first, second) = match &self.ends {
            Ends::Tty { master, .. } => (Some(master), None),
            Ends::Pipes { out, err, .. } => (out.as_ref(), err.as_ref()),
        };
        let first = first.map(|fd| (Stream::Out, fd.as_fd()));
        first.into_iter().chain(second.map(|fd| (Stream::Err, fd.as_fd())))
    }

    /// Reads what there is, up to a full buffer: a terminal hands out 4 KiB at a time, and log, screen and viewers
    /// cost far less per byte in larger pieces. So in a burst it waits a moment for more; a key's echo is none.
    pub(super) fn read(&mut self, stream: Stream, buffer: &mut [u8]) -> usize {
        let mut filled = 0;
        while filled < buffer.len() {
            let Some(fd) = self.outputs().find(|(of, _)| *of == stream).map(|(_, fd)| fd) else { break };
            match rustix::io::read(fd, &mut buffer[filled..]) {
                Ok(0) | Err(Errno::IO) => {
                    self.close_output(stream);
                    break;
                }
                Ok(read) => filled += read,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if filled >= BURST_BYTES && more_comes(fd) => {}
                Err(_) => break,
            }
        }
        filled
    }

    fn close_output(&mut self, stream: Stream) {
        if let Ends::Pipes { out, err, .. } = &mut self.ends {
            match stream {
                Stream::Out => *out = None,
                Stream::Err => *err = None,
            }
        }
    }

    /// Lets go of the terminal's other end, so that reading ends when everything has been read.
    pub(super) fn release(&mut self) {
        if let Ends::Tty { slave, .. } = &mut self.ends {
            *slave = None;
        }
    }

    /// Queues bytes for the program; false when its input is closed.
    pub(super) fn type_in(&mut self, data: &[u8]) -> bool {
        if self.close_input || self.input_fd().is_none() {
            return false;
        }
        self.input.extend(data);
        self.flush_input();
        true
    }

    /// Bytes the program has not taken yet.
    pub(super) fn pending_input(&self) -> usize {
        self.input.len()
    }

    /// The descriptor to poll for writing, while there is something to write.
    pub(super) fn wants_to_write(&self) -> Option<BorrowedFd<'_>> {
        if self.input.is_empty() { None } else { self.input_fd() }
    }

    fn input_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.ends {
            Ends::Tty { master, .. } => Some(master.as_fd()),
            Ends::Pipes { stdin, .. } => stdin.as_ref().map(AsFd::as_fd),
        }
    }

    /// Writes what the program takes.
    pub(super) fn flush_input(&mut self) {
        while let Some(fd) = self.wants_to_write() {
            match rustix::io::write(fd, self.input.as_slices().0) {
                Ok(written) => drop(self.input.drain(..written)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    // The program closed its end: nothing will ever be read.
                    self.input.clear();
                    self.close_input = !self.is_tty();
                }
            }
        }
        if let (true, Ends::Pipes { stdin, .. }) = (self.close_input, &mut self.ends) {
            *stdin = None;
        }
    }

    /// End of stdin, behind what is queued. Terminals have none.
    pub(super) fn close_input(&mut self) {
        if !self.is_tty() {
            self.close_input = true;
            self.flush_input();
        }
    }

    /// Tells the terminal its size; the program gets SIGWINCH.
    pub(super) fn resize(&self, size: Size) {
        if let Ends::Tty { master, .. } = &self.ends {
            set_size(master, size);
        }
    }

    /// SIGINT to whoever is in the foreground, as Ctrl-C would.
    pub(super) fn interrupt(&self) {
        let foreground = match &self.ends {
            Ends::Tty { master, .. } => rustix::termios::tcgetpgrp(master).ok(),
            Ends::Pipes { .. } => None,
        };
        // Without a terminal, or when its foreground is in another namespace: the command's own group.
        if let Some(group) = foreground.or_else(|| Pid::from_raw(self.command)) {
            rustix::process::kill_process_group(group, Signal::INT).ok();
        }
    }
}

impl Ends {
    fn with_slave(self, held: Option<OwnedFd>) -> Self {
        match self {
            Self::Tty { master, .. } => Self::Tty { master, slave: held },
            pipes @ Self::Pipes { .. } => pipes,
        }
    }

    fn make_nonblocking(&self) -> io::Result<()> {
        let all = match self {
            Self::Tty { master, .. } => vec![master.as_fd()],
            Self::Pipes { stdin, out, err } => {
                [stdin, out, err].into_iter().flatten().map(AsFd::as_fd).collect()
            }
        };
        for fd in all {
            rustix::io::ioctl_fionbio(fd, true)?;
        }
        Ok(())
    }
}

/// The command's ends.
enum ChildEnds {
    Tty(OwnedFd),
    Pipes([OwnedFd; 3]),
}

impl ChildEnds {
    fn fds(&self) -> [BorrowedFd<'_>; 3] {
        match self {
            Self::Tty(slave) => [slave.as_fd(); 3],
            Self::Pipes(all) => [all[0].as_fd(), all[1].as_fd(), all[2].as_fd()],
        }
    }

    fn keep_slave(self) -> Option<OwnedFd> {
        match self {
            Self::Tty(slave) => Some(slave),
            Self::Pipes(_) => None,
        }
    }
}

fn more_comes(fd: BorrowedFd<'_>) -> bool {
    poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&BURST_PAUSE)).is_ok_and(|ready| ready > 0)
}

fn open_ends(tty: bool, size: Size) -> io::Result<(Ends, ChildEnds)> {
    if tty {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags)?;
        rustix::pty::grantpt(&master)?;
        rustix::pty::unlockpt(&master)?;
        // Needs no path, so it works in any mount namespace.
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
        set_size(&master, size);
        return Ok((Ends::Tty { master, slave: None }, ChildEnds::Tty(slave)));
    }
    let (stdin_read, stdin) = pipe()?;
    let (out, out_write) = pipe()?;
    let (err, err_write) = pipe()?;
    let ends = Ends::Pipes { stdin: Some(stdin), out: Some(out), err: Some(err) };
    Ok((ends, ChildEnds::Pipes([stdin_read, out_write, err_write])))
}

fn set_size(master: &OwnedFd, size: Size) {
    let size = Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(master, size).ok();
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?)
}

fn choose(order: &Order, fence: &Fence) -> (Namespaces, Kind) {
    let wanted = order.fence.clone().unwrap_or_default();
    if fence.leaf.is_some() {
        (Namespaces::Shared, Kind::Cgroup)
    } else if wanted.pid_namespace {
        (if wanted.user_namespace { Namespaces::User } else { Namespaces::Pid }, Kind::PidNamespace)
    } else {
        (Namespaces::Shared, Kind::Weak)
    }
}

/// Forks; a kernel that refuses the leaf (not delegated) gets a second try without it.
fn spawn(mut child: Child<'_>, kind: Kind) -> io::Result<(Pid, Kind)> {
    match child.spawn() {
        Ok(pid) => Ok((pid, kind)),
        Err(error) if child.cgroup.is_some() => {
            child.cgroup = None;
            child.spawn().map(|pid| (pid, Kind::Weak)).map_err(|_| error)
        }
        Err(error) => Err(error),
    }
}

fn open_joins(order: &Order) -> io::Result<Vec<OwnedFd>> {
    let dirs = order.fence.iter().flat_map(|fence| &fence.join);
    let open =
        |dir: &String| std::fs::OpenOptions::new().write(true).open(Path::new(dir).join("cgroup.procs"));
    dirs.map(|dir| open(dir).map(OwnedFd::from)).collect()
}

fn maps() -> (Vec<u8>, Vec<u8>) {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    (format!("{uid} {uid} 1").into_bytes(), format!("{gid} {gid} 1").into_bytes())
}

/// Waits for the exec: an empty report means that it happened.
fn exec_result(report: OwnedFd, order: &Order, waited: Pid) -> Result<(), Failure> {
    let mut bytes = Vec::new();
    std::fs::File::from(report).read_to_end(&mut bytes)?;
    let Some((step, errno)) = failure::read(&bytes) else { return Ok(()) };
    // The child is on its way out; the caller's tree must be empty when it reports the failure.
    rustix::process::waitpid(Some(waited), rustix::process::WaitOptions::empty()).ok();
    let error = io::Error::from_raw_os_error(errno);
    let program = order.command.first().map_or("", String::as_str);
    Err(match step {
        Step::Workdir => Failure::new("workdir_missing", format!("{}: {error}", order.workdir)),
        Step::Program => Failure::new("program_missing", format!("{program}: {error}")),
        Step::Terminal => Failure::new("start_failed", format!("terminal: {error}")),
        Step::Namespace => {
            Failure { namespace: true, ..Failure::new("start_failed", format!("PID namespace: {error}")) }
        }
    })
}

/// The only child of an init, as the host numbers it.
fn child_of(init: Pid) -> i32 {
    super::fence::descend::descendants(init.as_raw_pid()).first().copied().unwrap_or(init.as_raw_pid())
}

/// Where the program may lie: as given with a slash in it, else along the PATH the command will have.
fn search(order: &Order) -> Result<Vec<CString>, Failure> {
    let Some(program) = order.command.first().filter(|program| !program.is_empty()) else {
        return Err(Failure::new("program_missing", "the command is empty".into()));
    };
    if program.contains('/') {
        return Ok(vec![string(program.as_bytes())?]);
    }
    let path = order.env.iter().rev().find(|var| var.name == "PATH").map_or("", |var| var.value.as_str());
    let dirs = path.split(':').map(|dir| if dir.is_empty() { "." } else { dir });
    Ok(dirs
        .map(|dir| string(Path::new(dir).join(program).as_os_str().as_bytes()))
        .collect::<io::Result<_>>()?)
}

fn environment(order: &Order) -> io::Result<Vec<CString>> {
    order.env.iter().map(|var| string(format!("{}={}", var.name, var.value).as_bytes())).collect()
}

fn strings<'a>(all: impl Iterator<Item = &'a [u8]>) -> io::Result<Vec<CString>> {
    all.map(string).collect()
}

fn string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "an argument holds a NUL byte"))
}
