//! `cluster`: the control plane itself.

use std::process::ExitCode;
use std::time::Duration;

use stratavore_proto::v1::{
    FinalizeRequest, Node, RemoveNodeRequest, ResetClockRequest, SetMaintenanceRequest, TransferLeaderRequest,
};
use uuid::Uuid;

use super::{App, OK, export, snapshot, status};
use crate::args::{ClockCommand, ClusterArgs, ClusterCommand, Output};
use crate::client;
use crate::errors::Result;
use crate::view;
use crate::view::cluster::Changed;

/// Shows the nodes, or changes something about them.
///
/// # Errors
/// Exit 7 when no node replies; the cluster's refusal.
pub(crate) async fn run(app: &App, args: ClusterArgs) -> Result<ExitCode> {
    let changed = match args.command {
        ClusterCommand::Status(args) => {
            view::cluster::print_nodes(app.output(), &status::get(app, args.stale).await?)?;
            return OK;
        }
        ClusterCommand::Remove { node, allow_even, request } => {
            return removed(app, remove(app, node, allow_even, request.request_id).await?);
        }
        ClusterCommand::TransferLeader { node } => transfer(app, node).await?,
        ClusterCommand::Snapshot { file } => snapshot::save(app, &file).await?,
        ClusterCommand::Export { at } => return export::run(app, at).await,
        ClusterCommand::Finalize { version, request } => finalize(app, version, request.request_id).await?,
        ClusterCommand::Maintenance { length, end: _, request } => {
            maintain(app, length.unwrap_or_default(), request.request_id).await?
        }
        ClusterCommand::Clock { command: ClockCommand::Reset(request) } => {
            reset_clock(app, request.request_id).await?
        }
    };
    view::cluster::print_changed(app.output(), &changed)?;
    OK
}

async fn remove(app: &App, node: u64, allow_even: bool, request_id: Option<Uuid>) -> Result<Option<Node>> {
    let answer = app
        .client()?
        .mutate(&format!("remove node {node}"), request_id, async |channel, request_id| {
            client::cluster(channel).remove_node(RemoveNodeRequest { request_id, node, allow_even }).await
        })
        .await?;
    Ok(answer.node)
}

fn removed(app: &App, node: Option<Node>) -> Result<ExitCode> {
    if let (Some(node), Output::Table) = (&node, app.output()) {
        view::tell(&format!("node {} is out for good; its directory is of no more use", node.id));
    }
    view::cluster::print_node_list(app.output(), node.as_slice())?;
    OK
}

async fn transfer(app: &App, node: Option<u64>) -> Result<Changed> {
    let doing =
        node.map_or_else(|| "hand leadership over".to_owned(), |node| format!("let node {node} lead"));
    let answer = app
        .client()?
        .read(&doing, async |channel| {
            let request = TransferLeaderRequest { node: node.unwrap_or_default() };
            client::cluster(channel).transfer_leader(request).await
        })
        .await?;
    Ok(Changed::Leader { leader: answer.leader })
}

async fn finalize(app: &App, version: Option<u32>, request_id: Option<Uuid>) -> Result<Changed> {
    let answer = app
        .client()?
        .mutate("finalize the cluster version", request_id, async |channel, request_id| {
            let request = FinalizeRequest { request_id, version: version.unwrap_or_default() };
            client::cluster(channel).finalize(request).await
        })
        .await?;
    Ok(Changed::Version { version: answer.version })
}

async fn maintain(app: &App, length: Duration, request_id: Option<Uuid>) -> Result<Changed> {
    let for_ms = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
    let doing = if for_ms == 0 { "end maintenance" } else { "begin maintenance" };
    let answer = app
        .client()?
        .mutate(doing, request_id, async |channel, request_id| {
            client::cluster(channel).set_maintenance(SetMaintenanceRequest { request_id, for_ms }).await
        })
        .await?;
    Ok(Changed::Maintenance { until: view::time::rfc3339(answer.until_unix_ms) })
}

async fn reset_clock(app: &App, request_id: Option<Uuid>) -> Result<Changed> {
    let answer = app
        .client()?
        .mutate("lower the cluster's clock", request_id, async |channel, request_id| {
            client::cluster(channel).reset_clock(ResetClockRequest { request_id }).await
        })
        .await?;
    Ok(Changed::Clock { now: view::time::rfc3339(answer.now_unix_ms) })
}
