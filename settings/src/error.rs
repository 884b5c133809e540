//! What can be wrong with a configuration. Values of secrets are never repeated.

use std::path::PathBuf;

/// Each message names the file, variable or flag to change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file of `--config` is not there.
    #[error("there is no configuration file {}; check --config", path.display())]
    Missing { path: PathBuf },
    #[error("cannot read the configuration file {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the configuration file {} has more than {limit} bytes", path.display())]
    TooLarge { path: PathBuf, limit: u64 },
    /// Not YAML, an unknown key, a value of the wrong type, a missing variable. `message` has the place and, for an
    /// unknown key, the keys that are known.
    #[error("{}:{line}:{column}: {message}", path.display())]
    File { path: PathBuf, line: u64, column: u64, message: String },
    #[error("the environment variable {name} is wrong: {message}")]
    Variable { name: String, message: String },
    #[error("{name} is wrong: {message}")]
    Flag { name: String, message: String },
    /// A type that does not survive its own serialisation: an error of the program, not of the person.
    #[error("the configuration cannot be put together: {0}")]
    Shape(#[from] serde_json::Error),
}
