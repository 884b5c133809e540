//! What happens because time passes: forgetting, within bounds (P25, P26). Proposed only when there is something to
//! forget, so that an idle cluster writes nothing.

use std::time::{Duration, Instant};

use stratavore_model::command::{EventRetention, Trim};
use stratavore_model::{Command, DAY_MS};
use tokio_util::sync::CancellationToken;

use crate::leader::Term;

/// How often the bounds are looked at.
const LOOK: Duration = Duration::from_secs(10);

/// Without pressure, age is dealt with this often.
const BY_AGE: Duration = Duration::from_secs(3600);

/// So many entries bring enough ended runners, events and request ids to be worth a trim.
const BY_ENTRIES: u64 = 20_000;

/// Events kept without Postgres: a week, a million, or a gigabyte, whichever ends first.
const RETENTION: EventRetention = EventRetention { age_ms: 7 * DAY_MS, count: 1_000_000, bytes: 1 << 30 };

/// The loop of one term.
pub(crate) struct Timers {
    term: Term,
    /// When this leader trimmed last, and at which applied index.
    last: Option<(Instant, u64)>,
}

impl Timers {
    pub(crate) fn new(term: Term) -> Self {
        Self { term, last: None }
    }

    /// Runs until the term ends.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            if self.due() {
                self.trim().await;
            }
        }
    }

    fn due(&self) -> bool {
        let applied = *self.term.raft.applied().borrow();
        match self.last {
            None => true,
            Some((_, at)) if applied <= at => false,
            Some((when, at)) => when.elapsed() >= BY_AGE || applied - at >= BY_ENTRIES,
        }
    }

    async fn trim(&mut self) {
        let now = Instant::now();
        let elapsed = self.last.map_or(Duration::ZERO, |(when, _)| now.duration_since(when));
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        match self.term.propose(Command::Trim(Trim { elapsed_ms, events: RETENTION })).await {
            Ok(applied) => self.last = Some((now, applied.index)),
            Err(error) => tracing::info!(%error, "trim was not committed"),
        }
    }
}
