//! The dedup window's rows (P25).

use model::StoredReply;
use stratavore_model as model;
use stratavore_proto::raft as pb;

use super::parts::{array, blob, load_uuid, store_uuid, strings, text, texts};
use super::{RecordError, Stored};

impl Stored for model::DedupRecord {
    type Pb = pb::DedupRow;

    fn store(&self) -> pb::DedupRow {
        use pb::dedup_row::Reply as Pb;
        let reply = match &self.reply {
            StoredReply::Done => Pb::Done(pb::StoredDone {}),
            StoredReply::Project(project) => Pb::Project(project.to_string()),
            StoredReply::Launched { runners, count, queued } => Pb::Launched(pb::StoredLaunched {
                runners: strings(runners),
                count: *count,
                queued: queued.clone(),
            }),
            StoredReply::Stopping { runners, count } => {
                Pb::Stopping(pb::StoredStopping { runners: strings(runners), count: *count })
            }
            StoredReply::Restarted(runner) => Pb::Restarted(runner.to_string()),
            StoredReply::Host(host) => Pb::Host(host.to_string()),
            StoredReply::Token(token) => Pb::Token(token.to_string()),
        };
        pb::DedupRow {
            actor: self.actor.to_string(),
            request_id: store_uuid(&self.request_id),
            payload: blob(&self.payload),
            at_ms: self.at.0,
            reply: Some(reply),
        }
    }

    fn load(stored: pb::DedupRow) -> Result<Self, RecordError> {
        use pb::dedup_row::Reply as Pb;
        let reply = match stored.reply.ok_or(RecordError::Unknown("stored reply"))? {
            Pb::Done(pb::StoredDone {}) => StoredReply::Done,
            Pb::Project(project) => StoredReply::Project(text("project name", &project)?),
            Pb::Launched(launched) => StoredReply::Launched {
                runners: texts("runner id", &launched.runners)?,
                count: launched.count,
                queued: launched.queued,
            },
            Pb::Stopping(stopping) => StoredReply::Stopping {
                runners: texts("runner id", &stopping.runners)?,
                count: stopping.count,
            },
            Pb::Restarted(runner) => StoredReply::Restarted(text("runner id", &runner)?),
            Pb::Host(host) => StoredReply::Host(text("host id", &host)?),
            Pb::Token(token) => StoredReply::Token(text("token id", &token)?),
        };
        Ok(Self {
            actor: text("identity", &stored.actor)?,
            request_id: load_uuid(&stored.request_id)?,
            payload: array("payload hash", &stored.payload)?,
            at: model::Millis(stored.at_ms),
            reply,
        })
    }
}
