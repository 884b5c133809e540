//! `ClusterService`: answers without quorum too, labelled.

use std::collections::BTreeMap;

use stratavore_model::{HostId, HostState, ShownState, State};
use stratavore_proto::v1;
use stratavore_proto::v1::cluster_service_server::ClusterService;
use stratavore_proto::v1::{GetStatusRequest, GetStatusResponse};
use stratavore_raft::RaftMetrics;
use tonic::{Request, Response, Status};

use crate::api::auth::{self, Read};
use crate::api::{Api, STATUS_READ_TIMEOUT};

#[tonic::async_trait]
impl ClusterService for Api {
    async fn get_status(
        &self,
        request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        let who = auth::require::<Read>(request.extensions())?;
        let stale_wanted = request.into_inner().read.is_some_and(|read| read.stale);
        let confirmed = tokio::time::timeout(STATUS_READ_TIMEOUT, self.raft.linearize()).await;
        let quorum = matches!(confirmed, Ok(Ok(_)));
        let info = match confirmed {
            Ok(Ok(applied_index)) if !stale_wanted => v1::ReadInfo { applied_index, stale: false },
            _ => self.stale(),
        };
        let figures = self.raft.metrics();
        let (digest_index, digest) = self.raft.digest();
        let mut response = self.raft.read(|state| self.counts(state, &figures));
        response.quorum = quorum;
        response.alarms = self.alarms(&figures, quorum);
        response.digest = data_encoding::HEXLOWER.encode(&digest);
        response.info = Some(v1::ReadInfo { applied_index: digest_index, ..info });
        response.whoami = who.actor().to_string();
        Ok(Response::new(response))
    }
}

impl Api {
    fn counts(&self, state: &State, figures: &RaftMetrics) -> GetStatusResponse {
        let present = state.hosts().filter(|host| host.state != HostState::Removed);
        let count = |shown: ShownState| (shown.as_str().to_owned(), state.count(shown));
        let runners_by_state: BTreeMap<String, u32> =
            ShownState::ALL.into_iter().map(count).filter(|(_, n)| *n > 0).collect();
        GetStatusResponse {
            cluster_id: state.cluster().map(|cluster| cluster.id.to_string()).unwrap_or_default(),
            incarnation: state.incarnation(),
            answered_by: self.node.0,
            nodes: state
                .nodes()
                .filter(|node| !node.removed)
                .map(|node| self.node_of(node, figures))
                .collect(),
            hosts: present.map(|host| self.host(host, state)).collect(),
            runners_by_state,
            projects: u32::try_from(state.projects().len()).unwrap_or(u32::MAX),
            history: "embedded".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            ..Default::default()
        }
    }

    /// Of other nodes only the leader knows more than their record; this release has one node.
    fn node_of(&self, node: &stratavore_model::NodeRecord, figures: &RaftMetrics) -> v1::Node {
        let own = node.id == self.node;
        let leads = figures.leader == Some(node.id);
        v1::Node {
            id: node.id.0,
            address: node.addresses.grpc.clone(),
            role: match (own, leads) {
                (true, _) => figures.role.as_str().to_owned(),
                (false, true) => "leader".to_owned(),
                (false, false) => String::new(),
            },
            term: if own { figures.term } else { 0 },
            last_applied: if own { figures.last_applied } else { 0 },
            reachable: own,
            version: node.version.clone(),
        }
    }
}

impl Api {
    fn alarms(&self, figures: &RaftMetrics, quorum: bool) -> Vec<String> {
        let mut alarms = own_alarms(figures, quorum);
        let full = self.hub.full_disks();
        alarms.extend(self.raft.read(|state| {
            let name = |id: &HostId| state.host(*id).map(|host| host.name.to_string());
            let alarm = |name| format!("host {name}: its disk is full, new runners wait there");
            full.iter().filter_map(name).map(alarm).collect::<Vec<_>>()
        }));
        alarms
    }
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
