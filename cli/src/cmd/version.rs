//! `version`: this program's, and the node's if one can be asked at once.

use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use stratavore_proto::v1::{GetStatusRequest, ReadOptions};

use super::{App, OK};
use crate::args::Output;
use crate::client;
use crate::errors::Result;
use crate::view;
use crate::view::json::{self, Object};

/// Nobody waits long for a version.
const NODE_WITHIN: Duration = Duration::from_secs(1);

#[derive(Debug, Serialize)]
struct VersionJson {
    client: &'static str,
    node: Option<String>,
    cluster: Option<String>,
}

/// Prints the versions.
///
/// # Errors
/// When stdout is closed; an unreachable node is none.
pub(crate) async fn run(app: &App) -> Result<ExitCode> {
    let client = env!("CARGO_PKG_VERSION");
    let node = ask(app).await.ok();
    if app.output() == Output::Json {
        let (node, cluster) = node.unzip();
        json::print(&Object::new("Version", VersionJson { client, node, cluster }))?;
        return OK;
    }
    let mut text = format!("stratavore {client}\n");
    if let Some((version, cluster)) = node {
        text.push_str(&format!("node       {version} (cluster {cluster})\n"));
    }
    view::print(&text)?;
    OK
}

async fn ask(app: &App) -> Result<(String, String)> {
    let asked = app.client()?.read_within(NODE_WITHIN, "ask for the version", async |channel| {
        client::cluster(channel)
            .get_status(GetStatusRequest { read: Some(ReadOptions { stale: true }), local: false })
            .await
    });
    let status = asked.await?;
    Ok((status.version, status.cluster_id))
}
