//! Runners: commands and rows.

use std::sync::Arc;

use model::command::{AdoptRunner, Assign, Kill, Launch, Observation, Placement, Report, Restart, Selector};
use stratavore_model as model;
use stratavore_proto::raft as pb;

use super::parts::{optional_text, optional_uuid, store_uuid, strings, text, texts};
use super::{RecordError, Stored, load_all, optional, required, store_all};

impl Stored for Launch {
    type Pb = pb::Launch;

    fn store(&self) -> pb::Launch {
        pb::Launch {
            project: self.project.to_string(),
            ids: strings(&self.ids),
            name: self.name.as_ref().map(ToString::to_string),
            spec: Some(self.spec.store()),
            no_queue: self.no_queue,
        }
    }

    fn load(stored: pb::Launch) -> Result<Self, RecordError> {
        Ok(Self {
            project: text("project name", &stored.project)?,
            ids: texts("runner id", &stored.ids)?,
            name: optional_text("runner name", stored.name)?,
            spec: required("runner spec", stored.spec)?,
            no_queue: stored.no_queue,
        })
    }
}

impl Stored for AdoptRunner {
    type Pb = pb::AdoptRunner;

    fn store(&self) -> pb::AdoptRunner {
        pb::AdoptRunner {
            runner: self.runner.clone(),
            project: self.project.to_string(),
            name: self.name.as_ref().map(ToString::to_string),
        }
    }

    fn load(stored: pb::AdoptRunner) -> Result<Self, RecordError> {
        Ok(Self {
            runner: stored.runner,
            project: text("project name", &stored.project)?,
            name: optional_text("runner name", stored.name)?,
        })
    }
}

impl Stored for Placement {
    type Pb = pb::Placement;

    fn store(&self) -> pb::Placement {
        pb::Placement { runner: self.runner.to_string(), host: self.host.to_string() }
    }

    fn load(stored: pb::Placement) -> Result<Self, RecordError> {
        Ok(Self { runner: text("runner id", &stored.runner)?, host: text("host id", &stored.host)? })
    }
}

impl Stored for Assign {
    type Pb = pb::Assign;

    fn store(&self) -> pb::Assign {
        pb::Assign { placements: store_all(&self.placements) }
    }

    fn load(stored: pb::Assign) -> Result<Self, RecordError> {
        Ok(Self { placements: load_all(stored.placements)? })
    }
}

impl Stored for Observation {
    type Pb = pb::Observation;

    fn store(&self) -> pb::Observation {
        pb::Observation {
            runner: self.runner.to_string(),
            epoch: Some(self.epoch.store()),
            rev: self.rev,
            state: self.state.store(),
            pid: self.pid,
            exit: self.exit.as_ref().map(Stored::store),
            reason: self.reason.clone(),
            started_at_ms: self.started_at.map(|at| at.0),
            fence: self.fence.store(),
        }
    }

    fn load(stored: pb::Observation) -> Result<Self, RecordError> {
        Ok(Self {
            runner: text("runner id", &stored.runner)?,
            epoch: required("epoch", stored.epoch)?,
            rev: stored.rev,
            state: Stored::load(stored.state)?,
            pid: stored.pid,
            exit: optional(stored.exit)?,
            reason: stored.reason,
            started_at: stored.started_at_ms.map(model::Millis),
            fence: Stored::load(stored.fence)?,
        })
    }
}

impl Stored for Report {
    type Pb = pb::Report;

    fn store(&self) -> pb::Report {
        pb::Report {
            host: self.host.to_string(),
            host_epoch: Some(self.host_epoch.store()),
            connection: self.connection,
            observations: store_all(&self.observations),
        }
    }

    fn load(stored: pb::Report) -> Result<Self, RecordError> {
        Ok(Self {
            host: text("host id", &stored.host)?,
            host_epoch: required("host epoch", stored.host_epoch)?,
            connection: stored.connection,
            observations: load_all(stored.observations)?,
        })
    }
}

impl Stored for Kill {
    type Pb = pb::Kill;

    fn store(&self) -> pb::Kill {
        use pb::kill::Selector as Pb;
        let selector = match &self.selector {
            Selector::Runners(selectors) => Pb::Runners(pb::RunnerSelectors { selectors: selectors.clone() }),
            Selector::Project(project) => Pb::Project(project.to_string()),
            Selector::All => Pb::All(pb::AllRunners {}),
        };
        pb::Kill { selector: Some(selector), force: self.force }
    }

    fn load(stored: pb::Kill) -> Result<Self, RecordError> {
        use pb::kill::Selector as Pb;
        let selector = match stored.selector.ok_or(RecordError::Unknown("runner selector"))? {
            Pb::Runners(runners) => Selector::Runners(runners.selectors),
            Pb::Project(project) => Selector::Project(text("project name", &project)?),
            Pb::All(pb::AllRunners {}) => Selector::All,
        };
        Ok(Self { selector, force: stored.force })
    }
}

impl Stored for Restart {
    type Pb = pb::Restart;

    fn store(&self) -> pb::Restart {
        pb::Restart { runner: self.runner.clone() }
    }

    fn load(stored: pb::Restart) -> Result<Self, RecordError> {
        Ok(Self { runner: stored.runner })
    }
}

impl Stored for model::RunnerRecord {
    type Pb = pb::RunnerRow;

    fn store(&self) -> pb::RunnerRow {
        pb::RunnerRow {
            id: self.id.to_string(),
            name: self.name.to_string(),
            project: self.project.to_string(),
            spec: Some(self.spec.store()),
            state: self.state.store(),
            lost: self.lost.map(|lost| lost.store()),
            stop_wanted: match self.want {
                model::Want::Run => None,
                model::Want::Stop { force } => Some(pb::StopWanted { force }),
            },
            restart_wanted: self.restart_wanted,
            admitted: self.admitted,
            queued_index: self.queued.index,
            queued_ordinal: self.queued.ordinal,
            epoch: self.epoch.map(|epoch| epoch.store()),
            host: self.host.map(|host| host.to_string()),
            pinned: self.pinned.map(|host| host.to_string()),
            rev: self.rev,
            pid: self.pid,
            fence: self.fence.store(),
            exit: self.exit.as_ref().map(|exit| exit.store()),
            reason: self.reason.clone(),
            created_at_ms: self.created_at.0,
            started_at_ms: self.started_at.map(|at| at.0),
            ended_at_ms: self.ended_at.map(|at| at.0),
            created_by: self.created_by.to_string(),
            request_id: self.request_id.as_ref().map(store_uuid),
            ordinal: self.ordinal,
            stop_request_id: self.stop_request_id.as_ref().map(store_uuid),
            restarts: self.restarts,
            settled: self.settled,
            on_disconnect: self.on_disconnect.store(),
            hold_ms: self.hold_ms,
            retry: self.retry.as_ref().map(Stored::store),
        }
    }

    fn load(stored: pb::RunnerRow) -> Result<Self, RecordError> {
        Ok(Self {
            id: text("runner id", &stored.id)?,
            name: text("runner name", &stored.name)?,
            project: text("project name", &stored.project)?,
            spec: Arc::new(required("runner spec", stored.spec)?),
            state: Stored::load(stored.state)?,
            lost: optional(stored.lost)?,
            want: match stored.stop_wanted {
                None => model::Want::Run,
                Some(pb::StopWanted { force }) => model::Want::Stop { force },
            },
            restart_wanted: stored.restart_wanted,
            admitted: stored.admitted,
            queued: model::QueuePlace { index: stored.queued_index, ordinal: stored.queued_ordinal },
            epoch: optional(stored.epoch)?,
            host: optional_text("host id", stored.host)?,
            pinned: optional_text("host id", stored.pinned)?,
            rev: stored.rev,
            pid: stored.pid,
            fence: Stored::load(stored.fence)?,
            exit: optional(stored.exit)?.map(Arc::new),
            reason: stored.reason,
            created_at: model::Millis(stored.created_at_ms),
            started_at: stored.started_at_ms.map(model::Millis),
            ended_at: stored.ended_at_ms.map(model::Millis),
            created_by: text("identity", &stored.created_by)?,
            request_id: optional_uuid(stored.request_id)?,
            ordinal: stored.ordinal,
            stop_request_id: optional_uuid(stored.stop_request_id)?,
            restarts: stored.restarts,
            settled: stored.settled,
            on_disconnect: Stored::load(stored.on_disconnect)?,
            hold_ms: stored.hold_ms,
            retry: optional(stored.retry)?,
        })
    }
}

impl Stored for model::Retry {
    type Pb = pb::Retry;

    fn store(&self) -> pb::Retry {
        pb::Retry {
            attempts: self.attempts,
            not_before_ms: self.not_before.0,
            placed_at_ms: self.placed_at.0,
            last: self.last.as_ref().map(Stored::store),
        }
    }

    fn load(stored: pb::Retry) -> Result<Self, RecordError> {
        Ok(Self {
            attempts: stored.attempts,
            not_before: model::Millis(stored.not_before_ms),
            placed_at: model::Millis(stored.placed_at_ms),
            last: optional(stored.last)?,
        })
    }
}

impl Stored for model::LastStart {
    type Pb = pb::LastStart;

    fn store(&self) -> pb::LastStart {
        pb::LastStart {
            epoch: Some(self.epoch.store()),
            host: self.host.to_string(),
            exit: Some(self.exit.store()),
        }
    }

    fn load(stored: pb::LastStart) -> Result<Self, RecordError> {
        Ok(Self {
            epoch: required("epoch", stored.epoch)?,
            host: text("host id", &stored.host)?,
            exit: Arc::new(required("exit", stored.exit)?),
        })
    }
}
