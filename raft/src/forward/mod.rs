//! Proposals and reads of a node that does not lead, brought to the one that does: one open stream per peer, many
//! requests in a frame, answers by id.
//!
//! What was never sent may be tried again elsewhere. What was sent and not answered is unknown: the entry may be in
//! the leader's log.

mod link;
pub(crate) mod serve;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use model::NodeId;
use stratavore_model as model;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::network::client::Network;
use crate::types::Member;

/// Requests waiting to be put into a frame, per peer. A full queue makes callers wait.
const QUEUE_MAX: usize = 4096;

/// What came of a request.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Committed, and applied by the leader.
    Applied { index: u64, term: u64 },
    /// Whoever has applied `index` has seen everything committed before the request.
    Read { index: u64, member: bool },
    /// The peer does not lead; nothing was written.
    NotLeader { leader: Option<NodeId> },
    /// It never left this node.
    NotSent(String),
    /// It left this node, and nobody knows what came of it.
    Unknown(String),
    /// Nothing was written, and another try will not help.
    Refused(String),
    /// The read was not confirmed.
    Unavailable(String),
}

/// One request on its way to the task that owns the stream.
#[derive(Debug)]
enum Item {
    Propose(Bytes, oneshot::Sender<Answer>),
    Read(oneshot::Sender<Answer>),
}

impl Item {
    fn into_answer(self) -> oneshot::Sender<Answer> {
        match self {
            Self::Propose(_, answer) | Self::Read(answer) => answer,
        }
    }
}

struct Link {
    address: String,
    queue: mpsc::Sender<Item>,
    task: AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The streams to peers; each is opened when it is first needed.
pub(crate) struct Forwarder {
    network: Network,
    me: NodeId,
    links: Mutex<BTreeMap<NodeId, Link>>,
}

impl Forwarder {
    pub(crate) fn new(network: Network, me: NodeId) -> Self {
        Self { network, me, links: Mutex::default() }
    }

    pub(crate) fn network(&self) -> &Network {
        &self.network
    }

    fn links(&self) -> MutexGuard<'_, BTreeMap<NodeId, Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queue of the stream to `node`, which was told to be at `member`'s address.
    fn queue(&self, node: NodeId, member: &Member) -> mpsc::Sender<Item> {
        let mut links = self.links();
        if let Some(link) = links.get(&node)
            && link.address == member.raft_address
            && !link.queue.is_closed()
        {
            return link.queue.clone();
        }
        let (queue, items) = mpsc::channel(QUEUE_MAX);
        let client = self.network.client(node.0, &member.raft_address);
        let task = tokio::spawn(link::run(client, self.me, items)).abort_handle();
        // A peer that moved is dialled at its new address; requests on the old stream are unknown.
        links.insert(node, Link { address: member.raft_address.clone(), queue: queue.clone(), task });
        queue
    }

    async fn ask(
        &self,
        node: NodeId,
        member: &Member,
        item: impl FnOnce(oneshot::Sender<Answer>) -> Item,
    ) -> Answer {
        let queue = self.queue(node, member);
        let (sender, answer) = oneshot::channel();
        if queue.send(item(sender)).await.is_err() {
            return Answer::NotSent("the stream to the leader was closed".into());
        }
        answer.await.unwrap_or_else(|_| Answer::Unknown("the stream to the leader ended".into()))
    }

    /// Asks `node` to write an encoded entry.
    pub(crate) async fn propose(&self, node: NodeId, member: &Member, entry: Bytes) -> Answer {
        self.ask(node, member, |answer| Item::Propose(entry, answer)).await
    }

    /// Asks `node` to confirm that it leads.
    pub(crate) async fn read(&self, node: NodeId, member: &Member) -> Answer {
        self.ask(node, member, Item::Read).await
    }
}
