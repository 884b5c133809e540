//! Restarts nodes and agents that died. A hidden subcommand that `up` leaves behind; `down` ends it first.
//!
//! It holds nothing that the next one cannot find again: what lives is in `processes.json`, and a supervisor that
//! was killed is replaced by the next `up`, which adopts what still runs. Its own end stops nobody.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::LocalBoxFuture;
use futures::stream::FuturesUnordered;
use rustix::process::setsid;
use tokio::process::Child;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant as TokioInstant, sleep_until};

use super::Layout;
use super::child::{self, Readers};
use super::process::Process;
use super::programs::Programs;
use super::record::{Member, Record};
use crate::errors::{Exit, Failure, Result};
use crate::view;

/// The first restart comes almost at once: an agent's clients are waiting.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// A program that dies again and again is not tried more often than this.
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// Who ran this long has started well; its next death counts as the first.
const GOOD_RUN: Duration = Duration::from_secs(20);

/// Runs until it is told to end.
///
/// # Errors
/// When there is no local cluster, or its record cannot be kept.
pub(crate) async fn run(state: &std::path::Path) -> Result<ExitCode> {
    // Away from the terminal and the process group of the `up` that started us; fails only when that is done already.
    setsid().ok();
    let layout = Layout::at(state);
    let mut supervisor = Supervisor::new(layout, Readers::Programs)?;
    supervisor.supervise().await
}

/// How a program's deaths are answered. Pure.
#[derive(Debug, Default)]
struct Backoff {
    deaths: u32,
}

impl Backoff {
    /// The pause before the next start, after a run of this length.
    fn after(&mut self, ran: Duration) -> Duration {
        self.deaths = if ran >= GOOD_RUN { 0 } else { self.deaths };
        let pause = PAUSE_MIN.saturating_mul(1 << self.deaths.min(16));
        self.deaths += 1;
        pause.min(PAUSE_MAX)
    }
}

/// One program under supervision.
#[derive(Debug, Default)]
struct Watched {
    backoff: Backoff,
    started: Option<Instant>,
    /// When to start it again, while it does not run.
    start_at: Option<TokioInstant>,
}

/// See the module.
pub(crate) struct Supervisor {
    layout: Layout,
    programs: Programs,
    record: Record,
    readers: Readers,
    watched: BTreeMap<String, Watched>,
    ends: FuturesUnordered<LocalBoxFuture<'static, String>>,
}

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supervisor").field("record", &self.record).finish_non_exhaustive()
    }
}

impl Supervisor {
    /// Takes over the record.
    ///
    /// # Errors
    /// When there is none, or the programs are missing.
    pub(crate) fn new(layout: Layout, readers: Readers) -> Result<Self> {
        let programs = Programs::find()?;
        let Some(record) = Record::load(&layout)? else {
            return Err(
                Failure::new(Exit::NotFound, "there is no local cluster to supervise").next("stratavore up")
            );
        };
        Ok(Self {
            layout,
            programs,
            record,
            readers,
            watched: BTreeMap::new(),
            ends: FuturesUnordered::new(),
        })
    }

    /// Keeps everything running; never returns by itself.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub(crate) async fn supervise(&mut self) -> Result<ExitCode> {
        let mut look_again = signal(SignalKind::user_defined1())?;
        self.record.supervisor = Process::own();
        self.begin();
        self.save()?;
        loop {
            let next = self.watched.values().filter_map(|watched| watched.start_at).min();
            tokio::select! {
                Some(name) = self.ends.next(), if !self.ends.is_empty() => self.died(&name),
                () = sleep_until(next.unwrap_or_else(TokioInstant::now)), if next.is_some() => self.start_due(),
                _ = look_again.recv() => {
                    // Somebody waits: what is to be started is started now, and old deaths are forgiven.
                    self.begin();
                    self.start_due();
                }
            }
            self.save()?;
        }
    }

    /// Adopts what lives; the rest is due now, if it has joined.
    fn begin(&mut self) {
        let members: Vec<Member> = self.record.members().cloned().collect();
        for member in members {
            let running = self.watched.get(&member.name).is_some_and(|watched| watched.started.is_some());
            if running {
                continue;
            }
            let joined = match member.ports {
                Some(_) => self.layout.is_initialised(&member.name),
                None => self.layout.has_joined(&member.name),
            };
            let watched = self.watched.entry(member.name.clone()).or_default();
            watched.backoff = Backoff::default();
            match member.alive() {
                Some(process) => {
                    watched.started = Some(Instant::now());
                    let name = member.name;
                    self.ends.push(Box::pin(async move {
                        process.ended().await.ok();
                        name
                    }));
                }
                None => watched.start_at = joined.then(TokioInstant::now),
            }
        }
    }

    fn start_due(&mut self) {
        let now = TokioInstant::now();
        let due = self.watched.iter().filter(|(_, watched)| watched.start_at.is_some_and(|at| at <= now));
        let due: Vec<String> = due.map(|(name, _)| name.clone()).collect();
        for name in due {
            self.start(&name);
        }
    }

    fn start(&mut self, name: &str) {
        let Some(member) = self.record.member_mut(name) else { return };
        let again = member.process.is_some();
        let started = child::start(&self.layout, &self.programs, member, self.readers);
        let watched = self.watched.entry(name.to_owned()).or_default();
        watched.start_at = None;
        match started {
            Ok(child) => {
                member.process = child.id().and_then(Process::find);
                member.restarts += u32::from(again);
                watched.started = Some(Instant::now());
                self.ends.push(Box::pin(ended(name.to_owned(), child)));
            }
            Err(error) => {
                view::tell(&format!("{name} cannot be started: {error}"));
                watched.start_at = Some(TokioInstant::now() + watched.backoff.after(Duration::ZERO));
            }
        }
    }

    fn died(&mut self, name: &str) {
        let Some(watched) = self.watched.get_mut(name) else { return };
        let ran = watched.started.take().map_or(Duration::ZERO, |started| started.elapsed());
        let pause = watched.backoff.after(ran);
        watched.start_at = Some(TokioInstant::now() + pause);
        view::tell(&format!("{name} has ended; it is started again in {pause:?}"));
    }

    fn save(&self) -> Result<()> {
        self.record.save(&self.layout).map_err(|error| {
            Failure::new(Exit::Generic, "cannot write processes.json")
                .cause(error.to_string())
                .next("make room on the disk")
        })
    }
}

/// Completes when a child has ended, and reaps it.
async fn ended(name: String, mut child: Child) -> String {
    match child.wait().await {
        Ok(status) => view::tell(&format!("{name}: {status}")),
        Err(error) => view::tell(&format!("{name} cannot be waited for: {error}")),
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_death_is_answered_at_once_and_many_slowly() {
        let mut backoff = Backoff::default();
        let pauses: Vec<Duration> = (0..12).map(|_| backoff.after(Duration::from_secs(1))).collect();
        assert_eq!(pauses[0], PAUSE_MIN);
        assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(*pauses.last().unwrap(), PAUSE_MAX);
        assert_eq!(backoff.after(GOOD_RUN), PAUSE_MIN);
    }
}
