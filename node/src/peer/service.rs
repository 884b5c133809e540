//! `PeerService`: what this node does for other nodes while it leads, or while it is a host's gateway.

use std::time::Instant;

use stratavore_model::{Actor, HostId};
use stratavore_proto::v1;
use stratavore_proto::v1::peer_service_server::PeerService;
use stratavore_proto::v1::{
    ClockRequest, ClockResponse, HostStreamOpen, HostStreamReply, HostStreamRequest, HostStreamResponse,
    RenewRequest, RenewResponse, host_stream_reply, host_stream_request,
};
use stratavore_raft::Handle;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::api::auth::{self, Peer};
use crate::convert::id;
use crate::leader::liveness::{self, Renewals};
use crate::link::hub::Hub;
use crate::link::relay::{self, RelayError, Replies, Requests};
use crate::peer::renewals::ReplyTo;
use crate::quarantine::Quarantine;
use crate::tasks::{TaskKind, Tasks};

/// Answers that wait to be sent to one gateway: those to all its agents at once.
const ANSWERS_QUEUE: usize = crate::link::SESSIONS_MAX;

/// Answers of one message.
const ANSWERS_MAX: usize = 512;

/// Messages that wait for a slow reader.
const STREAM_QUEUE: usize = 16;

/// `PeerService` of one node.
pub(crate) struct Peers {
    pub(crate) raft: Handle,
    pub(crate) hub: Hub,
    pub(crate) renewals: Renewals,
    pub(crate) tasks: Tasks,
    pub(crate) quarantine: Quarantine,
}

#[tonic::async_trait]
impl PeerService for Peers {
    type RenewStream = ReceiverStream<Result<RenewResponse, Status>>;
    type HostStreamStream = ReceiverStream<Result<HostStreamResponse, Status>>;

    async fn renew(
        &self,
        request: Request<Streaming<RenewRequest>>,
    ) -> Result<Response<Self::RenewStream>, Status> {
        auth::require::<Peer>(request.extensions())?;
        if !self.raft.leadership().borrow().me {
            return Err(Status::failed_precondition("this node does not lead"));
        }
        let (out, stream) = mpsc::channel(STREAM_QUEUE);
        let renewing = renewing(self.raft.clone(), self.renewals.clone(), request.into_inner(), out);
        self.serve(renewing);
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn clock(&self, request: Request<ClockRequest>) -> Result<Response<ClockResponse>, Status> {
        auth::require::<Peer>(request.extensions())?;
        Ok(Response::new(ClockResponse { unix_ms: id::millis(id::now()) }))
    }

    async fn host_stream(
        &self,
        request: Request<Streaming<HostStreamRequest>>,
    ) -> Result<Response<Self::HostStreamStream>, Status> {
        auth::require::<Peer>(request.extensions())?;
        let mut requests = request.into_inner();
        let Some(host_stream_request::Message::Open(open)) =
            requests.message().await?.and_then(|request| request.message)
        else {
            return Err(Status::invalid_argument("the first message must open"));
        };
        let opened = self.open(open).await?;
        let (out, stream) = mpsc::channel(STREAM_QUEUE);
        self.serve(relay::both_ways(requests.map_while(typed), opened, out, passed_on));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl Peers {
    fn serve(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.tasks.token().clone();
        self.tasks.spawn_infallible(TaskKind::Relay, async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = work => {}
            }
        });
    }

    async fn open(&self, open: HostStreamOpen) -> Result<(Requests, Replies), Status> {
        // P17: a node that has lost touch opens no terminal.
        self.quarantine.check().map_err(Status::unavailable)?;
        if !self.raft.is_fresh() {
            return Err(Status::unavailable("the host's gateway has lost touch with the cluster"));
        }
        self.check_caller(&open.caller)?;
        let host: HostId = open.host.parse().map_err(|_| Status::invalid_argument("host"))?;
        let request = open.header.and_then(|header| header.request);
        let request = request.ok_or_else(|| Status::invalid_argument("header"))?;
        let session = self.hub.get(host);
        let session = session.ok_or_else(|| Status::not_found("the host is not connected to this node"))?;
        relay::open(&session, request).await.map_err(|error| Status::unavailable(error.to_string()))
    }

    /// The node in between has authenticated and authorised the caller; here only what it cannot know yet is caught: a
    /// user that was removed by now.
    fn check_caller(&self, caller: &str) -> Result<(), Status> {
        let known = match caller.parse() {
            Ok(Actor::User(name)) => {
                self.raft.read(|state| state.user(&name).is_some_and(|user| !user.removed))
            }
            _ => false,
        };
        if known { Ok(()) } else { Err(Status::permission_denied(format!("{caller} may use no terminal"))) }
    }
}

/// A gateway's renewals, as long as this node leads.
async fn renewing(
    raft: Handle,
    renewals: Renewals,
    mut requests: Streaming<RenewRequest>,
    out: mpsc::Sender<Result<RenewResponse, Status>>,
) {
    let mut leadership = raft.leadership();
    let (answers, mut answered) = mpsc::channel(ANSWERS_QUEUE);
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            changed = leadership.changed() => {
                if changed.is_err() || !leadership.borrow_and_update().me {
                    out.send(Err(Status::failed_precondition("this node leads no more"))).await.ok();
                    return;
                }
            }
            request = requests.message() => match request {
                Ok(Some(request)) => submit(&renewals, request, &answers),
                Ok(None) | Err(_) => return,
            },
            _ = answered.recv_many(&mut batch, ANSWERS_MAX) => {
                let response = RenewResponse { answers: std::mem::take(&mut batch) };
                if out.send(Ok(response)).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn submit(renewals: &Renewals, request: RenewRequest, answers: &mpsc::Sender<v1::RelayedAnswer>) {
    let received = Instant::now();
    for v1::RelayedRenewal { host, ticket, renewal } in request.renewals {
        let (Ok(host), Some(renewal)) = (host.parse(), renewal) else { continue };
        let reply = ReplyTo::Peer { ticket, answers: answers.clone() };
        renewals.judge(liveness::Request { host, renewal, received, reply });
    }
}

/// What the viewer's node sends behind its first message.
fn typed(request: Result<HostStreamRequest, Status>) -> Option<v1::AttachRequest> {
    match request.ok()?.message? {
        host_stream_request::Message::Attach(request) => Some(request),
        host_stream_request::Message::Open(_) => None,
    }
}

fn passed_on(reply: Result<host_stream_reply::Reply, RelayError>) -> Result<HostStreamResponse, Status> {
    match reply {
        Ok(reply) => Ok(response(reply)),
        // What the host said goes on as it is.
        Err(RelayError::Refused { code, message }) => {
            Ok(response(host_stream_reply::Reply::Error(v1::StreamError { code, message })))
        }
        Err(error) => Err(Status::unavailable(error.to_string())),
    }
}

fn response(reply: host_stream_reply::Reply) -> HostStreamResponse {
    HostStreamResponse { reply: Some(HostStreamReply { reply: Some(reply) }) }
}
