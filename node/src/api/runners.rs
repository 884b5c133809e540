//! `RunnerService`.

use stratavore_model::command::DeclareRunnerDead;
use stratavore_model::query::{self, RunnerFilter};
use stratavore_model::{Command, Rejected, Reply, RunnerId, State};
use stratavore_proto::v1::runner_service_server::RunnerService;
use stratavore_proto::v1::{
    AdoptRunnerRequest, AdoptRunnerResponse, DeclareRunnerDeadRequest, DeclareRunnerDeadResponse,
    ExplainRunnerRequest, ExplainRunnerResponse, GetRunnerRequest, GetRunnerResponse, KillRunnersRequest,
    KillRunnersResponse, LaunchRunnersRequest, LaunchRunnersResponse, ListRunnersRequest,
    ListRunnersResponse, RestartRunnerRequest, RestartRunnerResponse, Runner, WatchRunnersRequest,
    WatchRunnersResponse,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::api::auth::{self, Administer, Operate, Read};
use crate::api::status::ApiError;
use crate::api::{Api, watch};
use crate::convert::{command, event, explain, id, runner};

/// Runners of one page; with the largest commands a page stays within a gRPC client's default of 4 MiB at their usual
/// size, and callers may ask for less.
const PAGE_MAX: usize = 500;

/// Events of one runner that are shown with it.
const EVENTS_SHOWN: usize = 20;

fn shown(state: &State, ids: &[RunnerId]) -> Vec<Runner> {
    ids.iter().filter_map(|id| state.runner(*id)).map(|record| runner::to_proto(record, state)).collect()
}

fn launched(state: &State, reply: &Reply) -> Option<LaunchRunnersResponse> {
    let Reply::Launched { runners, queued } = reply else { return None };
    Some(LaunchRunnersResponse { runners: shown(state, runners), queued_reason: queued.clone() })
}

fn stopping(state: &State, reply: &Reply) -> Option<KillRunnersResponse> {
    let Reply::Stopping { runners } = reply else { return None };
    Some(KillRunnersResponse { runners: shown(state, runners) })
}

fn declared_dead(state: &State, reply: &Reply) -> Option<DeclareRunnerDeadResponse> {
    let Reply::Stopping { runners } = reply else { return None };
    Some(DeclareRunnerDeadResponse { runner: shown(state, runners).pop() })
}

fn restarted(state: &State, reply: &Reply) -> Option<RestartRunnerResponse> {
    let Reply::Restarted(id) = reply else { return None };
    let runner = state.runner(*id).map(|record| runner::to_proto(record, state))?;
    Some(RestartRunnerResponse { runner: Some(runner) })
}

fn adopted(state: &State, reply: &Reply) -> Option<AdoptRunnerResponse> {
    let Reply::Restarted(id) = reply else { return None };
    Some(AdoptRunnerResponse { runner: shown(state, &[*id]).pop() })
}

#[tonic::async_trait]
impl RunnerService for Api {
    type WatchRunnersStream = ReceiverStream<Result<WatchRunnersResponse, Status>>;

    async fn launch_runners(
        &self,
        request: Request<LaunchRunnersRequest>,
    ) -> Result<Response<LaunchRunnersResponse>, Status> {
        let who = auth::require::<Operate>(request.extensions())?;
        let mut request = request.into_inner();
        let request_id = std::mem::take(&mut request.request_id);
        self.mutate(&who, &request_id, command::launch(request), launched).await
    }

    async fn list_runners(
        &self,
        request: Request<ListRunnersRequest>,
    ) -> Result<Response<ListRunnersResponse>, Status> {
        auth::require::<Read>(request.extensions())?;
        let request = request.into_inner();
        let info = self.fresh(request.read).await?;
        let page = Page::of(&request).map_err(ApiError::from)?;
        let (runners, next_page_token) = self.raft.read(|state| page.read(state)).map_err(ApiError::from)?;
        Ok(Response::new(ListRunnersResponse { runners, next_page_token, info: Some(info) }))
    }

    async fn watch_runners(
        &self,
        request: Request<WatchRunnersRequest>,
    ) -> Result<Response<Self::WatchRunnersStream>, Status> {
        auth::require::<Read>(request.extensions())?;
        let filter = runner::filter_of(request.into_inner().filter).map_err(ApiError::from)?;
        self.confirmed().await?;
        let stream = watch::start(self, &filter).map_err(ApiError::from)?;
        Ok(Response::new(stream))
    }

    async fn get_runner(
        &self,
        request: Request<GetRunnerRequest>,
    ) -> Result<Response<GetRunnerResponse>, Status> {
        auth::require::<Read>(request.extensions())?;
        let request = request.into_inner();
        let info = self.fresh(request.read).await?;
        let found = self.raft.read(|state| {
            query::resolve_runner(state, &request.runner)
                .map(|record| (record.id, runner::to_proto(record, state)))
        });
        let (id, runner) = found.map_err(ApiError::from)?;
        let newest_first = self.raft.runner_events(id, EVENTS_SHOWN).map_err(ApiError::from)?;
        let events = newest_first.iter().rev().map(event::to_proto).collect();
        Ok(Response::new(GetRunnerResponse { runner: Some(runner), info: Some(info), events }))
    }

    async fn explain_runner(
        &self,
        request: Request<ExplainRunnerRequest>,
    ) -> Result<Response<ExplainRunnerResponse>, Status> {
        auth::require::<Read>(request.extensions())?;
        let request = request.into_inner();
        self.confirmed().await?;
        let explained = self.raft.read(|state| {
            query::resolve_runner(state, &request.runner)
                .map(|record| explain::to_proto(record, state, id::now()))
        });
        Ok(Response::new(explained.map_err(ApiError::from)?))
    }

    async fn kill_runners(
        &self,
        request: Request<KillRunnersRequest>,
    ) -> Result<Response<KillRunnersResponse>, Status> {
        let who = auth::require::<Operate>(request.extensions())?;
        let mut request = request.into_inner();
        let request_id = std::mem::take(&mut request.request_id);
        self.mutate(&who, &request_id, command::kill(request), stopping).await
    }

    async fn restart_runner(
        &self,
        request: Request<RestartRunnerRequest>,
    ) -> Result<Response<RestartRunnerResponse>, Status> {
        let who = auth::require::<Operate>(request.extensions())?;
        let mut request = request.into_inner();
        let request_id = std::mem::take(&mut request.request_id);
        self.mutate(&who, &request_id, Ok(command::restart(request)), restarted).await
    }

    async fn adopt_runner(
        &self,
        request: Request<AdoptRunnerRequest>,
    ) -> Result<Response<AdoptRunnerResponse>, Status> {
        let who = auth::require::<Administer>(request.extensions())?;
        let mut request = request.into_inner();
        let request_id = std::mem::take(&mut request.request_id);
        self.mutate(&who, &request_id, command::adopt(request), adopted).await
    }

    async fn declare_runner_dead(
        &self,
        request: Request<DeclareRunnerDeadRequest>,
    ) -> Result<Response<DeclareRunnerDeadResponse>, Status> {
        let who = auth::require::<Administer>(request.extensions())?;
        let DeclareRunnerDeadRequest { request_id, runner } = request.into_inner();
        let command = Command::DeclareRunnerDead(DeclareRunnerDead { runner });
        self.mutate(&who, &request_id, Ok(command), declared_dead).await
    }
}

/// One page of a listing, in the order of ids.
struct Page {
    filter: RunnerFilter,
    after: Option<RunnerId>,
    size: usize,
}

impl Page {
    fn of(request: &ListRunnersRequest) -> Result<Self, Rejected> {
        let asked = usize::try_from(request.page_size).unwrap_or(PAGE_MAX);
        Ok(Self {
            filter: runner::filter_of(request.filter.clone())?,
            after: id::parse_optional("page_token", &request.page_token)?,
            size: if asked == 0 { PAGE_MAX } else { asked.min(PAGE_MAX) },
        })
    }

    fn read(&self, state: &State) -> Result<(Vec<Runner>, String), Rejected> {
        // One more than the page tells whether there is a next one.
        let mut records = self.filter.resolve(state)?.page(state, self.after, self.size + 1);
        let more = records.len() > self.size;
        records.truncate(self.size);
        let next = records.last().filter(|_| more).map(|record| record.id.to_string()).unwrap_or_default();
        Ok((records.into_iter().map(|record| runner::to_proto(record, state)).collect(), next))
    }
}
