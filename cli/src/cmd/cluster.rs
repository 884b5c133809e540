//! `cluster status`.

use std::process::ExitCode;

use super::{App, OK, status};
use crate::args::{ClusterArgs, ClusterCommand};
use crate::errors::Result;
use crate::view;

/// Prints the nodes.
///
/// # Errors
/// Exit 7 when no node replies.
pub(crate) async fn run(app: &App, args: ClusterArgs) -> Result<ExitCode> {
    let ClusterCommand::Status(args) = args.command;
    view::cluster::print_nodes(app.output(), &status::get(app, args.stale).await?)?;
    OK
}
