//! `HostService`.

use std::time::Duration;

use stratavore_model::host::HostRecord;
use stratavore_model::{HostState, Reply, State};
use stratavore_proto::v1::host_service_server::HostService;
use stratavore_proto::v1::{
    Host, LabelHostRequest, LabelHostResponse, ListHostsRequest, ListHostsResponse, RemoveHostRequest,
    RemoveHostResponse, SetHostCordonRequest, SetHostCordonResponse,
};
use tonic::{Request, Response, Status};

use crate::api::Api;
use crate::api::auth::{self, Administer, Read};
use crate::convert::{command, host};

impl Api {
    /// A host with what only this node knows about it: its connection, and its lease if this node leads.
    pub(super) fn host(&self, record: &HostRecord, state: &State) -> Host {
        let lease = state.cluster().map(|cluster| cluster.lease).unwrap_or_default();
        // P13: the only host of a cluster has no end of its lease.
        let bounded = state.hosts_present() > 1 && record.state == HostState::Ready;
        let left = self.renewals.age(record.id).filter(|_| bounded).map(|age| {
            let left = Duration::from_millis(lease.ttl_ms).saturating_sub(age);
            i64::try_from(left.as_millis()).unwrap_or(i64::MAX)
        });
        host::to_proto(record, state, left, self.hub.get(record.id).is_some())
    }

    fn shown_host(&self, state: &State, reply: &Reply) -> Option<Host> {
        let Reply::Host(id) = reply else { return None };
        state.host(*id).map(|record| self.host(record, state))
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
        let info = self.fresh(request.read).await?;
        let hosts = self.raft.read(|state| {
            let listed = |record: &&HostRecord| request.include_removed || record.state != HostState::Removed;
            state.hosts().filter(listed).map(|record| self.host(record, state)).collect()
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
}
