//! What travels between an agent and a shim: the start order on stdin, and frames on the unix socket.
//!
//! A shim outlives several versions of the agent, so this protocol has its own number and grows by
//! addition only: prost messages for everything rare, raw bytes behind a kind byte for input and output.
//! A frame is `u32 length (little endian, kind included) | u8 kind | body`.

use prost::Message;
use stratavore_proto::v1;

/// Versions of the socket protocol this build speaks.
pub const PROTOCOL_MIN: u32 = 1;
/// See [`PROTOCOL_MIN`].
pub const PROTOCOL_MAX: u32 = 1;

/// Longest frame towards the shim: one paste chunk of 64 KiB and its header fit, a forged length allocates nothing large.
pub const FRAME_BYTES_MAX: usize = 64 * 1024 + 64;

/// Longest frame from the shim: a snapshot of the largest screen with every cell styled stays below this.
pub const REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Longest start order: argv and environment are bounded to 48 KiB (P23), the rest is small.
pub const ORDER_BYTES_MAX: usize = 1024 * 1024;

/// Output bytes in one frame; the shim reads at most this much from the program at once.
pub const CHUNK_BYTES_MAX: usize = 64 * 1024;

/// Bytes of length and kind before the body.
pub const HEADER_BYTES: usize = 5;

/// Frame kinds. Numbers are never reused; an unknown one is answered with [`kind::REFUSED`].
pub mod kind {
    pub const HELLO: u8 = 1;
    pub const WATCH: u8 = 2;
    pub const ATTACH: u8 = 3;
    pub const INPUT: u8 = 4;
    pub const RESIZE: u8 = 5;
    pub const CLOSE_INPUT: u8 = 6;
    pub const TAKE_DRIVER: u8 = 7;
    pub const STOP: u8 = 8;
    pub const SCREEN: u8 = 9;
    pub const TYPE: u8 = 10;
    pub const REAP: u8 = 11;
    pub const LEASE: u8 = 12;

    pub const WELCOME: u8 = 64;
    pub const STATUS: u8 = 65;
    pub const READY: u8 = 66;
    pub const SNAPSHOT: u8 = 67;
    /// `u64 offset | u8 stream | bytes`
    pub const OUTPUT: u8 = 68;
    pub const EXIT: u8 = 69;
    pub const DRIVER: u8 = 70;
    pub const SCREEN_TEXT: u8 = 71;
    pub const DONE: u8 = 72;
    pub const REFUSED: u8 = 73;
    pub const LEASED: u8 = 74;
}

/// Which pipe a piece of output came from; a terminal has only the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Out,
    Err,
}

impl Stream {
    /// The byte in an output frame.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::Out => 0,
            Self::Err => 1,
        }
    }

    /// The inverse of [`Stream::byte`]; anything unknown counts as the first stream.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Self {
        if byte == 1 { Self::Err } else { Self::Out }
    }
}

/// Everything a shim is told at its start, as one message on stdin up to end of file (environment included, so never in argv).
#[derive(Clone, PartialEq, Message)]
pub struct Order {
    #[prost(string, tag = "1")]
    pub runner: String,
    #[prost(message, optional, tag = "2")]
    pub epoch: Option<v1::Epoch>,
    #[prost(string, tag = "3")]
    pub dir: String,
    #[prost(string, tag = "4")]
    pub socket: String,
    /// argv; the agent has resolved an empty command to `$SHELL`.
    #[prost(string, repeated, tag = "5")]
    pub command: Vec<String>,
    /// The complete environment of the command.
    #[prost(message, repeated, tag = "6")]
    pub env: Vec<v1::EnvVar>,
    #[prost(string, tag = "7")]
    pub workdir: String,
    #[prost(bool, tag = "8")]
    pub tty: bool,
    #[prost(uint32, tag = "9")]
    pub rows: u32,
    #[prost(uint32, tag = "10")]
    pub cols: u32,
    #[prost(uint64, tag = "11")]
    pub kill_grace_ms: u64,
    #[prost(string, tag = "12")]
    pub boot_id: String,
    #[prost(message, optional, tag = "13")]
    pub fence: Option<FenceOrder>,
    /// 0 = the default.
    #[prost(uint64, tag = "14")]
    pub log_segment_bytes: u64,
    #[prost(uint32, tag = "15")]
    pub log_segments: u32,
    /// Absent: no deadline.
    #[prost(message, optional, tag = "16")]
    pub lease: Option<Lease>,
}

/// How long a runner may live without contact (P5, P9, P11).
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Lease {
    /// Ns of CLOCK_BOOTTIME at which everything is dead; 0 = never.
    #[prost(uint64, tag = "1")]
    pub deadline_ns: u64,
    /// The agent's own knowledge of the placement, kept here because the shim outlives it.
    #[prost(bool, tag = "2")]
    pub keep: bool,
    #[prost(uint64, tag = "3")]
    pub hold_ms: u64,
}

/// A new deadline; answered with the [`Lease`] that holds then.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct SetLease {
    /// As [`Lease::deadline_ns`]. An earlier one than the present counts only with `lower`.
    #[prost(uint64, tag = "1")]
    pub deadline_ns: u64,
    /// By a bounding grant (P13), the only message that lowers a deadline.
    #[prost(bool, tag = "2")]
    pub lower: bool,
}

/// How this runner's tree is to be fenced and limited; the shim falls back to what works.
#[derive(Clone, PartialEq, Message)]
pub struct FenceOrder {
    /// Leaf of the v2 hierarchy to create; empty = none.
    #[prost(string, tag = "1")]
    pub cgroup: String,
    /// May use a PID namespace when there is no leaf.
    #[prost(bool, tag = "2")]
    pub pid_namespace: bool,
    /// Inside a user namespace of its own (not root).
    #[prost(bool, tag = "3")]
    pub user_namespace: bool,
    /// Control files to write after the leaf exists: (path, value).
    #[prost(message, repeated, tag = "4")]
    pub limits: Vec<ControlFile>,
    /// v1 directories to create and join: the command enters them before it execs.
    #[prost(string, repeated, tag = "5")]
    pub join: Vec<String>,
    /// File that counts OOM kills (`memory.events` or `memory.oom_control`); empty = unknown.
    #[prost(string, tag = "6")]
    pub oom_counter: String,
}

/// One value for one control file.
#[derive(Clone, PartialEq, Message)]
pub struct ControlFile {
    #[prost(string, tag = "1")]
    pub path: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

/// First frame of every connection.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Hello {
    #[prost(uint32, tag = "1")]
    pub protocol_min: u32,
    #[prost(uint32, tag = "2")]
    pub protocol_max: u32,
}

/// Answer to [`Hello`].
#[derive(Clone, PartialEq, Message)]
pub struct Welcome {
    #[prost(uint32, tag = "1")]
    pub protocol: u32,
    #[prost(message, optional, tag = "2")]
    pub status: Option<Record>,
    /// Absent from shims that have no deadlines.
    #[prost(message, optional, tag = "3")]
    pub lease: Option<Lease>,
}

/// The state of one epoch as its shim knows it; the last one is the exit record.
#[derive(Clone, PartialEq, Message)]
pub struct Record {
    #[prost(message, optional, tag = "1")]
    pub observation: Option<v1::Observation>,
    /// Output bytes that never reached the log (disk full).
    #[prost(uint64, tag = "2")]
    pub dropped_bytes: u64,
    #[prost(string, tag = "3")]
    pub boot_id: String,
    /// In words, for people (errno text of a failed start, …).
    #[prost(string, tag = "4")]
    pub message: String,
}

/// Opens a viewer on this connection.
#[derive(Clone, PartialEq, Message)]
pub struct Attach {
    #[prost(message, optional, tag = "1")]
    pub open: Option<v1::AttachOpen>,
    #[prost(string, tag = "2")]
    pub viewer: String,
}

/// Starts or escalates the stop ladder.
#[derive(Clone, PartialEq, Message)]
pub struct Stop {
    #[prost(bool, tag = "1")]
    pub force: bool,
    #[prost(string, tag = "2")]
    pub reason: String,
}

/// Input without attaching.
#[derive(Clone, PartialEq, Message)]
pub struct Type {
    #[prost(bytes = "vec", tag = "1")]
    pub data: Vec<u8>,
    #[prost(bool, tag = "2")]
    pub steal: bool,
    #[prost(string, tag = "3")]
    pub viewer: String,
}

/// A request was not carried out.
#[derive(Clone, PartialEq, Message)]
pub struct Refused {
    #[prost(string, tag = "1")]
    pub code: String,
    #[prost(string, tag = "2")]
    pub message: String,
}

/// What the shim says on its stdout when it is ready, or why it is not.
#[derive(Clone, PartialEq, Message)]
pub struct Readiness {
    #[prost(message, optional, tag = "1")]
    pub record: Option<Record>,
    /// Set when the shim itself could not start; nothing runs.
    #[prost(string, tag = "2")]
    pub error: String,
    /// Another shim holds the directory, or an exit record exists.
    #[prost(bool, tag = "3")]
    pub taken: bool,
}

/// Appends one frame with a prost body.
pub fn frame<M: Message>(kind: u8, message: &M) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + message.encoded_len());
    start(kind, message.encoded_len(), &mut out);
    message.encode_raw(&mut out);
    out
}

/// One frame with a raw body.
#[must_use]
pub fn raw_frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + body.len());
    start(kind, body.len(), &mut out);
    out.extend_from_slice(body);
    out
}

/// One output frame.
#[must_use]
pub fn output_frame(offset: u64, stream: Stream, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + 9 + data.len());
    start(kind::OUTPUT, 9 + data.len(), &mut out);
    out.extend_from_slice(&offset.to_le_bytes());
    out.push(stream.byte());
    out.extend_from_slice(data);
    out
}

fn start(kind: u8, body: usize, out: &mut Vec<u8>) {
    let length = u32::try_from(body + 1).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.push(kind);
}

/// Splits an output body into offset, stream and bytes; `None` when it is too short.
#[must_use]
pub fn parse_output(body: &[u8]) -> Option<(u64, Stream, &[u8])> {
    let (offset, rest) = body.split_first_chunk::<8>()?;
    let (stream, data) = rest.split_first()?;
    Some((u64::from_le_bytes(*offset), Stream::from_byte(*stream), data))
}

/// Length of the first frame in `buffer` (header included), `None` while the header is incomplete.
///
/// # Errors
/// The announced length when it is zero or above `max`: the stream is unusable.
pub fn peek(buffer: &[u8], max: usize) -> Result<Option<usize>, usize> {
    let Some((length, _)) = buffer.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*length) as usize;
    if length == 0 || length > max {
        return Err(length);
    }
    Ok(Some(length + 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_frame_comes_back() {
        let frame = output_frame(77, Stream::Err, b"hello");
        assert_eq!(peek(&frame, FRAME_BYTES_MAX), Ok(Some(frame.len())));
        assert_eq!(frame[4], kind::OUTPUT);
        assert_eq!(parse_output(&frame[HEADER_BYTES..]), Some((77, Stream::Err, &b"hello"[..])));
    }

    #[test]
    fn lengths_that_cannot_be_are_refused() {
        assert_eq!(peek(&[1, 0], 10), Ok(None));
        assert_eq!(peek(&[0, 0, 0, 0, 0], 10), Err(0));
        assert_eq!(peek(&[11, 0, 0, 0], 10), Err(11));
        assert_eq!(parse_output(b"short"), None);
    }
}
