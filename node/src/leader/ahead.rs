//! Places the runners of a launch in the same append and sync as the launch itself: one commit lies between a request
//! and its start order instead of two. It is a guess about the state right behind the launch; apply asks every
//! predicate again, and what it refuses is left to the placement loop.

use std::sync::Arc;
use std::time::Duration;

use stratavore_model::command::{Assign, Launch, Placement};
use stratavore_model::{Actor, Command, Entry, Millis, Need, State, query};
use stratavore_raft::{Applied, Handle, ProposeError};
use stratavore_scheduler::View;
use tokio::sync::Semaphore;

use crate::leader::placement::PlacementCounters;
use crate::propose::{may_pass, until_committed};

/// Guesses under way: a second one would not know of the first one's places. Who comes meanwhile is planned by the
/// loop, many at a time, which is what a busy cluster wants.
const GUESSES_MAX: usize = 1;

/// Proposes launches together with their placements.
#[derive(Clone)]
pub(crate) struct Ahead {
    raft: Handle,
    counters: PlacementCounters,
    turn: Arc<Semaphore>,
}

impl Ahead {
    pub(crate) fn new(raft: Handle, counters: PlacementCounters) -> Self {
        Self { raft, counters, turn: Arc::new(Semaphore::new(GUESSES_MAX)) }
    }

    /// Proposes the entry until its outcome is known; a launch with its placements, where they can be told. Only for
    /// entries that may be applied twice ([`until_committed`]).
    ///
    /// # Errors
    /// As [`until_committed`].
    pub(crate) async fn propose(&self, entry: Entry, patience: Duration) -> Result<Applied, ProposeError> {
        if let Some(outcome) = self.guess(&entry).await {
            match outcome {
                Err(error) if may_pass(&error) => {}
                settled => return settled,
            }
        }
        until_committed(&self.raft, entry, patience).await
    }

    /// One attempt with the placements behind the launch; `None` = there is nothing to guess.
    async fn guess(&self, entry: &Entry) -> Option<Result<Applied, ProposeError>> {
        let Command::Launch(launch) = &entry.command else { return None };
        let _turn = self.turn.try_acquire().ok()?;
        let assign = self.assign(launch, entry)?;
        let pair = self.raft.propose_pair(entry.clone(), assign).await;
        Some(pair.map(|(launched, assigned)| {
            if let Some(assigned) = assigned {
                self.counters.assigned(&assigned.reply);
            }
            launched
        }))
    }

    /// The entry behind the launch: of this node's own term only (P7).
    fn assign(&self, launch: &Launch, entry: &Entry) -> Option<Entry> {
        let leadership = *self.raft.leadership().borrow();
        let placements =
            leadership.me.then(|| self.raft.read(|state| placements(state, launch, entry.at)))?;
        if placements.is_empty() {
            return None;
        }
        let command = Command::Assign(Assign { placements });
        let term = Some(leadership.term);
        Some(Entry { actor: Actor::System, request_id: None, at: entry.at, term, command })
    }
}

/// Where its runners would go; empty when some of them would have to wait, or the launch will be refused.
fn placements(state: &State, launch: &Launch, at: Millis) -> Vec<Placement> {
    let Some(project) = state.project(&launch.project) else { return Vec::new() };
    let places = project.max_runners.saturating_sub(state.admitted(&launch.project)) as usize;
    let pinned = match launch.spec.host.as_str() {
        "" => None,
        host => match query::resolve_host(state, host) {
            Ok(host) => Some(host.id),
            Err(_) => return Vec::new(),
        },
    };
    if places < launch.ids.len() {
        return Vec::new();
    }
    let need = Need::of_spec(&launch.spec, pinned);
    let now = at.max(state.now());
    let hosts = stratavore_scheduler::plan_ahead(&View::of(state), &need, launch.ids.len(), now);
    if hosts.len() < launch.ids.len() {
        return Vec::new();
    }
    launch.ids.iter().zip(hosts).map(|(runner, host)| Placement { runner: *runner, host }).collect()
}
