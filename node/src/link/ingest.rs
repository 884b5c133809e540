//! Reports of agents on their way into the log: no tick, no delay. While one proposal is in flight, whatever arrives
//! is collected, and goes into the next one.

use std::convert::Infallible;
use std::time::Duration;

use prost::Message;
use stratavore_model::command::{OBSERVATIONS_MAX, Report};
use stratavore_model::{Actor, Command, Entry, Epoch, Reply};
use stratavore_proto::v1::{self, node_message};
use stratavore_raft::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::convert::{agent, id};
use crate::link::hub::{Cut, SessionHandle};
use crate::propose::until_committed;

/// Frames that wait while a proposal is in flight; beyond it agents are slowed down by their own streams.
const QUEUE: usize = 4096;

/// Frames in one proposal.
const BATCH_MAX: usize = 512;

/// Encoded observations in one proposal: well below the bound of an entry (P23), which also holds what is around them.
const BATCH_BYTES_MAX: usize = 384 * 1024;

/// Agents hear nothing of an election: their reports wait that long, several times over.
const PATIENCE: Duration = Duration::from_secs(10);

/// What one session reported in one frame, or a part of it.
struct Item {
    session: SessionHandle,
    host_epoch: Epoch,
    observations: Vec<v1::Observation>,
    bytes: usize,
}

/// Takes reports.
#[derive(Debug, Clone)]
pub(crate) struct IngestHandle {
    items: mpsc::Sender<Item>,
}

impl IngestHandle {
    /// Queues a report of `session`; waits while the queue is full, which slows that agent's stream down.
    pub(crate) async fn submit(&self, session: &SessionHandle, host_epoch: Epoch, observed: v1::Observed) {
        for observations in parts(observed.runners) {
            let bytes = observations.iter().map(Message::encoded_len).sum();
            let item = Item { session: session.clone(), host_epoch, observations, bytes };
            // An error means that the node stops.
            self.items.send(item).await.ok();
        }
    }
}

/// Cuts a frame into parts that each fit into one proposal.
fn parts(observations: Vec<v1::Observation>) -> Vec<Vec<v1::Observation>> {
    let mut parts: Vec<Vec<v1::Observation>> = Vec::new();
    let mut bytes = 0;
    for observation in observations {
        let length = observation.encoded_len();
        let fits = parts
            .last()
            .is_some_and(|part| part.len() < OBSERVATIONS_MAX && bytes + length <= BATCH_BYTES_MAX);
        if !fits {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += length;
        if let Some(part) = parts.last_mut() {
            part.push(observation);
        }
    }
    parts
}

/// The loop behind the handle.
pub(crate) struct Ingest {
    raft: Handle,
    items: mpsc::Receiver<Item>,
    /// Taken from the queue, but too much for the last proposal.
    held: Option<Item>,
}

impl Ingest {
    pub(crate) fn new(raft: Handle) -> (Self, IngestHandle) {
        let (sender, items) = mpsc::channel(QUEUE);
        (Self { raft, items, held: None }, IngestHandle { items: sender })
    }

    /// Runs until cancelled.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        loop {
            let batch = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                batch = self.next_batch() => batch,
            };
            if batch.is_empty() {
                return Ok(());
            }
            self.commit(batch).await;
        }
    }

    /// The first item, once there is one, and what is queued behind it. Cancel-safe: nothing is taken before the wait
    /// is over.
    async fn next_batch(&mut self) -> Vec<Item> {
        let first = match self.held.take() {
            Some(held) => held,
            None => match self.items.recv().await {
                Some(first) => first,
                None => return Vec::new(),
            },
        };
        let mut bytes = first.bytes;
        let mut batch = vec![first];
        while batch.len() < BATCH_MAX {
            let Ok(item) = self.items.try_recv() else { break };
            if bytes + item.bytes > BATCH_BYTES_MAX {
                self.held = Some(item);
                break;
            }
            bytes += item.bytes;
            batch.push(item);
        }
        batch
    }

    /// One proposal for all; each session is told what of its own is committed.
    async fn commit(&self, batch: Vec<Item>) {
        let (sessions, entries): (Vec<SessionHandle>, Vec<Entry>) = batch.into_iter().map(entry).unzip();
        let proposal = Entry {
            actor: Actor::System,
            request_id: None,
            at: id::now(),
            term: None,
            command: Command::Batch(entries),
        };
        match until_committed(&self.raft, proposal, PATIENCE).await.map(|applied| applied.reply) {
            Ok(Reply::Batch(replies)) if replies.len() == sessions.len() => {
                sessions.iter().zip(replies).for_each(|(session, reply)| acknowledge(session, reply));
            }
            Ok(other) => unreported(&sessions, &format!("unexpected reply {other:?}")),
            Err(error) => unreported(&sessions, &error.to_string()),
        }
    }
}

fn entry(item: Item) -> (SessionHandle, Entry) {
    let host = item.session.host();
    let report = Report {
        host,
        host_epoch: item.host_epoch,
        connection: item.session.connection(),
        observations: agent::observations(host, item.observations),
    };
    let command = Command::Report(report);
    let entry = Entry { actor: Actor::Host(host), request_id: None, at: id::now(), term: None, command };
    (item.session, entry)
}

fn acknowledge(session: &SessionHandle, reply: Reply) {
    match reply {
        Reply::Observed { acknowledged } => {
            session.send(node_message::Message::ObservedAck(agent::observed_ack(acknowledged)));
        }
        // Fenced, removed, or overtaken by a newer connection: the hello of the next connection says all of it again.
        other => {
            tracing::info!(host = %session.host(), reply = ?other, "report refused, the agent has to connect again");
            session.cut(Cut::Unreported);
        }
    }
}

/// Whether the reports are in the log is not known; a new connection brings the full list, which is idempotent.
fn unreported(sessions: &[SessionHandle], why: &str) {
    tracing::warn!(%why, sessions = sessions.len(), "reports were not committed");
    sessions.iter().for_each(|session| session.cut(Cut::Unreported));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observation(reason_bytes: usize) -> v1::Observation {
        v1::Observation { reason: "x".repeat(reason_bytes), ..Default::default() }
    }

    #[test]
    fn a_large_frame_is_cut_into_parts_that_fit_and_nothing_is_lost() {
        assert!(parts(Vec::new()).is_empty());
        let parts = parts((0..300).map(|_| observation(4000)).collect());
        assert!(parts.len() > 2);
        assert_eq!(parts.iter().map(Vec::len).sum::<usize>(), 300);
        for part in parts {
            assert!(part.iter().map(Message::encoded_len).sum::<usize>() <= BATCH_BYTES_MAX);
        }
    }

    #[test]
    fn many_small_ones_are_cut_by_number() {
        let parts = parts((0..OBSERVATIONS_MAX + 1).map(|_| observation(1)).collect());
        assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [OBSERVATIONS_MAX, 1]);
    }
}
