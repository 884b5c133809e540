//! Proposals, on any node: written here when this node leads, brought to the leader when it does not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use model::{Entry, NodeId, Reply};
use stratavore_model as model;
use tokio::sync::SemaphorePermit;

use crate::core::Written;
use crate::error::ProposeError;
use crate::forward::Answer;
use crate::handle::{Applied, ENTRY_BYTES_MAX, Handle};
use crate::record::encode_entry;
use crate::types::{Command, LogId};

/// How long a proposal may take before its outcome is called unknown.
pub(crate) const PROPOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a proposal that is not written anywhere looks for a leader: two elections at the default timings.
pub(crate) const LEADER_PATIENCE: Duration = Duration::from_secs(5);

/// Pause between two looks for the leader; news of one ends it early. Short, because a planned hand-over takes a
/// few round trips only.
const LEADER_RETRY: Duration = Duration::from_millis(5);

/// After another node is known to lead, an answer of the one before is not worth a longer wait: it may have been
/// cut off from the others, and its callers have a request id to ask the new one with.
const DEPOSED_PATIENCE: Duration = Duration::from_secs(1);

/// Why a proposal was not answered by one leader.
enum Detour {
    /// Nothing was written: look further, there if somebody is named.
    Elsewhere(Option<NodeId>),
    Final(ProposeError),
}

impl Handle {
    /// Replicates `entry` and returns its answer once it is committed and applied on this node. Works on every
    /// node: one that does not lead brings the entry to the leader, looks for a new one for at most five seconds,
    /// and takes the answer from its own apply. An entry with a term is never forwarded (P7). Concurrent
    /// proposals share syncs. The time is the leader's (P4). Cancelling the future does not withdraw the proposal.
    ///
    /// # Errors
    /// [`ProposeError::NotLeader`], [`ProposeError::Refused`] and [`ProposeError::TooLarge`] mean that nothing
    /// was written; [`ProposeError::Unknown`] that it may have been.
    pub async fn propose(&self, mut entry: Entry) -> Result<Applied, ProposeError> {
        let started = Instant::now();
        let pinned = entry.term.is_some();
        // P4: if this node leads, its stamp is what counts; if not, the leader puts its own in place.
        entry.at = self.shared.core.stamp().unwrap_or(entry.at);
        let bytes = encode_entry(&entry);
        if bytes.len() > ENTRY_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes: bytes.len(), max: ENTRY_BYTES_MAX });
        }
        let _permit = self.permit().await?;
        let command = Command { bytes, decoded: Some(Arc::new(entry)) };
        let outcome = tokio::time::timeout(PROPOSE_TIMEOUT, self.route(command, pinned)).await;
        let applied = outcome.unwrap_or_else(|_| {
            Err(ProposeError::Unknown(format!("no commit within {} s", PROPOSE_TIMEOUT.as_secs())))
        })?;
        self.shared.counters.commit.observe(started.elapsed());
        Ok(applied)
    }

    /// A place among the proposals in flight.
    pub(crate) async fn permit(&self) -> Result<SemaphorePermit<'_>, ProposeError> {
        self.shared.in_flight.acquire().await.map_err(|_| ProposeError::Stopped("shutting down".into()))
    }

    async fn route(&self, command: Command, pinned: bool) -> Result<Applied, ProposeError> {
        let core = &self.shared.core;
        let give_up = Instant::now() + LEADER_PATIENCE;
        let mut hint = None;
        loop {
            let Some(leader) = self.leader_within(hint.take(), pinned, give_up).await else {
                return Err(self.nobody_leads());
            };
            let detour = if leader == core.id() {
                match core.write(command.clone()).await {
                    Ok(written) => return applied_here(written),
                    Err(ProposeError::NotLeader { leader }) if !pinned => Detour::Elsewhere(leader),
                    Err(error) => Detour::Final(error),
                }
            } else if pinned {
                Detour::Final(ProposeError::NotLeader { leader: Some(leader) })
            } else {
                match self.forward(leader, &command).await {
                    Ok(applied) => return Ok(applied),
                    Err(detour) => detour,
                }
            };
            match detour {
                Detour::Final(error) => return Err(error),
                Detour::Elsewhere(named) if Instant::now() >= give_up => {
                    return Err(ProposeError::NotLeader { leader: named.or_else(|| core.now().leader) });
                }
                Detour::Elsewhere(named) => {
                    hint = named.filter(|named| *named != leader);
                    self.leadership_moves(LEADER_RETRY).await;
                }
            }
        }
    }

    fn nobody_leads(&self) -> ProposeError {
        match self.fatal_reason() {
            Some(reason) => ProposeError::Stopped(reason),
            None => ProposeError::NotLeader { leader: None },
        }
    }

    /// The leader as far as anybody knows; waits for one until `give_up`, unless the entry would be stale then.
    pub(crate) async fn leader_within(
        &self,
        hint: Option<NodeId>,
        pinned: bool,
        give_up: Instant,
    ) -> Option<NodeId> {
        let core = &self.shared.core;
        if let Some(leader) = hint.or_else(|| core.now().leader) {
            return Some(leader);
        }
        if pinned {
            return None;
        }
        let mut leadership = core.leadership.clone();
        let known = leadership.wait_for(|now| now.leader.is_some());
        tokio::time::timeout_at(give_up.into(), known).await.ok()?.ok()?.leader
    }

    /// Waits for news of who leads, at most `pause`.
    pub(crate) async fn leadership_moves(&self, pause: Duration) {
        let mut leadership = self.shared.core.leadership.clone();
        leadership.mark_unchanged();
        // Both outcomes mean the same: look again. A closed channel must not make a hot loop.
        if let Ok(Err(_)) = tokio::time::timeout(pause, leadership.changed()).await {
            tokio::time::sleep(pause).await;
        }
    }

    async fn forward(&self, leader: NodeId, command: &Command) -> Result<Applied, Detour> {
        let Some(member) = self.member(leader) else {
            return Err(Detour::Elsewhere(None));
        };
        let replies = self.shared.state.replies().watch();
        let asked = self.shared.forwarder.propose(leader, &member, command.bytes.clone());
        let answer = tokio::select! {
            answer = asked => answer,
            () = self.deposed(leader) => {
                Answer::Unknown(format!("node {leader} did not answer before another took over"))
            }
        };
        match answer {
            Answer::Applied { index, term } => match replies.of(index).await {
                Some(reply) => Ok(Applied { index, term, reply }),
                None => Err(Detour::Final(ProposeError::Unknown(format!(
                    "entry {index} reached this node by way of a snapshot"
                )))),
            },
            Answer::NotLeader { leader } => Err(Detour::Elsewhere(leader)),
            Answer::NotSent(reason) => {
                tracing::debug!(%leader, reason, "a proposal could not be sent");
                Err(Detour::Elsewhere(None))
            }
            Answer::Refused(reason) => Err(Detour::Final(ProposeError::Refused(reason))),
            Answer::Unknown(reason) | Answer::Unavailable(reason) => {
                Err(Detour::Final(ProposeError::Unknown(reason)))
            }
            Answer::Read { .. } => {
                Err(Detour::Final(ProposeError::Unknown("a proposal was answered as a read".into())))
            }
        }
    }

    /// Ends [`DEPOSED_PATIENCE`] after another node than `leader` is known to lead.
    async fn deposed(&self, leader: NodeId) {
        let mut leadership = self.shared.core.leadership.clone();
        let other = |now: &crate::Leadership| now.leader.is_some_and(|now| now != leader);
        if leadership.wait_for(other).await.is_err() {
            // The core has ended: the answer comes or the timeout does.
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(DEPOSED_PATIENCE).await;
    }
}

fn applied_here(written: Written) -> Result<Applied, ProposeError> {
    applied_reply(&written.id, written.reply)
}

pub(crate) fn applied_reply(id: &LogId, reply: Option<Reply>) -> Result<Applied, ProposeError> {
    let reply = reply.ok_or_else(|| ProposeError::Unknown("the entry was applied without a reply".into()))?;
    Ok(Applied { index: id.index(), term: id.committed_leader_id().term, reply })
}
