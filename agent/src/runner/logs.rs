//! Reads a runner's output from its files, whether a shim lives or not.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use stratavore_proto::v1;
use tokio::sync::{mpsc, watch};

use crate::shim::exit;
use crate::shim::log::reader::{LogReader, Piece};
use crate::shim::log::{self, segments};
use crate::shim::wire::Stream;

/// Bytes in one message.
const CHUNK_BYTES_MAX: usize = 32 * 1024;

/// Messages on their way to a reader.
const CHUNKS_MAX: usize = 8;

/// Between two looks for more output while following. Files cannot wake anybody without a watch of their own; people
/// who want every key at once attach.
const FOLLOW_PAUSE: Duration = Duration::from_millis(50);

/// Lines `tail_lines` may ask for; one offset is kept for each.
const TAIL_LINES_MAX: u64 = 10_000_000;

/// Streams the recorded output of the runner in `dir`: all of it, or from the line or time the request names. With
/// `follow` it goes on until `ended` turns true (or the end is recorded) and everything has been sent.
#[must_use]
pub fn read_logs(
    dir: &Path,
    request: v1::ReadLogsRequest,
    ended: Option<watch::Receiver<bool>>,
) -> mpsc::Receiver<io::Result<v1::ReadLogsResponse>> {
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    let dir = dir.to_owned();
    tokio::spawn(async move {
        if let Err(error) = stream(dir, request, ended, &sender).await {
            // A reader that has gone does not want to know.
            drop(sender.send(Err(error)).await);
        }
    });
    receiver
}

async fn stream(
    dir: PathBuf,
    request: v1::ReadLogsRequest,
    ended: Option<watch::Receiver<bool>>,
    sender: &mpsc::Sender<io::Result<v1::ReadLogsResponse>>,
) -> io::Result<()> {
    let log_dir = log::dir(&dir);
    let mut reader = blocking(move || {
        let from = start(&log_dir, &request)?;
        Ok((LogReader::new(&log_dir, from), request.follow))
    })
    .await?;
    let mut told = 0;
    loop {
        // Looked at before reading: what is recorded before the end is then read for certain.
        let over = !reader.1 || has_ended(&dir, ended.as_ref())?;
        loop {
            let (back, piece) = blocking(move || {
                let piece = reader.0.read(CHUNK_BYTES_MAX)?;
                Ok((reader, piece))
            })
            .await?;
            reader = back;
            let missing = reader.0.missing();
            let Some(piece) = piece else { break };
            if sender.send(Ok(response(piece, missing - told))).await.is_err() {
                return Ok(());
            }
            told = missing;
        }
        if over || reader.0.ended() {
            let missing = reader.0.missing();
            if missing > told {
                let offset = reader.0.next_offset();
                let rest =
                    v1::ReadLogsResponse { offset, dropped_bytes: missing - told, ..Default::default() };
                drop(sender.send(Ok(rest)).await);
            }
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(FOLLOW_PAUSE) => {}
            () = sender.closed() => return Ok(()),
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

fn has_ended(dir: &Path, ended: Option<&watch::Receiver<bool>>) -> io::Result<bool> {
    Ok(ended.is_some_and(|ended| *ended.borrow()) || exit::read(dir)?.is_some())
}

fn response(piece: Piece, dropped_bytes: u64) -> v1::ReadLogsResponse {
    v1::ReadLogsResponse {
        offset: piece.offset,
        time_unix_ms: i64::try_from(piece.wall_ms).unwrap_or(i64::MAX),
        stderr: piece.stream == Stream::Err,
        dropped_bytes,
        data: piece.data.into(),
    }
}

/// The offset from which to read: the later one of what `tail_lines` and `since` name.
fn start(log_dir: &Path, request: &v1::ReadLogsRequest) -> io::Result<u64> {
    let tail = match request.tail_lines {
        Some(lines) => tail_offset(log_dir, lines.min(TAIL_LINES_MAX))?,
        None => 0,
    };
    let since = match request.since_unix_ms {
        Some(since) => since_offset(log_dir, u64::try_from(since).unwrap_or(0))?,
        None => 0,
    };
    Ok(tail.max(since))
}

/// Where the last `lines` lines begin; an unfinished last line counts as one. Reads backwards by segments.
fn tail_offset(log_dir: &Path, lines: u64) -> io::Result<u64> {
    let all = segments(log_dir)?;
    let mut newlines: VecDeque<u64> = VecDeque::new();
    let mut end = None;
    for (at, first) in all.iter().enumerate().rev() {
        let stop = all.get(at + 1).copied().unwrap_or(u64::MAX);
        let found = newlines_between(log_dir, *first, stop, end.is_none().then_some(&mut end))?;
        for newline in found.into_iter().rev() {
            newlines.push_front(newline);
        }
        // One more than asked: the line begins behind the newline before it.
        if newlines.len() as u64 > lines {
            break;
        }
    }
    let end = end.unwrap_or(0);
    let unfinished = newlines.back().is_none_or(|newline| newline + 1 < end);
    let wanted = if unfinished { lines } else { lines + 1 };
    let Some(back) = usize::try_from(wanted).ok().filter(|back| *back > 0) else { return Ok(end) };
    Ok(newlines.len().checked_sub(back).and_then(|at| newlines.get(at)).map_or(0, |newline| newline + 1))
}

/// Offsets of the newlines in one segment; `end` takes the offset behind its last byte.
fn newlines_between(
    log_dir: &Path,
    first: u64,
    stop: u64,
    end: Option<&mut Option<u64>>,
) -> io::Result<Vec<u64>> {
    let mut reader = LogReader::new(log_dir, first);
    let mut found = Vec::new();
    while reader.next_offset() < stop {
        let Some(piece) = reader.read(CHUNK_BYTES_MAX)? else { break };
        let offsets = piece.data.iter().zip(piece.offset..).filter(|(byte, _)| **byte == b'\n');
        found.extend(offsets.map(|(_, offset)| offset).filter(|offset| *offset < stop));
    }
    if let Some(end) = end {
        *end = Some(reader.next_offset());
    }
    Ok(found)
}

/// Where the output begins that was written at `since` (milliseconds since the Unix epoch) or later.
fn since_offset(log_dir: &Path, since: u64) -> io::Result<u64> {
    let mut reader = LogReader::new(log_dir, 0);
    while let Some(piece) = reader.read(CHUNK_BYTES_MAX)? {
        if piece.wall_ms >= since {
            return Ok(piece.offset);
        }
    }
    Ok(reader.next_offset())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::log::kind;
    use crate::shim::log::writer::{Limits, LogWriter};

    fn written(text: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { segment_bytes: 64, segments: 1000 };
        let mut log = LogWriter::open(&log::dir(dir.path()), limits).unwrap();
        for piece in text.as_bytes().chunks(7) {
            log.output(kind::OUT, piece);
        }
        log.end_of_output();
        dir
    }

    fn tail(text: &str, lines: u64) -> String {
        let dir = written(text);
        let from = tail_offset(&log::dir(dir.path()), lines).unwrap();
        text[usize::try_from(from).unwrap()..].to_owned()
    }

    #[test]
    fn tails_agree_with_the_text() {
        let text: String = (0..50).map(|n| format!("line {n}\n")).collect();
        for lines in 0..=60u64 {
            let all: Vec<&str> = text.split_inclusive('\n').collect();
            let skip = all.len().saturating_sub(usize::try_from(lines).unwrap());
            assert_eq!(tail(&text, lines), all[skip..].concat(), "{lines} lines");
            let open = format!("{text}unfinished");
            let all: Vec<&str> = open.split_inclusive('\n').collect();
            let skip = all.len().saturating_sub(usize::try_from(lines).unwrap());
            assert_eq!(tail(&open, lines), all[skip..].concat(), "{lines} lines, the last one open");
        }
        assert_eq!(tail("", 5), "");
    }

    #[tokio::test]
    async fn everything_comes_and_then_the_end() {
        let text: String = (0..500).map(|n| format!("line {n}\n")).collect();
        let dir = written(&text);
        for follow in [false, true] {
            let request = v1::ReadLogsRequest { follow, ..Default::default() };
            let mut chunks = read_logs(dir.path(), request, None);
            let mut seen = Vec::new();
            while let Some(chunk) = chunks.recv().await {
                let chunk = chunk.unwrap();
                assert_eq!(chunk.offset, seen.len() as u64);
                seen.extend(chunk.data);
            }
            assert_eq!(String::from_utf8(seen).unwrap(), text);
        }
    }

    #[test]
    fn time_in_the_future_shows_nothing_old() {
        let dir = written("old\n");
        let log_dir = log::dir(dir.path());
        assert_eq!(since_offset(&log_dir, u64::MAX).unwrap(), 4);
        assert_eq!(since_offset(&log_dir, 1).unwrap(), 0);
    }
}
