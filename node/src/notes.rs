//! What this node wants history to have about itself. It is told when there is a leader to tell it to; meanwhile it waits.

use std::collections::VecDeque;
use std::time::Duration;

use stratavore_model::command::{NodeNote, NoteNode};
use stratavore_model::{Actor, Command, Entry, NodeId};
use stratavore_raft::Handle;

use crate::convert::id;

/// Notes that wait; more than a quarantine has.
const PENDING_MAX: usize = 8;

/// An attempt must not hold up whoever makes it.
const ATTEMPT: Duration = Duration::from_secs(2);

/// The notes of one loop.
pub(crate) struct Notes {
    node: NodeId,
    raft: Handle,
    pending: VecDeque<(NodeNote, String)>,
}

impl Notes {
    pub(crate) fn new(node: NodeId, raft: Handle) -> Self {
        Self { node, raft, pending: VecDeque::new() }
    }

    pub(crate) fn add(&mut self, what: NodeNote, text: String) {
        self.pending.push_back((what, text));
        while self.pending.len() > PENDING_MAX {
            self.pending.pop_front();
        }
    }

    /// Tells what waits, in order, as far as that succeeds now. An answer that is lost is told twice.
    pub(crate) async fn tell(&mut self) {
        while let Some((what, text)) = self.pending.front().cloned() {
            let command = Command::NoteNode(NoteNode { node: self.node, what, text });
            let actor = Actor::Node(self.node);
            let entry = Entry { actor, request_id: None, at: id::now(), term: None, command };
            match tokio::time::timeout(ATTEMPT, self.raft.propose(entry)).await {
                Ok(Ok(applied)) => {
                    // A cluster that is not finalized takes no notes.
                    if let Some(refusal) = applied.reply.rejected() {
                        tracing::debug!(%refusal, "a note was not taken");
                    }
                    self.pending.pop_front();
                }
                Ok(Err(error)) => return tracing::debug!(%error, "a note waits"),
                Err(_) => return,
            }
        }
    }
}
