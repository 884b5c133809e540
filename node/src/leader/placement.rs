//! Placement: whenever something was applied and runners are queued, plan and propose. No tick is on the path; a slow
//! one stands behind it. While a proposal is in flight launches pile up and are planned together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use stratavore_model::command::{Assign, Placement as Placed};
use stratavore_model::{Command, RefusedPlacement, Reply};
use stratavore_scheduler::{Plan, View};
use tokio_util::sync::CancellationToken;

use crate::convert::id;
use crate::leader::Term;

/// Behind the wake-ups, in case one is ever missed.
const TICK: Duration = Duration::from_secs(5);

/// A plan that finds room for nobody is not made again before this many times its own duration: a long queue that
/// fits nowhere takes a tenth of a core at most.
const REST_FACTOR: u32 = 10;

/// The longest rest, also after a proposal that failed.
const REST_MAX: Duration = Duration::from_millis(100);

/// When to plan again.
enum Next {
    AtOnce,
    /// When something was applied, but not before `rest` is over.
    OnChange {
        rest: Duration,
    },
}

impl Next {
    /// As soon as something is applied.
    const NOW: Self = Self::OnChange { rest: Duration::ZERO };
}

/// What placement did, for the metrics.
#[derive(Debug, Clone, Default)]
pub(crate) struct PlacementCounters {
    inner: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    placed: AtomicU64,
    refused: AtomicU64,
    rounds: AtomicU64,
    nanoseconds: AtomicU64,
}

/// One look at the counters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlacementFigures {
    pub(crate) placed: u64,
    pub(crate) refused: u64,
    pub(crate) rounds: u64,
    pub(crate) seconds: f64,
}

impl PlacementCounters {
    pub(crate) fn figures(&self) -> PlacementFigures {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PlacementFigures {
            placed: read(&self.inner.placed),
            refused: read(&self.inner.refused),
            rounds: read(&self.inner.rounds),
            seconds: Duration::from_nanos(read(&self.inner.nanoseconds)).as_secs_f64(),
        }
    }

    fn round(&self, took: Duration) {
        self.inner.rounds.fetch_add(1, Ordering::Relaxed);
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.inner.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    fn settled(&self, placed: usize, refused: &[RefusedPlacement]) {
        self.inner.placed.fetch_add(placed as u64, Ordering::Relaxed);
        self.inner.refused.fetch_add(refused.len() as u64, Ordering::Relaxed);
        for refusal in refused {
            let RefusedPlacement { runner, host, reason } = refusal;
            tracing::debug!(%runner, %host, %reason, "placement refused by apply");
        }
    }
}

/// The loop of one term.
pub(crate) struct Placement {
    term: Term,
    counters: PlacementCounters,
}

impl Placement {
    pub(crate) fn new(term: Term, counters: PlacementCounters) -> Self {
        Self { term, counters }
    }

    /// Runs until the term ends.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut applied = self.term.raft.applied();
        loop {
            applied.mark_unchanged();
            let work = async {
                match self.round().await {
                    Next::AtOnce => {}
                    Next::OnChange { rest } => {
                        tokio::time::sleep(rest).await;
                        tokio::time::timeout(TICK, applied.changed()).await.ok();
                    }
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = work => {}
            }
        }
    }

    /// One plan and its proposal.
    async fn round(&self) -> Next {
        let Some((plan, took)) = self.plan() else { return Next::NOW };
        if plan.assign.is_empty() {
            return Next::OnChange { rest: (took * REST_FACTOR).min(REST_MAX) };
        }
        let more = plan.more;
        let placements = plan.assign.into_iter().map(|(runner, host)| Placed { runner, host }).collect();
        match self.term.propose(Command::Assign(Assign { placements })).await.map(|applied| applied.reply) {
            Ok(Reply::Assigned { placed, refused }) => {
                self.counters.settled(placed.len(), &refused);
                // Refusals alone mean that the state has moved on; the next change brings the next round.
                if more && !placed.is_empty() { Next::AtOnce } else { Next::NOW }
            }
            Ok(other) => {
                tracing::warn!(reply = ?other, "placement was not taken");
                Next::OnChange { rest: REST_MAX }
            }
            Err(error) => {
                tracing::info!(%error, "placement was not committed");
                Next::OnChange { rest: REST_MAX }
            }
        }
    }

    /// A plan and how long it took; `None` when nothing is queued.
    fn plan(&self) -> Option<(Plan, Duration)> {
        let started = Instant::now();
        let now = id::now();
        let plan = self.term.raft.read(|state| {
            (state.queue().len() > 0).then(|| stratavore_scheduler::plan(&View::of(state), now))
        })?;
        let took = started.elapsed();
        self.counters.round(took);
        Some((plan, took))
    }
}
