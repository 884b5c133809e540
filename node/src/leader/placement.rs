//! Placement: whenever something was applied and runners are queued, plan and propose. No tick is on the path; a slow
//! one stands behind it. While a proposal is in flight launches pile up and are planned together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use stratavore_model::command::{Assign, Placement as Placed};
use stratavore_model::{Command, Millis, RefusedPlacement, Reply, RunnerId, State};
use stratavore_raft::AppliedBatch;
use stratavore_scheduler::{Plan, View};
use tokio::sync::broadcast;
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
    /// When something was applied that may have made room or queued somebody, but not before `rest` is over.
    OnRelief {
        rest: Duration,
        /// What was applied since before the plan.
        changes: broadcast::Receiver<Arc<AppliedBatch>>,
        /// The tick, or sooner the next start of a runner that backs off.
        latest: Duration,
    },
}

impl Next {
    /// As soon as something is applied.
    const NOW: Self = Self::OnChange { rest: Duration::ZERO };
}

/// A plan, how long it took, in how long the next runner of the queue has waited out its back-off, and the state time that
/// all of this is said at.
struct Planned {
    plan: Plan,
    took: Duration,
    due: Option<Duration>,
    at: Millis,
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

    /// Counts what became of placements.
    pub(crate) fn assigned(&self, reply: &Reply) {
        if let Reply::Assigned { placed, refused } = reply {
            self.settled(placed.len(), refused);
        }
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
    clock: StateClock,
}

/// State time as it goes on between entries: this node's clock, or, where that lies behind (P4), from the newest entry on
/// by what has passed since. Otherwise back-offs would last until a clock that was set back has caught up.
#[derive(Debug, Clone, Copy)]
struct StateClock {
    newest: Millis,
    since: Instant,
}

impl StateClock {
    /// Now, when the newest entry was stamped `newest`, this node's clock says `wall`, and it is `instant`.
    fn read(&mut self, newest: Millis, wall: Millis, instant: Instant) -> Millis {
        if newest != self.newest {
            *self = Self { newest, since: instant };
        }
        let passed = instant.saturating_duration_since(self.since);
        wall.max(newest.plus(u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Placement {
    pub(crate) fn new(term: Term, counters: PlacementCounters) -> Self {
        let clock = StateClock { newest: Millis(0), since: Instant::now() };
        Self { term, counters, clock }
    }

    /// Runs until the term ends.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut applied = self.term.raft.applied();
        loop {
            applied.mark_unchanged();
            let work = async {
                match self.round().await {
                    Next::AtOnce => {}
                    Next::OnChange { rest } => {
                        pause(rest).await;
                        tokio::time::timeout(TICK, applied.changed()).await.ok();
                    }
                    Next::OnRelief { rest, mut changes, latest } => {
                        pause(rest).await;
                        tokio::time::timeout(latest, self.relief(&mut changes)).await.ok();
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
    async fn round(&mut self) -> Next {
        let changes = self.term.raft.changes();
        let Some(Planned { plan, took, due, at }) = self.plan() else { return Next::NOW };
        if plan.assign.is_empty() {
            let rest = (took * REST_FACTOR).min(REST_MAX);
            return Next::OnRelief { rest, changes, latest: due.unwrap_or(TICK).min(TICK) };
        }
        let more = plan.more;
        let placements = plan.assign.into_iter().map(|(runner, host)| Placed { runner, host }).collect();
        match self
            .term
            .propose_at(at, Command::Assign(Assign { placements }))
            .await
            .map(|applied| applied.reply)
        {
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

    /// Waits for a change after which a plan may find what the last one did not: most changes are a runner's progress on
    /// its host, which helps nobody who waits.
    async fn relief(&self, changes: &mut broadcast::Receiver<Arc<AppliedBatch>>) {
        // Having lagged behind, or at the end, there is no knowing.
        while let Ok(batch) = changes.recv().await {
            if self.term.raft.read(|state| may_help(state, &batch)) {
                return;
            }
        }
    }

    /// A plan; `None` when nothing is queued.
    fn plan(&mut self) -> Option<Planned> {
        let (started, wall) = (Instant::now(), id::now());
        let clock = &mut self.clock;
        let (plan, due, at) = self.term.raft.read(|state| {
            let at = clock.read(state.now(), wall, started);
            let due = state.backing_off(at).next().map(|(until, _)| Duration::from_millis(until.since(at)));
            (state.queue().len() > 0).then(|| (stratavore_scheduler::plan(&View::of(state), at), due, at))
        })?;
        let took = started.elapsed();
        self.counters.round(took);
        Some(Planned { plan, took, due, at })
    }
}

/// The timer counts in milliseconds and rounds up: even a sleep of nothing would be a tick on the way of a launch.
async fn pause(rest: Duration) {
    if !rest.is_zero() {
        tokio::time::sleep(rest).await;
    }
}

/// Whether somebody was queued, or a host has changed or lost a runner (which may be forgotten by now).
fn may_help(state: &State, batch: &AppliedBatch) -> bool {
    let leaves_or_waits = |id: &RunnerId| state.runner(*id).is_none_or(|runner| runner.occupies().is_none());
    batch.jumped || !batch.hosts.is_empty() || batch.runners.iter().any(leaves_or_waits)
}

#[cfg(test)]
mod tests {
    use stratavore_model::HostId;

    use super::*;

    #[test]
    fn p4_state_time_goes_on_while_this_clock_is_behind() {
        let begin = Instant::now();
        let mut clock = StateClock { newest: Millis(0), since: begin };
        let later = |ms: u64| begin + Duration::from_millis(ms);
        assert_eq!(clock.read(Millis(1000), Millis(5000), later(0)), Millis(5000));
        assert_eq!(clock.read(Millis(9000), Millis(5000), later(100)), Millis(9000));
        assert_eq!(clock.read(Millis(9000), Millis(5010), later(700)), Millis(9600));
        assert_eq!(clock.read(Millis(9600), Millis(5020), later(800)), Millis(9600));
    }

    #[test]
    fn hosts_and_jumps_may_help_and_nothing_does_not() {
        let state = State::new();
        let host = "0000000001".parse::<HostId>().unwrap();
        let batch = AppliedBatch { hosts: vec![host], ..AppliedBatch::default() };
        assert!(may_help(&state, &batch));
        assert!(may_help(&state, &AppliedBatch { jumped: true, ..AppliedBatch::default() }));
        assert!(!may_help(&state, &AppliedBatch { index: 9, ..AppliedBatch::default() }));
    }
}
