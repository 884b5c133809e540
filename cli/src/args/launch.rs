//! What a launch may say; shared by `launch P` and bare `stratavore P`.

use std::time::Duration;

use clap::{ArgAction, Args, ValueEnum};
use uuid::Uuid;

use super::value;
use crate::cmd::complete;

/// More runners than this are not launched by one command: one log entry holds them all.
const COUNT_MAX: i64 = 1000;

/// What happens to a runner whose host lost contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnDisconnect {
    /// Keep it; it is never replaced while its fate is unknown.
    Keep,
    /// Stop it and start it elsewhere.
    Stop,
}

/// What happens when the command itself ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Restart {
    Never,
    OnFailure,
    Always,
}

/// `launch P …` and `stratavore P …`.
#[derive(Debug, Clone, Args)]
pub(crate) struct LaunchArgs {
    /// The project (stratavore projects).
    #[arg(value_name = "PROJECT", add = complete::projects())]
    pub(crate) project: String,
    /// How many runners to start.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=COUNT_MAX))]
    pub(crate) count: u32,
    /// Name of the runner; by default PROJECT-<n>.
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Set an environment variable; without a value the present one is handed on.
    #[arg(short = 'e', long = "env", value_name = "KEY=VALUE", value_parser = value::env_var, action = ArgAction::Append)]
    pub(crate) env: Vec<(String, String)>,
    /// Directory on the host; by default the project's path.
    #[arg(long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// Only on this host.
    #[arg(long, value_name = "HOST", add = complete::hosts())]
    pub(crate) host: Option<String>,
    /// Only on hosts with this label.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = value::pair, action = ArgAction::Append)]
    pub(crate) labels: Vec<(String, String)>,
    /// Slots it takes on its host.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) slots: u32,
    /// Reserve and limit CPU: 2, 0.5, 500m.
    #[arg(long, value_name = "CORES", value_parser = value::cpu_milli)]
    pub(crate) cpu: Option<u32>,
    /// Reserve and limit memory: 512M, 2G.
    #[arg(long, value_name = "BYTES", value_parser = value::bytes)]
    pub(crate) memory: Option<u64>,
    /// Pipes instead of a terminal; stdout and stderr stay apart.
    #[arg(long)]
    pub(crate) no_tty: bool,
    /// Do not attach.
    #[arg(short = 'd', long)]
    pub(crate) detach: bool,
    /// What happens when its host loses contact (default: keep).
    #[arg(long, value_enum)]
    pub(crate) on_disconnect: Option<OnDisconnect>,
    /// How long a `stop` runner may live without contact.
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub(crate) hold: Option<Duration>,
    /// What happens when its command ends; on-failure and always imply --on-disconnect stop.
    #[arg(long, value_enum, default_value_t = Restart::Never)]
    pub(crate) restart: Restart,
    /// Refuse (exit 6) instead of queueing when quota or capacity is missing.
    #[arg(long)]
    pub(crate) no_queue: bool,
    /// Idempotency key: the same one twice launches once.
    #[arg(long, value_name = "UUID")]
    pub(crate) request_id: Option<Uuid>,
    /// The command; by default the project's, else the host's $SHELL.
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}
