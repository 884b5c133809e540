//! The raft port: every call is checked for the cluster and node it means, then handed to the core.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::{Stream, StreamExt};
use openraft::alias::SnapshotOf;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::AppendEntriesRequest;
use stratavore_proto::raft as pb;
use stratavore_proto::raft::raft_service_server::{RaftService, RaftServiceServer};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use super::{CLUSTER_KEY, MESSAGE_BYTES_MAX, TARGET_KEY, wire};
use crate::core::Core;
use crate::digests;
use crate::forward::serve;
use crate::handle::Raft;
use crate::record::RecordError;
use crate::record::position::vote_to_pb;
use crate::snapshot;
use crate::snapshot_stream;
use crate::state_db::Identity;
use crate::state_machine::SnapshotData;
use crate::state_store::{StateStore, WeakStateStore};
use crate::types::TypeConfig;

/// The services of the raft port. The node serves them on its own TLS listener, which admits node
/// certificates only.
#[derive(Clone)]
pub struct RaftServer {
    raft: Raft,
    core: Core,
    identity: Identity,
    /// Weak: a peer's open connection must not keep the databases open.
    store: WeakStateStore,
    /// Set from the offer of a snapshot to its switch: no append is taken meanwhile (P20).
    installing: Arc<AtomicBool>,
}

impl std::fmt::Debug for RaftServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftServer").field("node", &self.identity.node_id).finish_non_exhaustive()
    }
}

/// Ends the refusal of appends however the snapshot call ends.
struct Installing(Arc<AtomicBool>);

impl Drop for Installing {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl RaftServer {
    pub(crate) fn new(core: Core, store: &StateStore) -> Self {
        Self {
            raft: core.raft.clone(),
            core,
            identity: store.identity().clone(),
            store: store.downgrade(),
            installing: Arc::default(),
        }
    }

    /// The routes to add to a tonic server.
    #[must_use]
    pub fn into_routes(self) -> Routes {
        let service = RaftServiceServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Routes::new(service)
    }

    /// A reused address must never join two clusters or pass for another node.
    fn check<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let identity = &self.identity;
        for (key, own) in
            [(CLUSTER_KEY, identity.cluster_id.to_string()), (TARGET_KEY, identity.node_id.to_string())]
        {
            let meant = request.metadata().get(key).and_then(|value| value.to_str().ok()).unwrap_or_default();
            if meant != own {
                return Err(Status::failed_precondition(format!(
                    "{key} is {meant:?}, this node's is {own:?}"
                )));
            }
        }
        Ok(())
    }

    /// P20: busy while anything committed waits to be applied; an installing, applying node is an open
    /// upstream panic. Called after appends are refused, so that the answer stays true.
    async fn check_idle(&self) -> Result<(), Status> {
        // The core answers in order: every append taken before is counted in what it says.
        let committed =
            self.raft.with_raft_state(|state| state.local_committed().copied()).await.map_err(stopped)?;
        let applied = self.raft.metrics().borrow_watched().last_applied;
        if applied < committed {
            return Err(Status::unavailable("busy: committed entries are still being applied"));
        }
        Ok(())
    }
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("this node has stopped: {error}"))
}

fn malformed(error: RecordError) -> Status {
    Status::invalid_argument(error.to_string())
}

/// One request of an append stream; `None` ends the stream.
fn take(
    request: Result<pb::AppendRequest, Status>,
    installing: &AtomicBool,
) -> Option<AppendEntriesRequest<TypeConfig>> {
    if installing.load(Ordering::SeqCst) {
        return None;
    }
    let request =
        request.inspect_err(|status| tracing::debug!(%status, "an append stream broke off")).ok()?;
    wire::append_from_pb(request).inspect_err(|error| tracing::warn!(%error, "an append was refused")).ok()
}

type PullStream = Pin<Box<dyn Stream<Item = Result<pb::SnapshotRequest, Status>> + Send>>;
type ForwardStream = ReceiverStream<Result<pb::ForwardResponse, Status>>;
type AppendStream = Pin<Box<dyn Stream<Item = Result<pb::AppendResponse, Status>> + Send>>;

#[tonic::async_trait]
impl RaftService for RaftServer {
    type AppendStream = AppendStream;
    type ForwardStream = ForwardStream;
    type PullSnapshotStream = PullStream;

    async fn forward(
        &self,
        request: Request<Streaming<pb::ForwardRequest>>,
    ) -> Result<Response<ForwardStream>, Status> {
        self.check(&request)?;
        let (answers, receiver) = mpsc::channel(serve::ANSWERS_AHEAD);
        tokio::spawn(serve::run(self.core.clone(), request.into_inner(), answers));
        // Answered before anything is read: the peer sends nothing into a stream that may not open.
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn standing(
        &self,
        request: Request<pb::StandingRequest>,
    ) -> Result<Response<pb::StandingResponse>, Status> {
        self.check(&request)?;
        let applied = self.store.upgrade().map_or(0, |store| *store.applied().borrow());
        Ok(Response::new(pb::StandingResponse { may_lead: self.core.may_lead(), applied }))
    }

    async fn digest(
        &self,
        request: Request<pb::DigestRequest>,
    ) -> Result<Response<pb::DigestResponse>, Status> {
        self.check(&request)?;
        let store = self.store.upgrade().ok_or_else(|| stopped("it is closing"))?;
        Ok(Response::new(digests::look(&store, request.get_ref().index).to_pb()))
    }

    async fn pull_snapshot(
        &self,
        request: Request<pb::PullSnapshotRequest>,
    ) -> Result<Response<PullStream>, Status> {
        self.check(&request)?;
        let store = self.store.upgrade().ok_or_else(|| stopped("it is closing"))?;
        let vote = self.raft.metrics().borrow_watched().vote;
        let (meta, exported) = tokio::task::spawn_blocking(move || snapshot::export(&store))
            .await
            .map_err(stopped)?
            .map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(Box::pin(snapshot_stream::send(vote, meta, exported).map(Ok))))
    }

    async fn append(
        &self,
        request: Request<Streaming<pb::AppendRequest>>,
    ) -> Result<Response<AppendStream>, Status> {
        self.check(&request)?;
        let installing = self.installing.clone();
        if installing.load(Ordering::SeqCst) {
            return Err(Status::unavailable("busy: a snapshot is being installed"));
        }
        // Where it ends early, the leader sees unanswered requests and comes back.
        let requests = request.into_inner().map(move |request| take(request, &installing));
        let requests = requests
            .take_while(|request| std::future::ready(request.is_some()))
            .filter_map(std::future::ready);
        let answers = self.raft.stream_append(requests).map(|result| match result {
            Ok(result) => Ok(wire::append_result_to_pb(result)),
            Err(fatal) => Err(stopped(fatal)),
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn vote(&self, request: Request<pb::VoteRequest>) -> Result<Response<pb::VoteResponse>, Status> {
        self.check(&request)?;
        let vote = wire::vote_request_from_pb(request.into_inner()).map_err(malformed)?;
        let response = self.raft.vote(vote).await.map_err(stopped)?;
        Ok(Response::new(wire::vote_response_to_pb(&response)))
    }

    async fn pre_vote(
        &self,
        request: Request<pb::PreVoteRequest>,
    ) -> Result<Response<pb::PreVoteResponse>, Status> {
        self.check(&request)?;
        let request =
            request.into_inner().request.ok_or(RecordError::Missing("request")).map_err(malformed)?;
        let vote = wire::vote_request_from_pb(request).map_err(malformed)?;
        let response = self.raft.pre_vote(vote).await.map_err(stopped)?;
        Ok(Response::new(pb::PreVoteResponse { response: Some(wire::vote_response_to_pb(&response)) }))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotRequest>>,
    ) -> Result<Response<pb::SnapshotResponse>, Status> {
        self.check(&request)?;
        if self.installing.swap(true, Ordering::SeqCst) {
            return Err(Status::unavailable("busy: another snapshot is being installed"));
        }
        let _installing = Installing(self.installing.clone());
        self.check_idle().await?;
        let store = self.store.upgrade().ok_or_else(|| stopped("it is closing"))?;
        let received = snapshot_stream::receive(&store, request.into_inner()).await?;
        let snapshot =
            SnapshotOf::<TypeConfig, SnapshotData> { meta: received.meta, snapshot: received.snapshot };
        let response = self.raft.install_full_snapshot(received.vote, snapshot).await.map_err(stopped)?;
        Ok(Response::new(pb::SnapshotResponse { vote: Some(vote_to_pb(&response.vote)) }))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderResponse>, Status> {
        self.check(&request)?;
        let transfer = wire::transfer_from_pb(request.into_inner()).map_err(malformed)?;
        if *transfer.to_node_id() == *self.raft.node_id() && !self.core.may_lead() {
            return Err(Status::failed_precondition("this node may not lead"));
        }
        let response = self.raft.handle_transfer_leader(transfer).await.map_err(stopped)?;
        Ok(Response::new(wire::transfer_result_to_pb(response)))
    }
}
