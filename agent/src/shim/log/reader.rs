//! Reads the log, also while it is being written: by offset, by lines from the end, by time.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::super::wire::{CHUNK_BYTES_MAX, Stream};
use super::{FRAME_HEADER, Header, PAYLOAD_MAX, kind, segment_path, segments};

/// Bytes fetched at once: small frames (one keystroke each) are common, and one of a full read fits whole.
const WINDOW: usize = CHUNK_BYTES_MAX + 4096;

/// A position in one segment, at a frame boundary.
#[derive(Debug)]
pub struct Cursor {
    file: File,
    /// Offset that names the segment.
    first: u64,
    position: u64,
    offset: u64,
    wall_ms: u64,
    window: Vec<u8>,
    window_at: u64,
}

/// One frame of output, or the part of it that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    pub offset: u64,
    pub stream: Stream,
    pub wall_ms: u64,
    pub data: Vec<u8>,
}

/// What lies at a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    pub header: Header,
    /// Offset of its first byte of output.
    pub offset: u64,
    pub wall_ms: u64,
    payload_at: u64,
}

impl Cursor {
    /// At the start of a segment.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path, first: u64) -> io::Result<Self> {
        let file = File::open(path)?;
        Ok(Self { file, first, position: 0, offset: first, wall_ms: 0, window: Vec::new(), window_at: 0 })
    }

    /// Byte position in the file, behind the last whole frame passed.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Output offset at this position.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Passes one frame; `None` at the end of what is written (a torn frame counts as not written).
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn skip_frame(&mut self) -> io::Result<Option<Frame>> {
        let Some(header) = self.whole_frame()? else { return Ok(None) };
        let payload_at = self.position + FRAME_HEADER as u64;
        let frame = Frame {
            header,
            offset: self.offset,
            wall_ms: self.wall_ms.saturating_add(u64::from(header.dt_ms)),
            payload_at,
        };
        if matches!(header.kind, kind::GAP | kind::HEAD) {
            let payload = self.in_window(payload_at, header.length.min(16)).unwrap_or_default();
            let (advance, wall) = (header.advance(payload), payload.first_chunk::<8>().copied());
            self.offset += advance;
            if let (kind::HEAD, Some(wall)) = (header.kind, wall) {
                self.wall_ms = u64::from_le_bytes(wall);
            }
        } else {
            self.offset += header.advance(&[]);
        }
        self.position = payload_at + header.length as u64;
        Ok(Some(frame))
    }

    /// The bytes `from..to` of a frame's payload.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn payload(&self, frame: &Frame, from: usize, to: usize) -> io::Result<Vec<u8>> {
        let length = to.min(frame.header.length).saturating_sub(from).min(PAYLOAD_MAX);
        let at = frame.payload_at + from as u64;
        if let Some(bytes) = self.in_window(at, length) {
            return Ok(bytes.to_vec());
        }
        let mut data = vec![0; length];
        self.file.read_exact_at(&mut data, at)?;
        Ok(data)
    }

    /// The header at the cursor, when its frame is there to its end.
    fn whole_frame(&mut self) -> io::Result<Option<Header>> {
        // A frame that is whole once stays as it is; half of one may have been taken back since the window was read.
        if let Some(header) = self.header().filter(|header| self.frame_end(*header) <= self.window_end()) {
            return Ok(Some(header));
        }
        self.slide(self.position)?;
        let Some(header) = self.header() else { return Ok(None) };
        let end = self.frame_end(header);
        if end <= self.window_end() {
            return Ok(Some(header));
        }
        // Larger than the window: its last byte tells as much as all of them.
        let whole = self.window.len() == WINDOW && read_up_to(&self.file, &mut [0], end - 1)? == 1;
        Ok(whole.then_some(header))
    }

    fn header(&self) -> Option<Header> {
        Header::decode(self.in_window(self.position, FRAME_HEADER)?.first_chunk()?)
    }

    const fn frame_end(&self, header: Header) -> u64 {
        self.position + (FRAME_HEADER + header.length) as u64
    }

    const fn window_end(&self) -> u64 {
        self.window_at + self.window.len() as u64
    }

    /// Fills the window from `at` on.
    fn slide(&mut self, at: u64) -> io::Result<()> {
        let mut window = std::mem::take(&mut self.window);
        window.resize(WINDOW, 0);
        let read = read_up_to(&self.file, &mut window, at)?;
        window.truncate(read);
        self.window = window;
        self.window_at = at;
        Ok(())
    }

    fn in_window(&self, at: u64, length: usize) -> Option<&[u8]> {
        let start = usize::try_from(at.checked_sub(self.window_at)?).ok()?;
        self.window.get(start..start.checked_add(length)?)
    }
}

fn read_up_to(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], at + read as u64) {
            Ok(0) => break,
            Ok(n) => read += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// Reads output from an offset on, across segments and gaps, without loss or repetition.
#[derive(Debug)]
pub struct LogReader {
    dir: PathBuf,
    next: u64,
    cursor: Option<Cursor>,
    /// The frame that holds `next`, when only part of it was taken.
    partial: Option<Frame>,
    missing: u64,
    ended: bool,
}

impl LogReader {
    /// A reader whose first byte will be the one at `from`, or the oldest one that is left.
    #[must_use]
    pub fn new(log_dir: &Path, from: u64) -> Self {
        Self { dir: log_dir.into(), next: from, cursor: None, partial: None, missing: 0, ended: false }
    }

    /// Offset of the byte that comes next.
    #[must_use]
    pub const fn next_offset(&self) -> u64 {
        self.next
    }

    /// Bytes that were skipped so far because they were never recorded or already rotated away.
    #[must_use]
    pub const fn missing(&self) -> u64 {
        self.missing
    }

    /// Whether the end mark has been passed: nothing more will ever come.
    #[must_use]
    pub const fn ended(&self) -> bool {
        self.ended
    }

    /// The next piece of output, at most `max` bytes; `None` when there is no more for now.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn read(&mut self, max: usize) -> io::Result<Option<Piece>> {
        loop {
            if self.cursor.is_none() && !self.seek()? {
                return Ok(None);
            }
            let Some(frame) = self.next_frame()? else {
                if self.cursor.is_some() {
                    return Ok(None);
                }
                continue;
            };
            if let Some(piece) = self.take(frame, max)? {
                return Ok(Some(piece));
            }
        }
    }

    /// Takes what is wanted of one frame.
    fn take(&mut self, frame: Frame, max: usize) -> io::Result<Option<Piece>> {
        let Some(cursor) = &self.cursor else { return Ok(None) };
        let stream = match frame.header.kind {
            kind::OUT => Stream::Out,
            kind::ERR => Stream::Err,
            kind::END => {
                self.ended = true;
                return Ok(None);
            }
            _ => {
                let behind = cursor.offset();
                if frame.header.kind == kind::GAP && behind > self.next {
                    self.missing += behind - self.next.max(frame.offset);
                    self.next = behind;
                }
                return Ok(None);
            }
        };
        let end = frame.offset + frame.header.length as u64;
        if end <= self.next {
            return Ok(None);
        }
        if frame.offset > self.next {
            self.missing += frame.offset - self.next;
            self.next = frame.offset;
        }
        let from = usize::try_from(self.next - frame.offset).unwrap_or(usize::MAX);
        let data = cursor.payload(&frame, from, from.saturating_add(max))?;
        let piece = Piece { offset: self.next, stream, wall_ms: frame.wall_ms, data };
        self.next += piece.data.len() as u64;
        if self.next < end {
            self.partial = Some(frame);
        }
        Ok(Some(piece))
    }

    /// Opens the segment that holds `next`, or the oldest one; false when there is none.
    fn seek(&mut self) -> io::Result<bool> {
        let all = segments(&self.dir)?;
        let Some(oldest) = all.first() else { return Ok(false) };
        let first = all.iter().rev().find(|first| **first <= self.next).unwrap_or(oldest);
        if *first > self.next {
            self.missing += first - self.next;
            self.next = *first;
        }
        match Cursor::open(&segment_path(&self.dir, *first), *first) {
            Ok(cursor) => self.cursor = Some(cursor),
            // Rotated away between the listing and the open: list again.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.seek(),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// The frame at the cursor. `None` with a cursor: nothing more yet; without one: it has moved, seek again.
    fn next_frame(&mut self) -> io::Result<Option<Frame>> {
        if let Some(frame) = self.partial.take() {
            return Ok(Some(frame));
        }
        let Some(cursor) = &mut self.cursor else { return Ok(None) };
        if let Some(frame) = cursor.skip_frame()? {
            return Ok(Some(frame));
        }
        let Some(later) = segments(&self.dir)?.into_iter().find(|first| *first > cursor.first) else {
            return Ok(None);
        };
        // A later segment exists, so this one is final: what was appended since the look above is there now.
        if let Some(frame) = cursor.skip_frame()? {
            return Ok(Some(frame));
        }
        self.missing += later.saturating_sub(self.next);
        self.next = self.next.max(later);
        self.cursor = None;
        Ok(None)
    }
}
