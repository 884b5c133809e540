//! Processes by number, without mistaking a new one for an old one that had the same number.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::readable::Readable;

/// A process, named so that it cannot be confused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// Clock ticks from boot to its start, as /proc says.
    pub(crate) started_ticks: u64,
}

impl Process {
    /// The living process of a number.
    pub(crate) fn find(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        parse_stat(&stat).map(|started_ticks| Self { pid, started_ticks })
    }

    /// This program itself.
    pub(crate) fn own() -> Option<Self> {
        Self::find(std::process::id())
    }

    /// Whether it still lives; a zombie does not.
    pub(crate) fn is_alive(self) -> bool {
        Self::find(self.pid) == Some(self)
    }

    /// A handle on it, if it lives.
    fn handle(self) -> Option<OwnedFd> {
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        let handle = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // The number may have been given away before the handle was made.
        self.is_alive().then_some(handle)
    }

    /// Sends a signal; to nobody when it has ended.
    ///
    /// # Errors
    /// When it belongs to somebody else.
    pub(crate) fn signal(self, signal: Signal) -> io::Result<()> {
        match self.handle().map(|handle| pidfd_send_signal(handle, signal)) {
            None | Some(Ok(()) | Err(rustix::io::Errno::SRCH)) => Ok(()),
            Some(Err(error)) => Err(error.into()),
        }
    }

    /// Completes when it has ended.
    ///
    /// # Errors
    /// When the kernel cannot wait for it (before Linux 5.3).
    pub(crate) async fn ended(self) -> io::Result<()> {
        let Some(handle) = self.handle() else { return Ok(()) };
        // A process's handle becomes readable when it ends.
        Readable::new(handle)?.wait().await
    }

    /// SIGTERM, then after `grace` SIGKILL; returns when it has ended.
    ///
    /// # Errors
    /// When it cannot be signalled or waited for.
    pub(crate) async fn stop(self, grace: Duration) -> io::Result<Stopped> {
        self.signal(Signal::TERM)?;
        if tokio::time::timeout(grace, self.ended()).await.is_ok_and(|ended| ended.is_ok()) {
            return Ok(Stopped::ByItself);
        }
        self.signal(Signal::KILL)?;
        self.ended().await?;
        Ok(Stopped::Killed)
    }
}

/// How a process was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stopped {
    ByItself,
    Killed,
}

/// The start time in `/proc/PID/stat`; `None` for a zombie. The name in parentheses may hold anything.
fn parse_stat(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    // Start time is field 22 of the file; state was field 3.
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1000 200";
        assert_eq!(parse_stat(stat), Some(987_654));
        assert_eq!(parse_stat(&stat.replace(" S 1", " Z 1")), None);
        assert_eq!(parse_stat("garbage"), None);
    }

    #[test]
    fn a_number_given_away_is_not_the_same_process() {
        let own = Process::own().unwrap();
        assert!(own.is_alive());
        assert!(!Process { started_ticks: own.started_ticks + 1, ..own }.is_alive());
    }

    #[tokio::test]
    async fn a_process_that_ignores_term_is_killed() {
        // The trap is set before it writes its line.
        let mut child = tokio::process::Command::new("sh")
            .args(["-c", "trap '' TERM; echo ready; exec sleep 1000"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0; 6];
        tokio::io::AsyncReadExt::read_exact(&mut child.stdout.take().unwrap(), &mut line).await.unwrap();
        let process = Process::find(child.id().unwrap()).unwrap();
        let stopped = process.stop(Duration::from_millis(200)).await.unwrap();
        assert_eq!(stopped, Stopped::Killed);
        assert!(!child.wait().await.unwrap().success());
        assert!(!process.is_alive());
        process.signal(Signal::KILL).unwrap();
        process.ended().await.unwrap();
    }
}
