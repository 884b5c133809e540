//! `hosts`: shows and manages them.

use std::process::ExitCode;

use stratavore_proto::v1::{
    DeclareHostDeadRequest, DrainHostRequest, Host, LabelHostRequest, ListHostsRequest, ReadOptions,
    RemoveHostRequest, SetHostCordonRequest,
};

use super::{App, OK, sure};
use crate::args::{HostArg, HostsArgs, HostsCommand, HostsListArgs, Output, value::LabelChange};
use crate::client;
use crate::errors::Result;
use crate::view;

/// Shows the hosts, or changes one.
///
/// # Errors
/// The cluster's refusal.
pub(crate) async fn run(app: &App, args: HostsArgs) -> Result<ExitCode> {
    let changed = match args.command {
        None => return list(app, &args.list).await,
        Some(HostsCommand::List(args)) => return list(app, &args).await,
        Some(HostsCommand::Cordon(host)) => cordon(app, &host, true).await?,
        Some(HostsCommand::Uncordon(host)) => cordon(app, &host, false).await?,
        Some(HostsCommand::Label { host, changes }) => label(app, &host, changes).await?,
        Some(HostsCommand::Drain(host)) => drain(app, &host).await?,
        Some(HostsCommand::DeclareDead { host, yes }) => declare_dead(app, &host, yes).await?,
        Some(HostsCommand::Remove { host, force }) => remove(app, &host, force).await?,
    };
    view::host::print(app.output(), &changed.into_iter().collect::<Vec<_>>(), false)?;
    OK
}

async fn list(app: &App, args: &HostsListArgs) -> Result<ExitCode> {
    let hosts = get(app, args.all, args.stale).await?;
    view::host::print(app.output(), &hosts, args.verbose)?;
    if hosts.is_empty() && app.output() == Output::Table {
        view::tell("no hosts yet; next: stratavore token create --role host");
    }
    OK
}

/// Asks for the hosts.
///
/// # Errors
/// The cluster's refusal.
pub(crate) async fn get(app: &App, include_removed: bool, stale: bool) -> Result<Vec<Host>> {
    let answer = app
        .client()?
        .read("list the hosts", async |channel| {
            let request = ListHostsRequest { read: Some(ReadOptions { stale }), include_removed };
            client::hosts(channel).list_hosts(request).await
        })
        .await?;
    Ok(answer.hosts)
}

async fn cordon(app: &App, args: &HostArg, cordoned: bool) -> Result<Option<Host>> {
    let doing = format!("{} {}", if cordoned { "cordon" } else { "uncordon" }, args.host);
    let answer = app
        .client()?
        .mutate(&doing, args.request_id, async |channel, request_id| {
            let request = SetHostCordonRequest { request_id, host: args.host.clone(), cordoned };
            client::hosts(channel).set_host_cordon(request).await
        })
        .await?;
    Ok(answer.host)
}

async fn label(app: &App, args: &HostArg, changes: Vec<LabelChange>) -> Result<Option<Host>> {
    let mut wanted = LabelHostRequest { host: args.host.clone(), ..Default::default() };
    for change in changes {
        match change {
            LabelChange::Set(key, value) => drop(wanted.set.insert(key, value)),
            LabelChange::Remove(key) => wanted.remove.push(key),
        }
    }
    let answer = app
        .client()?
        .mutate(&format!("label {}", args.host), args.request_id, async |channel, request_id| {
            client::hosts(channel).label_host(LabelHostRequest { request_id, ..wanted.clone() }).await
        })
        .await?;
    Ok(answer.host)
}

async fn drain(app: &App, args: &HostArg) -> Result<Option<Host>> {
    let answer = app
        .client()?
        .mutate(&format!("drain host {}", args.host), args.request_id, async |channel, request_id| {
            let request = DrainHostRequest { request_id, host: args.host.clone() };
            client::hosts(channel).drain_host(request).await
        })
        .await?;
    if app.output() == Output::Table {
        view::tell(
            "what is kept stays until it ends; next: stratavore runners, and hosts uncordon takes it back",
        );
    }
    Ok(answer.host)
}

async fn declare_dead(app: &App, args: &HostArg, yes: bool) -> Result<Option<Host>> {
    sure(app, yes, &format!("Does really nothing run on {} any more? [y/N] ", args.host))?;
    let doing = format!("declare host {} dead", args.host);
    let answer = app
        .client()?
        .mutate(&doing, args.request_id, async |channel, request_id| {
            let request = DeclareHostDeadRequest { request_id, host: args.host.clone() };
            client::hosts(channel).declare_host_dead(request).await
        })
        .await?;
    Ok(answer.host)
}

async fn remove(app: &App, args: &HostArg, force: bool) -> Result<Option<Host>> {
    let answer = app
        .client()?
        .mutate(&format!("remove host {}", args.host), args.request_id, async |channel, request_id| {
            let request = RemoveHostRequest { request_id, host: args.host.clone(), force };
            client::hosts(channel).remove_host(request).await
        })
        .await?;
    Ok(answer.host)
}
