//! Flags that every command takes, before or after its name.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, ValueEnum};

use super::value;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Table,
    /// One JSON value (events: one object per line).
    Json,
}

/// What was typed; [`crate::context`] says what it means.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Globals {
    /// Talk to these nodes; certificates still come from the context.
    #[arg(long, global = true, env = "STRATAVORE_CLUSTER", value_name = "HOST:PORT", value_delimiter = ',')]
    #[arg(hide_env_values = true)]
    pub(crate) cluster: Vec<String>,
    /// A context by name, or a context file (when it holds a `/` or ends in .yaml).
    #[arg(long, global = true, env = "STRATAVORE_CONTEXT", value_name = "NAME|FILE", hide_env_values = true)]
    #[arg(add = crate::cmd::complete::contexts())]
    pub(crate) context: Option<String>,
    /// Output format.
    #[arg(short = 'o', long, global = true, env = "STRATAVORE_OUTPUT", value_enum, hide_env_values = true)]
    pub(crate) output: Option<Output>,
    /// Give up after this long, with exit code 8.
    #[arg(long, global = true, value_name = "DURATION", value_parser = value::duration)]
    pub(crate) timeout: Option<Duration>,
    /// Read contexts from this file instead of ~/.config/stratavore/contexts.yaml.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Tell on stderr what is tried (request id, endpoints, retries).
    #[arg(long, global = true)]
    pub(crate) debug: bool,
    /// Never ask, not even on a terminal.
    #[arg(long, global = true, env = "STRATAVORE_NO_INPUT", value_parser = FalseyValueParser::new())]
    #[arg(hide_env_values = true)]
    pub(crate) no_input: bool,
    #[arg(long, global = true, hide = true)]
    pub(crate) god: bool,
}

impl Globals {
    /// The output format, by default for people.
    pub(crate) fn output(&self) -> Output {
        self.output.unwrap_or_default()
    }

    /// The same flags, but for another context and no other endpoints.
    #[must_use]
    pub(crate) fn with_context(&self, name: &str) -> Self {
        Self { context: Some(name.to_owned()), cluster: Vec::new(), ..self.clone() }
    }

    /// `self` was typed before the project name of a smart launch, `later` after it: what was typed on the
    /// command line beats what came from the environment, and the later of two typed values wins.
    #[must_use]
    pub(crate) fn merged(self, later: Self, typed: &ArgMatches) -> Self {
        let newer = |id: &str| typed.value_source(id) == Some(ValueSource::CommandLine);
        Self {
            cluster: if newer("cluster") { later.cluster } else { self.cluster },
            context: if newer("context") { later.context } else { self.context },
            output: if newer("output") { later.output } else { self.output },
            timeout: later.timeout.or(self.timeout),
            config: later.config.or(self.config),
            debug: self.debug || later.debug,
            no_input: self.no_input || later.no_input,
            god: self.god || later.god,
        }
    }
}
