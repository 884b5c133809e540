//! One peer's stream of forwarded requests.

use std::collections::BTreeMap;
use std::time::Duration;

use model::NodeId;
use stratavore_model as model;
use stratavore_proto::raft as pb;
use stratavore_proto::raft::forward_outcome::Outcome;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{Answer, Item};
use crate::network::client::Client;

/// Requests and bytes of one frame: what one sync of the leader's log covers anyway, and small beside the largest
/// message.
const FRAME_ITEMS_MAX: usize = 512;
const FRAME_BYTES_MAX: usize = 2 << 20;

/// Frames written ahead of the network.
const FRAMES_AHEAD: usize = 4;

/// Opening a stream is a connection with its handshakes; a leader that needs longer is as good as none.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);

/// Pause after a stream could not be opened, so that a dead peer is not dialled in a loop.
const OPEN_PAUSE: Duration = Duration::from_millis(50);

/// Serves the queue until the link is dropped.
pub(super) async fn run(mut client: Client, me: NodeId, mut queue: mpsc::Receiver<Item>) {
    let mut batch = Vec::new();
    while take(&mut queue, &mut batch).await {
        match Session::open(&mut client, me).await {
            Ok(session) => session.run(&mut queue, &mut batch).await,
            Err(reason) => {
                for item in batch.drain(..) {
                    answer(item.into_answer(), Answer::NotSent(reason.clone()));
                }
                tokio::time::sleep(OPEN_PAUSE).await;
            }
        }
    }
}

/// Waits for a request and takes whatever else is there; false when the link is closed.
async fn take(queue: &mut mpsc::Receiver<Item>, batch: &mut Vec<Item>) -> bool {
    !batch.is_empty() || queue.recv_many(batch, FRAME_ITEMS_MAX).await > 0
}

/// Whoever gave up waiting does not need the answer.
fn answer(to: oneshot::Sender<Answer>, answer: Answer) {
    drop(to.send(answer));
}

struct Session {
    me: NodeId,
    frames: mpsc::Sender<pb::ForwardRequest>,
    answers: Streaming<pb::ForwardResponse>,
    next_id: u64,
    sent: BTreeMap<u64, Vec<oneshot::Sender<Answer>>>,
}

impl Session {
    /// Opens the stream before anything is put into it, so that a failure here means "never sent".
    async fn open(client: &mut Client, me: NodeId) -> Result<Self, String> {
        let (frames, receiver) = mpsc::channel(FRAMES_AHEAD);
        let call = client.forward(ReceiverStream::new(receiver));
        match tokio::time::timeout(OPEN_TIMEOUT, call).await {
            Ok(Ok(response)) => {
                Ok(Self { me, frames, answers: response.into_inner(), next_id: 1, sent: BTreeMap::new() })
            }
            Ok(Err(status)) => Err(status.message().to_string()),
            Err(_) => Err(format!("no answer within {} s", OPEN_TIMEOUT.as_secs())),
        }
    }

    /// Runs until the stream or the link ends. What is unanswered then is unknown; `batch` was not sent.
    async fn run(mut self, queue: &mut mpsc::Receiver<Item>, batch: &mut Vec<Item>) {
        let reason = loop {
            tokio::select! {
                permit = self.frames.clone().reserve_owned(), if !batch.is_empty() => match permit {
                    Ok(permit) => drop(permit.send(self.frame(batch))),
                    Err(_) => break "the stream to the leader was lost".to_string(),
                },
                taken = queue.recv_many(batch, FRAME_ITEMS_MAX), if batch.is_empty() => if taken == 0 {
                    break "this node is stopping".to_string();
                },
                answers = self.answers.message() => match answers {
                    Ok(Some(answers)) => answers.outcomes.into_iter().for_each(|outcome| self.settle(outcome)),
                    Ok(None) => break "the leader ended the stream".to_string(),
                    Err(status) => break format!("the stream to the leader was lost: {}", status.message()),
                },
            }
        };
        for waiter in self.sent.into_values().flatten() {
            answer(waiter, Answer::Unknown(reason.clone()));
        }
    }

    /// The next frame of the batch; all its reads share one round.
    fn frame(&mut self, batch: &mut Vec<Item>) -> pb::ForwardRequest {
        let mut frame = pb::ForwardRequest { node_id: self.me.0, ..pb::ForwardRequest::default() };
        let mut bytes = 0;
        let mut readers = Vec::new();
        let fits = batch.iter().position(|item| {
            if let Item::Propose(entry, _) = item {
                bytes += entry.len();
            }
            bytes > FRAME_BYTES_MAX
        });
        // One entry always fits: it is smaller than a frame.
        let upto = fits.unwrap_or(batch.len()).max(1);
        for item in batch.drain(..upto) {
            match item {
                // Nobody waits any more, and it has not left: it need not.
                Item::Propose(_, answer) | Item::Read(answer) if answer.is_closed() => {}
                Item::Propose(entry, answer) => {
                    let id = self.take_id(vec![answer]);
                    frame.entries.push(pb::ForwardedEntry { id, entry });
                }
                Item::Read(answer) => readers.push(answer),
            }
        }
        if !readers.is_empty() {
            let id = self.take_id(readers);
            frame.reads.push(id);
        }
        frame
    }

    fn take_id(&mut self, waiters: Vec<oneshot::Sender<Answer>>) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.sent.insert(id, waiters);
        id
    }

    fn settle(&mut self, outcome: pb::ForwardOutcome) {
        let Some(waiters) = self.sent.remove(&outcome.id) else {
            return tracing::warn!(id = outcome.id, "an answer to nothing that was asked");
        };
        for waiter in waiters {
            answer(waiter, load(outcome.outcome.clone()));
        }
    }
}

fn load(outcome: Option<Outcome>) -> Answer {
    match outcome {
        Some(Outcome::Applied(pb::ForwardApplied { index, term })) => Answer::Applied { index, term },
        Some(Outcome::Read(pb::ForwardRead { index, member })) => Answer::Read { index, member },
        Some(Outcome::NotLeader(pb::ForwardNotLeader { leader })) => {
            Answer::NotLeader { leader: leader.map(NodeId) }
        }
        Some(Outcome::Unknown(reason)) => Answer::Unknown(reason),
        Some(Outcome::Refused(reason)) => Answer::Refused(reason),
        Some(Outcome::Unavailable(reason)) => Answer::Unavailable(reason),
        None => Answer::Unknown("the leader runs a newer version, its answer is not understood".into()),
    }
}
