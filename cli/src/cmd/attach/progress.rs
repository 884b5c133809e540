//! How far an attached stream has come. Pure: messages in, what to do out; and from it the next open request, so
//! that a lost connection goes on without a lost or doubled byte.

use bytes::Bytes;
use stratavore_proto::v1::{
    AttachOpen, AttachOutput, AttachReady, AttachResponse, AttachSnapshot, Epoch, Exit, WindowSize,
    attach_response,
};

/// What was asked for on the command line.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wish {
    /// Id of the runner.
    pub(crate) runner: String,
    pub(crate) observe: bool,
    pub(crate) steal: bool,
    /// Bytes only, never a screen.
    pub(crate) raw: bool,
    /// With `raw`: from the epoch's first byte instead of from now.
    pub(crate) from_start: bool,
}

/// The state of one attachment, over all its connections.
#[derive(Debug)]
pub(crate) struct Progress {
    wish: Wish,
    epoch: Option<Epoch>,
    /// Offset of the first byte that has not been shown.
    next: Option<u64>,
    /// The last message was a snapshot at this offset; the next may be its continuation.
    drawing: Option<u64>,
    driver: bool,
}

/// What a message asks for.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    /// The stream stands.
    Ready(AttachReady),
    /// Draw a whole screen, or go on drawing: a large one comes in pieces.
    Draw {
        data: Bytes,
        continued: bool,
        /// Of the runner's terminal.
        size: Option<WindowSize>,
    },
    /// Show bytes; `lost` ones before them can no longer be had.
    Show {
        data: Bytes,
        stderr: bool,
        lost: u64,
    },
    /// Somebody else drives now, or we do.
    Driver {
        name: String,
    },
    Ended(Exit),
    Nothing,
}

impl Progress {
    /// Nothing has been shown.
    pub(crate) fn new(wish: Wish) -> Self {
        Self { wish, epoch: None, next: None, drawing: None, driver: false }
    }

    /// Whether what is typed reaches the runner.
    pub(crate) fn drives(&self) -> bool {
        self.driver
    }

    /// Of the start that is shown.
    pub(crate) fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// What opens the stream, the first time or again. Whoever drove takes the wheel back: it is still in the hands
    /// of the connection that was lost.
    pub(crate) fn open(&self, size: Option<WindowSize>) -> AttachOpen {
        let from_start = (self.wish.raw && self.wish.from_start).then_some(0);
        AttachOpen {
            runner: self.wish.runner.clone(),
            epoch: self.epoch,
            observe: self.wish.observe,
            steal: self.wish.steal || self.driver,
            size: if self.wish.raw { None } else { size },
            from_offset: self.next.or(from_start),
            raw: self.wish.raw,
        }
    }

    /// The screen was damaged from our side; the next open asks for a whole one. Streams of bytes go on as they were.
    pub(crate) fn redraw(&mut self) {
        if !self.wish.raw {
            self.next = None;
        }
    }

    /// Takes a message.
    pub(crate) fn on(&mut self, response: AttachResponse) -> Step {
        use attach_response::Message;
        let drawing = self.drawing.take();
        match response.message {
            Some(Message::Ready(ready)) => {
                self.epoch = ready.epoch.or(self.epoch);
                self.driver = ready.driver;
                Step::Ready(ready)
            }
            Some(Message::Snapshot(snapshot)) => {
                let AttachSnapshot { data, offset, size } = snapshot;
                self.next = Some(offset);
                self.drawing = Some(offset);
                Step::Draw { data, continued: drawing == Some(offset), size }
            }
            Some(Message::Output(output)) => self.output(output),
            Some(Message::Driver(driver)) => {
                self.driver = driver.driver;
                Step::Driver { name: driver.driver_name }
            }
            Some(Message::Exit(exit)) => Step::Ended(exit.exit.unwrap_or_default()),
            None => Step::Nothing,
        }
    }

    fn output(&mut self, output: AttachOutput) -> Step {
        let AttachOutput { mut data, offset, stderr } = output;
        let end = offset.saturating_add(data.len() as u64);
        let next = self.next.unwrap_or(offset);
        let shown = next.saturating_sub(offset).min(data.len() as u64);
        // Bounded by the data's length, so it fits.
        drop(data.split_to(usize::try_from(shown).unwrap_or(0)));
        self.next = Some(next.max(end));
        if data.is_empty() {
            return Step::Nothing;
        }
        Step::Show { data, stderr, lost: offset.saturating_sub(next) }
    }
}

#[cfg(test)]
mod tests {
    use stratavore_proto::v1::{AttachDriver, AttachExit, attach_response::Message};

    use super::*;

    fn message(message: Message) -> AttachResponse {
        AttachResponse { message: Some(message) }
    }

    fn output(offset: u64, data: &'static str) -> AttachResponse {
        message(Message::Output(AttachOutput { data: data.into(), offset, stderr: false }))
    }

    fn show(data: &'static str, lost: u64) -> Step {
        Step::Show { data: data.into(), stderr: false, lost }
    }

    fn ready(driver: bool) -> AttachResponse {
        let epoch = Some(Epoch { incarnation: 1, index: 7 });
        message(Message::Ready(AttachReady { epoch, driver, tty: true, ..Default::default() }))
    }

    fn progress(raw: bool, from_start: bool) -> Progress {
        Progress::new(Wish { runner: "r".to_owned(), raw, from_start, ..Default::default() })
    }

    #[test]
    fn a_terminal_begins_with_a_snapshot_and_goes_on_from_its_offset() {
        let mut progress = progress(false, false);
        let size = Some(WindowSize { rows: 24, cols: 80 });
        let open = progress.open(size);
        assert_eq!((open.from_offset, open.epoch, open.size, open.raw), (None, None, size, false));
        progress.on(ready(true));
        progress.on(message(Message::Snapshot(AttachSnapshot { offset: 100, ..Default::default() })));
        assert_eq!(progress.on(output(100, "abc")), show("abc", 0));
        let again = progress.open(size);
        assert_eq!((again.from_offset, again.epoch.unwrap().index, again.steal), (Some(103), 7, true));
        progress.redraw();
        assert_eq!(progress.open(size).from_offset, None);
    }

    #[test]
    fn a_large_snapshot_comes_in_pieces() {
        let piece = |data: &'static str, offset| {
            message(Message::Snapshot(AttachSnapshot { data: data.into(), offset, size: None }))
        };
        let draw = |data: &'static str, continued| Step::Draw { data: data.into(), continued, size: None };
        let mut progress = progress(false, false);
        assert_eq!(progress.on(piece("a", 5)), draw("a", false));
        assert_eq!(progress.on(piece("b", 5)), draw("b", true));
        assert_eq!(progress.on(piece("c", 9)), draw("c", false));
        progress.on(output(9, "x"));
        assert_eq!(progress.on(piece("d", 9)), draw("d", false));
    }

    #[test]
    fn raw_bytes_begin_now_or_at_the_start_and_never_redraw() {
        assert_eq!(progress(true, false).open(None).from_offset, None);
        let mut progress = progress(true, true);
        assert_eq!(progress.open(None).from_offset, Some(0));
        progress.on(output(0, "ab"));
        progress.redraw();
        assert_eq!(progress.open(None).from_offset, Some(2));
    }

    #[test]
    fn an_empty_output_pins_where_now_is() {
        let mut progress = progress(true, false);
        assert_eq!(progress.on(output(50, "")), Step::Nothing);
        assert_eq!(progress.open(None).from_offset, Some(50));
    }

    #[test]
    fn overlap_is_cut_and_a_gap_is_said() {
        let mut progress = progress(true, false);
        assert_eq!(progress.on(output(10, "abcd")), show("abcd", 0));
        assert_eq!(progress.on(output(12, "cdef")), show("ef", 0));
        assert_eq!(progress.on(output(8, "xxab")), Step::Nothing);
        assert_eq!(progress.on(output(20, "z")), show("z", 4));
    }

    #[test]
    fn an_observer_steals_nothing_back() {
        let mut progress = progress(false, false);
        progress.on(ready(false));
        assert!(!progress.open(None).steal);
        progress.on(ready(true));
        progress.on(message(Message::Driver(AttachDriver { driver: false, driver_name: "bob".to_owned() })));
        assert!(!progress.drives() && !progress.open(None).steal);
    }

    #[test]
    fn the_end_comes_with_its_exit() {
        let exit = Exit { code: Some(3), ..Default::default() };
        let mut progress = progress(true, false);
        assert_eq!(
            progress.on(message(Message::Exit(AttachExit { exit: Some(exit.clone()) }))),
            Step::Ended(exit)
        );
    }
}
