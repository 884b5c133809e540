//! How further nodes and the agents get into the local cluster: as strangers would, each with a token of its own.

use tokio::process::Command;

use super::programs::Programs;
use super::record::{Member, Record};
use super::start::nudge_supervisor;
use super::{Layout, ports, tool};
use crate::args::TokenRole;
use crate::cmd::App;
use crate::cmd::token::{self, Wanted};
use crate::errors::Result;
use crate::view;

/// Lets everybody join who has not, nodes first, one after the other: each is a handful of milliseconds.
///
/// # Errors
/// What the joining program says.
pub(crate) async fn all(app: &App, layout: &Layout, programs: &Programs, record: &Record) -> Result<()> {
    let servers = servers(layout, record);
    for node in record.nodes.iter().filter(|node| !layout.is_initialised(&node.name)) {
        let mut command = Command::new(&programs.node);
        command.arg("join").arg("--advertise").arg(record.listen.to_string());
        command.args(node.ports.map(ports::Ports::flags).unwrap_or_default());
        join(app, layout, command, TokenRole::Node, node, &servers).await?;
        // A registered node that does not run is in everybody's way.
        nudge_supervisor(layout)?;
    }
    for agent in record.agents.iter().filter(|agent| !layout.has_joined(&agent.name)) {
        let mut command = Command::new(&programs.agent);
        command.arg("join").arg("--name").arg(&agent.name);
        join(app, layout, command, TokenRole::Host, agent, &servers).await?;
        nudge_supervisor(layout)?;
    }
    Ok(())
}

/// Join addresses of the nodes that are part of the cluster already.
fn servers(layout: &Layout, record: &Record) -> String {
    let nodes = record.nodes.iter().filter(|node| layout.is_initialised(&node.name));
    let ports = nodes.filter_map(|node| node.ports);
    let addresses = ports.map(|ports| std::net::SocketAddr::from((record.listen, ports.join)).to_string());
    addresses.collect::<Vec<_>>().join(",")
}

async fn join(
    app: &App,
    layout: &Layout,
    mut command: Command,
    role: TokenRole,
    member: &Member,
    servers: &str,
) -> Result<()> {
    let wanted = Wanted { role, ttl: None, labels: Vec::new(), request_id: None };
    let (token, _) = token::create(app, wanted).await?;
    command.arg("--data-dir").arg(&member.data_dir).arg("--server").arg(servers).args(["--token-file", "-"]);
    let doing = format!("let {} join", member.name);
    tool::run(command, Some(&token.reveal()), &layout.log(&member.name), &doing).await?;
    view::tell(&format!("{} has joined", member.name));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nodes_that_have_joined_are_asked_to_let_others_join() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::at(dir.path());
        let ports = |join| ports::Ports { grpc: 1, quic: 2, raft: 3, join, metrics: 5 };
        let record = Record::new(&layout, [127, 0, 0, 1].into(), &[ports(4), ports(14), ports(24)], 1);
        for name in ["node-1", "node-3"] {
            std::fs::create_dir(layout.data(name)).unwrap();
            std::fs::write(layout.data(name).join("node.json"), "{}").unwrap();
        }
        assert_eq!(servers(&layout, &record), "127.0.0.1:4,127.0.0.1:24");
    }
}
