//! The gRPC API: one file per service, every handler a few lines: who may, what is asked, propose or read, show.

pub(crate) mod auth;
mod backup;
mod certificate;
mod cluster;
mod events;
mod export;
mod hand_over;
mod hosts;
mod projects;
mod runners;
pub(crate) mod status;
mod survey;
mod terminal;
mod tokens;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stratavore_model::{Command, Entry, NodeId, Rejected, Reply, State};
use stratavore_proto::v1;
use stratavore_raft::{Handle, ReadError};
use tokio::sync::mpsc;
use tonic::service::Routes;
use tonic::{Response, Status};

use crate::api::auth::{Authorized, Needs};
use crate::api::status::ApiError;
use crate::clock::Clock;
use crate::convert::id;
use crate::leader::ahead::Ahead;
use crate::leader::liveness::Renewals;
use crate::link::certificate::Issuer;
use crate::link::hub::Hub;
use crate::peer::channels::Channels;
use crate::peer::service::Peers;
use crate::quarantine::Quarantine;
use crate::tasks::{TaskKind, Tasks};

/// Longest request: an entry's bound (P23) and what is around it.
pub(crate) const REQUEST_BYTES_MAX: usize = 1024 * 1024;

/// Messages that wait for a slow reader of a stream; then the sender waits, and a watcher falls behind and is resynced.
const STREAM_QUEUE: usize = 16;

/// How long a mutation is proposed again under its request id, for callers without a deadline of their own: several
/// elections. A deadline of the caller's ends it earlier, because it drops the call.
const MUTATION_PATIENCE: Duration = Duration::from_secs(30);

/// How long a read waits for somebody to lead: an election takes two seconds.
const READ_PATIENCE: Duration = Duration::from_secs(6);

/// Between two attempts of a read.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// A single node confirms a read at once; longer means that there is no quorum, and the answer is labelled instead.
const STATUS_READ_TIMEOUT: Duration = Duration::from_secs(1);

/// Everything the services share.
pub(crate) struct Api {
    pub(crate) node: NodeId,
    pub(crate) raft: Handle,
    pub(crate) ahead: Ahead,
    pub(crate) hub: Hub,
    pub(crate) renewals: Renewals,
    pub(crate) tasks: Tasks,
    /// To the API ports of other nodes.
    pub(crate) channels: Channels,
    pub(crate) clock: Clock,
    pub(crate) issuer: Issuer,
    /// P24: reads are refused while this node's state is not what it should be.
    pub(crate) quarantine: Quarantine,
    pub(crate) started: Instant,
    /// Where a backup is written before it is sent.
    pub(crate) data_dir: PathBuf,
}

impl Api {
    /// Proposes what a caller wishes, under its request id, and shows the outcome as of the applied entry.
    ///
    /// # Errors
    /// The refusal, or that the proposal was not committed.
    async fn mutate<P: Needs, T>(
        &self,
        who: &Authorized<P>,
        request_id: &str,
        command: Result<Command, Rejected>,
        show: impl FnOnce(&State, &Reply) -> Option<T>,
    ) -> Result<Response<T>, Status> {
        let outcome = async {
            self.serves()?;
            let request_id = Some(id::request_id(request_id)?);
            let entry = Entry {
                actor: who.actor().clone(),
                request_id,
                at: id::now(),
                term: None,
                command: command?,
            };
            let reply = self.ahead.propose(entry, MUTATION_PATIENCE).await?.reply.into_result()?;
            self.raft.read(|state| show(state, &reply)).ok_or_else(|| {
                ApiError::Internal(format!(
                    "the reply {reply:?} does not fit the request, or its object is gone"
                ))
            })
        };
        outcome.await.map(Response::new).map_err(Status::from)
    }

    /// # Errors
    /// This node is quarantined (P24).
    fn serves(&self) -> Result<(), ApiError> {
        self.quarantine.check().map_err(|why| ReadError::Unavailable(why).into())
    }

    /// Makes the local state fresh enough for a read, and says how fresh that is.
    ///
    /// # Errors
    /// No quorum confirmed the read.
    async fn fresh(&self, read: Option<v1::ReadOptions>) -> Result<v1::ReadInfo, ApiError> {
        self.serves()?;
        if read.is_some_and(|read| read.stale) {
            return Ok(self.stale());
        }
        let give_up = Instant::now() + READ_PATIENCE;
        loop {
            match self.raft.linearize().await {
                Ok(applied_index) => return Ok(v1::ReadInfo { applied_index, stale: false }),
                Err(error @ ReadError::Stopped(_)) => return Err(error.into()),
                Err(error) if Instant::now() >= give_up => return Err(error.into()),
                Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            }
        }
    }

    /// Confirms a read, for answers that are never stale.
    ///
    /// # Errors
    /// As [`Self::fresh`], without its patience.
    async fn confirmed(&self) -> Result<(), ApiError> {
        self.serves()?;
        Ok(self.raft.linearize().await.map(drop)?)
    }

    /// Runs what fills a stream, until its reader is gone or this node stops; or is quarantined, which the reader is told
    /// (P24).
    fn fill<T: Send + 'static>(
        &self,
        kind: TaskKind,
        out: mpsc::Sender<Result<T, Status>>,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let (stop, quarantine) = (self.tasks.token().clone(), self.quarantine.clone());
        self.tasks.spawn_infallible(kind, async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = out.closed() => {}
                () = work => {}
                _ = quarantine.entered() => if let Err(why) = quarantine.check() {
                    out.send(Err(ApiError::from(ReadError::Unavailable(why)).into())).await.ok();
                }
            }
        });
    }

    fn stale(&self) -> v1::ReadInfo {
        v1::ReadInfo { applied_index: *self.raft.applied().borrow(), stale: true }
    }
}

/// What `grpc.health.v1` answers for, beside the whole server.
const SERVICES: [&str; 7] = [
    "stratavore.v1.ProjectService",
    "stratavore.v1.RunnerService",
    "stratavore.v1.HostService",
    "stratavore.v1.TokenService",
    "stratavore.v1.EventService",
    "stratavore.v1.ClusterService",
    "stratavore.v1.TerminalService",
];

/// All services of the API port.
pub(crate) async fn routes(api: Arc<Api>, peers: Peers) -> Routes {
    use v1::cluster_service_server::ClusterServiceServer;
    use v1::event_service_server::EventServiceServer;
    use v1::host_service_server::HostServiceServer;
    use v1::peer_service_server::PeerServiceServer;
    use v1::project_service_server::ProjectServiceServer;
    use v1::runner_service_server::RunnerServiceServer;
    use v1::terminal_service_server::TerminalServiceServer;
    use v1::token_service_server::TokenServiceServer;
    let mut routes = Routes::builder();
    macro_rules! add {
        ($($server:ident),*) => {
            $(routes.add_service(
                $server::from_arc(api.clone()).max_decoding_message_size(REQUEST_BYTES_MAX),
            );)*
        };
    }
    add!(
        ProjectServiceServer,
        RunnerServiceServer,
        HostServiceServer,
        TokenServiceServer,
        EventServiceServer,
        ClusterServiceServer,
        TerminalServiceServer
    );
    routes.add_service(PeerServiceServer::new(peers).max_decoding_message_size(REQUEST_BYTES_MAX));
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("", tonic_health::ServingStatus::Serving).await;
    for service in SERVICES {
        reporter.set_service_status(service, tonic_health::ServingStatus::Serving).await;
    }
    routes.add_service(health);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(stratavore_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // Old clients (grpcurl 1.8) know v1alpha only.
    match (reflection().build_v1(), reflection().build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => {
            routes.add_service(v1);
            routes.add_service(v1alpha);
        }
        (Err(error), _) | (_, Err(error)) => tracing::error!(%error, "reflection is not available"),
    }
    routes.routes()
}
