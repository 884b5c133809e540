//! Arguments of the commands about hosts, nodes, people and this program itself.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Subcommand, ValueEnum};
use uuid::Uuid;

use super::value::{self, LabelChange};
use crate::cmd::complete;

/// `status`.
#[derive(Debug, Clone, Args)]
pub(crate) struct StatusArgs {
    /// Answer from the node's own state, without asking the leader.
    #[arg(long)]
    pub(crate) stale: bool,
}

/// `hosts`.
#[derive(Debug, Clone, Args)]
pub(crate) struct HostsArgs {
    #[command(subcommand)]
    pub(crate) command: Option<HostsCommand>,
    #[command(flatten)]
    pub(crate) list: HostsListArgs,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct HostsListArgs {
    /// Removed ones too.
    #[arg(short = 'a', long)]
    pub(crate) all: bool,
    /// Answer from the node's own state, without asking the leader.
    #[arg(long)]
    pub(crate) stale: bool,
    /// Further columns.
    #[arg(long)]
    pub(crate) verbose: bool,
}

/// A host and an idempotency key.
#[derive(Debug, Clone, Args)]
pub(crate) struct HostArg {
    /// Name or id.
    #[arg(value_name = "HOST", add = complete::hosts())]
    pub(crate) host: String,
    /// Idempotency key.
    #[arg(long, value_name = "UUID")]
    pub(crate) request_id: Option<Uuid>,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum HostsCommand {
    /// Show the hosts.
    List(HostsListArgs),
    /// Place nothing new on a host.
    Cordon(HostArg),
    /// Place on it again.
    Uncordon(HostArg),
    /// Set (KEY=VALUE) and remove (KEY-) labels.
    Label {
        #[command(flatten)]
        host: HostArg,
        #[arg(required = true, value_name = "KEY=VALUE|KEY-", value_parser = value::label_change)]
        changes: Vec<LabelChange>,
    },
    /// Cordon a host, and move what may run elsewhere (--on-disconnect stop); what is kept stays until it ends.
    Drain(HostArg),
    /// Vouch that nothing runs on a silent host any more: its runners end, or start elsewhere.
    DeclareDead {
        #[command(flatten)]
        host: HostArg,
        /// Do not ask.
        #[arg(short = 'y', long)]
        yes: bool,
    },
    /// Take a host out of the cluster for good: its key is void at once and its runners are stopped.
    Remove {
        #[command(flatten)]
        host: HostArg,
        /// Although it has live runners.
        #[arg(long)]
        force: bool,
    },
}

/// What a join token admits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TokenRole {
    Node,
    Host,
    User,
}

/// `token`.
#[derive(Debug, Clone, Args)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    pub(crate) command: TokenCommand,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token for one join, and print it with the line to run on the other side.
    Create {
        #[arg(long, value_enum)]
        role: TokenRole,
        /// How long it may be used (default 300s).
        #[arg(long, value_name = "DURATION", value_parser = value::duration)]
        ttl: Option<Duration>,
        /// Given to the host that joins with it.
        #[arg(long = "label", value_name = "KEY=VALUE", value_parser = value::pair, action = ArgAction::Append)]
        labels: Vec<(String, String)>,
        /// Idempotency key.
        #[arg(long, value_name = "UUID")]
        request_id: Option<Uuid>,
    },
    /// Show the tokens (never their secrets).
    List,
    /// Make a token useless.
    Revoke {
        #[arg(value_name = "TOKEN-ID")]
        id: String,
        /// Idempotency key.
        #[arg(long, value_name = "UUID")]
        request_id: Option<Uuid>,
    },
}

/// `login`.
#[derive(Debug, Clone, Args)]
pub(crate) struct LoginArgs {
    /// Join address of any node.
    #[arg(long, required = true, value_name = "HOST:PORT", value_delimiter = ',')]
    pub(crate) server: Vec<String>,
    /// File with the token; `-` reads standard input. Without it: $STRATAVORE_TOKEN.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Name of the context to write; by default the cluster's id.
    #[arg(long, value_name = "CONTEXT")]
    pub(crate) name: Option<String>,
    /// User name wanted; by default $USER, or one that is free.
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// Replace a context of that name.
    #[arg(long)]
    pub(crate) replace: bool,
}

/// `context`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ContextArgs {
    #[command(subcommand)]
    pub(crate) command: Option<ContextCommand>,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ContextCommand {
    /// Show the contexts.
    List,
    /// Make a context the current one.
    Use {
        #[arg(add = complete::contexts())]
        name: String,
    },
    /// Take over the context of a file, such as the admin.yaml of a node.
    Add {
        /// Name it gets.
        name: String,
        /// The context file.
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// Replace a context of that name.
        #[arg(long)]
        replace: bool,
        /// Do not make it the current one.
        #[arg(long)]
        keep_current: bool,
    },
}

/// Shells with completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
    Powershell,
    Elvish,
}

/// `completion SHELL`.
#[derive(Debug, Clone, Args)]
pub(crate) struct CompletionArgs {
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// `help [TOPIC]`.
#[derive(Debug, Clone, Args)]
pub(crate) struct HelpArgs {
    /// A command, or `exit-codes`.
    #[arg(value_name = "COMMAND|TOPIC")]
    pub(crate) topic: Vec<String>,
}
