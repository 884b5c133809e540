//! Who is next: fair share between projects, age within one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use stratavore_model::{Millis, QueuePlace, RunnerId, RunnerRecord, State};

/// So long a wait weighs as much as one running runner fewer: a busy project's people wait, but not for ever.
const WAIT_PER_RUNNER_MS: u64 = 60_000;

/// More wait than this adds no weight: a runner that fits nowhere must not push its project ahead without end.
const WAIT_MAX_MS: u64 = 30 * 60_000;

/// The pending runners with a quota place, in the order in which they shall be placed.
pub(crate) struct Queue<'a> {
    state: &'a State,
    now: Millis,
    projects: Vec<Project<'a>>,
    heap: BinaryHeap<Reverse<Place>>,
}

struct Project<'a> {
    placed: u32,
    rest: Box<dyn Iterator<Item = RunnerId> + 'a>,
}

/// Fewest running (corrected by waiting) first, then who has waited longest.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    share: i64,
    queued: QueuePlace,
    runner: RunnerId,
    project: usize,
}

/// Somebody at the head of the queue; hand it back with what became of it.
pub(crate) struct Next<'a> {
    pub(crate) runner: &'a RunnerRecord,
    project: usize,
}

impl<'a> Queue<'a> {
    pub(crate) fn of(state: &'a State, now: Millis) -> Self {
        let projects = state.queues().map(|(_, placed, rest)| Project { placed, rest: Box::new(rest) });
        let mut queue = Self { state, now, projects: projects.collect(), heap: BinaryHeap::new() };
        for project in 0..queue.projects.len() {
            queue.enter(project);
        }
        queue
    }

    pub(crate) fn next(&mut self) -> Option<Next<'a>> {
        loop {
            let Reverse(place) = self.heap.pop()?;
            match self.state.runner(place.runner) {
                Some(runner) => return Some(Next { runner, project: place.project }),
                None => self.enter(place.project),
            }
        }
    }

    /// The project's next one takes its place in line, behind one more runner if this one was placed.
    pub(crate) fn done(&mut self, next: &Next<'a>, placed: bool) {
        self.projects[next.project].placed += u32::from(placed);
        self.enter(next.project);
    }

    fn enter(&mut self, project: usize) {
        let entry = &mut self.projects[project];
        let Some(runner) = entry.rest.next().and_then(|id| self.state.runner(id)) else { return };
        let waited = self.now.since(runner.created_at).min(WAIT_MAX_MS) / WAIT_PER_RUNNER_MS;
        // Both are small: a quota and half an hour in minutes.
        let share = i64::from(entry.placed) - waited as i64;
        self.heap.push(Reverse(Place { share, queued: runner.queued, runner: runner.id, project }));
    }
}
