//! The process that forks shims: started once by the agent, small, with one thread, everything linked already.
//!
//! A shim spawned from the binary spends most of its start on exec, dynamic linking and relocations; one forked here
//! has that behind it. Each connection on the listening socket (stdout) is one start: it carries the order one way and
//! the readiness back, exactly as stdin and stdout of a spawned shim do, and the forked child is that shim from there
//! on. The agent's end shows as end of file on stdin; then the zygote goes, and the shims live on.
//!
//! Forked shims share their address layout and their hash seeds. All of them belong to one user; the commands they start
//! are exec'd and have their own.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};

use prost::Message;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;

use super::ended::Waited;
use super::fork::{self, Side};
use super::signals::next_signal;
use super::wire::{Order, Readiness};

/// Second word of the command line.
pub const ARGUMENT: &str = "zygote";

/// Least length of a zygote's third word: its shims write their own command line over it, and that names a runner and
/// an epoch (at most 10 characters of id, two numbers of 20 digits, two separators), in place of a shorter second word.
pub const TITLE_BYTES: usize = 64;

/// Entry of `stratavore-agent zygote`.
pub fn main() -> ! {
    fork::exit_now(i32::from(serve().is_err()))
}

/// Serves until the agent is gone.
fn serve() -> io::Result<()> {
    // Already a leader when a person started it by hand.
    rustix::process::setsid().ok();
    fork::ignore_hangups();
    fork::stay_small();
    fork::set_name(c"stratavore-zyg");
    let listener = UnixListener::from(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?);
    listener.set_nonblocking(true)?;
    let signals = fork::signal_fd()?;
    let title = Title::find();
    loop {
        let (agent, shims) = wait(&listener, &signals)?;
        if agent || (shims && told_to_end(&signals)) {
            return Ok(());
        }
        while let Ok((stream, _)) = listener.accept() {
            if !super::is_allowed(&stream) {
                continue;
            }
            match fork::fork() {
                Ok(Side::Parent(_)) => {}
                Ok(Side::Child) => {
                    drop((listener, signals));
                    become_shim(stream, title)
                }
                Err(error) => refuse(&stream, &error),
            }
        }
    }
}

/// Waits for the agent's end, a start, or a child's end: true for the first, and for the last.
fn wait(listener: &UnixListener, signals: &OwnedFd) -> io::Result<(bool, bool)> {
    let stdin = rustix::stdio::stdin();
    let mut fds = [
        PollFd::from_borrowed_fd(stdin, PollFlags::IN),
        PollFd::new(signals, PollFlags::IN),
        PollFd::new(listener, PollFlags::IN),
    ];
    match poll(&mut fds, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    Ok((!fds[0].revents().is_empty(), !fds[1].revents().is_empty()))
}

/// Buries children that have ended; true after SIGTERM.
fn told_to_end(signals: &OwnedFd) -> bool {
    let mut ends = false;
    while let Some(signal) = next_signal(signals) {
        ends |= signal == Signal::TERM.as_raw();
    }
    while matches!(fork::wait(), Waited::Ended(..)) {}
    ends
}

/// In the forked child: the connection takes the place of stdin and stdout, which were the zygote's.
fn become_shim(stream: UnixStream, title: Option<Title>) -> ! {
    let taken = rustix::stdio::dup2_stdin(&stream).and_then(|()| rustix::stdio::dup2_stdout(&stream));
    drop(stream);
    match taken {
        Ok(()) => super::run(super::Origin::Forked(title)),
        Err(_) => fork::exit_now(1),
    }
}

/// Too many processes: the agent tries again later.
fn refuse(mut stream: &UnixStream, error: &io::Error) {
    let said = Readiness { error: error.to_string(), ..Default::default() };
    // An agent that has gone meanwhile needs no answer.
    drop(stream.write_all(&said.encode_to_vec()));
}

/// Where the command line of this process lies in its memory.
#[derive(Debug)]
pub(super) struct Title {
    start: u64,
    length: usize,
}

impl Title {
    /// `None` when the kernel does not say: shims then show the zygote's command line.
    fn find() -> Option<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        // Fields 48 and 49; the name before them may hold anything, so counting starts at the third.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(45);
        let start: u64 = fields.next()?.parse().ok()?;
        let end: u64 = fields.next()?.parse().ok()?;
        let length = usize::try_from(end.checked_sub(start)?).ok()?;
        (start > 0).then_some(Self { start, length })
    }

    /// Shows `stratavore-agent shim RUNNER-EPOCH`, as for a spawned shim: this is how people and tools find it.
    pub(super) fn write(self, order: &Order) {
        let epoch = order.epoch.unwrap_or_default();
        let mut text =
            format!("stratavore-agent\0shim\0{}-{}.{}", order.runner, epoch.incarnation, epoch.index)
                .into_bytes();
        text.resize(self.length, 0);
        if let (Some(last), Ok(memory)) =
            (text.last_mut(), std::fs::OpenOptions::new().write(true).open("/proc/self/mem"))
        {
            // Without its final zero the kernel would show the environment behind it as well.
            *last = 0;
            // For the eye only.
            drop(memory.write_all_at(&text, self.start));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_found_where_the_kernel_reads_it() {
        let title = Title::find().unwrap();
        let shown = std::fs::read("/proc/self/cmdline").unwrap();
        assert_eq!(title.length, shown.len());
        let mut there = vec![0; title.length];
        std::fs::File::open("/proc/self/mem").unwrap().read_exact_at(&mut there, title.start).unwrap();
        assert_eq!(there, shown);
    }
}
