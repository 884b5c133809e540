//! Appends to the log. Nothing here may stop the runner: what cannot be written is counted as dropped.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::reader::Cursor;
use super::{
    FRAME_HEADER, Header, PAYLOAD_MAX, SEGMENT_BYTES, SEGMENTS, kind, segment_path, segments, wall_ms,
};

/// How large the ring may get.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub segment_bytes: u64,
    pub segments: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { segment_bytes: SEGMENT_BYTES, segments: SEGMENTS }
    }
}

/// The log of a running epoch.
#[derive(Debug)]
pub struct LogWriter {
    dir: PathBuf,
    limits: Limits,
    /// First offsets of the segments on disk, oldest first; the last one is open.
    ring: VecDeque<u64>,
    file: File,
    /// Bytes in the open segment, whole frames only.
    length: u64,
    /// Whether the open segment has had its first frame from us.
    headed: bool,
    /// Zero of `dt_ms` in the open segment.
    origin: Instant,
    offset: u64,
    /// Output bytes not recorded since the last frame that was; they go into a gap frame.
    missing: u64,
    dropped: u64,
    frame: Vec<u8>,
}

impl LogWriter {
    /// Opens the log, creating it when it is new. A log that exists is continued: a torn frame at its end is cut off.
    /// Nothing is written before there is something to record.
    ///
    /// # Errors
    /// When the directory or the first segment cannot be made.
    pub fn open(dir: &Path, limits: Limits) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut ring: VecDeque<u64> = segments(dir)?.into();
        let (length, offset) = match ring.back() {
            Some(first) => repair(&segment_path(dir, *first), *first)?,
            None => {
                ring.push_back(0);
                (0, 0)
            }
        };
        let file = append(&segment_path(dir, ring.back().copied().unwrap_or(0)))?;
        let (missing, dropped) = (0, 0);
        Ok(Self {
            dir: dir.into(),
            limits,
            ring,
            file,
            length,
            headed: false,
            origin: Instant::now(),
            offset,
            missing,
            dropped,
            frame: Vec::new(),
        })
    }

    /// Offset behind the last byte of output, recorded or not.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.offset
    }

    /// Output bytes that were not recorded.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Offset of the oldest byte still on disk.
    #[must_use]
    pub fn oldest(&self) -> u64 {
        self.ring.front().copied().unwrap_or(0)
    }

    /// Records output of `stream_kind` ([`kind::OUT`] or [`kind::ERR`]); never fails.
    pub fn output(&mut self, stream_kind: u8, data: &[u8]) {
        for piece in data.chunks(PAYLOAD_MAX) {
            self.rotate_if_full();
            if self.close_gap() && self.append(stream_kind, piece).is_ok() {
                self.offset += piece.len() as u64;
            } else {
                self.offset += piece.len() as u64;
                self.missing += piece.len() as u64;
                self.dropped += piece.len() as u64;
            }
        }
    }

    /// Records a change of the terminal's size; lost silently on a full disk.
    pub fn resize(&mut self, rows: u16, cols: u16) {
        let mut payload = [0; 4];
        payload[..2].copy_from_slice(&rows.to_le_bytes());
        payload[2..].copy_from_slice(&cols.to_le_bytes());
        self.note(kind::RESIZE, &payload);
    }

    /// Marks the end of the output.
    pub fn end_of_output(&mut self) {
        if self.close_gap() {
            self.note(kind::END, &[]);
        }
    }

    /// A frame that carries no output; the readers can do without it.
    fn note(&mut self, kind: u8, payload: &[u8]) {
        drop(self.append(kind, payload));
    }

    /// Writes the gap frame for what is missing; true when nothing is missing any more.
    fn close_gap(&mut self) -> bool {
        if self.missing > 0 && self.append(kind::GAP, &self.missing.to_le_bytes()).is_ok() {
            self.missing = 0;
        }
        self.missing == 0
    }

    fn head(&mut self) {
        let mut payload = [0; 16];
        payload[..8].copy_from_slice(&wall_ms().to_le_bytes());
        payload[8..].copy_from_slice(&self.offset.to_le_bytes());
        self.origin = Instant::now();
        self.headed = true;
        self.note(kind::HEAD, &payload);
    }

    /// Only written bytes count, so a full disk never rotates good segments away.
    fn rotate_if_full(&mut self) {
        // With bytes missing the next segment could not be named by its first recorded byte.
        let named = self.ring.back().copied();
        if self.length < self.limits.segment_bytes || self.missing > 0 || named == Some(self.offset) {
            return;
        }
        let Ok(file) = append(&segment_path(&self.dir, self.offset)) else { return };
        self.file = file;
        self.length = 0;
        self.ring.push_back(self.offset);
        while self.ring.len() > self.limits.segments.max(1) {
            if let Some(oldest) = self.ring.pop_front() {
                // A segment that cannot be removed is only disk space; the next rotation does not need it.
                drop(fs::remove_file(segment_path(&self.dir, oldest)));
            }
        }
        self.head();
    }

    fn append(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        if !self.headed {
            self.head();
        }
        let dt_ms = u32::try_from(self.origin.elapsed().as_millis()).unwrap_or(u32::MAX);
        self.frame.clear();
        self.frame.extend_from_slice(&Header { kind, length: payload.len(), dt_ms }.encode());
        self.frame.extend_from_slice(payload);
        match self.file.write_all(&self.frame) {
            Ok(()) => {
                self.length += (FRAME_HEADER + payload.len()) as u64;
                Ok(())
            }
            Err(error) => {
                // Half a frame may be there; readers stop at it, so take it back.
                self.file.set_len(self.length)?;
                Err(error)
            }
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// Cuts a torn frame off the end of a segment: (length of the whole frames, offset behind them).
fn repair(path: &Path, first: u64) -> io::Result<(u64, u64)> {
    let mut cursor = Cursor::open(path, first)?;
    while cursor.skip_frame()?.is_some() {}
    let (length, offset) = (cursor.position(), cursor.offset());
    if fs::metadata(path)?.len() > length {
        OpenOptions::new().write(true).open(path)?.set_len(length)?;
    }
    Ok((length, offset))
}

#[cfg(test)]
mod tests {
    use super::super::reader::{LogReader, Piece};
    use super::*;

    fn all(dir: &Path, from: u64, max: usize) -> (Vec<Piece>, u64) {
        let mut reader = LogReader::new(dir, from);
        let mut pieces = Vec::new();
        while let Some(piece) = reader.read(max).unwrap() {
            pieces.push(piece);
        }
        (pieces, reader.missing())
    }

    fn bytes(pieces: &[Piece]) -> Vec<u8> {
        pieces.iter().flat_map(|piece| piece.data.clone()).collect()
    }

    fn numbered(count: usize) -> Vec<u8> {
        (0..count).flat_map(|n| format!("line {n:06}\n").into_bytes()).collect()
    }

    #[test]
    fn every_offset_reads_to_the_end_without_loss_or_repetition() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(dir.path(), Limits { segment_bytes: 500, segments: 100 }).unwrap();
        let text = numbered(300);
        for chunk in text.chunks(37) {
            log.output(kind::OUT, chunk);
            log.resize(10, 20);
        }
        assert_eq!(log.end(), text.len() as u64);
        assert!(segments(dir.path()).unwrap().len() > 5);
        for from in (0..text.len()).step_by(13) {
            let (pieces, missing) = all(dir.path(), from as u64, 11);
            assert_eq!(bytes(&pieces), text[from..], "from {from}");
            assert_eq!(missing, 0);
            assert!(pieces.iter().all(|piece| piece.data.len() <= 11));
        }
    }

    #[test]
    fn the_ring_forgets_the_oldest_and_says_how_much() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(dir.path(), Limits { segment_bytes: 1000, segments: 3 }).unwrap();
        let text = numbered(1000);
        for chunk in text.chunks(100) {
            log.output(kind::OUT, chunk);
        }
        assert_eq!(segments(dir.path()).unwrap().len(), 3);
        let (pieces, missing) = all(dir.path(), 0, 4096);
        assert_eq!(missing, log.oldest());
        assert_eq!(bytes(&pieces), text[usize::try_from(missing).unwrap()..]);
    }

    #[test]
    fn a_log_cut_anywhere_opens_again_and_goes_on() {
        let source = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(source.path(), Limits::default()).unwrap();
        log.output(kind::OUT, b"first ");
        log.output(kind::OUT, b"second ");
        let whole = fs::read(segment_path(source.path(), 0)).unwrap();
        for cut in 0..=whole.len() {
            let dir = tempfile::tempdir().unwrap();
            fs::write(segment_path(dir.path(), 0), &whole[..cut]).unwrap();
            let mut log = LogWriter::open(dir.path(), Limits::default()).unwrap();
            let kept = usize::try_from(log.end()).unwrap();
            assert!([0, 6, 13].contains(&kept), "cut {cut} kept {kept}");
            log.output(kind::OUT, b"third");
            let (pieces, missing) = all(dir.path(), 0, 100);
            assert_eq!(bytes(&pieces), [&b"first second "[..kept], b"third"].concat());
            assert_eq!(missing, 0);
        }
    }

    #[test]
    fn a_gap_keeps_offsets_right() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(dir.path(), Limits::default()).unwrap();
        log.output(kind::OUT, b"abc");
        log.missing = 1000;
        log.offset += 1000;
        log.output(kind::ERR, b"def");
        let (pieces, missing) = all(dir.path(), 0, 100);
        assert_eq!(missing, 1000);
        assert_eq!(pieces[1].offset, 1003);
        assert_eq!(pieces[1].stream, crate::shim::wire::Stream::Err);
        let (pieces, missing) = all(dir.path(), 500, 100);
        assert_eq!((pieces[0].offset, missing), (1003, 503));
    }

    #[test]
    fn a_reader_follows_a_writer_through_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(dir.path(), Limits { segment_bytes: 200, segments: 50 }).unwrap();
        let mut reader = LogReader::new(dir.path(), 0);
        let text = numbered(200);
        let mut seen = Vec::new();
        for chunk in text.chunks(61) {
            log.output(kind::OUT, chunk);
            while let Some(piece) = reader.read(1000).unwrap() {
                seen.extend(piece.data);
            }
        }
        log.end_of_output();
        assert!(reader.read(10).unwrap().is_none());
        assert!(reader.ended());
        assert_eq!(seen, text);
    }
}
