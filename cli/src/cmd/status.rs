//! `status`: the cluster at a glance. Answers without quorum too, labelled.

use std::process::ExitCode;
use std::time::Duration;

use stratavore_proto::v1::{GetStatusRequest, GetStatusResponse, ReadOptions};

use super::{App, OK};
use crate::args::StatusArgs;
use crate::client::{self, Client};
use crate::errors::{Exit, Result};
use crate::view;

/// A fresh answer is worth this long a wait before the node's own state must do.
const FRESH_WITHIN: Duration = Duration::from_secs(3);

/// Prints the status.
///
/// # Errors
/// Exit 7 when no node replies.
pub(crate) async fn run(app: &App, args: StatusArgs) -> Result<ExitCode> {
    let status = get(app, args.stale).await?;
    view::cluster::print_status(app.output(), &status)?;
    OK
}

/// Asks for the status: a fresh one, else (or with `stale`) a node's own.
///
/// # Errors
/// As [`run`].
pub(crate) async fn get(app: &App, stale: bool) -> Result<GetStatusResponse> {
    let client = app.client()?;
    if !stale {
        match ask(client, false, FRESH_WITHIN).await {
            Err(failure) if failure.exit() == Exit::Timeout => {}
            other => return other,
        }
    }
    ask(client, true, client::READ_TIMEOUT).await
}

/// Asks one client for the status.
///
/// # Errors
/// As [`run`].
pub(crate) async fn ask(client: &Client, stale: bool, within: Duration) -> Result<GetStatusResponse> {
    client
        .read_within(within, "read the status", async |channel| {
            client::cluster(channel)
                .get_status(GetStatusRequest { read: Some(ReadOptions { stale }), local: false })
                .await
        })
        .await
}
