//! Whether the node at the other end still runs: whatever this side writes draws an acknowledgement from the node's QUIC
//! stack within milliseconds, with or without a leader. A node that draws none is dead, frozen or cut off, and known
//! for it long before QUIC's own idle timeout. An election is no silence (P17).

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// No datagram at all for this long after a frame was written. QUIC repeats what is lost several times within it, and
/// a node that is merely busy acknowledges far sooner.
const SILENCE: Duration = Duration::from_millis(1500);

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Watches one connection.
#[derive(Debug)]
pub(super) struct Pulse {
    connection: quinn::Connection,
    written: watch::Receiver<u64>,
    wait: Wait,
}

/// What is waited for: pure, so that time can be given.
#[derive(Debug, Default)]
struct Wait {
    written: u64,
    /// Datagrams received when the oldest unanswered frame was written, and when that was.
    since: Option<(u64, Instant)>,
    told: bool,
}

impl Pulse {
    pub(super) fn new(connection: quinn::Connection, written: watch::Receiver<u64>) -> Self {
        Self { connection, written, wait: Wait::default() }
    }

    /// Returns when the node has fallen silent, once per silence. Cancel-safe.
    pub(super) async fn lost(&mut self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let received = self.connection.stats().udp_rx.datagrams;
            let written = *self.written.borrow();
            if self.wait.look(written, received, Instant::now()) {
                return;
            }
        }
    }
}

impl Wait {
    /// True when the silence has lasted long enough, once.
    fn look(&mut self, written: u64, received: u64, now: Instant) -> bool {
        if self.since.is_some_and(|(before, _)| received != before) {
            self.since = None;
            self.told = false;
        }
        if written != self.written {
            self.written = written;
            self.since.get_or_insert((received, now));
        }
        let silent = self.since.is_some_and(|(_, since)| now.duration_since(since) >= SILENCE);
        silent && !std::mem::replace(&mut self.told, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p17_only_what_draws_no_datagram_is_silent() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut wait = Wait::default();
        assert!(!wait.look(0, 5, at(0)));
        assert!(!wait.look(0, 5, at(9_000)), "nothing was written, nothing is owed");
        assert!(!wait.look(1, 5, at(9_100)));
        assert!(!wait.look(1, 6, at(9_200)), "acknowledged, whatever the answer");
        assert!(!wait.look(1, 6, at(20_000)));
        assert!(!wait.look(2, 6, at(20_100)));
        assert!(!wait.look(3, 6, at(21_500)));
        assert!(wait.look(3, 6, at(21_600)));
        assert!(!wait.look(4, 6, at(29_000)), "told once");
        assert!(!wait.look(4, 7, at(29_100)), "it is back");
        assert!(!wait.look(5, 7, at(29_200)));
        assert!(wait.look(5, 7, at(31_000)));
    }
}
