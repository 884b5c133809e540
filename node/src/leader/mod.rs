//! What only a leader does: place runners, judge whether hosts are alive, keep state bounded and the voters right. A group of loops is born
//! when this node begins to lead a term and dies with it; each proposal carries the term (P7).

pub(crate) mod ahead;
pub(crate) mod lease;
pub(crate) mod liveness;
pub(crate) mod membership;
pub(crate) mod placement;
pub(crate) mod timers;

use std::convert::Infallible;
use std::time::Duration;

use stratavore_model::{Actor, Command, Entry, Millis, NodeId};
use stratavore_raft::{Applied, Handle, ProposeError};
use tokio_util::sync::CancellationToken;

use crate::convert::id;
use crate::leader::liveness::{Liveness, Renewals};
use crate::leader::membership::Membership;
use crate::leader::placement::{Placement, PlacementCounters};
use crate::leader::timers::Timers;
use crate::tasks::{TaskKind, Tasks};

/// Loops end at their next await; none of them waits for anything but raft.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// A term that this node leads, as its loops see it.
#[derive(Clone)]
pub(crate) struct Term {
    pub(crate) raft: Handle,
    pub(crate) number: u64,
}

impl Term {
    /// Proposes for this term only: apply refuses the entry in any other (P7).
    ///
    /// # Errors
    /// As [`Handle::propose`].
    pub(crate) async fn propose(&self, command: Command) -> Result<Applied, ProposeError> {
        self.propose_at(id::now(), command).await
    }

    /// The same, stamped with another time than this node's clock says.
    ///
    /// # Errors
    /// As [`Self::propose`].
    pub(crate) async fn propose_at(&self, at: Millis, command: Command) -> Result<Applied, ProposeError> {
        let entry = Entry { actor: Actor::System, request_id: None, at, term: Some(self.number), command };
        self.raft.propose(entry).await
    }
}

/// Watches leadership and owns the group of the term.
pub(crate) struct Leader {
    pub(crate) node: NodeId,
    pub(crate) raft: Handle,
    pub(crate) renewals: Renewals,
    pub(crate) placement: PlacementCounters,
    pub(crate) tasks: Tasks,
}

impl Leader {
    /// Runs until cancelled, or until raft stops.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), Infallible> {
        let mut leadership = self.raft.leadership();
        let mut group: Option<(u64, Tasks)> = None;
        loop {
            let now = *leadership.borrow_and_update();
            let mine = now.me.then_some(now.term);
            if group.as_ref().map(|(term, _)| *term) != mine {
                if let Some((term, tasks)) = group.take() {
                    tracing::info!(term, "no longer leading, its loops stop");
                    self.end(&tasks).await;
                }
                if let Some(term) = mine {
                    tracing::info!(term, "leading");
                    group = Some((term, self.begin(term)));
                }
            }
            tokio::select! {
                () = stop.cancelled() => break,
                changed = leadership.changed() => if changed.is_err() { break },
            }
        }
        if let Some((_, tasks)) = group.take() {
            self.end(&tasks).await;
        }
        Ok(())
    }

    fn begin(&self, number: u64) -> Tasks {
        let tasks = self.tasks.group();
        let stop = tasks.token().clone();
        let term = Term { raft: self.raft.clone(), number };
        let placement = Placement::new(term.clone(), self.placement.clone());
        tasks.spawn_infallible(TaskKind::LeaderLoop, placement.run(stop.clone()));
        tasks.spawn_infallible(TaskKind::LeaderLoop, Timers::new(term.clone()).run(stop.clone()));
        tasks.spawn_infallible(
            TaskKind::LeaderLoop,
            Membership::new(term.clone(), self.node).run(stop.clone()),
        );
        tasks.spawn_infallible(TaskKind::LeaderLoop, Liveness::new(term, self.renewals.clone()).run(stop));
        tasks
    }

    async fn end(&self, tasks: &Tasks) {
        if !tasks.stop(STOP_GRACE).await {
            tracing::warn!("a leader loop did not end in time");
        }
        self.renewals.forget();
    }
}
