//! Agents: QUIC endpoint, one session per host, desired state down, reports and renewals up, streams for viewers.
//!
//! ```text
//!  agent == QUIC ==> endpoint -> handshake -> session --+--> ingest ---> propose Report ---> ObservedAck
//!                                    |                  +--> leader::liveness (renewals) --> Grant
//!                                   hub <--- dispatch (Welcome, Desired)   <--- relay (attach, logs, screen, input)
//! ```

pub(crate) mod certificate;
pub(crate) mod endpoint;
pub(crate) mod handshake;
pub(crate) mod hub;
pub(crate) mod ingest;
pub(crate) mod relay;
mod reset;
pub(crate) mod session;
pub(crate) mod trust;

use std::time::Duration;

/// Frames that wait for an agent. A full queue means an agent that reads nothing for seconds: it is cut, and its next
/// connection begins with a full set.
pub(crate) const DOWN_QUEUE: usize = 1024;

/// A peer that is connected but silent holds its place only so long before its hello.
pub(crate) const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an agent gets to read its farewell (removed, replaced, stopping) before the connection is closed: P18
/// wants it cut within two seconds.
pub(crate) const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// An agent that is there opens a stream within a round trip; this is for one that is not.
pub(crate) const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// Agents of one node (DESIGN 11).
pub(crate) const SESSIONS_MAX: usize = 20_000;

/// Application close codes, for whoever reads a packet trace.
pub(crate) mod close {
    pub(crate) const ENDED: u32 = 0;
    pub(crate) const REFUSED: u32 = 1;
    pub(crate) const REMOVED: u32 = 2;
    pub(crate) const REPLACED: u32 = 3;
    pub(crate) const STOPPING: u32 = 4;
    pub(crate) const TOO_SLOW: u32 = 5;
    pub(crate) const PROTOCOL: u32 = 6;
}
