//! Waiting for a file descriptor that is none of the runtime's own kinds: a terminal, a pipe, a process.

use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor that can be waited for until it is readable.
#[derive(Debug)]
pub(crate) struct Readable(AsyncFd<OwnedFd>);

impl Readable {
    /// Registers a descriptor.
    ///
    /// # Errors
    /// EPERM for what the kernel cannot wait for: regular files.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        #[expect(deprecated, reason = "its unsafe successor asks for what an OwnedFd guarantees by its type")]
        AsyncFd::with_interest(fd, Interest::READABLE).map(Self)
    }

    /// The descriptor.
    pub(crate) fn fd(&self) -> &OwnedFd {
        self.0.get_ref()
    }

    /// Returns when a read would not block, or when the other end is gone. Cancel-safe.
    ///
    /// # Errors
    /// When the kernel refuses to wait.
    pub(crate) async fn wait(&self) -> io::Result<()> {
        loop {
            let mut guard = self.0.readable().await?;
            let mut polled = [PollFd::new(self.fd(), PollFlags::IN)];
            if poll(&mut polled, Some(&Timespec::default()))? > 0 {
                guard.retain_ready();
                return Ok(());
            }
            guard.clear_ready();
        }
    }
}
