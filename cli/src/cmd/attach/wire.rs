//! The stream of an attachment, opened again whenever it is lost, through whichever node replies.

use std::cell::RefCell;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use stratavore_proto::v1::{AttachOpen, AttachRequest, AttachResponse, attach_request, attach_response};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::client::{self, Client, Once};
use crate::errors::{Failure, Result};

/// Requests on their way: keystrokes are small, pasted text waits.
const REQUESTS_QUEUED: usize = 64;

/// First pause before a lost stream is opened again; doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// A person is waiting.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// One attempt to open; a node that is silent for longer is left for another one.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

type Opened = (Box<Streaming<AttachResponse>>, mpsc::Sender<AttachRequest>);

enum State<'a> {
    Waiting { until: Instant },
    Opening(LocalBoxFuture<'a, std::result::Result<Opened, Once>>),
    Open(Opened),
}

/// See the module.
pub(crate) struct Wire<'a> {
    client: &'a Client,
    state: State<'a>,
    pause: Duration,
    lost_at: Option<Instant>,
    /// The stream was opened again after an end without exit, and has brought nothing since.
    ended_early: bool,
}

impl std::fmt::Debug for Wire<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").field("lost_at", &self.lost_at).finish_non_exhaustive()
    }
}

/// What came over the wire.
#[derive(Debug)]
pub(crate) enum Event {
    Message(AttachResponse),
    /// The node refused to open or to go on: the runner is gone, or somebody else has it.
    Refused(Status),
    /// The other side ended the stream without an exit message, twice.
    End,
    Fatal(Failure),
}

impl<'a> Wire<'a> {
    /// Opens the stream, patiently as any question, and returns its first message too.
    ///
    /// # Errors
    /// The refusal, or exit 7 or 8.
    pub(crate) async fn open(
        client: &'a Client,
        doing: &str,
        open: AttachOpen,
    ) -> Result<(Self, AttachResponse)> {
        let sender = RefCell::new(None);
        let first = RefCell::new(None);
        let stream = client
            .open(doing, false, async |channel| {
                let (requests, stream) = start(channel, open.clone()).await?;
                let mut stream = stream.into_inner();
                // A refusal by the host comes as the stream's first item; here it still counts as a refused call.
                let message = stream.message().await?.ok_or_else(ended_early)?;
                sender.replace(Some(requests));
                first.replace(Some(message));
                Ok(tonic::Response::new(stream))
            })
            .await?;
        let (Some(requests), Some(message)) = (sender.take(), first.take()) else {
            return Err(Failure::from_status(&ended_early(), doing));
        };
        let state = State::Open((Box::new(stream), requests));
        Ok((Self { client, state, pause: PAUSE_MIN, lost_at: None, ended_early: false }, message))
    }

    /// Since when nothing has come, `None` while the stream stands.
    pub(crate) fn lost_at(&self) -> Option<Instant> {
        self.lost_at
    }

    /// Where requests go, while the stream stands.
    pub(crate) fn requests(&self) -> Option<&mpsc::Sender<AttachRequest>> {
        match &self.state {
            State::Open((_, requests)) => Some(requests),
            _ => None,
        }
    }

    /// Drops the stream, to open a new one at once.
    pub(crate) fn reopen(&mut self) {
        self.state = State::Waiting { until: Instant::now() };
    }

    /// The next event; opens the stream again with `open` when it is lost. Cancel-safe.
    pub(crate) async fn next(&mut self, open: &AttachOpen) -> Event {
        loop {
            let failed = match &mut self.state {
                State::Waiting { until } => {
                    sleep_until(*until).await;
                    self.state = State::Opening(Box::pin(attempt(self.client, open.clone())));
                    continue;
                }
                State::Opening(opening) => match opening.await {
                    Ok(opened) => {
                        self.state = State::Open(opened);
                        continue;
                    }
                    Err(failed) => failed,
                },
                State::Open((stream, _)) => match stream.message().await {
                    Ok(Some(message)) => {
                        self.pause = PAUSE_MIN;
                        self.lost_at = None;
                        self.ended_early &=
                            matches!(message.message, Some(attach_response::Message::Ready(_)));
                        return Event::Message(message);
                    }
                    Ok(None) if self.ended_early => return Event::End,
                    Ok(None) => {
                        // The host may still have the rest, and how it ended.
                        self.ended_early = true;
                        self.lose();
                        continue;
                    }
                    Err(status) => self.client.failed(status),
                },
            };
            match failed {
                Once::Fatal(failure) => return Event::Fatal(failure),
                Once::Refused(status) if !is_passing(&status) => return Event::Refused(status),
                Once::Refused(_) | Once::Unreached(_) | Once::Broken(_) => self.lose(),
            }
        }
    }

    fn lose(&mut self) {
        let now = Instant::now();
        self.lost_at.get_or_insert(now);
        self.state = State::Waiting { until: now + self.pause };
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }
}

/// What goes by when a node, a leader or an agent is back.
fn is_passing(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded)
}

async fn attempt(client: &Client, open: AttachOpen) -> std::result::Result<Opened, Once> {
    let requests = RefCell::new(None);
    let opening = client.once(async |channel| {
        let (sender, stream) = start(channel, open.clone()).await?;
        requests.replace(Some(sender));
        Ok(stream)
    });
    let Ok(opened) = tokio::time::timeout(OPEN_TIMEOUT, opening).await else {
        client.forget();
        return Err(Once::Broken("no answer".to_owned()));
    };
    let stream = opened?;
    let sender = requests.take().ok_or_else(|| Once::Refused(ended_early()))?;
    Ok((Box::new(stream), sender))
}

async fn start(
    channel: tonic::transport::Channel,
    open: AttachOpen,
) -> std::result::Result<(mpsc::Sender<AttachRequest>, tonic::Response<Streaming<AttachResponse>>), Status> {
    let (requests, receiver) = mpsc::channel(REQUESTS_QUEUED);
    let first = AttachRequest { message: Some(attach_request::Message::Open(open)) };
    requests.try_send(first).map_err(|_| ended_early())?;
    let stream = client::terminal(channel).attach(ReceiverStream::new(receiver)).await?;
    Ok((requests, stream))
}

fn ended_early() -> Status {
    Status::unavailable("the node ended the stream before it began")
}
