//! `cluster export`: the replicated state as a node has it, as JSON.

use std::io::Write;
use std::process::ExitCode;

use stratavore_proto::v1::ExportStateRequest;

use super::{App, OK};
use crate::client;
use crate::errors::{Exit, Failure, Result};

const DOING: &str = "export the state of the cluster";

/// Prints the state at this applied index, or as it is now.
///
/// # Errors
/// Exit 5 when the node is at another index; what the cluster says.
pub(crate) async fn run(app: &App, at: Option<u64>) -> Result<ExitCode> {
    let mut stream = app
        .client()?
        .open(DOING, false, async |channel| {
            client::cluster(channel).export_state(ExportStateRequest { at: at.unwrap_or_default() }).await
        })
        .await?;
    let mut stdout = std::io::stdout().lock();
    loop {
        match stream.message().await.map_err(|status| Failure::from_status(&status, DOING))? {
            Some(piece) if !piece.data.is_empty() => stdout.write_all(&piece.data)?,
            Some(_) => break,
            None => {
                return Err(Failure::new(Exit::Generic, format!("cannot {DOING}"))
                    .cause("the node ended before it was whole")
                    .next("try again"));
            }
        }
    }
    stdout.flush()?;
    OK
}
