//! Where output goes: the terminal that is lent to the runner, or files.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use stratavore_proto::v1::WindowSize;
use tokio::time::Instant;

use crate::errors::{Failure, Result};
use crate::term::pane::Pane;
use crate::term::queries::{Modes, QueryFilter};
use crate::term::raw::{self, LentTerminal};

/// The greeting covers the last line no longer than this, and goes sooner when anything happens.
const GREETING: Duration = Duration::from_secs(2);

/// Between two pictures of a pane: as smooth as it needs to be, and a flood costs little.
const FRAME: Duration = Duration::from_millis(33);

/// See the module.
#[derive(Debug)]
pub(super) struct Screen {
    out: File,
    err: File,
    lent: Option<LentTerminal>,
    queries: QueryFilter,
    drawn: bool,
    /// The runner's screen, while only a part of it fits.
    pane: Option<Pane>,
    /// When the pane is drawn again.
    paint_at: Option<Instant>,
    greeting: Option<Greeting>,
}

/// What a person should know first. It is drawn over the first picture, which is drawn again when it goes: nothing else
/// is written in between.
#[derive(Debug)]
struct Greeting {
    text: String,
    picture: Vec<u8>,
    until: Option<Instant>,
}

impl Screen {
    /// Nothing is drawn yet.
    ///
    /// # Errors
    /// When stdout or stderr is closed.
    pub(super) fn open(greeting: Option<String>) -> Result<Self> {
        let greeting = greeting.map(|text| Greeting { text, picture: Vec::new(), until: None });
        Ok(Self {
            out: raw::stdout()?,
            err: raw::stderr()?,
            lent: None,
            queries: QueryFilter::default(),
            drawn: false,
            pane: None,
            paint_at: None,
            greeting,
        })
    }

    /// Borrows the terminal for the runner.
    ///
    /// # Errors
    /// When the terminal refuses.
    pub(super) fn lend(&mut self) -> Result<()> {
        self.lent = Some(LentTerminal::lend()?);
        Ok(())
    }

    /// Whether the terminal is lent to the runner.
    pub(super) fn is_lent(&self) -> bool {
        self.lent.is_some()
    }

    /// Raw mode again, after others may have used the terminal.
    ///
    /// # Errors
    /// When the terminal refuses.
    pub(super) fn raw_again(&self) -> Result<()> {
        if let Some(lent) = &self.lent {
            lent.raw()?;
        }
        Ok(())
    }

    /// # Errors
    /// When stdout is closed.
    pub(super) fn bell(&mut self) -> Result<()> {
        Ok(self.out.write_all(b"\x07")?)
    }

    /// Writes over a line. What it covers comes back with a whole picture.
    ///
    /// # Errors
    /// When stdout is closed.
    pub(super) fn overlay(&mut self, row: u32, text: &str) -> Result<()> {
        Ok(write!(self.out, "\x1b7\x1b[{row};1H\x1b[0;7m{text}\x1b[0m\x1b8")?)
    }

    /// Draws a whole screen; the first one spares what the terminal showed before. `larger`: its size, when only a part
    /// of it fits the window.
    ///
    /// # Errors
    /// When stdout is closed.
    pub(super) fn draw(
        &mut self,
        snapshot: &[u8],
        continued: bool,
        larger: Option<WindowSize>,
        window: Option<WindowSize>,
    ) -> Result<()> {
        let first = !std::mem::replace(&mut self.drawn, true);
        if first
            && std::io::stdout().is_terminal()
            && let Some(size) = window
        {
            self.out.write_all(&raw::keep_present_screen(size.rows))?;
        }
        if !continued {
            self.queries = QueryFilter::default();
            self.frame(larger)?;
        }
        let greeting = self.greeting.take().filter(|greeting| greeting.until.is_none() || continued);
        self.show(snapshot, false)?;
        self.paint(window)?;
        if let (Some(mut greeting), Some(window), true) = (greeting, window, self.lent.is_some()) {
            greeting.picture.extend_from_slice(snapshot);
            greeting.until = Some(Instant::now() + GREETING);
            let columns = usize::try_from(window.cols).unwrap_or(usize::MAX);
            let text: String = format!(" {} ", greeting.text).chars().take(columns).collect();
            self.overlay(window.rows, &text)?;
            self.greeting = Some(greeting);
        }
        Ok(())
    }

    /// Begins or ends showing a part only.
    fn frame(&mut self, larger: Option<WindowSize>) -> Result<()> {
        if let (Some(_), None, Some(lent)) = (&larger, &self.pane, &mut self.lent) {
            // The modes of the runner's program are kept in the pane from here on.
            self.out.write_all(&raw::reset_modes())?;
            lent.set_modes(Modes::default());
        }
        self.pane = larger.as_ref().map(Pane::new);
        Ok(())
    }

    /// Shows output.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn show(&mut self, data: &[u8], stderr: bool) -> Result<()> {
        self.forget_greeting()?;
        let Some(lent) = &mut self.lent else {
            let file = if stderr { &mut self.err } else { &mut self.out };
            return file.write_all(data).map_err(Failure::from);
        };
        if let Some(pane) = &mut self.pane {
            pane.feed(data);
            self.paint_at.get_or_insert_with(|| Instant::now() + FRAME);
            return Ok(());
        }
        let mut out = Vec::with_capacity(data.len());
        self.queries.push(data, &mut out);
        lent.set_modes(self.queries.modes());
        Ok(self.out.write_all(&out)?)
    }

    /// When [`Self::due`] is to be called.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let until = self.greeting.as_ref().and_then(|greeting| greeting.until);
        self.paint_at.into_iter().chain(until).min()
    }

    /// Draws what has changed, or takes the greeting away.
    ///
    /// # Errors
    /// When stdout is closed.
    pub(super) fn due(&mut self, window: Option<WindowSize>) -> Result<()> {
        let now = Instant::now();
        if self.greeting.as_ref().and_then(|greeting| greeting.until).is_some_and(|until| until <= now) {
            self.forget_greeting()?;
        }
        if self.paint_at.is_some_and(|at| at <= now) { self.paint(window) } else { Ok(()) }
    }

    /// Leaves the picture as it is to stay.
    ///
    /// # Errors
    /// When stdout is closed.
    pub(super) fn settle(&mut self, window: Option<WindowSize>) -> Result<()> {
        self.forget_greeting()?;
        if self.paint_at.is_some() { self.paint(window) } else { Ok(()) }
    }

    fn paint(&mut self, window: Option<WindowSize>) -> Result<()> {
        self.paint_at = None;
        match (&mut self.pane, window) {
            (Some(pane), Some(window)) => Ok(self.out.write_all(&pane.paint(&window))?),
            _ => Ok(()),
        }
    }

    /// Takes the greeting away, if it stands.
    ///
    /// # Errors
    /// When stdout is closed.
    pub(super) fn forget_greeting(&mut self) -> Result<()> {
        let Some(Greeting { picture, .. }) = self.greeting.take_if(|greeting| greeting.until.is_some())
        else {
            return Ok(());
        };
        if self.pane.is_some() {
            self.paint_at = Some(Instant::now());
            return Ok(());
        }
        let mut out = Vec::with_capacity(picture.len());
        self.queries = QueryFilter::default();
        self.queries.push(&picture, &mut out);
        Ok(self.out.write_all(&out)?)
    }
}
