//! The output log of one epoch: framed, in segments, bounded.
//!
//! A frame is `kind u8 | length u24 | dt_ms u32 | payload` (little endian); one frame per coalesced read.
//! Offsets count the payload bytes of the program's output over the whole epoch, whether they were recorded or not.
//! A segment is named by the offset of its first output byte and begins with a header frame that carries the wall time
//! from which its `dt_ms` count. Where output was lost (full disk), a gap frame carries the number of bytes missing.

pub mod reader;
pub mod writer;

use std::io;
use std::path::{Path, PathBuf};

/// Default length at which a segment is closed.
pub const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;

/// Default number of segments kept: 64 MiB per runner.
pub const SEGMENTS: usize = 4;

/// Bytes before a payload.
pub const FRAME_HEADER: usize = 8;

/// Longest payload a length of 24 bits can name.
pub const PAYLOAD_MAX: usize = (1 << 24) - 1;

/// What a frame holds.
pub mod kind {
    /// Output of the terminal, or stdout of a pipe.
    pub const OUT: u8 = b'o';
    /// stderr of a pipe.
    pub const ERR: u8 = b'e';
    /// The terminal's size: rows u16, cols u16.
    pub const RESIZE: u8 = b'r';
    /// Bytes of output that were not recorded: u64.
    pub const GAP: u8 = b'g';
    /// First frame of a segment: wall time in ms u64, first offset u64.
    pub const HEAD: u8 = b'h';
    /// The end of the output.
    pub const END: u8 = b'x';
}

/// One frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub kind: u8,
    pub length: usize,
    /// Milliseconds since the segment's wall time.
    pub dt_ms: u32,
}

impl Header {
    /// The eight bytes on disk.
    #[must_use]
    pub fn encode(self) -> [u8; FRAME_HEADER] {
        let length = u32::try_from(self.length.min(PAYLOAD_MAX)).unwrap_or(0).to_le_bytes();
        let dt = self.dt_ms.to_le_bytes();
        [self.kind, length[0], length[1], length[2], dt[0], dt[1], dt[2], dt[3]]
    }

    /// Reads a header; `None` when the kind is unknown (the file is not ours, or torn).
    #[must_use]
    pub fn decode(bytes: &[u8; FRAME_HEADER]) -> Option<Self> {
        let known = [kind::OUT, kind::ERR, kind::RESIZE, kind::GAP, kind::HEAD, kind::END];
        known.contains(&bytes[0]).then(|| Self {
            kind: bytes[0],
            length: u32::from_le_bytes([bytes[1], bytes[2], bytes[3], 0]) as usize,
            dt_ms: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        })
    }

    /// How far this frame moves the output offset, given its payload.
    #[must_use]
    pub fn advance(self, payload: &[u8]) -> u64 {
        match self.kind {
            kind::OUT | kind::ERR => self.length as u64,
            kind::GAP => payload.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes)),
            _ => 0,
        }
    }
}

/// Where the log of a runner's directory lies.
#[must_use]
pub fn dir(runner_dir: &Path) -> PathBuf {
    runner_dir.join("log")
}

/// File of the segment whose first output byte has this offset.
#[must_use]
pub fn segment_path(log_dir: &Path, first: u64) -> PathBuf {
    log_dir.join(format!("out.{first:016x}.log"))
}

/// First offsets of all segments, oldest first.
///
/// # Errors
/// When the directory cannot be listed; a missing one has no segments.
pub fn segments(log_dir: &Path) -> io::Result<Vec<u64>> {
    let entries = match std::fs::read_dir(log_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let hex = name
            .to_str()
            .and_then(|name| name.strip_prefix("out."))
            .and_then(|name| name.strip_suffix(".log"));
        found.extend(hex.and_then(|hex| u64::from_str_radix(hex, 16).ok()));
    }
    found.sort_unstable();
    Ok(found)
}

/// Wall time in milliseconds since the Unix epoch; display only (P4: no safety decision reads it).
#[must_use]
pub fn wall_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
