//! The lease deadline of one runner (P5, P10, P11, P13): kept by the shim, so that no death of an agent extends it.
//!
//! A ladder begins early enough to end the tree in order; a second before the deadline everything gets KILL; at the
//! deadline the kernel kills the shim itself, even a stopped one, and the fence takes the tree with it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::time::{ClockId, clock_gettime};

use super::fork::KillTimer;
use super::program::Failure;
use super::serve::Shim;
use super::wire::{self, kind};

/// Recorded as the reason of an end by the lease.
pub const REASON: &str = "lease_expired";

/// KILL is sent this long before the deadline: what dies of it is reaped and recorded in time.
const KILL_AHEAD_MS: u64 = 1000;

/// Said of a start that was refused (P10).
const TOO_LATE: &str = "the deadline of its lease passed before the command could start";

const NS_PER_MS: u64 = 1_000_000;

/// Longest content of the file: one number.
const FILE_BYTES: usize = 32;

/// The deadline of this shim's runner.
#[derive(Debug)]
pub(super) struct Deadline {
    lease: wire::Lease,
    grace_ms: u64,
    timer: KillTimer,
    /// Tells an agent that finds the shim dead what killed it. Nothing is decided by it.
    path: PathBuf,
    file: Option<File>,
    /// The tree is gone: nothing is left to be killed.
    over: bool,
    began: bool,
    forced: bool,
}

impl Deadline {
    /// Armed before the command is forked (P10).
    ///
    /// # Errors
    /// Without a timer of the kernel no deadline can be promised.
    pub(super) fn arm(lease: wire::Lease, grace_ms: u64, dir: &Path) -> io::Result<Self> {
        let (timer, path) = (KillTimer::create()?, path(dir));
        let deadline =
            Self { lease, grace_ms, timer, path, file: None, over: false, began: false, forced: false };
        // Armed with a time that has passed, the kernel's timer would end this process without a word.
        deadline.check()?;
        deadline.set_timer()?;
        Ok(deadline)
    }

    fn set_timer(&self) -> io::Result<()> {
        self.timer.set((self.lease.deadline_ns != 0).then_some(self.lease.deadline_ns))
    }

    /// Writes it down for whoever finds this process dead. Not on the way to the command's first instruction: a new file
    /// waits for whatever the file system is committing, up to milliseconds.
    pub(super) fn note(&mut self) {
        if self.file.is_none() && self.lease.deadline_ns != 0 {
            let new = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&self.path);
            self.file = new.ok();
        }
        if let Some(file) = &self.file {
            // A full disk hides the reason, nothing else.
            drop(file.write_all_at(format!("{:<31}\n", self.lease.deadline_ns).as_bytes(), 0));
        }
    }

    pub(super) const fn lease(&self) -> wire::Lease {
        self.lease
    }

    /// Takes a later deadline, an earlier one only with `lower` (P13).
    fn set(&mut self, to: wire::SetLease) -> io::Result<()> {
        let earlier = earlier(to.deadline_ns, self.lease.deadline_ns);
        if self.over || (earlier && !to.lower) || to.deadline_ns == self.lease.deadline_ns {
            return Ok(());
        }
        self.lease.deadline_ns = to.deadline_ns;
        self.set_timer()?;
        self.note();
        Ok(())
    }

    /// Whether less is left than any end needs.
    pub(super) fn is_over(&self) -> bool {
        self.kill_ms().is_some_and(|kill_ms| now_ns() / NS_PER_MS >= kill_ms)
    }

    /// P10: between fork and exec.
    pub(super) fn check(&self) -> io::Result<()> {
        if self.is_over() { Err(io::Error::new(io::ErrorKind::TimedOut, TOO_LATE)) } else { Ok(()) }
    }

    /// The tree is gone; the shim lives on to tell how.
    pub(super) fn disarm(&mut self) {
        self.over = true;
        // A timer that stays costs the shim, whose record is written.
        drop(self.timer.set(None));
    }

    fn kill_ms(&self) -> Option<u64> {
        let finite = self.lease.deadline_ns != 0 && !self.over;
        finite.then(|| (self.lease.deadline_ns / NS_PER_MS).saturating_sub(KILL_AHEAD_MS))
    }

    /// When the ladder begins: a grace before the deadline, KILL at the latest.
    fn begin_ms(&self) -> Option<u64> {
        let begin = (self.lease.deadline_ns / NS_PER_MS).saturating_sub(self.grace_ms);
        self.kill_ms().map(|kill_ms| kill_ms.min(begin))
    }

    /// When it next wants to be looked at, in ms of CLOCK_BOOTTIME.
    pub(super) fn wake_ms(&self) -> Option<u64> {
        match (self.began, self.forced) {
            (false, _) => self.begin_ms(),
            (true, false) => self.kill_ms(),
            (true, true) => None,
        }
    }

    /// `Some(force)` when the ladder must begin or be cut short; each once.
    fn due(&mut self) -> Option<bool> {
        if now_ns() / NS_PER_MS < self.begin_ms()? {
            return None;
        }
        let force = self.is_over();
        let news = !self.began || (force && !self.forced);
        self.began = true;
        self.forced |= force;
        news.then_some(force)
    }
}

impl Shim {
    /// Part of every turn of the loop.
    pub(super) fn keep_deadline(&mut self) {
        if let Some(force) = self.deadline.due() {
            self.stop(force, REASON);
        }
    }

    pub(super) fn set_lease(&mut self, at: usize, to: wire::SetLease) {
        let frame = match self.deadline.set(to) {
            Ok(()) => wire::frame(kind::LEASED, &self.deadline.lease()),
            Err(error) => return self.clients[at].refuse("no_timer", &error.to_string()),
        };
        self.clients[at].push(frame);
    }
}

/// A start that came too late; nothing was executed.
pub(super) fn too_late() -> Failure {
    Failure::new(REASON, TOO_LATE.into())
}

/// Whether a dead shim had reached its deadline, in the boot that wrote it.
pub(crate) fn has_passed(dir: &Path) -> bool {
    let Ok(text) = std::fs::read_to_string(path(dir)) else { return false };
    let text = text.get(..FILE_BYTES.min(text.len())).unwrap_or_default().trim();
    text.parse::<u64>().is_ok_and(|deadline_ns| deadline_ns != 0 && deadline_ns <= now_ns())
}

fn path(dir: &Path) -> PathBuf {
    dir.join("deadline")
}

/// 0 is never.
const fn earlier(than: u64, present: u64) -> bool {
    than != 0 && (present == 0 || than < present)
}

fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_NS: u64 = 3_600_000_000_000;

    fn deadline(deadline_ns: u64) -> (Deadline, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let lease = wire::Lease { deadline_ns, ..Default::default() };
        (Deadline::arm(lease, 3000, dir.path()).unwrap(), dir)
    }

    #[test]
    fn p13_only_a_bounding_grant_lowers_a_deadline() {
        let far = now_ns() + HOUR_NS;
        let (mut held, _dir) = deadline(far);
        let mut set = |deadline_ns, lower| {
            held.set(wire::SetLease { deadline_ns, lower }).unwrap();
            held.lease().deadline_ns
        };
        assert_eq!(set(far - 1, false), far);
        assert_eq!(set(far + 1, false), far + 1);
        assert_eq!(set(far - 1, true), far - 1);
        assert_eq!(set(0, false), 0, "none is later than any");
        assert_eq!(set(far, false), 0);
        assert_eq!(set(far, true), far);
    }

    #[test]
    fn p11_the_ladder_begins_a_grace_before_and_kills_a_second_before() {
        let far = now_ns() + HOUR_NS;
        let (mut held, dir) = deadline(far);
        assert_eq!(held.begin_ms(), Some(far / NS_PER_MS - 3000));
        assert_eq!(held.kill_ms(), Some(far / NS_PER_MS - 1000));
        assert_eq!(held.due(), None);
        assert!(held.check().is_ok() && !has_passed(dir.path()));
        let set = |held: &mut Deadline, in_ms: u64| {
            let deadline_ns = now_ns() + in_ms * NS_PER_MS;
            held.set(wire::SetLease { deadline_ns, lower: true }).unwrap();
        };
        set(&mut held, 2500);
        assert_eq!((held.due(), held.due()), (Some(false), None), "begun once");
        set(&mut held, 900);
        assert_eq!((held.due(), held.due(), held.check().is_err()), (Some(true), None, true));
        held.disarm();
        assert_eq!((held.due(), held.wake_ms()), (None, None), "the kernel's timer is off, too");
    }
}
