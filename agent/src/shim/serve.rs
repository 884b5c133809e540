//! The loop of a running shim: one thread, one `poll`, no allocation worth naming while nothing happens.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};

use super::deadline::Deadline;
use super::ended::{Ended, Waited};
use super::exit::Reserved;
use super::fence::{Fence, Kind, descend};
use super::footprint::forget_code;
use super::fork;
use super::ladder::{Ladder, Step};
use super::log::{kind as log_kind, writer::LogWriter};
use super::program::{INPUT_MAX, Program};
use super::screen::Screen;
use super::signals::next_signal;
use super::state::{Outcome, State};
use super::viewer::{Client, Need};
use super::wire::{self, CHUNK_BYTES_MAX, Stream, kind};

/// Connections at once. Each viewer may queue 256 KiB, so this bounds the shim at 64 MiB in the worst case.
const CLIENTS_MAX: usize = 256;

/// A shim that has started, or lost a viewer, gives back the code it needed for that when this much time has passed:
/// short commands have ended by then, and a viewer may come back at once.
const SETTLE_MS: u64 = 500;

/// After the reaping, viewers that are behind get this long to take the rest; the log has it for those who do not.
const LINGER_MS: u64 = 10_000;

/// A running shim.
pub(super) struct Shim {
    pub(super) program: Program,
    pub(super) fence: Fence,
    pub(super) screen: Option<Screen>,
    pub(super) log: LogWriter,
    pub(super) log_dir: PathBuf,
    pub(super) reserved: Reserved,
    pub(super) state: State,
    pub(super) ladder: Ladder,
    pub(super) deadline: Deadline,
    pub(super) clients: Vec<Client>,
    pub(super) driver: Option<u64>,
    next_client: u64,
    command_ended: Option<Ended>,
    tree_gone: bool,
    pub(super) finished: bool,
    pub(super) reaped: bool,
    /// When a reaped shim stops waiting for its viewers.
    linger_until: u64,
    /// When unneeded code is given back.
    settle_at: Option<u64>,
    buffer: Vec<u8>,
}

/// What a shim is made of.
pub(super) struct Parts {
    pub(super) program: Program,
    pub(super) fence: Fence,
    pub(super) screen: Option<Screen>,
    pub(super) log: LogWriter,
    pub(super) log_dir: PathBuf,
    pub(super) reserved: Reserved,
    pub(super) state: State,
    pub(super) kill_grace_ms: u64,
    pub(super) deadline: Deadline,
}

/// Which of the polled descriptors have something, copied out so that the borrow ends.
#[derive(Default)]
struct Ready {
    nothing: bool,
    signals: bool,
    accept: bool,
    init: bool,
    outputs: Vec<Stream>,
    input: bool,
    /// (index of the client, readable, writable)
    clients: Vec<(usize, bool, bool)>,
}

impl Shim {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { program, fence, screen, log, log_dir, reserved, state, kill_grace_ms, deadline } = parts;
        Self {
            program,
            fence,
            screen,
            log,
            log_dir,
            reserved,
            state,
            ladder: Ladder::new(kill_grace_ms),
            deadline,
            clients: Vec::new(),
            driver: None,
            next_client: 1,
            command_ended: None,
            tree_gone: false,
            finished: false,
            reaped: false,
            linger_until: 0,
            settle_at: Some(now_ms() + SETTLE_MS),
            buffer: vec![0; CHUNK_BYTES_MAX],
        }
    }

    /// Serves until the exit has been acknowledged.
    ///
    /// # Errors
    /// Only when `poll` itself fails.
    pub(super) fn run(&mut self, signals: &OwnedFd, listener: &UnixListener) -> io::Result<()> {
        // A command that ended before the first poll has left its SIGCHLD in the descriptor already.
        while !self.is_over() {
            let ready = self.wait(signals, listener)?;
            if ready.nothing {
                self.draw();
            }
            for stream in &ready.outputs {
                self.pump(*stream);
            }
            if ready.input {
                self.program.flush_input();
            }
            if ready.signals {
                self.signals(signals);
            }
            if ready.init {
                self.init_report();
            }
            for (at, readable, writable) in ready.clients {
                self.client(at, readable, writable);
            }
            if ready.accept {
                self.accept(listener);
            }
            if let Some(step) = self.ladder.tick(now_ms()) {
                self.step(step);
            }
            self.keep_deadline();
            self.serve_viewers();
            self.bury_clients();
            if self.settle_at.is_some_and(|at| now_ms() >= at) {
                self.settle_at = None;
                forget_code();
            }
        }
        self.flush_all();
        Ok(())
    }

    /// Reaped, and nobody is owed the end of the output any more.
    fn is_over(&self) -> bool {
        self.reaped && (now_ms() >= self.linger_until || !self.clients.iter().any(Client::is_owed_output))
    }

    /// Begins the wait for viewers that are behind.
    pub(super) fn linger(&mut self) {
        self.linger_until = now_ms() + LINGER_MS;
    }

    fn wait(&self, signals: &OwnedFd, listener: &UnixListener) -> io::Result<Ready> {
        let mut fds = vec![PollFd::new(signals, PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
        let mut streams = Vec::with_capacity(2);
        if let Some(report) = &self.program.init_report {
            fds.push(PollFd::new(report, PollFlags::IN));
        }
        if !self.finished {
            for (stream, fd) in self.program.outputs() {
                streams.push((fds.len(), stream));
                fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
            }
        }
        let input = self.program.wants_to_write().map(|fd| {
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::OUT));
            fds.len() - 1
        });
        let first = fds.len();
        for client in &self.clients {
            // A driver whose program does not read is not read either: the kernel makes it wait.
            let held = self.driver == Some(client.id) && self.program.pending_input() > INPUT_MAX;
            let mut events = if held { PollFlags::empty() } else { PollFlags::IN };
            events.set(PollFlags::OUT, client.wants_to_write());
            fds.push(PollFd::from_borrowed_fd(client.fd(), events));
        }
        let timeout = self.timeout();
        let found = match poll(&mut fds, timeout.as_ref()) {
            Ok(found) => found,
            Err(rustix::io::Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let any = |at: usize| !fds[at].revents().is_empty();
        let mut ready = Ready { nothing: found == 0, signals: any(0), accept: any(1), ..Default::default() };
        ready.init = self.program.init_report.is_some() && any(2);
        ready.outputs.extend(streams.iter().filter(|(at, _)| any(*at)).map(|(_, stream)| *stream));
        ready.input = input.is_some_and(any);
        for (at, fd) in fds[first..].iter().enumerate() {
            let events = fd.revents();
            let readable = events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
            if !events.is_empty() {
                ready.clients.push((at, readable, events.contains(PollFlags::OUT)));
            }
        }
        Ok(ready)
    }

    /// How long nothing may happen: no time at all while there is something to draw in that time.
    fn timeout(&self) -> Option<Timespec> {
        if self.screen.as_ref().is_some_and(Screen::is_behind) {
            return Some(Timespec::default());
        }
        let linger = self.reaped.then_some(self.linger_until);
        let wakes = [self.ladder.deadline().or(linger), self.deadline.wake_ms(), self.settle_at];
        let wake = wakes.into_iter().flatten().min();
        wake.map(|at| timespec(at.saturating_sub(now_ms())))
    }

    /// One read of the program's output, to the log, the screen and the viewers. Returns the bytes moved.
    fn pump(&mut self, stream: Stream) -> usize {
        let mut buffer = std::mem::take(&mut self.buffer);
        let read = self.program.read(stream, &mut buffer);
        if read > 0 {
            self.publish(stream, &buffer[..read]);
        }
        self.buffer = buffer;
        read
    }

    /// The viewers come first: they wait for neither the disk nor the screen.
    fn publish(&mut self, stream: Stream, data: &[u8]) {
        let offset = self.log.end();
        let snapshots = self.screen.is_some();
        for client in &mut self.clients {
            client.output(offset, stream, data, &self.log_dir, snapshots);
            client.flush();
        }
        self.log.output(if stream == Stream::Err { log_kind::ERR } else { log_kind::OUT }, data);
        if self.screen.as_mut().is_some_and(|screen| screen.take(data)) {
            self.draw();
        }
    }

    /// Draws what waits for it, and answers what the program asked in it.
    fn draw(&mut self) {
        let Some(screen) = &mut self.screen else { return };
        screen.catch_up();
        let answers = screen.take_answers();
        if !answers.is_empty() && self.program.pending_input() < INPUT_MAX {
            self.program.type_in(&answers);
        }
    }

    fn signals(&mut self, signals: &OwnedFd) {
        while let Some(number) = next_signal(signals) {
            if number == Signal::TERM.as_raw() {
                // The host goes down and tells every process.
                self.stop(false, "host_stopped");
            }
        }
        self.reap();
    }

    /// Waits for every child that has ended: the command, and whatever lost its parent below us.
    fn reap(&mut self) {
        loop {
            match fork::wait() {
                Waited::Ended(pid, ended) if pid == self.program.waited => {
                    // An init reports the command's end itself; without a report it was killed, and all with it.
                    self.init_report();
                    self.command_ended = self.command_ended.or(Some(ended));
                }
                Waited::Ended(..) => {}
                Waited::Nothing => break,
                Waited::NoChildren => {
                    self.tree_gone = true;
                    break;
                }
            }
        }
        self.after_reaping();
    }

    fn after_reaping(&mut self) {
        if self.finished || self.command_ended.is_none() {
            return;
        }
        if self.tree_gone {
            self.finish(Vec::new());
        } else if let Some(step) = self.ladder.sweep(now_ms()) {
            self.step(step);
        }
    }

    fn init_report(&mut self) {
        let Some(report) = &self.program.init_report else { return };
        let mut bytes = [0; 64];
        let read = rustix::io::read(report, &mut bytes).unwrap_or(0);
        self.program.init_report = None;
        self.command_ended = self.command_ended.or_else(|| Ended::from_report(&bytes[..read]));
        self.after_reaping();
    }

    /// Starts or escalates the ladder.
    pub(super) fn stop(&mut self, force: bool, reason: &str) {
        if self.finished {
            return;
        }
        let step = self.ladder.stop(now_ms(), force);
        self.state.stopping(reason);
        self.tell_watchers();
        if let Some(step) = step {
            self.step(step);
        }
    }

    pub(super) fn step(&mut self, step: Step) {
        if let Some(leaf) = &self.fence.leaf {
            // Frozen processes see no signal but KILL (P11).
            leaf.thaw();
        }
        match step {
            Step::Interrupt => self.program.interrupt(),
            Step::Terminate => {
                let all = self.processes();
                descend::signal_all(&all, Signal::TERM);
                if self.program.is_tty() {
                    // Interactive shells ignore TERM; their terminal going away is what ends them.
                    descend::signal_all(&all, Signal::HUP);
                }
                // A stopped process would see neither.
                descend::signal_all(&all, Signal::CONT);
            }
            Step::Kill => {
                if let Some(leaf) = &self.fence.leaf {
                    leaf.kill();
                }
                if self.program.kind == Kind::PidNamespace {
                    descend::signal_all(&[self.program.waited.as_raw_pid()], Signal::KILL);
                }
                descend::signal_all(&self.processes(), Signal::KILL);
            }
            Step::GiveUp => self.finish(descend::named(&self.processes())),
        }
    }

    /// Everything that belongs to the runner now. An init is not signalled: it ends with its last process.
    fn processes(&self) -> Vec<i32> {
        let mut all = descend::descendants(rustix::process::getpid().as_raw_pid());
        all.extend(self.fence.leaf.iter().flat_map(|leaf| leaf.processes()));
        all.sort_unstable();
        all.dedup();
        if self.program.kind == Kind::PidNamespace {
            all.retain(|pid| *pid != self.program.waited.as_raw_pid());
        }
        all
    }

    /// The tree is gone, or what is left cannot be ended: last output, record, exit to the viewers.
    fn finish(&mut self, leftovers: Vec<String>) {
        self.ladder.done();
        self.deadline.disarm();
        self.program.release();
        for stream in [Stream::Out, Stream::Err] {
            while self.pump(stream) > 0 {}
        }
        self.log.end_of_output();
        self.finished = true;
        let outcome = Outcome {
            ended: self.command_ended,
            oom_killed: self.fence.oom_kills() > 0,
            leftovers,
            dropped_bytes: self.log.dropped(),
        };
        self.state.ended(outcome, self.log.end());
        // The block is reserved: what can still fail here is the device itself, and then memory is all there is.
        drop(self.reserved.write(self.state.record()));
        self.tell_watchers();
        self.flush_all();
        self.fence.remove();
        // Whoever was told makes it durable, too; before anybody may let this process go, the block is on disk.
        drop(self.reserved.sync());
    }

    fn client(&mut self, at: usize, readable: bool, writable: bool) {
        let Some(client) = self.clients.get_mut(at) else { return };
        if writable {
            client.flush();
        }
        if readable {
            client.receive();
            while let Some((kind, body)) = self.clients[at].next_frame() {
                self.request(at, kind, &body);
            }
        }
    }

    fn accept(&mut self, listener: &UnixListener) {
        while let Ok((stream, _)) = listener.accept() {
            if !super::is_allowed(&stream)
                || self.clients.len() >= CLIENTS_MAX
                || stream.set_nonblocking(true).is_err()
            {
                continue;
            }
            self.clients.push(Client::new(self.next_client, stream));
            self.next_client += 1;
        }
    }

    /// Gives every viewer what it has room for, and sends what is queued.
    pub(super) fn serve_viewers(&mut self) {
        let (end, snapshots) = (self.log.end(), self.screen.is_some());
        for at in 0..self.clients.len() {
            self.clients[at].flush();
            loop {
                match self.clients[at].refill(end, snapshots) {
                    Need::Snapshot => {
                        let frame = self.snapshot_frame();
                        self.clients[at].snapshot(frame);
                        let frame = self.driver_frame(at);
                        self.clients[at].push(frame);
                    }
                    Need::Exit if self.finished => {
                        let frame = wire::frame(kind::EXIT, self.state.record());
                        self.clients[at].exit(frame);
                    }
                    Need::Exit | Need::Nothing => break,
                }
            }
            self.clients[at].flush();
        }
    }

    fn snapshot_frame(&mut self) -> Vec<u8> {
        let offset = self.log.end();
        let Some(screen) = &mut self.screen else { return wire::raw_frame(kind::DONE, &[]) };
        let data = screen.snapshot().into();
        let size = Some(screen.size().wire());
        wire::frame(kind::SNAPSHOT, &stratavore_proto::v1::AttachSnapshot { data, offset, size })
    }

    /// Tells every watcher the present status.
    pub(super) fn tell_watchers(&mut self) {
        let viewers = self.clients.iter().filter(|client| client.viewer.is_some()).count();
        self.state.refresh(self.log.end(), viewers);
        let frame = wire::frame(kind::STATUS, self.state.record());
        for client in self.clients.iter_mut().filter(|client| client.watching) {
            client.push(frame.clone());
        }
    }

    fn bury_clients(&mut self) {
        let before = self.clients.iter().filter(|client| client.viewer.is_some()).count();
        let driver = self.driver;
        self.clients.retain(|client| !client.dead);
        if self.clients.iter().filter(|client| client.viewer.is_some()).count() == before {
            return;
        }
        if driver.is_some_and(|id| self.clients.iter().all(|client| client.id != id)) {
            self.set_driver(None);
        }
        self.settle_at = Some(now_ms() + SETTLE_MS);
        self.tell_watchers();
        self.serve_viewers();
    }

    fn flush_all(&mut self) {
        for client in &mut self.clients {
            client.flush();
        }
    }
}

/// Milliseconds on a clock that goes on in suspend, so that grace periods are real ones.
fn now_ms() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
}

fn timespec(ms: u64) -> Timespec {
    // One more, since a rounded-down timeout would wake before the deadline and spin.
    let ms = ms.saturating_add(1);
    Timespec {
        tv_sec: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(ms % 1000 * 1_000_000).unwrap_or(0),
    }
}
