//! Hosts: commands and rows.

use model::command::{CordonHost, HostConnect, HostReachable, HostUnreachable, LabelHost, RemoveHost};
use stratavore_model as model;
use stratavore_proto::raft as pb;

use super::parts::{array, blob, labels, text};
use super::{RecordError, Stored, load_all, optional, required, store_all};

impl Stored for HostConnect {
    type Pb = pb::HostConnect;

    fn store(&self) -> pb::HostConnect {
        pb::HostConnect {
            host: self.host.to_string(),
            boot_id: self.boot_id.clone(),
            facts: Some(self.facts.store()),
            agent_version: self.agent_version.clone(),
            gateway: self.gateway.0,
            connection: self.connection,
            seen: self.seen.map(|seen| seen.store()),
            observations: store_all(&self.observations),
        }
    }

    fn load(stored: pb::HostConnect) -> Result<Self, RecordError> {
        Ok(Self {
            host: text("host id", &stored.host)?,
            boot_id: stored.boot_id,
            facts: required("host facts", stored.facts)?,
            agent_version: stored.agent_version,
            gateway: model::NodeId(stored.gateway),
            connection: stored.connection,
            seen: optional(stored.seen)?,
            observations: load_all(stored.observations)?,
        })
    }
}

impl Stored for HostUnreachable {
    type Pb = pb::HostUnreachable;

    fn store(&self) -> pb::HostUnreachable {
        pb::HostUnreachable { host: self.host.to_string(), host_epoch: Some(self.host_epoch.store()) }
    }

    fn load(stored: pb::HostUnreachable) -> Result<Self, RecordError> {
        Ok(Self {
            host: text("host id", &stored.host)?,
            host_epoch: required("host epoch", stored.host_epoch)?,
        })
    }
}

impl Stored for HostReachable {
    type Pb = pb::HostReachable;

    fn store(&self) -> pb::HostReachable {
        pb::HostReachable { host: self.host.to_string(), host_epoch: Some(self.host_epoch.store()) }
    }

    fn load(stored: pb::HostReachable) -> Result<Self, RecordError> {
        Ok(Self {
            host: text("host id", &stored.host)?,
            host_epoch: required("host epoch", stored.host_epoch)?,
        })
    }
}

impl Stored for CordonHost {
    type Pb = pb::CordonHost;

    fn store(&self) -> pb::CordonHost {
        pb::CordonHost { host: self.host.clone(), cordoned: self.cordoned }
    }

    fn load(stored: pb::CordonHost) -> Result<Self, RecordError> {
        Ok(Self { host: stored.host, cordoned: stored.cordoned })
    }
}

impl Stored for LabelHost {
    type Pb = pb::LabelHost;

    fn store(&self) -> pb::LabelHost {
        pb::LabelHost { host: self.host.clone(), set: labels(&self.set), remove: self.remove.clone() }
    }

    fn load(stored: pb::LabelHost) -> Result<Self, RecordError> {
        Ok(Self { host: stored.host, set: stored.set, remove: stored.remove })
    }
}

impl Stored for RemoveHost {
    type Pb = pb::RemoveHost;

    fn store(&self) -> pb::RemoveHost {
        pb::RemoveHost { host: self.host.clone(), force: self.force }
    }

    fn load(stored: pb::RemoveHost) -> Result<Self, RecordError> {
        Ok(Self { host: stored.host, force: stored.force })
    }
}

fn covered(runner: model::RunnerId, epoch: model::Epoch) -> pb::Covered {
    model::Covered { runner, epoch }.store()
}

impl Stored for model::HostRecord {
    type Pb = pb::HostRow;

    fn store(&self) -> pb::HostRow {
        pb::HostRow {
            id: self.id.to_string(),
            name: self.name.to_string(),
            state: self.state.store(),
            labels: labels(&self.labels),
            slots: self.slots,
            cpu_milli: self.cpu_milli,
            memory_bytes: self.memory_bytes,
            features: self.features.clone(),
            fence: self.fence.store(),
            boot_id: self.boot_id.clone(),
            previous_boot_id: self.previous_boot_id.clone(),
            host_epoch: self.host_epoch.map(|epoch| epoch.store()),
            connection: self.connection,
            gateway: self.gateway.map(|node| node.0),
            cordoned: self.cordoned,
            spki: blob(&self.spki),
            joined_at_ms: self.joined_at.0,
            since_ms: self.since.0,
            agent_version: self.agent_version.clone(),
            fenced: self.fenced.map(|epoch| epoch.store()),
            covered: self.covered.iter().map(|(runner, epoch)| covered(*runner, *epoch)).collect(),
            rebooted: self.rebooted.map(|reboot| reboot.store()),
            lease: Some(self.lease.store()),
            unlisted: self.unlisted,
            draining: self.draining,
            cloned: self.cloned,
        }
    }

    fn load(stored: pb::HostRow) -> Result<Self, RecordError> {
        Ok(Self {
            id: text("host id", &stored.id)?,
            name: text("host name", &stored.name)?,
            state: Stored::load(stored.state)?,
            labels: stored.labels,
            slots: stored.slots,
            cpu_milli: stored.cpu_milli,
            memory_bytes: stored.memory_bytes,
            features: stored.features,
            fence: Stored::load(stored.fence)?,
            boot_id: stored.boot_id,
            previous_boot_id: stored.previous_boot_id,
            host_epoch: optional(stored.host_epoch)?,
            connection: stored.connection,
            gateway: stored.gateway.map(model::NodeId),
            cordoned: stored.cordoned,
            spki: array("host key", &stored.spki)?,
            joined_at: model::Millis(stored.joined_at_ms),
            since: model::Millis(stored.since_ms),
            agent_version: stored.agent_version,
            fenced: optional(stored.fenced)?,
            covered: load_all::<model::Covered>(stored.covered)?
                .into_iter()
                .map(|covered| (covered.runner, covered.epoch))
                .collect(),
            rebooted: optional(stored.rebooted)?,
            lease: required("host lease", stored.lease)?,
            unlisted: stored.unlisted,
            draining: stored.draining,
            cloned: stored.cloned,
        })
    }
}
