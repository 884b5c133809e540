//! Projects.

use stratavore_model::State;
use stratavore_model::project::ProjectRecord;
use stratavore_proto::v1;

use crate::convert::id;

pub(crate) fn to_proto(record: &ProjectRecord, state: &State) -> v1::Project {
    v1::Project {
        name: record.name.to_string(),
        path: record.path.clone(),
        command: record.command.clone(),
        max_runners: record.max_runners,
        runners: u32::try_from(state.live(&record.name)).unwrap_or(u32::MAX),
        created_at_unix_ms: id::millis(record.created_at),
    }
}
