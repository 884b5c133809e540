//! The cluster, its clock, nodes, users and keys: commands and rows.

use model::command::{
    CutKeys, Finalize, InitCluster, NoteNode, RaiseIncarnation, RegisterKey, RemoveNode, ReserveNode,
    ResetClock, SetMaintenance, SetNodeAddress, Trim,
};
use stratavore_model as model;
use stratavore_proto::raft as pb;

use super::parts::{array, blob, optional_text, text};
use super::{RecordError, Stored, optional, required};

impl Stored for InitCluster {
    type Pb = pb::InitCluster;

    fn store(&self) -> pb::InitCluster {
        pb::InitCluster {
            cluster_id: self.cluster.to_string(),
            nonce: blob(&self.nonce),
            lease: Some(self.lease.store()),
            ca_cert_der: blob(&self.ca_cert_der),
            ca_key_der: blob(self.ca_key_der.reveal()),
            node_id: self.node.0,
            node_addresses: Some(self.node_addresses.store()),
            node_spki: blob(&self.node_spki),
            node_version: self.node_version.clone(),
            admin: self.admin.to_string(),
            admin_spki: blob(&self.admin_spki),
            version: self.version,
            node_max_version: self.node_max_version,
        }
    }

    fn load(stored: pb::InitCluster) -> Result<Self, RecordError> {
        Ok(Self {
            cluster: text("cluster id", &stored.cluster_id)?,
            nonce: array("nonce", &stored.nonce)?,
            lease: required("lease numbers", stored.lease)?,
            ca_cert_der: stored.ca_cert_der.into(),
            ca_key_der: model::SecretBytes::new(stored.ca_key_der.into()),
            node: model::NodeId(stored.node_id),
            node_addresses: required("node addresses", stored.node_addresses)?,
            node_spki: array("node key", &stored.node_spki)?,
            node_version: stored.node_version,
            admin: text("admin", &stored.admin)?,
            admin_spki: array("admin key", &stored.admin_spki)?,
            version: stored.version,
            node_max_version: stored.node_max_version,
        })
    }
}

impl Stored for RaiseIncarnation {
    type Pb = pb::RaiseIncarnation;

    fn store(&self) -> pb::RaiseIncarnation {
        pb::RaiseIncarnation { n: self.n, nonce: blob(&self.nonce), reason: self.reason.clone() }
    }

    fn load(stored: pb::RaiseIncarnation) -> Result<Self, RecordError> {
        Ok(Self { n: stored.n, nonce: array("nonce", &stored.nonce)?, reason: stored.reason })
    }
}

impl Stored for RegisterKey {
    type Pb = pb::RegisterKey;

    fn store(&self) -> pb::RegisterKey {
        pb::RegisterKey { present: blob(&self.present), new: blob(&self.new) }
    }

    fn load(stored: pb::RegisterKey) -> Result<Self, RecordError> {
        Ok(Self { present: array("present key", &stored.present)?, new: array("new key", &stored.new)? })
    }
}

impl Stored for SetNodeAddress {
    type Pb = pb::SetNodeAddress;

    fn store(&self) -> pb::SetNodeAddress {
        pb::SetNodeAddress {
            node_id: self.node.0,
            addresses: Some(self.addresses.store()),
            version: self.version.clone(),
            max_version: self.max_version,
        }
    }

    fn load(stored: pb::SetNodeAddress) -> Result<Self, RecordError> {
        Ok(Self {
            node: model::NodeId(stored.node_id),
            addresses: required("node addresses", stored.addresses)?,
            version: stored.version,
            max_version: stored.max_version,
        })
    }
}

impl Stored for model::command::EventRetention {
    type Pb = pb::EventRetention;

    fn store(&self) -> pb::EventRetention {
        pb::EventRetention { age_ms: self.age_ms, count: self.count, bytes: self.bytes }
    }

    fn load(stored: pb::EventRetention) -> Result<Self, RecordError> {
        Ok(Self { age_ms: stored.age_ms, count: stored.count, bytes: stored.bytes })
    }
}

impl Stored for Trim {
    type Pb = pb::Trim;

    fn store(&self) -> pb::Trim {
        pb::Trim { elapsed_ms: self.elapsed_ms, events: Some(self.events.store()) }
    }

    fn load(stored: pb::Trim) -> Result<Self, RecordError> {
        Ok(Self { elapsed_ms: stored.elapsed_ms, events: required("event retention", stored.events)? })
    }
}

impl Stored for ResetClock {
    type Pb = pb::ResetClock;

    fn store(&self) -> pb::ResetClock {
        pb::ResetClock { to_ms: self.to.0 }
    }

    fn load(stored: pb::ResetClock) -> Result<Self, RecordError> {
        Ok(Self { to: model::Millis(stored.to_ms) })
    }
}

impl Stored for RemoveNode {
    type Pb = pb::RemoveNode;

    fn store(&self) -> pb::RemoveNode {
        pb::RemoveNode { node_id: self.node.0 }
    }

    fn load(stored: pb::RemoveNode) -> Result<Self, RecordError> {
        Ok(Self { node: model::NodeId(stored.node_id) })
    }
}

impl Stored for Finalize {
    type Pb = pb::Finalize;

    fn store(&self) -> pb::Finalize {
        pb::Finalize { version: self.version }
    }

    fn load(stored: pb::Finalize) -> Result<Self, RecordError> {
        Ok(Self { version: stored.version })
    }
}

impl Stored for SetMaintenance {
    type Pb = pb::SetMaintenance;

    fn store(&self) -> pb::SetMaintenance {
        pb::SetMaintenance { for_ms: self.for_ms }
    }

    fn load(stored: pb::SetMaintenance) -> Result<Self, RecordError> {
        Ok(Self { for_ms: stored.for_ms })
    }
}

impl Stored for ReserveNode {
    type Pb = pb::ReserveNode;

    fn store(&self) -> pb::ReserveNode {
        pb::ReserveNode { spki: blob(&self.spki) }
    }

    fn load(stored: pb::ReserveNode) -> Result<Self, RecordError> {
        Ok(Self { spki: array("key", &stored.spki)? })
    }
}

impl Stored for NoteNode {
    type Pb = pb::NoteNode;

    fn store(&self) -> pb::NoteNode {
        pb::NoteNode { node_id: self.node.0, what: self.what.store(), text: self.text.clone() }
    }

    fn load(stored: pb::NoteNode) -> Result<Self, RecordError> {
        let (node, what) = (model::NodeId(stored.node_id), Stored::load(stored.what)?);
        Ok(Self { node, what, text: stored.text })
    }
}

impl Stored for CutKeys {
    type Pb = pb::CutKeys;

    fn store(&self) -> pb::CutKeys {
        let key = |(spki, identity): &(model::SpkiHash, model::Actor)| pb::CutKey {
            spki: blob(spki),
            identity: identity.to_string(),
        };
        pb::CutKeys { keys: self.keys.iter().map(key).collect() }
    }

    fn load(stored: pb::CutKeys) -> Result<Self, RecordError> {
        let key = |key: pb::CutKey| Ok((array("key", &key.spki)?, text("identity", &key.identity)?));
        Ok(Self { keys: stored.keys.into_iter().map(key).collect::<Result<_, RecordError>>()? })
    }
}

impl Stored for model::Maintenance {
    type Pb = pb::Maintenance;

    fn store(&self) -> pb::Maintenance {
        pb::Maintenance { until_ms: self.until.0, hold_ms: self.hold_ms, at_index: self.at }
    }

    fn load(stored: pb::Maintenance) -> Result<Self, RecordError> {
        Ok(Self { until: model::Millis(stored.until_ms), hold_ms: stored.hold_ms, at: stored.at_index })
    }
}

impl Stored for model::ClusterRecord {
    type Pb = pb::ClusterRow;

    fn store(&self) -> pb::ClusterRow {
        pb::ClusterRow {
            id: self.id.to_string(),
            incarnation: self.incarnation.n,
            nonce: blob(&self.incarnation.nonce),
            created_at_ms: self.created_at.0,
            lease: Some(self.lease.store()),
            ca_cert_der: blob(&self.ca_cert_der),
            ca_key_der: blob(self.ca_key_der.reveal()),
            version: self.version,
            next_node: self.next_node.0,
            raised_at_index: self.raised_at_index,
            maintenance: self.maintenance.map(|maintenance| maintenance.store()),
        }
    }

    fn load(stored: pb::ClusterRow) -> Result<Self, RecordError> {
        Ok(Self {
            id: text("cluster id", &stored.id)?,
            incarnation: model::Incarnation { n: stored.incarnation, nonce: array("nonce", &stored.nonce)? },
            created_at: model::Millis(stored.created_at_ms),
            lease: required("lease numbers", stored.lease)?,
            ca_cert_der: stored.ca_cert_der.into(),
            ca_key_der: model::SecretBytes::new(stored.ca_key_der.into()),
            version: stored.version,
            next_node: model::NodeId(stored.next_node),
            raised_at_index: stored.raised_at_index,
            maintenance: optional(stored.maintenance)?,
        })
    }
}

impl Stored for model::ClockRecord {
    type Pb = pb::ClockRow;

    fn store(&self) -> pb::ClockRow {
        pb::ClockRow { now_ms: self.now.0, age_ms: self.age.0, dedup_floor_ms: self.dedup_floor.0 }
    }

    fn load(stored: pb::ClockRow) -> Result<Self, RecordError> {
        Ok(Self {
            now: model::Millis(stored.now_ms),
            age: model::Millis(stored.age_ms),
            dedup_floor: model::Millis(stored.dedup_floor_ms),
        })
    }
}

impl Stored for model::NodeRecord {
    type Pb = pb::NodeRow;

    fn store(&self) -> pb::NodeRow {
        pb::NodeRow {
            id: self.id.0,
            addresses: Some(self.addresses.store()),
            spki: blob(&self.spki),
            version: self.version.clone(),
            joined_at_ms: self.joined_at.0,
            removed: self.removed,
            max_version: self.max_version,
        }
    }

    fn load(stored: pb::NodeRow) -> Result<Self, RecordError> {
        Ok(Self {
            id: model::NodeId(stored.id),
            addresses: required("node addresses", stored.addresses)?,
            spki: array("node key", &stored.spki)?,
            version: stored.version,
            joined_at: model::Millis(stored.joined_at_ms),
            removed: stored.removed,
            max_version: stored.max_version,
        })
    }
}

impl Stored for model::UserRecord {
    type Pb = pb::UserRow;

    fn store(&self) -> pb::UserRow {
        pb::UserRow { name: self.name.to_string(), created_at_ms: self.created_at.0, removed: self.removed }
    }

    fn load(stored: pb::UserRow) -> Result<Self, RecordError> {
        Ok(Self {
            name: text("user name", &stored.name)?,
            created_at: model::Millis(stored.created_at_ms),
            removed: stored.removed,
        })
    }
}

impl Stored for model::KeyRecord {
    type Pb = pb::KeyRow;

    fn store(&self) -> pb::KeyRow {
        pb::KeyRow {
            spki: blob(&self.spki),
            identity: self.identity.to_string(),
            registered_at_ms: self.registered_at.0,
            token: self.token.as_ref().map(ToString::to_string),
            removed: self.removed,
        }
    }

    fn load(stored: pb::KeyRow) -> Result<Self, RecordError> {
        Ok(Self {
            spki: array("key", &stored.spki)?,
            identity: text("identity", &stored.identity)?,
            registered_at: model::Millis(stored.registered_at_ms),
            token: optional_text("token id", stored.token)?,
            removed: stored.removed,
        })
    }
}
