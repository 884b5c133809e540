//! The end of a process as `wait` tells it, and as an init passes it on.

use rustix::process::Pid;

/// Bytes of an init's report: wait status, user and system time in microseconds, peak resident bytes.
const INIT_REPORT_BYTES: usize = 32;

/// How a process ended, and what it used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) status: i32,
    pub(super) user_us: u64,
    pub(super) system_us: u64,
    pub(super) max_rss_bytes: u64,
}

/// What waiting for children found.
#[derive(Debug)]
pub(super) enum Waited {
    Ended(Pid, Ended),
    /// Children exist, none has ended since.
    Nothing,
    /// Not one child is left: with a subreaper this means the whole tree is gone.
    NoChildren,
}

impl Ended {
    /// Exit code, unless a signal ended it.
    pub(super) const fn code(&self) -> Option<i32> {
        if libc::WIFEXITED(self.status) { Some(libc::WEXITSTATUS(self.status)) } else { None }
    }

    /// The signal that ended it.
    pub(super) const fn signal(&self) -> Option<i32> {
        if libc::WIFSIGNALED(self.status) { Some(libc::WTERMSIG(self.status)) } else { None }
    }

    /// Whether a core file was written.
    pub(super) const fn core_dumped(&self) -> bool {
        libc::WIFSIGNALED(self.status) && libc::WCOREDUMP(self.status)
    }

    /// What an init reported over its pipe.
    pub(super) fn from_report(bytes: &[u8]) -> Option<Self> {
        let field =
            |at: usize| bytes.get(at * 8..at * 8 + 8)?.first_chunk::<8>().map(|raw| u64::from_le_bytes(*raw));
        Some(Self {
            status: i32::try_from(field(0)?).ok()?,
            user_us: field(1)?,
            system_us: field(2)?,
            max_rss_bytes: field(3)?,
        })
    }

    /// What an init sends over its pipe.
    pub(super) fn report(&self) -> [u8; INIT_REPORT_BYTES] {
        let mut out = [0; INIT_REPORT_BYTES];
        let status = u64::try_from(self.status).unwrap_or(0);
        for (at, value) in [status, self.user_us, self.system_us, self.max_rss_bytes].into_iter().enumerate()
        {
            out[at * 8..at * 8 + 8].copy_from_slice(&value.to_le_bytes());
        }
        out
    }
}
