//! What the other nodes say about themselves: asked of each at once, and never waited for longer than a person would
//! notice. A node that says nothing in time is shown as not reachable, with what its record tells.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use stratavore_model::host::LeaseBound;
use stratavore_model::query;
use stratavore_model::{HostId, NodeId, NodeRecord, OnDisconnect, State};
use stratavore_proto::v1::cluster_service_client::ClusterServiceClient;
use stratavore_proto::v1::{self, GetStatusRequest, GetStatusResponse};
use stratavore_raft::{MembershipView, RaftMetrics, Role};

use crate::api::{Api, REQUEST_BYTES_MAX};

/// A node on the same site answers in a few milliseconds; a frozen one must not make `status` slow.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// Hosts of a status: 20,000 of them are under 10 MiB.
const STATUS_BYTES_MAX: usize = 16 * REQUEST_BYTES_MAX;

/// An agent stops its runners at 99 % of a hold (P5).
const HOLD_PERCENT: i64 = 99;

/// The answers, by node.
#[derive(Debug, Default)]
pub(super) struct Survey(BTreeMap<NodeId, GetStatusResponse>);

impl Survey {
    /// What a node said about itself.
    pub(super) fn node(&self, id: NodeId) -> Option<&v1::Node> {
        self.0.get(&id)?.nodes.iter().find(|node| node.id == id.0)
    }

    /// What is left of a host's lease, as its leader said: nobody else knows.
    pub(super) fn lease_ms_left(&self, host: HostId) -> Option<i64> {
        let id = host.to_string();
        let mut hosts = self.0.values().flat_map(|answer| &answer.hosts);
        hosts.find(|host| host.id == id)?.lease_ms_left
    }
}

impl Api {
    /// Asks every other node.
    pub(super) async fn survey(&self) -> Survey {
        let others: Vec<NodeId> = self.raft.read(|state| {
            state.nodes().filter(|node| !node.removed && node.id != self.node).map(|node| node.id).collect()
        });
        Survey(join_all(others.into_iter().map(|node| self.ask(node))).await.into_iter().flatten().collect())
    }

    /// Asks the leader alone, if it is another node: it knows the leases.
    pub(super) async fn survey_leader(&self) -> Survey {
        match self.raft.metrics().leader.filter(|leader| *leader != self.node) {
            Some(leader) => Survey(self.ask(leader).await.into_iter().collect()),
            None => Survey::default(),
        }
    }

    async fn ask(&self, node: NodeId) -> Option<(NodeId, GetStatusResponse)> {
        let channel = self.channels.channel(node).ok()?;
        let mut client = ClusterServiceClient::new(channel).max_decoding_message_size(STATUS_BYTES_MAX);
        let request = GetStatusRequest { read: Some(v1::ReadOptions { stale: true }), local: true };
        let answer = tokio::time::timeout(ANSWER_WITHIN, client.get_status(request)).await.ok()?.ok()?;
        Some((node, answer.into_inner()))
    }
}

/// What this node knows about itself.
pub(super) struct Own {
    pub(super) figures: RaftMetrics,
    pub(super) quarantined: String,
    pub(super) clock_ahead_ms: Option<i64>,
}

/// A node as it is shown: what it says about itself, else what its record and the configuration say.
pub(super) fn shown(
    record: &NodeRecord,
    own: Option<Own>,
    answer: Option<&v1::Node>,
    leader: Option<NodeId>,
    membership: &MembershipView,
) -> v1::Node {
    let voter = membership.voters().any(|voter| voter == record.id);
    let assumed = match (leader == Some(record.id), voter) {
        (true, _) => Role::Leader,
        (false, true) => Role::Follower,
        (false, false) => Role::Learner,
    };
    let reachable = own.is_some() || answer.is_some();
    let said = match (own, answer) {
        (Some(Own { figures, quarantined, clock_ahead_ms }), _) => v1::Node {
            role: figures.role.as_str().to_owned(),
            term: figures.term,
            last_applied: figures.last_applied,
            quarantined,
            clock_ahead_ms,
            ..Default::default()
        },
        (None, Some(answer)) => answer.clone(),
        (None, None) => v1::Node { role: assumed.as_str().to_owned(), ..Default::default() },
    };
    v1::Node {
        id: record.id.0,
        address: record.addresses.grpc.clone(),
        reachable,
        version: record.version.clone(),
        voter,
        ..said
    }
}

/// P13: how long, at the least, until the first runner stops by itself when nobody grants leases any more; `None` when
/// no host's lease is bounded or every runner is kept. `unheard` = since this node last knew that the leader had a quorum.
pub(super) fn self_stop_ms(state: &State, unheard: Option<Duration>) -> Option<i64> {
    let bounded = state.hosts().filter(|host| host.lease.bound == LeaseBound::Bounded);
    let runners = bounded.flat_map(|host| state.runners_on(host.id));
    let may_stop = runners.filter(|runner| {
        !runner.state.is_ended() && query::effective_policy(state, runner) == OnDisconnect::Stop
    });
    let hold = may_stop.map(|runner| query::hold_ms(state, runner)).min()?;
    Some(earliest(hold, state.cluster()?.lease.renew_ms, unheard?))
}

/// The last granted renewal may have been sent one period before this node last heard of a quorum.
fn earliest(hold_ms: u64, renew_ms: u64, unheard: Duration) -> i64 {
    let ms = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let unheard = i64::try_from(unheard.as_millis()).unwrap_or(i64::MAX);
    let hold = ms(hold_ms) / 100 * HOLD_PERCENT;
    hold.saturating_sub(ms(renew_ms)).saturating_sub(unheard).max(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p13_the_time_until_self_stop_is_never_said_too_long() {
        assert_eq!(earliest(120_000, 2_000, Duration::ZERO), 116_800);
        assert_eq!(earliest(120_000, 2_000, Duration::from_secs(100)), 16_800);
        assert_eq!(earliest(120_000, 2_000, Duration::from_secs(1000)), 0);
    }
}
