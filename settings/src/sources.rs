//! Where values come from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::dirs;

/// Of the whole machine.
const SYSTEM_FILE: &str = "/etc/stratavore/stratavore.yaml";

/// Everything that [`crate::load`] looks at.
#[derive(Debug, Clone)]
pub struct Sources {
    /// `--config FILE`: replaces the search, and must be there.
    pub config: Option<PathBuf>,
    /// The files looked for without it, the strongest first; those that are not there are passed over.
    pub search: Vec<PathBuf>,
    /// The strongest layer.
    pub flags: Vec<Flag>,
    /// Overrides and the values of `${NAME}` in files.
    pub environment: Environment,
}

impl Sources {
    /// The user's file over the system's file, the process environment, no flags.
    #[must_use]
    pub fn new(config: Option<PathBuf>) -> Self {
        // Without a home (a service, say) there is no user file.
        let user = dirs::config_dir().ok().map(|dir| dir.join("stratavore.yaml"));
        let search = user.into_iter().chain([PathBuf::from(SYSTEM_FILE)]).collect();
        Self { config, search, flags: Vec::new(), environment: Environment::process() }
    }

    /// Adds a flag, if it was given.
    #[must_use]
    pub fn flag(mut self, name: &'static str, path: &'static str, value: Option<impl Serialize>) -> Self {
        self.flags.extend(value.map(|value| Flag::new(name, path, value)));
        self
    }

    /// Files to read, the weakest first.
    pub(crate) fn files(&self) -> Vec<(&Path, bool)> {
        match &self.config {
            Some(path) => vec![(path, true)],
            None => self.search.iter().rev().map(|path| (path.as_path(), false)).collect(),
        }
    }
}

/// A value given on the command line.
#[derive(Debug, Clone)]
pub struct Flag {
    pub(crate) name: &'static str,
    pub(crate) path: &'static str,
    /// `Err`: the message for a value that cannot be written as JSON.
    pub(crate) value: Result<Value, String>,
}

impl Flag {
    /// `name` as typed (`--grpc-port`), `path` as in the file (`daemon.grpc_port`).
    #[must_use]
    pub fn new(name: &'static str, path: &'static str, value: impl Serialize) -> Self {
        Self { name, path, value: serde_json::to_value(value).map_err(|error| error.to_string()) }
    }
}

/// A copy of environment variables, so that tests need not change those of the process.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

/// Flat names of older releases and the key that each one sets.
const LEGACY: [(&str, &str); 1] = [("STRATAVORE_LOG_LEVEL", "log.level")];

const PREFIX: &str = "STRATAVORE_";

impl Environment {
    /// Of this process. Variables that are not UTF-8 are passed over.
    #[must_use]
    pub fn process() -> Self {
        let utf8 = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self(std::env::vars_os().filter_map(utf8).collect())
    }

    /// For tests and for children.
    #[must_use]
    pub fn of<const N: usize>(variables: [(&str, &str); N]) -> Self {
        Self(variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
    }

    pub(crate) fn variables(&self) -> impl Iterator<Item = (&String, &String)> {
        self.0.iter()
    }

    /// Variables that set a key: those with `__` between section and key, and the [`LEGACY`] ones. Every other
    /// `STRATAVORE_` variable is for `${NAME}` or for the command line, so it is no error here.
    pub(crate) fn overrides(&self) -> impl Iterator<Item = (&str, String, &str)> {
        self.0.iter().filter_map(|(name, value)| {
            let path = match LEGACY.iter().find(|(legacy, _)| legacy == name) {
                Some((_, path)) => (*path).to_owned(),
                None => {
                    let rest = name.strip_prefix(PREFIX)?;
                    if !rest.contains("__") {
                        return None;
                    }
                    rest.to_ascii_lowercase().replace("__", ".")
                }
            };
            Some((name.as_str(), path, value.as_str()))
        })
    }
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Values may be secrets.
        f.debug_list().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_with_two_underscores_and_legacy_ones_set_keys() {
        let environment = Environment::of([
            ("STRATAVORE_DAEMON__GRPC_PORT", "1"),
            ("STRATAVORE_DB_PASSWORD", "secret"),
            ("STRATAVORE_CLUSTER", "a:1"),
            ("STRATAVORE_LOG_LEVEL", "debug"),
            ("OTHER__KEY", "2"),
        ]);
        let found: Vec<_> = environment.overrides().map(|(_, path, value)| (path, value)).collect();
        assert_eq!(found, [("daemon.grpc_port".to_owned(), "1"), ("log.level".to_owned(), "debug")]);
        assert!(!format!("{environment:?}").contains("secret\""));
    }
}
