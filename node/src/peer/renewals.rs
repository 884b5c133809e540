//! Renewals of this node's agents on their way to the leader (P6): relayed as they came, answered as the leader said.
//! When this node leads they go straight to its own queue.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use stratavore_model::NodeId;
use stratavore_proto::v1;
use stratavore_proto::v1::peer_service_client::PeerServiceClient;
use stratavore_proto::v1::{node_message, relayed_answer};
use stratavore_raft::{Handle, Leadership};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::leader::liveness::{Renewals, Request};
use crate::link::hub::SessionHandle;
use crate::peer::channels::Channels;

/// Renewals that wait while no stream to a leader is open. Older ones are of no use: the agent has sent another.
const QUEUE: usize = crate::link::SESSIONS_MAX;

/// Renewals of one message: with the longest names below a tenth of the bound of a message.
const BATCH_MAX: usize = 512;

/// Messages on their way up; the leader answers a batch before the next one is needed.
const UP_QUEUE: usize = 16;

/// Renewals that await their answer. More means that the leader does not answer; the oldest are given up.
const PENDING_MAX: usize = 2 * crate::link::SESSIONS_MAX;

/// Between two attempts to open a stream.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// How long a stream may take to open; a dead leader must not hold renewals back for longer than an election takes.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);

/// Who waits for the answer to a renewal.
pub(crate) enum ReplyTo {
    /// An agent of this node.
    Session(SessionHandle),
    /// Another node's agent, by the ticket its gateway gave.
    Peer { ticket: u64, answers: mpsc::Sender<v1::RelayedAnswer> },
}

impl ReplyTo {
    pub(crate) fn grant(self, grant: v1::Grant) {
        match self {
            Self::Session(session) => session.send(node_message::Message::Grant(grant)),
            Self::Peer { ticket, answers } => answer(ticket, &answers, relayed_answer::Answer::Grant(grant)),
        }
    }

    pub(crate) fn refuse(self, refused: v1::Refused) {
        match self {
            Self::Session(session) => session.send(node_message::Message::Refused(refused)),
            Self::Peer { ticket, answers } => {
                answer(ticket, &answers, relayed_answer::Answer::Refused(refused));
            }
        }
    }
}

/// A full queue means a gateway that does not read: its agents renew again in two seconds.
fn answer(ticket: u64, answers: &mpsc::Sender<v1::RelayedAnswer>, answer: relayed_answer::Answer) {
    answers.try_send(v1::RelayedAnswer { ticket, answer: Some(answer) }).ok();
}

struct Waiting {
    session: SessionHandle,
    renewal: v1::Renewal,
}

/// Takes renewals from sessions.
#[derive(Clone)]
pub(crate) struct RenewalHandle {
    leadership: watch::Receiver<Leadership>,
    own: Renewals,
    relay: mpsc::Sender<Waiting>,
}

impl RenewalHandle {
    /// To the leader, wherever it is. What finds no room is dropped: the agent sends the next one in two seconds.
    pub(crate) fn submit(&self, session: &SessionHandle, renewal: v1::Renewal) {
        let session = session.clone();
        if self.leadership.borrow().me {
            let (host, received) = (session.host(), Instant::now());
            self.own.judge(Request { host, renewal, received, reply: ReplyTo::Session(session) });
        } else {
            self.relay.try_send(Waiting { session, renewal }).ok();
        }
    }
}

/// The loop that keeps one stream to the leader.
pub(crate) struct RenewalRelay {
    leadership: watch::Receiver<Leadership>,
    channels: Channels,
    waiting: mpsc::Receiver<Waiting>,
    tickets: u64,
}

impl RenewalRelay {
    pub(crate) fn new(raft: &Handle, own: Renewals, channels: Channels) -> (Self, RenewalHandle) {
        let (relay, waiting) = mpsc::channel(QUEUE);
        let leadership = raft.leadership();
        let handle = RenewalHandle { leadership: leadership.clone(), own, relay };
        (Self { leadership, channels, waiting, tickets: 0 }, handle)
    }

    /// Runs until cancelled.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            () = self.relay() => Ok(()),
        }
    }

    async fn relay(&mut self) {
        loop {
            let now = *self.leadership.borrow_and_update();
            match now.leader.filter(|_| !now.me) {
                Some(leader) => {
                    if let Err(error) = self.session_with(leader).await {
                        tracing::debug!(%leader, %error, "no renewals through this leader");
                    }
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                None => {
                    if self.leadership.changed().await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Until the leader or the stream is gone.
    async fn session_with(&mut self, leader: NodeId) -> Result<(), String> {
        let channel = self.channels.channel(leader).map_err(|error| error.to_string())?;
        let (up, requests) = mpsc::channel(UP_QUEUE);
        let mut client = PeerServiceClient::new(channel);
        let opening = client.renew(ReceiverStream::new(requests));
        let mut answers = match tokio::time::timeout(OPEN_TIMEOUT, opening).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Err(status.message().to_owned()),
            Err(_) => return Err("no answer in time".to_owned()),
        };
        let mut pending: BTreeMap<u64, SessionHandle> = BTreeMap::new();
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                changed = self.leadership.changed() => {
                    if changed.is_err() || self.leadership.borrow_and_update().leader != Some(leader) {
                        return Ok(());
                    }
                }
                answer = answers.message() => match answer {
                    Ok(Some(response)) => deliver(&mut pending, response),
                    Ok(None) => return Err("the leader ended the stream".to_owned()),
                    Err(status) => return Err(status.message().to_owned()),
                },
                taken = self.waiting.recv_many(&mut batch, BATCH_MAX) => {
                    if taken == 0 {
                        return Ok(());
                    }
                    let request = self.request(&mut batch, &mut pending);
                    if up.send(request).await.is_err() {
                        return Err("the stream broke".to_owned());
                    }
                }
            }
        }
    }

    fn request(
        &mut self,
        batch: &mut Vec<Waiting>,
        pending: &mut BTreeMap<u64, SessionHandle>,
    ) -> v1::RenewRequest {
        let relayed = batch.drain(..).map(|Waiting { session, renewal }| {
            self.tickets += 1;
            let relayed = v1::RelayedRenewal {
                host: session.host().to_string(),
                ticket: self.tickets,
                renewal: Some(renewal),
            };
            pending.insert(self.tickets, session);
            relayed
        });
        let renewals = relayed.collect();
        while pending.len() > PENDING_MAX {
            pending.pop_first();
        }
        v1::RenewRequest { renewals }
    }
}

/// Each answer to the session whose renewal it is, unchanged (P6).
fn deliver(pending: &mut BTreeMap<u64, SessionHandle>, response: v1::RenewResponse) {
    for v1::RelayedAnswer { ticket, answer } in response.answers {
        let Some(session) = pending.remove(&ticket) else { continue };
        match answer {
            Some(relayed_answer::Answer::Grant(grant)) => session.send(node_message::Message::Grant(grant)),
            Some(relayed_answer::Answer::Refused(refused)) => {
                session.send(node_message::Message::Refused(refused));
            }
            None => {}
        }
    }
}
