//! One connection to the shim's socket, and the viewer that may live on it.
//!
//! A viewer never stalls the program: its queue is bounded, and one that falls behind goes on from a fresh snapshot
//! (terminals) or from the log (pipes and raw viewers, who must not miss a byte that is still recorded).

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::log::reader::LogReader;
use super::wire::{self, FRAME_BYTES_MAX, Stream, kind};

/// Bytes queued for one connection before it counts as behind.
pub(super) const QUEUE_MAX: usize = 256 * 1024;

/// Below this a viewer that reads from the log gets the next piece.
const REFILL_BELOW: usize = 128 * 1024;

/// Read from a connection at once.
const READ_BYTES: usize = 16 * 1024;

/// One connection.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) id: u64,
    stream: UnixStream,
    inbox: Vec<u8>,
    outbox: VecDeque<Vec<u8>>,
    /// Bytes of the first queued frame that are sent already.
    sent: usize,
    queued: usize,
    pub(super) greeted: bool,
    pub(super) watching: bool,
    pub(super) viewer: Option<Viewer>,
    pub(super) dead: bool,
}

/// Somebody who looks at the program.
#[derive(Debug)]
pub(super) struct Viewer {
    pub(super) name: String,
    /// Never gets snapshots.
    pub(super) raw: bool,
    feed: Feed,
    exit_sent: bool,
}

/// Where a viewer's next bytes come from.
#[derive(Debug)]
enum Feed {
    Live,
    /// From the log, until it has caught up.
    Log(Box<LogReader>),
    /// From a snapshot, as soon as its queue is empty.
    Snapshot,
}

/// What a viewer that has room needs now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    Nothing,
    Snapshot,
    /// It has everything up to the end: the exit may follow, once there is one.
    Exit,
}

impl Viewer {
    /// A viewer who wants the present state first.
    pub(super) const fn from_snapshot(name: String) -> Self {
        Self { name, raw: false, feed: Feed::Snapshot, exit_sent: false }
    }

    /// A viewer who wants bytes from an offset on; `raw` ones never accept a snapshot instead.
    pub(super) fn from_log(name: String, raw: bool, log: &Path, from: u64) -> Self {
        let feed = Feed::Log(Box::new(LogReader::new(log, from)));
        Self { name, raw, feed, exit_sent: false }
    }
}

impl Client {
    pub(super) const fn new(id: u64, stream: UnixStream) -> Self {
        Self {
            id,
            stream,
            inbox: Vec::new(),
            outbox: VecDeque::new(),
            sent: 0,
            queued: 0,
            greeted: false,
            watching: false,
            viewer: None,
            dead: false,
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Whether it waits to be written to: for what is queued, or for what would be once there is room.
    pub(super) fn wants_to_write(&self) -> bool {
        let behind = self.viewer.as_ref().is_some_and(|viewer| !matches!(viewer.feed, Feed::Live));
        behind || !self.outbox.is_empty()
    }

    /// Queues a frame that must arrive. A peer that lets these pile up is gone for us.
    pub(super) fn push(&mut self, frame: Vec<u8>) {
        if self.queued > 2 * QUEUE_MAX && self.viewer.is_none() {
            self.dead = true;
            return;
        }
        self.queued += frame.len();
        self.outbox.push_back(frame);
    }

    /// New output. Whoever is behind reads it from the log, or not at all.
    pub(super) fn output(&mut self, offset: u64, stream: Stream, data: &[u8], log: &Path, snapshots: bool) {
        let Some(viewer) = &mut self.viewer else { return };
        if !matches!(viewer.feed, Feed::Live) {
            return;
        }
        if self.queued + data.len() <= QUEUE_MAX {
            return self.push(wire::output_frame(offset, stream, data));
        }
        if snapshots && !viewer.raw {
            viewer.feed = Feed::Snapshot;
            self.drop_queue();
        } else {
            viewer.feed = Feed::Log(Box::new(LogReader::new(log, offset)));
        }
    }

    /// Makes a terminal's viewer start over from a snapshot (another size, for instance), behind what is queued.
    pub(super) fn refresh(&mut self) {
        if let Some(viewer) = self.viewer.as_mut().filter(|viewer| !viewer.raw) {
            viewer.feed = Feed::Snapshot;
        }
    }

    /// Forgets what is queued, except a frame that is half sent.
    fn drop_queue(&mut self) {
        self.outbox.truncate(usize::from(self.sent > 0));
        self.queued = self.outbox.front().map_or(0, |frame| frame.len() - self.sent);
    }

    /// Refills from the log, and tells what else the viewer needs. `end` is the log's end now.
    pub(super) fn refill(&mut self, end: u64, snapshots: bool) -> Need {
        loop {
            let room = self.queued < REFILL_BELOW;
            let idle = self.outbox.is_empty();
            let Some(viewer) = &mut self.viewer else { return Need::Nothing };
            match &mut viewer.feed {
                Feed::Live if viewer.exit_sent => return Need::Nothing,
                Feed::Live => return Need::Exit,
                Feed::Snapshot => return if idle { Need::Snapshot } else { Need::Nothing },
                Feed::Log(_) if !room => return Need::Nothing,
                Feed::Log(reader) => match reader.read(wire::CHUNK_BYTES_MAX) {
                    // Bytes are missing: a screen can be drawn whole, a raw stream goes on behind the gap.
                    Ok(_) if reader.missing() > 0 && snapshots && !viewer.raw => viewer.feed = Feed::Snapshot,
                    Ok(Some(piece)) => self.push(wire::output_frame(piece.offset, piece.stream, &piece.data)),
                    // Everything recorded has been sent; what is missing behind it was lost to a full disk.
                    Ok(None) if reader.next_offset() < end && snapshots && !viewer.raw => {
                        viewer.feed = Feed::Snapshot
                    }
                    Ok(None) | Err(_) => viewer.feed = Feed::Live,
                },
            }
        }
    }

    /// Sends the present state; output goes on live behind it.
    pub(super) fn snapshot(&mut self, frame: Vec<u8>) {
        if let Some(viewer) = &mut self.viewer {
            viewer.feed = Feed::Live;
        }
        self.push(frame);
    }

    /// Sends the exit, in band behind the last output; only once.
    pub(super) fn exit(&mut self, frame: Vec<u8>) {
        if let Some(viewer) = &mut self.viewer {
            viewer.exit_sent = true;
        }
        self.push(frame);
    }

    /// Whether it is a viewer that has not been given everything up to the exit yet.
    pub(super) fn is_owed_output(&self) -> bool {
        self.viewer.as_ref().is_some_and(|viewer| !viewer.exit_sent || !self.outbox.is_empty())
    }

    /// Writes what the peer takes.
    pub(super) fn flush(&mut self) {
        while let Some(frame) = self.outbox.front() {
            match (&self.stream).write(&frame[self.sent..]) {
                Ok(written) => {
                    self.sent += written;
                    self.queued -= written;
                    if self.sent == frame.len() {
                        self.outbox.pop_front();
                        self.sent = 0;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.dead = true;
                    return;
                }
            }
        }
        self.outbox.shrink_to(8);
    }

    /// Reads once; whole frames come out of [`Client::next_frame`].
    pub(super) fn receive(&mut self) {
        let mut buffer = [0; READ_BYTES];
        match (&self.stream).read(&mut buffer) {
            Ok(0) => self.dead = true,
            Ok(read) => self.inbox.extend_from_slice(&buffer[..read]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.dead = true,
        }
    }

    /// The next whole frame: kind and body. A length that cannot be ends the connection.
    pub(super) fn next_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        match wire::peek(&self.inbox, FRAME_BYTES_MAX) {
            Ok(Some(length)) if self.inbox.len() >= length => {
                let frame: Vec<u8> = self.inbox.drain(..length).collect();
                self.inbox.shrink_to(READ_BYTES);
                Some((frame[4], frame[wire::HEADER_BYTES..].to_vec()))
            }
            Ok(_) => None,
            Err(_) => {
                self.dead = true;
                None
            }
        }
    }

    /// Says no.
    pub(super) fn refuse(&mut self, code: &str, message: &str) {
        let refused = wire::Refused { code: code.into(), message: message.into() };
        self.push(wire::frame(kind::REFUSED, &refused));
    }
}
