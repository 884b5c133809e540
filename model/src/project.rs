//! Projects: a name, a default command and a quota.

use serde::Serialize;

use crate::id::ProjectName;
use crate::time::Millis;

/// Live runners of a project unless its creator says otherwise.
pub const MAX_RUNNERS_DEFAULT: u32 = 5;

/// Above this a quota is a typing error: the largest farm aimed at holds ten thousand sessions.
pub const MAX_RUNNERS_LIMIT: u32 = 100_000;

/// A project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProjectRecord {
    pub name: ProjectName,
    /// Directory on the hosts where its runners start, unless a launch says another.
    pub path: String,
    /// Empty: the host's `$SHELL`.
    pub command: Vec<String>,
    /// Quota: so many runners are admitted at a time, the others wait.
    pub max_runners: u32,
    pub created_at: Millis,
    /// Counts the names `<project>-<n>` given so far.
    pub names_given: u64,
}
