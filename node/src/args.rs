//! The command line of `stratavored`, as typed.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};
use stratavore_settings::Sources;
use stratavore_settings::log::LogFormat;

use crate::Advertise;

const EXIT_CODES: &str = "\
Exit codes: 0 stopped as asked, 1 other failure, 2 wrong arguments or configuration, 4 join refused, 5 directory or
port in use, 7 no server answered the join, 10 stored data damaged, 11 log below its high-water mark, 12 storage or a
vital task failed (start it again), 13 removed from the cluster (join again with an empty directory).";

/// A node of the Stratavore control plane.
#[derive(Debug, Parser)]
#[command(name = "stratavored", version, about, after_help = EXIT_CODES)]
pub struct Args {
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Check the configuration and exit: 0 when it is valid, 2 with every problem when it is not
    #[arg(long)]
    pub config_check: bool,
    #[command(flatten)]
    pub shared: Shared,
}

/// What every command takes.
#[derive(Debug, Clone, ClapArgs)]
pub struct Shared {
    /// Configuration file to use instead of the user's and the system's
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How log lines look: auto, human or json
    #[arg(long, global = true, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// How much is logged: error, warn, info, debug, trace, or directives
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
    #[command(flatten)]
    pub ports: Ports,
}

/// Where the node listens.
#[derive(Debug, Clone, ClapArgs)]
pub struct Ports {
    /// API clients and other nodes (default 50051)
    #[arg(long, global = true, value_name = "PORT")]
    pub grpc_port: Option<u16>,
    /// Agents, UDP (default 50052)
    #[arg(long, global = true, value_name = "PORT")]
    pub quic_port: Option<u16>,
    /// Other nodes' consensus (default 50053)
    #[arg(long, global = true, value_name = "PORT")]
    pub raft_port: Option<u16>,
    /// Joining hosts and people (default 50054)
    #[arg(long, global = true, value_name = "PORT")]
    pub join_port: Option<u16>,
    /// Prometheus and probes, on loopback (default 9091)
    #[arg(long, global = true, value_name = "PORT")]
    pub metrics_port: Option<u16>,
    /// Address to bind instead of the advertised one
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub listen: Option<String>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a new cluster: its CA, this first node, and an admin whose context file is D/admin.yaml
    Init {
        #[arg(long, value_name = "D")]
        data_dir: PathBuf,
        /// Host name or address that others reach this node at
        #[arg(long, value_name = "HOST[:PORT]")]
        advertise: Advertise,
    },
    /// Join a cluster with a token; then `run` makes this node part of it
    Join {
        #[arg(long, value_name = "D")]
        data_dir: PathBuf,
        /// Join ports of nodes of the cluster; any of them will do
        #[arg(long, value_name = "HOST:PORT", required = true, value_delimiter = ',')]
        server: Vec<String>,
        /// File with the token; `-` reads it from stdin
        #[arg(long, value_name = "FILE")]
        token_file: PathBuf,
        /// Host name or address that the other nodes reach this node at
        #[arg(long, value_name = "HOST[:PORT]")]
        advertise: Advertise,
    },
    /// Run the node in a data directory
    Run {
        #[arg(long, value_name = "D")]
        data_dir: PathBuf,
        /// Another address than before; the cluster is told
        #[arg(long, value_name = "HOST[:PORT]")]
        advertise: Option<Advertise>,
    },
    /// Go on with what a damaged log still has, or with one node of a lost quorum
    Recover {
        #[arg(long, value_name = "D")]
        data_dir: PathBuf,
        /// Acknowledged changes may be lost; the incarnation is raised
        #[arg(long, required = true)]
        accept_loss: bool,
        /// Most voters are gone for good: this node goes on alone, and the others are removed
        #[arg(long)]
        lost_quorum: bool,
    },
    /// Make one node of a backup, in the next incarnation; the old nodes are out of it
    Restore {
        #[arg(long, value_name = "D")]
        data_dir: PathBuf,
        /// What `stratavore cluster snapshot FILE` wrote
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// Host name or address that others reach this node at [default: that of the node that made the backup]
        #[arg(long, value_name = "HOST[:PORT]")]
        advertise: Option<Advertise>,
        /// The file `removed-keys` of a node of the old cluster: what was removed after the backup stays removed
        #[arg(long, value_name = "FILE")]
        removed_keys: Option<PathBuf>,
        /// The new incarnation is at least this, where the old cluster is known to have gone further than the backup
        #[arg(long, value_name = "N", default_value_t = 0)]
        incarnation: u64,
    },
    /// Look at the configuration
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Print the version
    Version,
}

/// What to look at.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print every value
    Show {
        /// With where it comes from
        #[arg(long)]
        source: bool,
    },
}

impl Shared {
    /// The layers of configuration, flags on top.
    #[must_use]
    pub fn sources(&self) -> Sources {
        let ports = &self.ports;
        Sources::new(self.config.clone())
            .flag("--log-format", "log.format", self.log_format)
            .flag("--log-level", "log.level", self.log_level.clone())
            .flag("--grpc-port", "daemon.grpc_port", ports.grpc_port)
            .flag("--quic-port", "daemon.quic_port", ports.quic_port)
            .flag("--raft-port", "daemon.raft_port", ports.raft_port)
            .flag("--join-port", "daemon.join_port", ports.join_port)
            .flag("--metrics-port", "daemon.metrics_port", ports.metrics_port)
            .flag("--listen", "daemon.listen", ports.listen.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn loss_has_to_be_accepted_in_words() {
        assert!(Args::try_parse_from(["stratavored", "recover", "--data-dir", "d"]).is_err());
        assert!(Args::try_parse_from(["stratavored", "recover", "--data-dir", "d", "--accept-loss"]).is_ok());
    }

    #[test]
    fn ports_may_stand_before_and_behind_the_command() {
        for line in [["--grpc-port", "7", "init"], ["init", "--grpc-port", "7"]] {
            let rest = ["--data-dir", "d", "--advertise", "localhost"];
            let args = Args::try_parse_from(["stratavored"].into_iter().chain(line).chain(rest)).unwrap();
            assert_eq!(args.shared.ports.grpc_port, Some(7));
        }
    }
}
