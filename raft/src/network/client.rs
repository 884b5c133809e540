//! Calls to one peer: one long-lived channel for votes and appends, one for snapshots.
//!
//! Two rules of openraft's replication are kept in [`PeerClient::stream_append`]: the first request is taken
//! before the network is touched (else an unreachable peer is retried in a hot loop), and a session that
//! answered everything ends without error (else a healthy peer is put on back-off).

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt};
use hyper_util::rt::TokioIo;
use openraft::OptionalSend;
use openraft::alias::SnapshotOf;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use stratavore_model::{ClusterId, NodeId};
use stratavore_proto::raft as pb;
use stratavore_proto::raft::raft_service_client::RaftServiceClient;
use tonic::codegen::InterceptedService;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status, Streaming};

use super::{CLUSTER_KEY, Connector, MESSAGE_BYTES_MAX, Peer, TARGET_KEY, wire};
use crate::record::RecordError;
use crate::record::position::required_vote;
use crate::snapshot_stream;
use crate::state_machine::SnapshotData;
use crate::types::{Member, TypeConfig, Vote};

/// How long a connection may be silent before it is probed, and the probe unanswered before it is dropped.
const KEEPALIVE: Duration = Duration::from_secs(1);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// An append without answer for twice this long is given up: above a slow disk's worst sync, so that a
/// stalled follower is not put on back-off for being slow.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

/// A whole snapshot; matches `install_snapshot_timeout`.
pub(crate) const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(600);

pub(crate) type Client = RaftServiceClient<InterceptedService<Channel, Headers>>;

/// Makes clients for peers.
#[derive(Clone)]
pub(crate) struct Network {
    cluster: ClusterId,
    connector: Option<Connector>,
}

impl Network {
    pub(crate) fn new(cluster: ClusterId, connector: Option<Connector>) -> Self {
        Self { cluster, connector }
    }

    /// A connection of its own, made when it is first used.
    pub(crate) fn client(&self, target: u64, address: &str) -> Client {
        let peer = Peer { node: NodeId(target), address: address.to_string() };
        let connector = self.connector.clone();
        let service = tower::service_fn(move |_: Uri| {
            let (connector, peer) = (connector.clone(), peer.clone());
            async move {
                let connector =
                    connector.ok_or_else(|| io::Error::other("this node was opened without peers"))?;
                Ok::<_, io::Error>(TokioIo::new(connector(peer).await?))
            }
        });
        // The name is not resolved: the connector dials the peer itself.
        let channel = Endpoint::from_static("http://raft.invalid")
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .connect_with_connector_lazy(service);
        let headers = Headers { cluster: ascii(&self.cluster), target: ascii(&target) };
        RaftServiceClient::with_interceptor(channel, headers)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }
}

/// Ids are digits and lowercase letters, so this never falls back.
fn ascii(text: &impl ToString) -> MetadataValue<Ascii> {
    MetadataValue::try_from(text.to_string()).unwrap_or_else(|_| MetadataValue::from_static("-"))
}

/// Says in every call which node of which cluster is meant.
#[derive(Clone)]
pub(crate) struct Headers {
    cluster: MetadataValue<Ascii>,
    target: MetadataValue<Ascii>,
}

impl Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(CLUSTER_KEY, self.cluster.clone());
        request.metadata_mut().insert(TARGET_KEY, self.target.clone());
        Ok(request)
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = PeerClient;

    async fn new_client(&mut self, target: u64, node: &Member) -> PeerClient {
        PeerClient {
            calls: self.client(target, &node.raft_address),
            snapshots: self.client(target, &node.raft_address),
        }
    }
}

/// One peer.
pub(crate) struct PeerClient {
    calls: Client,
    /// Its own connection: a snapshot must not hold up heartbeats.
    snapshots: Client,
}

type RpcResult<T> = Result<T, RPCError<TypeConfig>>;

fn unreachable_peer(error: impl ToString) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::from_string(error.to_string()))
}

fn from_status(status: Status) -> RPCError<TypeConfig> {
    match status.code() {
        // Not there, or not the node that is meant: wait before the next try.
        Code::Unavailable | Code::FailedPrecondition | Code::Unimplemented => {
            unreachable_peer(status.message())
        }
        _ => RPCError::Network(NetworkError::from_string(status.message())),
    }
}

fn from_record(error: RecordError) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::from_string(error))
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> RpcResult<T> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(from_status(status)),
        Err(_) => Err(unreachable_peer("no answer in time")),
    }
}

impl RaftNetworkV2<TypeConfig> for PeerClient {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<TypeConfig>> {
        let requests = futures::stream::iter([wire::append_to_pb(&rpc)]);
        let mut responses = within(option.soft_ttl(), self.calls.append(requests)).await?;
        let response = tokio::time::timeout(option.soft_ttl(), responses.message())
            .await
            .map_err(|_| unreachable_peer("no answer in time"))?
            .map_err(from_status)?
            .ok_or_else(|| unreachable_peer("the append was not answered"))?;
        Ok(match wire::append_result_from_pb(response).map_err(from_record)? {
            Ok(matched) => AppendEntriesResponse::PartialSuccess(matched),
            Err(StreamAppendError::Conflict(_)) => AppendEntriesResponse::Conflict,
            Err(StreamAppendError::HigherVote(vote)) => AppendEntriesResponse::HigherVote(vote),
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        let call = self.calls.vote(wire::vote_request_to_pb(&rpc));
        wire::vote_response_from_pb(within(option.soft_ttl(), call).await?).map_err(from_record)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        let request = pb::PreVoteRequest { request: Some(wire::vote_request_to_pb(&rpc)) };
        let response = within(option.soft_ttl(), self.calls.pre_vote(request)).await?;
        let response = response.response.ok_or(RecordError::Missing("pre-vote")).map_err(from_record)?;
        wire::vote_response_from_pb(response).map_err(from_record)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let gone = |error: String| StreamingError::Unreachable(Unreachable::from_string(error));
        let parts = snapshot_stream::send(vote, snapshot.meta, snapshot.snapshot);
        let call = within(SNAPSHOT_TIMEOUT, self.snapshots.snapshot(parts));
        let response = tokio::select! {
            closed = cancel => return Err(StreamingError::Closed(closed)),
            response = call => response.map_err(|error| gone(error.to_string()))?,
        };
        let vote = required_vote(response.vote).map_err(|error| gone(error.to_string()))?;
        Ok(SnapshotResponse::new(vote))
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<TransferLeaderResponse<TypeConfig>> {
        let call = self.calls.transfer_leader(wire::transfer_to_pb(&request));
        wire::transfer_result_from_pb(within(option.soft_ttl(), call).await?).map_err(from_record)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, RpcResult<BoxStream<'s, RpcResult<StreamAppendResult<TypeConfig>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let Some(first) = input.next().await else {
                return Ok(Box::pin(futures::stream::empty()) as BoxStream<'s, _>);
            };
            let progress = Arc::new(Progress::default());
            let requests = counted(first, input, progress.clone());
            let responses = within(ANSWER_PATIENCE, self.calls.append(requests)).await?;
            let session = Session { responses, progress, answered: 0 };
            Ok(Box::pin(futures::stream::unfold(Some(session), Session::next)) as BoxStream<'s, _>)
        })
    }
}

/// What the sending half has done.
#[derive(Default)]
struct Progress {
    sent: AtomicU64,
    exhausted: AtomicBool,
}

fn counted<S>(
    first: AppendEntriesRequest<TypeConfig>,
    rest: S,
    progress: Arc<Progress>,
) -> impl Stream<Item = pb::AppendRequest> + Send + 'static
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
{
    futures::stream::unfold((Some(first), rest, progress), |(first, mut rest, progress)| async move {
        let request = match first {
            Some(request) => Some(request),
            None => rest.next().await,
        };
        let Some(request) = request else {
            progress.exhausted.store(true, Ordering::SeqCst);
            return None;
        };
        progress.sent.fetch_add(1, Ordering::SeqCst);
        Some((wire::append_to_pb(&request), (None, rest, progress)))
    })
}

/// The answering half of one append stream.
struct Session {
    responses: Streaming<pb::AppendResponse>,
    progress: Arc<Progress>,
    answered: u64,
}

impl Session {
    async fn next(this: Option<Self>) -> Option<(RpcResult<StreamAppendResult<TypeConfig>>, Option<Self>)> {
        let mut session = this?;
        match session.message().await {
            Ok(Some(response)) => match wire::append_result_from_pb(response) {
                Ok(Ok(matched)) => {
                    session.answered += 1;
                    Some((Ok(Ok(matched)), Some(session)))
                }
                // A conflict or a higher vote ends the session.
                Ok(Err(refused)) => Some((Ok(Err(refused)), None)),
                Err(error) => Some((Err(from_record(error)), None)),
            },
            Ok(None) if session.is_complete() => None,
            Ok(None) => Some((Err(unreachable_peer("the peer ended the stream early")), None)),
            Err(error) => Some((Err(error), None)),
        }
    }

    fn is_complete(&self) -> bool {
        self.progress.exhausted.load(Ordering::SeqCst)
            && self.progress.sent.load(Ordering::SeqCst) == self.answered
    }

    /// The next answer; gives up when a request that was out a whole period ago is still unanswered.
    async fn message(&mut self) -> RpcResult<Option<pb::AppendResponse>> {
        let mut sent_before = self.answered;
        loop {
            match tokio::time::timeout(ANSWER_PATIENCE, self.responses.message()).await {
                Ok(message) => return message.map_err(from_status),
                Err(_) if sent_before > self.answered => {
                    return Err(unreachable_peer("an append was not answered in time"));
                }
                Err(_) => sent_before = self.progress.sent.load(Ordering::SeqCst),
            }
        }
    }
}
