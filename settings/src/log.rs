//! Log output: to standard error, for people when that is a terminal, as JSON lines otherwise.

use std::io::IsTerminal;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// How lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// [`LogFormat::Human`] on a terminal, else [`LogFormat::Json`].
    #[default]
    Auto,
    Human,
    Json,
}

impl FromStr for LogFormat {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        match text {
            "auto" => Ok(Self::Auto),
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            _ => Err(LogError::Format { text: text.chars().take(40).collect() }),
        }
    }
}

/// The section `log` of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogOptions {
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`, which is about the programs of this project (others say warnings
    /// and errors at most), or directives like `info,stratavore_raft=debug`, which are taken as they are.
    pub level: String,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { format: LogFormat::Auto, level: "info".to_owned() }
    }
}

/// Why there is no log output.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("log format {text:?} is not known: use auto, human or json")]
    Format { text: String },
    #[error(
        "log level {text:?} is not valid: use error, warn, info, debug or trace, or e.g. info,stratavore_raft=debug"
    )]
    Level { text: String, source: tracing_subscriber::filter::ParseError },
    #[error("log output has been set up before")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

impl LogOptions {
    /// # Errors
    /// [`LogError::Level`].
    pub fn filter(&self) -> Result<EnvFilter, LogError> {
        EnvFilter::try_new(self.directives())
            .map_err(|source| LogError::Level { text: self.level.clone(), source })
    }

    /// Libraries speak of every step of theirs at `info`: an election alone is twenty lines.
    fn directives(&self) -> String {
        match self.level.as_str() {
            "info" | "debug" | "trace" => format!("warn,stratavore={}", self.level),
            directives => directives.to_owned(),
        }
    }

    fn is_json(&self) -> bool {
        match self.format {
            LogFormat::Json => true,
            LogFormat::Human => false,
            LogFormat::Auto => !std::io::stderr().is_terminal(),
        }
    }
}

/// Sets up log output for this process.
///
/// # Errors
/// [`LogError::Level`], or [`LogError::Twice`] on a second call.
pub fn init(options: &LogOptions) -> Result<(), LogError> {
    let builder = tracing_subscriber::fmt().with_env_filter(options.filter()?).with_writer(std::io::stderr);
    if options.is_json() {
        builder.json().flatten_event(true).with_current_span(false).finish().try_init()?;
    } else {
        let colours =
            std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty());
        builder.with_ansi(colours).with_target(false).finish().try_init()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_about_our_own_programs() {
        let with = |level: &str| LogOptions { level: level.to_owned(), ..LogOptions::default() }.directives();
        assert_eq!(with("debug"), "warn,stratavore=debug");
        assert_eq!(with("error"), "error");
        assert_eq!(with("debug,hyper=off"), "debug,hyper=off");
        // The prefix covers all crates of the project: a subscriber with this filter lets their events through.
        let filter = EnvFilter::new(with("info"));
        tracing::subscriber::with_default(tracing_subscriber::fmt().with_env_filter(filter).finish(), || {
            assert!(tracing::enabled!(target: "stratavore_node::server", tracing::Level::INFO));
            assert!(!tracing::enabled!(target: "openraft::engine", tracing::Level::INFO));
            assert!(tracing::enabled!(target: "openraft::engine", tracing::Level::WARN));
        });
    }

    #[test]
    fn levels_and_formats_are_checked() {
        let with = |level: &str| LogOptions { level: level.to_owned(), ..LogOptions::default() };
        assert!(with("info,stratavore_raft=debug").filter().is_ok());
        assert!(matches!(with("loud=very").filter(), Err(LogError::Level { .. })));
        assert_eq!("json".parse::<LogFormat>().unwrap(), LogFormat::Json);
        assert!("xml".parse::<LogFormat>().is_err());
    }
}
