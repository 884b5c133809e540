//! Events and the segments they are counted in.

use stratavore_model as model;
use stratavore_proto::raft as pb;

use super::parts::{optional_text, text};
use super::{RecordError, Stored, optional, required};

impl Stored for model::RecordedEvent {
    type Pb = pb::Event;

    fn store(&self) -> pb::Event {
        pb::Event {
            id: Some(self.id.store()),
            at_ms: self.at.0,
            actor: self.actor.to_string(),
            kind: self.kind.to_string(),
            project: self.project.as_ref().map(ToString::to_string),
            runner: self.runner.map(|runner| runner.to_string()),
            epoch: self.epoch.map(|epoch| epoch.store()),
            host: self.host.map(|host| host.to_string()),
            host_name: self.host_name.as_ref().map(ToString::to_string),
            reason: self.reason.clone(),
        }
    }

    fn load(stored: pb::Event) -> Result<Self, RecordError> {
        Ok(Self {
            id: required("event id", stored.id)?,
            at: model::Millis(stored.at_ms),
            actor: text("identity", &stored.actor)?,
            kind: stored.kind.parse().map_err(|_| RecordError::Unknown("kind of event"))?,
            project: optional_text("project name", stored.project)?,
            runner: optional_text("runner id", stored.runner)?,
            epoch: optional(stored.epoch)?,
            host: optional_text("host id", stored.host)?,
            host_name: optional_text("host name", stored.host_name)?,
            reason: stored.reason,
        })
    }
}

impl Stored for model::SegmentRecord {
    type Pb = pb::SegmentRow;

    fn store(&self) -> pb::SegmentRow {
        pb::SegmentRow {
            first: Some(self.first.store()),
            last: Some(self.last.store()),
            count: self.count,
            bytes: self.bytes,
            newest_ms: self.newest.0,
        }
    }

    fn load(stored: pb::SegmentRow) -> Result<Self, RecordError> {
        Ok(Self {
            first: required("event id", stored.first)?,
            last: required("event id", stored.last)?,
            count: stored.count,
            bytes: stored.bytes,
            newest: model::Millis(stored.newest_ms),
        })
    }
}
