//! `HostService`.

use std::time::Duration;

use stratavore_model::command::{DeclareHostDead, DrainHost};
use stratavore_model::host::{HostRecord, LeaseBound};
use stratavore_model::{Command, HostState, Reply, State};
use stratavore_proto::v1::host_service_server::HostService;
use stratavore_proto::v1::{
    DeclareHostDeadRequest, DeclareHostDeadResponse, DrainHostRequest, DrainHostResponse, Host,
    LabelHostRequest, LabelHostResponse, ListHostsRequest, ListHostsResponse, RemoveHostRequest,
    RemoveHostResponse, SetHostCordonRequest, SetHostCordonResponse,
};
use tonic::{Request, Response, Status};

use crate::api::Api;
use crate::api::auth::{self, Administer, Read};
use crate::convert::{command, host};

impl Api {
    /// A host with what only its gateway and its leader know: its connection, and its lease. Of another gateway's host
    /// the state must do; `lease_ms_left` is what the leader said, when that is another node.
    pub(super) fn host(&self, record: &HostRecord, state: &State, lease_ms_left: Option<i64>) -> Host {
        // P13: the only host of a cluster has no end of its lease.
        let bounded = record.lease.bound != LeaseBound::Unbounded && record.state == HostState::Ready;
        let left = self.renewals.age(record.id).map(|age| {
            let left = Duration::from_millis(record.lease.ttl_ms).saturating_sub(age);
            i64::try_from(left.as_millis()).unwrap_or(i64::MAX)
        });
        let connected = match record.gateway {
            Some(gateway) if gateway != self.node => record.state == HostState::Ready,
            _ => self.hub.get(record.id).is_some(),
        };
        host::to_proto(record, state, left.or(lease_ms_left).filter(|_| bounded), connected)
    }

    fn shown_host(&self, state: &State, reply: &Reply) -> Option<Host> {
        let Reply::Host(id) = reply else { return None };
        state.host(*id).map(|record| self.host(record, state, None))
    }
}

#[tonic::async_trait]
impl HostService for Api {
    async fn list_hosts(
        &self,
        request: Request<ListHostsRequest>,
    ) -> Result<Response<ListHostsResponse>, Status> {
        auth::require::<Read>(request.extensions())?;
        let request = request.into_inner();
        let (info, survey) = tokio::join!(self.fresh(request.read), self.survey_leader());
        let info = info?;
        let hosts = self.raft.read(|state| {
            let listed = |record: &&HostRecord| request.include_removed || record.state != HostState::Removed;
            let shown = |record: &HostRecord| self.host(record, state, survey.lease_ms_left(record.id));
            state.hosts().filter(listed).map(shown).collect()
        });
        Ok(Response::new(ListHostsResponse { hosts, info: Some(info) }))
    }

    async fn set_host_cordon(
        &self,
        request: Request<SetHostCordonRequest>,
    ) -> Result<Response<SetHostCordonResponse>, Status> {
        let who = auth::require::<Administer>(request.extensions())?;
        let mut request = request.into_inner();
        let request_id = std::mem::take(&mut request.request_id);
        let show = |state: &State, reply: &Reply| {
            self.shown_host(state, reply).map(|host| SetHostCordonResponse { host: Some(host) })
        };
        self.mutate(&who, &request_id, Ok(command::cordon(request)), show).await
    }

    async fn label_host(
        &self,
        request: Request<LabelHostRequest>,
    ) -> Result<Response<LabelHostResponse>, Status> {
        let who = auth::require::<Administer>(request.extensions())?;
        let mut request = request.into_inner();
        let request_id = std::mem::take(&mut request.request_id);
        let show = |state: &State, reply: &Reply| {
            self.shown_host(state, reply).map(|host| LabelHostResponse { host: Some(host) })
        };
        self.mutate(&who, &request_id, Ok(command::label(request)), show).await
    }

    async fn remove_host(
        &self,
        request: Request<RemoveHostRequest>,
    ) -> Result<Response<RemoveHostResponse>, Status> {
        let who = auth::require::<Administer>(request.extensions())?;
        let mut request = request.into_inner();
        let request_id = std::mem::take(&mut request.request_id);
        let show = |state: &State, reply: &Reply| {
            self.shown_host(state, reply).map(|host| RemoveHostResponse { host: Some(host) })
        };
        self.mutate(&who, &request_id, Ok(command::remove_host(request)), show).await
    }

    async fn drain_host(
        &self,
        request: Request<DrainHostRequest>,
    ) -> Result<Response<DrainHostResponse>, Status> {
        let who = auth::require::<Administer>(request.extensions())?;
        let DrainHostRequest { request_id, host } = request.into_inner();
        let show = |state: &State, reply: &Reply| {
            self.shown_host(state, reply).map(|host| DrainHostResponse { host: Some(host) })
        };
        self.mutate(&who, &request_id, Ok(Command::DrainHost(DrainHost { host })), show).await
    }

    async fn declare_host_dead(
        &self,
        request: Request<DeclareHostDeadRequest>,
    ) -> Result<Response<DeclareHostDeadResponse>, Status> {
        let who = auth::require::<Administer>(request.extensions())?;
        let DeclareHostDeadRequest { request_id, host } = request.into_inner();
        let show = |state: &State, reply: &Reply| {
            self.shown_host(state, reply).map(|host| DeclareHostDeadResponse { host: Some(host) })
        };
        let command = Command::DeclareHostDead(DeclareHostDead { host });
        self.mutate(&who, &request_id, Ok(command), show).await
    }
}
