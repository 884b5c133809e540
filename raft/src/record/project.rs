//! Projects: commands and rows.

use model::command::{CreateProject, SetQuota};
use stratavore_model as model;
use stratavore_proto::raft as pb;

use super::parts::text;
use super::{RecordError, Stored};

impl Stored for CreateProject {
    type Pb = pb::CreateProject;

    fn store(&self) -> pb::CreateProject {
        pb::CreateProject {
            name: self.name.to_string(),
            path: self.path.clone(),
            command: self.command.clone(),
            max_runners: self.max_runners,
        }
    }

    fn load(stored: pb::CreateProject) -> Result<Self, RecordError> {
        Ok(Self {
            name: text("project name", &stored.name)?,
            path: stored.path,
            command: stored.command,
            max_runners: stored.max_runners,
        })
    }
}

impl Stored for SetQuota {
    type Pb = pb::SetQuota;

    fn store(&self) -> pb::SetQuota {
        pb::SetQuota { project: self.project.to_string(), max_runners: self.max_runners }
    }

    fn load(stored: pb::SetQuota) -> Result<Self, RecordError> {
        Ok(Self { project: text("project name", &stored.project)?, max_runners: stored.max_runners })
    }
}

impl Stored for model::ProjectRecord {
    type Pb = pb::ProjectRow;

    fn store(&self) -> pb::ProjectRow {
        pb::ProjectRow {
            name: self.name.to_string(),
            path: self.path.clone(),
            command: self.command.clone(),
            max_runners: self.max_runners,
            created_at_ms: self.created_at.0,
            names_given: self.names_given,
        }
    }

    fn load(stored: pb::ProjectRow) -> Result<Self, RecordError> {
        Ok(Self {
            name: text("project name", &stored.name)?,
            path: stored.path,
            command: stored.command,
            max_runners: stored.max_runners,
            created_at: model::Millis(stored.created_at_ms),
            names_given: stored.names_given,
        })
    }
}
