//! `ClusterService`: answers without quorum too, labelled.

use std::collections::BTreeMap;

use stratavore_model::command::{Finalize, RemoveNode, ResetClock, SetMaintenance};
use stratavore_model::host::HostRecord;
use stratavore_model::{
    COMMAND_VERSION, Command, HostId, HostState, NodeId, NodeRecord, Reply, ShownState, State,
};
use stratavore_proto::v1;
use stratavore_proto::v1::cluster_service_server::ClusterService;
use stratavore_proto::v1::{
    ExportStateRequest, ExportStateResponse, FinalizeRequest, FinalizeResponse, GetStatusRequest,
    GetStatusResponse, HandOverRequest, HandOverResponse, RemoveNodeRequest, RemoveNodeResponse,
    RenewCertificateRequest, RenewCertificateResponse, ResetClockRequest, ResetClockResponse,
    SaveSnapshotRequest, SaveSnapshotResponse, SetMaintenanceRequest, SetMaintenanceResponse,
    TransferLeaderRequest, TransferLeaderResponse,
};
use stratavore_raft::RaftMetrics;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::api::auth::{self, Administer, Peer, Read};
use crate::api::survey::{self, Survey, self_stop_ms};
use crate::api::{Api, STATUS_READ_TIMEOUT};
use crate::clock;
use crate::convert::id;

#[tonic::async_trait]
impl ClusterService for Api {
    type SaveSnapshotStream = ReceiverStream<Result<SaveSnapshotResponse, Status>>;
    type ExportStateStream = ReceiverStream<Result<ExportStateResponse, Status>>;

    async fn export_state(
        &self,
        request: Request<ExportStateRequest>,
    ) -> Result<Response<Self::ExportStateStream>, Status> {
        auth::require::<Administer>(request.extensions())?;
        Ok(Response::new(self.export(request.into_inner().at).await?))
    }

    async fn save_snapshot(
        &self,
        request: Request<SaveSnapshotRequest>,
    ) -> Result<Response<Self::SaveSnapshotStream>, Status> {
        let who = auth::require::<Administer>(request.extensions())?;
        self.serves()?;
        Ok(Response::new(self.backup(&who)))
    }

    async fn renew_certificate(
        &self,
        request: Request<RenewCertificateRequest>,
    ) -> Result<Response<RenewCertificateResponse>, Status> {
        let who = auth::require::<Read>(request.extensions())?;
        let renewed = self.renew_user(who.actor(), who.spki(), &request.into_inner().csr_der).await;
        Ok(Response::new(renewed?))
    }

    async fn get_status(
        &self,
        request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        let who = auth::require::<Read>(request.extensions())?;
        let request = request.into_inner();
        if request.local {
            return Ok(Response::new(self.own_status()));
        }
        let stale_wanted = request.read.is_some_and(|read| read.stale);
        let confirmed = tokio::time::timeout(STATUS_READ_TIMEOUT, self.raft.linearize());
        let (confirmed, survey) = tokio::join!(confirmed, self.survey());
        let quorum = matches!(confirmed, Ok(Ok(_)));
        let info = match confirmed {
            Ok(Ok(applied_index)) if !stale_wanted => v1::ReadInfo { applied_index, stale: false },
            _ => self.stale(),
        };
        let figures = self.raft.metrics();
        let (digest_index, digest) = self.raft.digest();
        let unheard = self.raft.confirmed().map(|at| at.elapsed());
        let mut response = self.raft.read(|state| GetStatusResponse {
            self_stop_ms: if quorum { None } else { self_stop_ms(state, unheard) },
            ..self.counts(state, &figures, &survey)
        });
        response.quorum = quorum;
        response.alarms = self.alarms(&figures, quorum, &response.nodes);
        response.digest = data_encoding::HEXLOWER.encode(&digest);
        response.info = Some(v1::ReadInfo { applied_index: digest_index, ..info });
        response.whoami = who.actor().to_string();
        Ok(Response::new(response))
    }

    async fn remove_node(
        &self,
        request: Request<RemoveNodeRequest>,
    ) -> Result<Response<RemoveNodeResponse>, Status> {
        let who = auth::require::<Administer>(request.extensions())?;
        let request = request.into_inner();
        let node = NodeId(request.node);
        self.prepare_removal(node, request.allow_even).await?;
        let show = |state: &State, reply: &Reply| {
            let Reply::Node(id) = reply else { return None };
            let shown = |record| self.node_of(record, &self.raft.metrics(), &Survey::default());
            state.node(*id).map(|record| RemoveNodeResponse { node: Some(shown(record)) })
        };
        self.mutate(&who, &request.request_id, Ok(Command::RemoveNode(RemoveNode { node })), show).await
    }

    async fn transfer_leader(
        &self,
        request: Request<TransferLeaderRequest>,
    ) -> Result<Response<TransferLeaderResponse>, Status> {
        auth::require::<Administer>(request.extensions())?;
        let leader = self.hand_over_anywhere(request.into_inner().node).await?;
        Ok(Response::new(TransferLeaderResponse { leader }))
    }

    async fn hand_over(
        &self,
        request: Request<HandOverRequest>,
    ) -> Result<Response<HandOverResponse>, Status> {
        auth::require::<Peer>(request.extensions())?;
        let leader = self.hand_over_here(request.into_inner().node).await?;
        Ok(Response::new(HandOverResponse { leader }))
    }

    async fn finalize(
        &self,
        request: Request<FinalizeRequest>,
    ) -> Result<Response<FinalizeResponse>, Status> {
        let who = auth::require::<Administer>(request.extensions())?;
        let FinalizeRequest { request_id, version } = request.into_inner();
        let version = if version == 0 { COMMAND_VERSION } else { version };
        let show = |state: &State, reply: &Reply| {
            let version = state.cluster().map(|cluster| cluster.version);
            version.filter(|_| *reply == Reply::Done).map(|version| FinalizeResponse { version })
        };
        self.mutate(&who, &request_id, Ok(Command::Finalize(Finalize { version })), show).await
    }

    async fn set_maintenance(
        &self,
        request: Request<SetMaintenanceRequest>,
    ) -> Result<Response<SetMaintenanceResponse>, Status> {
        let who = auth::require::<Administer>(request.extensions())?;
        let SetMaintenanceRequest { request_id, for_ms } = request.into_inner();
        let show = |state: &State, reply: &Reply| {
            let response = SetMaintenanceResponse { until_unix_ms: maintenance_until(state) };
            (*reply == Reply::Done).then_some(response)
        };
        let command = Command::SetMaintenance(SetMaintenance { for_ms });
        self.mutate(&who, &request_id, Ok(command), show).await
    }

    async fn reset_clock(
        &self,
        request: Request<ResetClockRequest>,
    ) -> Result<Response<ResetClockResponse>, Status> {
        let who = auth::require::<Administer>(request.extensions())?;
        let request_id = request.into_inner().request_id;
        let reset = Command::ResetClock(ResetClock { to: self.clock.now() });
        let show = |state: &State, reply: &Reply| {
            (*reply == Reply::Done).then(|| ResetClockResponse { now_unix_ms: id::millis(state.now()) })
        };
        self.mutate(&who, &request_id, Ok(reset), show).await
    }
}

/// State time at which maintenance ends; 0 when none is on.
fn maintenance_until(state: &State) -> i64 {
    let maintenance = state.cluster().and_then(|cluster| cluster.maintenance);
    let on = maintenance.filter(|maintenance| state.now() < maintenance.until);
    on.map_or(0, |maintenance| id::millis(maintenance.until))
}

impl Api {
    /// What one node tells another: itself, and as the leader the leases.
    fn own_status(&self) -> GetStatusResponse {
        let figures = self.raft.metrics();
        let leads = figures.leader == Some(self.node);
        self.raft.read(|state| GetStatusResponse {
            answered_by: self.node.0,
            nodes: state
                .node(self.node)
                .map(|own| self.node_of(own, &figures, &Survey::default()))
                .into_iter()
                .collect(),
            hosts: self
                .hosts_present(state)
                .filter(|_| leads)
                .map(|host| self.host(host, state, None))
                .collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        })
    }

    fn hosts_present<'a>(&self, state: &'a State) -> impl Iterator<Item = &'a HostRecord> + use<'a> {
        state.hosts().filter(|host| host.state != HostState::Removed)
    }

    fn counts(&self, state: &State, figures: &RaftMetrics, survey: &Survey) -> GetStatusResponse {
        let count = |shown: ShownState| (shown.as_str().to_owned(), state.count(shown));
        let runners_by_state: BTreeMap<String, u32> =
            ShownState::ALL.into_iter().map(count).filter(|(_, n)| *n > 0).collect();
        let nodes = state.nodes().filter(|node| !node.removed);
        GetStatusResponse {
            cluster_id: state.cluster().map(|cluster| cluster.id.to_string()).unwrap_or_default(),
            incarnation: state.incarnation(),
            answered_by: self.node.0,
            nodes: nodes.map(|node| self.node_of(node, figures, survey)).collect(),
            hosts: self
                .hosts_present(state)
                .map(|host| self.host(host, state, survey.lease_ms_left(host.id)))
                .collect(),
            runners_by_state,
            projects: u32::try_from(state.projects().len()).unwrap_or(u32::MAX),
            history: "embedded".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            maintenance_until_unix_ms: maintenance_until(state),
            cluster_version: state.cluster().map_or(0, |cluster| cluster.version),
            max_version: COMMAND_VERSION,
            ..Default::default()
        }
    }

    fn node_of(&self, node: &NodeRecord, figures: &RaftMetrics, survey: &Survey) -> v1::Node {
        let own = (node.id == self.node).then(|| survey::Own {
            figures: figures.clone(),
            quarantined: self.quarantine.why().unwrap_or_default(),
            clock_ahead_ms: self.clock.ahead_ms(),
        });
        survey::shown(node, own, survey.node(node.id), figures.leader, &self.raft.membership())
    }
}

impl Api {
    fn alarms(&self, figures: &RaftMetrics, quorum: bool, nodes: &[v1::Node]) -> Vec<String> {
        let mut alarms = own_alarms(figures, quorum);
        alarms.extend(self.quarantine.dispute());
        alarms.extend(nodes.iter().flat_map(alarms_of));
        let full = self.hub.full_disks();
        alarms.extend(self.raft.read(|state| {
            let name = |id: &HostId| state.host(*id).map(|host| host.name.to_string());
            let alarm = |name| format!("host {name}: its disk is full, new runners wait there");
            let mut found: Vec<_> = full.iter().filter_map(name).map(alarm).collect();
            found.extend(unlisted(state));
            found
        }));
        alarms
    }
}

/// What is wrong with a node, by its own word.
fn alarms_of(node: &v1::Node) -> Vec<String> {
    let mut alarms = Vec::new();
    if !node.quarantined.is_empty() {
        alarms.push(format!(
            "node {} is quarantined: {}; it serves nothing until it has taken another node's state",
            node.id, node.quarantined
        ));
    }
    if let Some(ahead) = node.clock_ahead_ms.filter(|ahead| clock::is_off(*ahead)) {
        alarms.push(format!(
            "the clock of node {} is {} the others': set it, and keep it right with NTP",
            node.id,
            clock::described(ahead)
        ));
    }
    alarms
}

/// Hosts named in an alarm; more would not be read.
const HOSTS_SHOWN: usize = 5;

/// P30: what a recovery waits for.
fn unlisted(state: &State) -> Option<String> {
    let missing = state.unlisted_hosts().len();
    if missing == 0 {
        return None;
    }
    let names = state.unlisted_hosts().take(HOSTS_SHOWN);
    let names: Vec<_> =
        names.filter_map(|id| state.host(id)).map(|host| host.name.as_str().to_owned()).collect();
    let more = if missing > HOSTS_SHOWN { ", …" } else { "" };
    Some(format!(
        "recovery: nothing from before is placed until these hosts have said what they run: {}{more} \
         (bring them back, or vouch for their end with `stratavore hosts declare-dead HOST`)",
        names.join(", ")
    ))
}

fn own_alarms(figures: &RaftMetrics, quorum: bool) -> Vec<String> {
    let mut alarms = Vec::new();
    if !quorum {
        alarms.push("no quorum: changes wait, reads are as old as their index".to_owned());
    }
    if figures.apply_panics > 0 {
        alarms.push(format!("{} commands hit a defect and were refused", figures.apply_panics));
    }
    if !figures.reserve_present {
        alarms.push("the disk was full: the reserve file is gone, free some space".to_owned());
    }
    alarms
}
