//! Arguments of the commands about projects and runners.

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand, ValueEnum};
use stratavore_proto::v1;
use uuid::Uuid;

use super::value;
use crate::cmd::complete;

/// `new P`.
#[derive(Debug, Clone, Args)]
pub(crate) struct NewArgs {
    /// Name: a-z, 0-9 and hyphens, at most 63.
    pub(crate) name: String,
    /// Directory on the host in which its runners start; by default the current one.
    #[arg(long, value_name = "DIR-ON-HOST")]
    pub(crate) path: Option<String>,
    /// How many runners may live at once (default 5).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_runners: Option<u32>,
    /// Idempotency key.
    #[arg(long, value_name = "UUID")]
    pub(crate) request_id: Option<Uuid>,
    /// The command of its runners; by default the host's $SHELL.
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

/// `projects`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ProjectsArgs {
    /// Only this one.
    #[arg(add = complete::projects())]
    pub(crate) name: Option<String>,
    /// Answer from the node's own state, without asking the leader.
    #[arg(long)]
    pub(crate) stale: bool,
    /// Further columns.
    #[arg(long)]
    pub(crate) verbose: bool,
}

/// `quotas`.
#[derive(Debug, Clone, Args)]
pub(crate) struct QuotasArgs {
    #[command(subcommand)]
    pub(crate) command: Option<QuotasCommand>,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum QuotasCommand {
    /// Show every project's quota.
    List,
    /// Change a quota.
    Set {
        #[arg(add = complete::projects())]
        project: String,
        #[arg(value_enum)]
        quota: Quota,
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        value: u32,
        /// Idempotency key.
        #[arg(long, value_name = "UUID")]
        request_id: Option<Uuid>,
    },
}

/// What can be limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Quota {
    /// Runners of the project that may live at once.
    MaxRunners,
}

/// Runner states as typed and printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum State {
    Pending,
    Starting,
    Running,
    Paused,
    Stopping,
    Terminated,
    Failed,
    Lost,
}

impl State {
    /// The wire's word for it.
    pub(crate) fn wire(self) -> v1::RunnerState {
        match self {
            Self::Pending => v1::RunnerState::Pending,
            Self::Starting => v1::RunnerState::Starting,
            Self::Running => v1::RunnerState::Running,
            Self::Paused => v1::RunnerState::Paused,
            Self::Stopping => v1::RunnerState::Stopping,
            Self::Terminated => v1::RunnerState::Terminated,
            Self::Failed => v1::RunnerState::Failed,
            Self::Lost => v1::RunnerState::Lost,
        }
    }

    /// Terminated or failed: the epoch is over.
    pub(crate) fn is_ended(self) -> bool {
        matches!(self, Self::Terminated | Self::Failed)
    }
}

/// `runners` (`ps`).
#[derive(Debug, Clone, Args)]
pub(crate) struct RunnersArgs {
    #[command(subcommand)]
    pub(crate) command: Option<RunnersCommand>,
    #[command(flatten)]
    pub(crate) list: RunnersListArgs,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum RunnersCommand {
    /// Give a project and a name to a runner that a host had and the cluster did not know (project `orphaned`).
    Adopt {
        /// Name, id or unique id prefix.
        #[arg(value_name = "RUNNER", add = complete::runners())]
        runner: String,
        /// Where it belongs; it counts against that quota.
        #[arg(long, value_name = "PROJECT", add = complete::projects())]
        project: String,
        /// Its new name.
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Idempotency key.
        #[arg(long, value_name = "UUID")]
        request_id: Option<Uuid>,
    },
    /// Vouch that a lost runner is dead: it ends, or starts elsewhere (--on-disconnect stop).
    DeclareDead {
        /// Name, id or unique id prefix.
        #[arg(value_name = "RUNNER", add = complete::runners())]
        runner: String,
        /// Do not ask.
        #[arg(short = 'y', long)]
        yes: bool,
        /// Idempotency key.
        #[arg(long, value_name = "UUID")]
        request_id: Option<Uuid>,
    },
}

/// What `runners` shows.
#[derive(Debug, Clone, Args)]
pub(crate) struct RunnersListArgs {
    /// Only this project's (same as --project).
    #[arg(value_name = "PROJECT", add = complete::projects())]
    pub(crate) only: Option<String>,
    /// Only this project's.
    #[arg(long, conflicts_with = "only", add = complete::projects())]
    pub(crate) project: Option<String>,
    /// Ended ones too.
    #[arg(short = 'a', long)]
    pub(crate) all: bool,
    /// Only those in these states.
    #[arg(long, visible_alias = "status", value_enum, value_delimiter = ',')]
    pub(crate) state: Vec<State>,
    /// Answer from the node's own state, without asking the leader.
    #[arg(long)]
    pub(crate) stale: bool,
    /// Further columns.
    #[arg(long)]
    pub(crate) verbose: bool,
}

/// Commands that name one runner and nothing else.
#[derive(Debug, Clone, Args)]
pub(crate) struct RunnerArg {
    /// Name, id or unique id prefix.
    #[arg(value_name = "RUNNER", add = complete::runners())]
    pub(crate) runner: String,
}

/// `restart R`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RestartArgs {
    /// Name, id or unique id prefix.
    #[arg(value_name = "RUNNER", add = complete::runners())]
    pub(crate) runner: String,
    /// Idempotency key.
    #[arg(long, value_name = "UUID")]
    pub(crate) request_id: Option<Uuid>,
}

/// `attach [R]`.
#[derive(Debug, Clone, Args)]
pub(crate) struct AttachArgs {
    /// Name, id or unique id prefix; without it the only live runner, or the newest.
    #[arg(value_name = "RUNNER", add = complete::runners())]
    pub(crate) runner: Option<String>,
    /// Watch only: no key reaches the runner.
    #[arg(long, visible_alias = "read-only", conflicts_with = "steal")]
    pub(crate) observe: bool,
    /// Take over the keyboard from whoever has it.
    #[arg(long)]
    pub(crate) steal: bool,
    /// Keys that detach, e.g. ctrl-p,ctrl-q (default: ctrl-],d).
    #[arg(long, value_name = "KEYS", env = "STRATAVORE_DETACH_KEYS", hide_env_values = true)]
    pub(crate) detach_keys: Option<String>,
    /// Without a terminal: from the first byte instead of from now.
    #[arg(long)]
    pub(crate) from_start: bool,
}

/// `send R TEXT|--key K`.
#[derive(Debug, Clone, Args)]
pub(crate) struct SendArgs {
    /// Name, id or unique id prefix.
    #[arg(value_name = "RUNNER", add = complete::runners())]
    pub(crate) runner: String,
    /// Text to type, as it is (no newline is added); several words are joined by a blank.
    #[arg(value_name = "TEXT", required_unless_present = "keys")]
    pub(crate) text: Vec<String>,
    /// A key to press after the text: enter, tab, esc, up, f5, ctrl-c, alt-x, …
    #[arg(short = 'k', long = "key", value_name = "KEY", add = complete::keys())]
    pub(crate) keys: Vec<String>,
    /// Although somebody else drives.
    #[arg(long)]
    pub(crate) steal: bool,
}

/// `logs R`.
#[derive(Debug, Clone, Args)]
pub(crate) struct LogsArgs {
    /// Name, id or unique id prefix.
    #[arg(value_name = "RUNNER", required_unless_present = "runner_flag", add = complete::runners())]
    pub(crate) runner: Option<String>,
    #[arg(long = "runner", hide = true, conflicts_with = "runner", value_name = "RUNNER")]
    pub(crate) runner_flag: Option<String>,
    /// Go on with new output.
    #[arg(short = 'f', long)]
    pub(crate) follow: bool,
    /// Only the last N lines.
    #[arg(long, visible_alias = "limit", value_name = "N")]
    pub(crate) tail: Option<u64>,
    /// The start before this one, of a runner that its --restart policy started again.
    #[arg(long, conflicts_with = "follow")]
    pub(crate) previous: bool,
    /// Only what was written since: 10m (ago) or an RFC 3339 time.
    #[arg(long, value_name = "TIME", value_parser = value::point_in_time)]
    pub(crate) since: Option<i64>,
}

/// `kill R…|--project P|all`.
#[derive(Debug, Clone, Args)]
pub(crate) struct KillArgs {
    /// Names, ids or unique id prefixes; `all` for every live runner.
    #[arg(value_name = "RUNNER", required_unless_present = "project", add = complete::runners())]
    pub(crate) targets: Vec<String>,
    /// Every live runner of a project.
    #[arg(long, value_name = "PROJECT", num_args = 0..=1, default_missing_value = "", add = complete::projects())]
    pub(crate) project: Option<String>,
    /// KILL at once; closes the record of a lost runner that is kept.
    #[arg(long)]
    pub(crate) force: bool,
    /// Do not ask before a bulk kill.
    #[arg(short = 'y', long)]
    pub(crate) yes: bool,
    /// Idempotency key.
    #[arg(long, value_name = "UUID")]
    pub(crate) request_id: Option<Uuid>,
}

/// `wait R`.
#[derive(Debug, Clone, Args)]
pub(crate) struct WaitArgs {
    /// Name, id or unique id prefix.
    #[arg(value_name = "RUNNER", add = complete::runners())]
    pub(crate) runner: String,
    /// Wait for this state; by default for the end.
    #[arg(long = "for", value_name = "STATE", value_enum)]
    pub(crate) state: Option<State>,
    /// Exit as the runner's command did (128 + signal when one ended it).
    #[arg(long)]
    pub(crate) propagate_exit: bool,
}

/// `watch [P]`.
#[derive(Debug, Clone, Args)]
pub(crate) struct WatchArgs {
    /// Only this project's runners.
    #[arg(value_name = "PROJECT", add = complete::projects())]
    pub(crate) only: Option<String>,
    /// Only this project's runners.
    #[arg(long, conflicts_with = "only", add = complete::projects())]
    pub(crate) project: Option<String>,
}

/// `events [subscribe]`.
#[derive(Debug, Clone, Args)]
pub(crate) struct EventsArgs {
    /// Accepted and without effect: events are always a subscription.
    #[arg(value_name = "subscribe", value_parser = ["subscribe"], hide_possible_values = true)]
    pub(crate) subscribe: Option<String>,
    /// After this event (1.42.0), or after everything of a log index (42).
    #[arg(long, value_name = "ID|INDEX", value_parser = value::event_position)]
    pub(crate) since: Option<value::EventPosition>,
    /// Print what is there and end.
    #[arg(long)]
    pub(crate) no_follow: bool,
    /// Only this project's.
    #[arg(long, value_parser = NonEmptyStringValueParser::new(), add = complete::projects())]
    pub(crate) project: Option<String>,
    /// Only these types: exact (runner.started) or a prefix (runner.*).
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',')]
    pub(crate) types: Vec<String>,
}
