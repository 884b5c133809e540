//! Hosts.

use stratavore_model::State;
use stratavore_model::host::{HostRecord, HostState};
use stratavore_proto::v1;

use crate::convert::id;

/// `lease_ms_left`: what the leader's renewal table says; `None` = unbounded or not connected.
pub(crate) fn to_proto(
    record: &HostRecord,
    state: &State,
    lease_ms_left: Option<i64>,
    connected: bool,
) -> v1::Host {
    let load = state.host_load(record.id);
    v1::Host {
        id: record.id.to_string(),
        name: record.name.to_string(),
        state: host_state(record.state) as i32,
        labels: record.labels.clone(),
        slots: record.slots,
        slots_used: load.slots,
        boot_id: record.boot_id.clone(),
        lease_ms_left,
        gateway: record.gateway.filter(|_| connected).map(|node| node.to_string()).unwrap_or_default(),
        cordoned: record.cordoned,
        cpu_milli: record.cpu_milli,
        memory_bytes: record.memory_bytes,
        runners: load.runners,
        features: record.features.clone(),
        joined_at_unix_ms: id::millis(record.joined_at),
        agent_version: record.agent_version.clone(),
        lease: record.lease.bound.as_str().to_owned(),
        draining: record.draining,
    }
}

const fn host_state(state: HostState) -> v1::HostState {
    match state {
        HostState::Joined => v1::HostState::Joined,
        HostState::Ready => v1::HostState::Ready,
        HostState::Unreachable => v1::HostState::Unreachable,
        HostState::Removed => v1::HostState::Removed,
    }
}
