//! What was typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use stratavore_settings::log::LogFormat;

/// Supervises runners on one host of a Stratavore cluster.
#[derive(Debug, Parser)]
#[command(name = "stratavore-agent", version, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Form of the log on stderr: human on a terminal, JSON otherwise
    #[arg(long, global = true, value_name = "auto|human|json")]
    pub(crate) log_format: Option<LogFormat>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make this host part of a cluster; then `run`
    Join(Join),
    /// Connect and supervise until SIGTERM, which leaves every runner alive
    Run(Run),
    /// End the agent; with --runners also everything it runs, even when no node can be reached
    Stop(Stop),
    /// Say where the cluster is now, after a restore that this host does not find by itself
    Trust(Trust),
    /// Print the version
    Version,
}

#[derive(Debug, Args)]
pub(crate) struct Join {
    /// Where this host keeps its identity and its runners
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// Join ports of nodes, by default 50054
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',', required = true)]
    pub(crate) server: Vec<String>,
    /// File with the token, `-` for stdin; else the variable STRATAVORE_TOKEN
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// This host joined after the backup that was restored: it keeps its id, its key and its runners
    #[arg(long)]
    pub(crate) again: bool,
    /// Name of the host in the cluster [default: the host's own name]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Label that placement can ask for, may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub(crate) labels: Vec<(String, String)>,
    /// Runners that fit on this host at once
    #[arg(long, default_value_t = SLOTS_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=SLOTS_MAX))]
    pub(crate) slots: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The directory given to `join`
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// Configuration file instead of the usual places
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// The directory given to `join`
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// Also end every runner, each by its stop ladder
    #[arg(long)]
    pub(crate) runners: bool,
    /// How long to wait for the end
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Trust {
    /// The directory given to `join`
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// Agent ports of nodes, by default 50052; the first that the cluster's CA certifies is believed
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',', required = true)]
    pub(crate) node: Vec<String>,
}

/// Slots of a host whose owner names none.
const SLOTS_DEFAULT: u32 = 1000;

/// The list of all runners must fit one frame of 1 MiB; a report is about 100 bytes.
const SLOTS_MAX: i64 = 5000;

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("KEY=VALUE is expected".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_join_line_parses() {
        let line = "stratavore-agent join --data-dir d --server a:1,b:2 --token-file - --label gpu=yes --label zone=";
        let Command::Join(join) = Arguments::parse_from(line.split(' ')).command else {
            panic!("not a join")
        };
        assert_eq!((join.server.len(), join.slots), (2, SLOTS_DEFAULT));
        assert_eq!(join.labels[1], ("zone".to_owned(), String::new()));
        let bad = "stratavore-agent join --data-dir d --server a:1 --label =x";
        assert!(Arguments::try_parse_from(bad.split(' ')).is_err());
    }
}
