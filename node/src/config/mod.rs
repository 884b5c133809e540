//! What an operator can set: one struct per part, defaults beside it, and a `validate` that lists every problem at
//! once. Frozen after start.

pub mod daemon;
pub mod lease;
pub mod metrics;
pub mod raft;

use serde::{Deserialize, Serialize};
use stratavore_settings::log::LogOptions;
use stratavore_settings::{Loaded, Sources};

pub use daemon::Daemon;
pub use lease::Lease;
pub use metrics::Metrics;
pub use raft::Raft;

use crate::exit::{Code, Failure};

/// The whole configuration of a node.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub daemon: Daemon,
    pub lease: Lease,
    pub log: LogOptions,
    pub metrics: Metrics,
    pub raft: Raft,
}

/// A key with a value that cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub key: &'static str,
    pub message: String,
}

impl Problem {
    pub(crate) fn new(key: &'static str, message: impl Into<String>) -> Self {
        Self { key, message: message.into() }
    }
}

impl Config {
    /// Everything that is wrong, not only the first thing.
    #[must_use]
    pub fn validate(&self) -> Vec<Problem> {
        let mut problems = self.daemon.validate();
        problems.extend(self.lease.validate());
        problems.extend(self.metrics.validate(&self.daemon));
        problems.extend(self.raft.validate());
        problems
    }

    /// Loads flags, environment and files, and validates the result.
    ///
    /// # Errors
    /// [`Code::Usage`] with every problem, or with file, line and column of what cannot be read.
    pub fn load(sources: Sources) -> Result<Loaded<Self>, Failure> {
        let invalid = |what: &str, next| Failure::new(Code::Usage, format!("{INVALID}: {what}"), next);
        let loaded: Loaded<Self> = stratavore_settings::load(sources).map_err(|error| {
            let text = crate::exit::chain(&error);
            let later = LATER_SECTIONS.iter().any(|section| text.contains(&format!("`{section}`")));
            invalid(&text, if later { LATER_HINT } else { CHECK_HINT })
        })?;
        let problems = loaded.value.validate();
        if problems.is_empty() {
            return Ok(loaded);
        }
        let lines: Vec<String> = problems.iter().map(|p| format!("{}: {}", p.key, p.message)).collect();
        Err(invalid(&lines.join("; "), CHECK_HINT))
    }
}

const INVALID: &str = "the configuration is not valid";

/// Sections of the seeds whose parts come with later releases.
const LATER_SECTIONS: [&str; 5] = ["database", "messaging", "docker", "security", "history"];

const LATER_HINT: &str =
    "remove this section: nothing of this release reads it, so it is refused instead of ignored";

const CHECK_HINT: &str = "correct it and check with `stratavored --config-check`; `stratavored config show --source` says where each value comes from";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Config::default().validate(), []);
    }

    #[test]
    fn all_problems_are_listed_at_once() {
        let mut config = Config::default();
        config.daemon.grpc_port = Some(7000);
        config.daemon.raft_port = Some(7000);
        config.lease.renew_ms = config.lease.ttl_ms;
        config.daemon.reconcile_interval_seconds = 0;
        config.raft.kept_log_entries = 999;
        let keys: Vec<_> = config.validate().iter().map(|problem| problem.key).collect();
        for key in [
            "daemon.raft_port",
            "lease.renew_ms",
            "daemon.reconcile_interval_seconds",
            "raft.kept_log_entries",
        ] {
            assert!(keys.contains(&key), "{key} is missing in {keys:?}");
        }
    }
}
