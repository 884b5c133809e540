//! Signals as a descriptor delivers them.

use std::os::fd::OwnedFd;

/// Bytes of `struct signalfd_siginfo`, which begins with the signal's number.
const SIGINFO_BYTES: usize = 128;

/// The next signal that waits in a descriptor of [`super::fork::signal_fd`].
pub(super) fn next_signal(signals: &OwnedFd) -> Option<i32> {
    let mut buffer = [0u8; SIGINFO_BYTES];
    let whole = rustix::io::read(signals, &mut buffer).is_ok_and(|read| read == buffer.len());
    whole.then(|| i32::from_le_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]))
}
