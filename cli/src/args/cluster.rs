//! Arguments of the commands about the control plane.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use uuid::Uuid;

use super::StatusArgs;
use super::value;
use crate::cmd::complete;

/// `cluster`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ClusterArgs {
    #[command(subcommand)]
    pub(crate) command: ClusterCommand,
}

/// An idempotency key.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct RequestId {
    /// Idempotency key.
    #[arg(long, value_name = "UUID")]
    pub(crate) request_id: Option<Uuid>,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Show the nodes, and what the loss of one would mean.
    Status(StatusArgs),
    /// Take a node out for good: its key is void at once, and a node without a vote takes its place.
    Remove {
        /// Id of the node (stratavore cluster status).
        #[arg(value_name = "NODE", add = complete::nodes())]
        node: u64,
        /// Although an even number of voters is left.
        #[arg(long)]
        allow_even: bool,
        #[command(flatten)]
        request: RequestId,
    },
    /// Let another node lead; without NODE the one that is most up to date.
    TransferLeader {
        #[arg(value_name = "NODE", add = complete::nodes())]
        node: Option<u64>,
    },
    /// Save everything into a file: a backup. It holds the cluster's signing key.
    Snapshot {
        /// The file to make; what exists is not overwritten.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Print the whole replicated state as JSON, secrets left out; to look into it, or to compare nodes.
    Export {
        /// Only at this applied index (stratavore status); by default as it is now.
        #[arg(long, value_name = "INDEX", value_parser = clap::value_parser!(u64).range(1..))]
        at: Option<u64>,
    },
    /// Put the commands of this version in force, once all nodes run it; afterwards there is no way back.
    Finalize {
        /// Another version than the newest.
        #[arg(long, value_name = "N")]
        version: Option<u32>,
        #[command(flatten)]
        request: RequestId,
    },
    /// Announce a planned absence of the control plane, so that no runner stops because of it.
    Maintenance {
        /// How long, at most 30m.
        #[arg(long = "for", value_name = "DURATION", value_parser = value::duration, required_unless_present = "end")]
        length: Option<Duration>,
        /// It is over.
        #[arg(long, conflicts_with = "length")]
        end: bool,
        #[command(flatten)]
        request: RequestId,
    },
    /// The time that the cluster goes by.
    Clock {
        #[command(subcommand)]
        command: ClockCommand,
    },
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ClockCommand {
    /// Lower it to the real time after a wrong clock drove it ahead; unused tokens are void then.
    Reset(RequestId),
}
