//! One attached session: keyboard, terminal, wire and signals in one loop.

use std::collections::VecDeque;
use std::time::Duration;

use rustix::process::Signal as Number;
use stratavore_proto::v1::{AttachReady, AttachRequest, AttachResponse, Epoch, Exit, attach_request};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use super::progress::{Progress, Step, Wish};
use super::screen::Screen;
use super::wire::{Event, Wire};
use crate::errors::Result;
use crate::term::detach::DetachParser;
use crate::term::input::{self, Input, Kind};
use crate::term::{pane, raw};
use crate::view;

/// What is typed while the connection is away is kept up to this; more would surprise when it is back.
const TYPED_AHEAD_BYTES: usize = 4 * 1024;

/// Piped input stops being read when this much waits.
const PIPED_AHEAD_BYTES: usize = 256 * 1024;

/// An outage is mentioned after this long: an agent's or a node's restart is over before.
const NOTICE_AFTER: Duration = Duration::from_secs(5);

/// How a session ends.
#[derive(Debug)]
pub(crate) enum End {
    Detached,
    Exited(Exit),
    /// The node will not go on with it.
    Refused(Status),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    wish: Wish,
    wire: Wire<'a>,
    progress: Progress,
    keyboard: Option<DetachParser>,
    input: Input,
    input_over: bool,
    /// The runner has a terminal; otherwise pipes.
    tty: bool,
    queue: VecDeque<attach_request::Message>,
    queued_bytes: usize,
    screen: Screen,
    noticed: bool,
}

impl<'a> Session<'a> {
    /// A session over an open wire. The greeting stands on the first picture until something happens.
    ///
    /// # Errors
    /// When stdin or stdout cannot be used.
    pub(crate) fn new(
        wish: Wish,
        wire: Wire<'a>,
        progress: Progress,
        keyboard: DetachParser,
        greeting: Option<String>,
    ) -> Result<Self> {
        let kind = input::kind();
        let input = match kind {
            Kind::Nothing => Input::Absent,
            Kind::Terminal if wish.raw => Input::Absent,
            _ => Input::open()?,
        };
        let screen = Screen::open(greeting)?;
        let keyboard = (kind == Kind::Terminal).then_some(keyboard);
        Ok(Self {
            input_over: matches!(input, Input::Absent),
            wish,
            wire,
            progress,
            keyboard,
            input,
            tty: true,
            queue: VecDeque::new(),
            queued_bytes: 0,
            screen,
            noticed: false,
        })
    }

    /// The start that is shown, once it is known.
    pub(crate) fn epoch(&self) -> Option<Epoch> {
        self.progress.epoch()
    }

    /// Runs until it ends; the terminal is given back when the session is dropped.
    ///
    /// # Errors
    /// When the output is closed, or no attempt to reconnect can ever succeed.
    pub(crate) async fn run(&mut self, first: AttachResponse) -> Result<End> {
        let end = self.until_end(first).await?;
        self.screen.settle(self.size())?;
        Ok(end)
    }

    async fn until_end(&mut self, first: AttachResponse) -> Result<End> {
        let mut resized = signal(SignalKind::window_change())?;
        let mut continued = signal(SignalKind::from_raw(Number::CONT.as_raw()))?;
        if let Some(end) = self.message(first)? {
            return Ok(end);
        }
        loop {
            if let Some(end) = self.turn(&mut resized, &mut continued).await? {
                return Ok(end);
            }
        }
    }

    async fn turn(&mut self, resized: &mut Signal, continued: &mut Signal) -> Result<Option<End>> {
        self.flush();
        let open = self.progress.open(self.size());
        let requests = self.wire.requests().cloned();
        let blocked = requests.is_some() && !self.queue.is_empty();
        let due = self.screen.next_due();
        let notice_at = self.wire.lost_at().filter(|_| !self.noticed).map(|at| at + NOTICE_AFTER);
        let reading = !self.input_over && (self.keyboard.is_some() || self.queued_bytes < PIPED_AHEAD_BYTES);
        tokio::select! {
            event = self.wire.next(&open) => self.event(event),
            typed = self.input.next(), if reading => self.typed(&typed?),
            () = room(requests.as_ref()), if blocked => Ok(None),
            _ = resized.recv() => self.resized(),
            _ = continued.recv() => self.went_on(),
            () = sleep_until(notice_at.unwrap_or_else(Instant::now)), if notice_at.is_some() => self.notice(),
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                self.screen.due(self.size())?;
                Ok(None)
            }
        }
    }

    fn resized(&mut self) -> Result<Option<End>> {
        match self.size() {
            Some(size) if self.progress.drives() => {
                self.screen.forget_greeting()?;
                self.queue.push_back(attach_request::Message::Resize(size));
            }
            // How much of the screen fits has changed.
            Some(_) if self.screen.is_lent() => {
                self.progress.redraw();
                self.wire.reopen();
            }
            _ => {}
        }
        Ok(None)
    }

    fn size(&self) -> Option<stratavore_proto::v1::WindowSize> {
        if self.wish.raw { None } else { raw::window_size() }
    }

    fn event(&mut self, event: Event) -> Result<Option<End>> {
        match event {
            Event::Message(message) => self.message(message),
            Event::Refused(status) => Ok(Some(End::Refused(status))),
            Event::End => Ok(Some(End::Refused(Status::unavailable("the node ended the stream")))),
            Event::Fatal(failure) => Err(failure),
        }
    }

    fn message(&mut self, message: AttachResponse) -> Result<Option<End>> {
        match self.progress.on(message) {
            Step::Ready(ready) => self.ready(&ready)?,
            Step::Draw { data, continued, size } => {
                // A driver's screen has the size of his window; anybody else's may not fit.
                let window = self.size();
                let larger = size.filter(|size| window.is_some_and(|window| pane::is_larger(size, &window)));
                self.screen.draw(&data, continued, larger.filter(|_| !self.progress.drives()), window)?;
            }
            Step::Show { data, stderr, lost } => {
                if lost > 0 && self.wish.raw {
                    view::tell(&format!(
                        "{lost} bytes are missing here: they are no longer in the runner's log"
                    ));
                }
                self.screen.show(&data, stderr)?;
            }
            Step::Ended(exit) => return Ok(Some(End::Exited(exit))),
            Step::Driver { .. } | Step::Nothing => {}
        }
        Ok(None)
    }

    /// The stream stands, for the first time or again.
    fn ready(&mut self, ready: &AttachReady) -> Result<()> {
        self.tty = ready.tty;
        if std::mem::take(&mut self.noticed) && self.wish.raw {
            view::tell("connected again");
        }
        if self.wish.raw || !ready.tty || self.screen.is_lent() {
            return Ok(());
        }
        if !ready.driver && !ready.driver_name.is_empty() {
            view::tell(&format!("{} drives; you watch", ready.driver_name));
        }
        self.screen.lend()
    }

    fn typed(&mut self, bytes: &[u8]) -> Result<Option<End>> {
        if bytes.is_empty() {
            return Ok(self.end_of_input());
        }
        let Some(keyboard) = &mut self.keyboard else {
            if self.progress.drives() {
                self.enqueue(bytes);
            }
            return Ok(None);
        };
        let typed = keyboard.push(bytes);
        self.screen.forget_greeting()?;
        // Whoever only watches has no other use for Ctrl-C.
        if typed.detach || (self.wish.observe && typed.forward.contains(&0x03)) {
            return Ok(Some(End::Detached));
        }
        let away = self.wire.requests().is_none();
        let welcome = self.progress.drives() && !(away && self.queued_bytes >= TYPED_AHEAD_BYTES);
        if welcome {
            self.enqueue(&typed.forward);
        } else if !typed.forward.is_empty() && self.screen.is_lent() {
            self.screen.bell()?;
        }
        Ok(None)
    }

    fn end_of_input(&mut self) -> Option<End> {
        self.input_over = true;
        if self.keyboard.is_some() && self.tty {
            // The terminal is gone.
            return Some(End::Detached);
        }
        if !self.tty && self.progress.drives() {
            self.queue.push_back(attach_request::Message::CloseInput(true));
        }
        None
    }

    fn enqueue(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.queued_bytes += bytes.len();
            self.queue.push_back(attach_request::Message::Input(bytes.to_vec().into()));
        }
    }

    /// Hands over what waits, as far as there is room.
    fn flush(&mut self) {
        let Some(requests) = self.wire.requests() else { return };
        while let Some(message) = self.queue.pop_front() {
            let bytes = if let attach_request::Message::Input(bytes) = &message { bytes.len() } else { 0 };
            match requests.try_send(AttachRequest { message: Some(message) }) {
                Ok(()) => self.queued_bytes -= bytes,
                Err(mpsc::error::TrySendError::Full(back) | mpsc::error::TrySendError::Closed(back)) => {
                    self.queue.extend(back.message);
                    self.queue.rotate_right(1);
                    return;
                }
            }
        }
    }

    /// After a stop (`kill -STOP`, a laptop's sleep) others may have used the terminal.
    fn went_on(&mut self) -> Result<Option<End>> {
        if self.screen.is_lent() {
            self.screen.raw_again()?;
            self.progress.redraw();
            self.wire.reopen();
        }
        Ok(None)
    }

    fn notice(&mut self) -> Result<Option<End>> {
        self.noticed = true;
        if self.wish.raw || !self.screen.is_lent() {
            view::tell("the connection is lost; reconnecting");
            return Ok(None);
        }
        let rows = self.size().map_or(1, |size| size.rows);
        let text = " the connection is lost; reconnecting ";
        self.screen.overlay(rows, text)?;
        // What it covers comes back with a whole screen.
        self.progress.redraw();
        Ok(None)
    }
}

/// Completes when a request can be sent again, or never can.
async fn room(requests: Option<&mpsc::Sender<AttachRequest>>) {
    match requests {
        Some(requests) => {
            if requests.reserve().await.is_err() {
                // The stream has ended; the wire will say so.
                std::future::pending::<()>().await;
            }
        }
        None => std::future::pending().await,
    }
}
