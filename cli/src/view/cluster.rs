//! The control plane and the cluster at a glance.

use std::collections::BTreeMap;

use serde::Serialize;
use stratavore_proto::v1::{self, GetStatusResponse, HostState};

use super::host::{self, HostJson};
use super::json::{self, Object};
use super::style::{BAD, CARE, GOOD, QUIET, paint};
use super::table::{Cell, Table, stdout_columns};
use super::time;
use crate::args::Output;
use crate::errors::Result;
use crate::filter;

/// The JSON shape of a node.
#[derive(Debug, Serialize)]
pub(crate) struct NodeJson {
    id: u64,
    address: String,
    role: String,
    term: u64,
    last_applied: u64,
    reachable: bool,
}

impl From<&v1::Node> for NodeJson {
    fn from(node: &v1::Node) -> Self {
        Self {
            id: node.id,
            address: node.address.clone(),
            role: node.role.clone(),
            term: node.term,
            last_applied: node.last_applied,
            reachable: node.reachable,
        }
    }
}

/// What both `status` and `cluster status` say about the answer itself.
#[derive(Debug, Serialize)]
struct ClusterJson {
    id: String,
    incarnation: u64,
    answered_by: u64,
    quorum: bool,
    applied_index: u64,
    stale: bool,
    history: String,
    version: String,
    digest: String,
    uptime_ms: u64,
    whoami: String,
    alarms: Vec<String>,
}

impl From<&GetStatusResponse> for ClusterJson {
    fn from(status: &GetStatusResponse) -> Self {
        let info = status.info.unwrap_or_default();
        Self {
            id: status.cluster_id.clone(),
            incarnation: status.incarnation,
            answered_by: status.answered_by,
            quorum: status.quorum,
            applied_index: info.applied_index,
            stale: info.stale,
            history: status.history.clone(),
            version: status.version.clone(),
            digest: status.digest.clone(),
            uptime_ms: status.uptime_ms,
            whoami: status.whoami.clone(),
            alarms: status.alarms.clone(),
        }
    }
}

#[derive(Debug, Serialize)]
struct StatusJson {
    cluster: ClusterJson,
    projects: u32,
    runners: BTreeMap<String, u32>,
    nodes: Vec<NodeJson>,
    hosts: Vec<HostJson>,
}

impl From<&GetStatusResponse> for StatusJson {
    fn from(status: &GetStatusResponse) -> Self {
        Self {
            cluster: status.into(),
            projects: status.projects,
            runners: status.runners_by_state.clone().into_iter().collect(),
            nodes: status.nodes.iter().map(NodeJson::from).collect(),
            hosts: status.hosts.iter().map(HostJson::from).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
struct NodeListJson {
    cluster: ClusterJson,
    items: Vec<NodeJson>,
}

impl From<&GetStatusResponse> for NodeListJson {
    fn from(status: &GetStatusResponse) -> Self {
        Self { cluster: status.into(), items: status.nodes.iter().map(NodeJson::from).collect() }
    }
}

/// Prints `status`.
///
/// # Errors
/// When stdout is closed.
pub(crate) fn print_status(output: Output, status: &GetStatusResponse) -> Result<()> {
    if output == Output::Json {
        return json::print(&Object::new("Status", StatusJson::from(status)));
    }
    let mut text = headline(status);
    let runners: BTreeMap<&String, &u32> = status.runners_by_state.iter().filter(|(_, n)| **n > 0).collect();
    let runners = runners.iter().map(|(state, n)| format!("{n} {state}")).collect::<Vec<_>>().join(", ");
    text.push_str(&format!(
        "{} in {} project{}\n",
        if runners.is_empty() { "no runners" } else { &runners },
        status.projects,
        if status.projects == 1 { "" } else { "s" }
    ));
    text.push_str(&alarms(status));
    text.push('\n');
    text.push_str(&node_table(&status.nodes).render(stdout_columns()));
    text.push('\n');
    if status.hosts.is_empty() {
        text.push_str("no hosts yet; next: stratavore token create --role host\n");
    } else {
        text.push_str(&host::table(&status.hosts, false).render(stdout_columns()));
    }
    super::print(&text)
}

/// Prints `cluster status`.
///
/// # Errors
/// When stdout is closed.
pub(crate) fn print_nodes(output: Output, status: &GetStatusResponse) -> Result<()> {
    if output == Output::Json {
        return json::print(&Object::new("NodeList", NodeListJson::from(status)));
    }
    let mut text = headline(status);
    text.push_str(&alarms(status));
    text.push('\n');
    text.push_str(&node_table(&status.nodes).render(stdout_columns()));
    super::print(&text)
}

fn headline(status: &GetStatusResponse) -> String {
    let info = status.info.unwrap_or_default();
    let ready = status.hosts.iter().filter(|h| h.state() == HostState::Ready).count();
    let health = match (status.quorum, ready) {
        (false, _) => paint(BAD, "no quorum"),
        (true, 0) => paint(CARE, "no host ready"),
        (true, _) if status.alarms.is_empty() => paint(GOOD, "healthy"),
        (true, _) => paint(CARE, "alarms"),
    };
    let stale = if info.stale {
        paint(
            CARE,
            &format!(", stale: node {}'s own state at index {}", status.answered_by, info.applied_index),
        )
    } else {
        format!(", index {}", info.applied_index)
    };
    let (nodes, hosts) = (counted(status.nodes.len(), "node"), counted(status.hosts.len(), "host"));
    format!(
        "cluster {}  {health}  {nodes}, {hosts} ({ready} ready){stale}, history {}\n",
        filter::one_line(&status.cluster_id),
        filter::one_line(&status.history)
    )
}

fn counted(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

fn alarms(status: &GetStatusResponse) -> String {
    status
        .alarms
        .iter()
        .map(|alarm| paint(BAD, &format!("alarm: {}", filter::one_line(alarm))) + "\n")
        .collect()
}

fn node_table(nodes: &[v1::Node]) -> Table {
    let mut table = Table::new(&["NODE", "ADDRESS", "ROLE", "TERM", "APPLIED", "REACHABLE", "VERSION"]);
    for node in nodes {
        let role =
            if node.role == "leader" { Cell::styled(GOOD, "leader") } else { node.role.as_str().into() };
        let reachable = if node.reachable { Cell::styled(GOOD, "yes") } else { Cell::styled(BAD, "no") };
        table.row(vec![
            node.id.to_string().into(),
            node.address.as_str().into(),
            role,
            node.term.to_string().into(),
            node.last_applied.to_string().into(),
            reachable,
            if node.version.is_empty() { Cell::styled(QUIET, "-") } else { node.version.as_str().into() },
        ]);
    }
    table
}

/// How long a node has been up, for people.
pub(crate) fn uptime(status: &GetStatusResponse) -> String {
    time::span(i64::try_from(status.uptime_ms).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::super::json::tests::compact;
    use super::*;

    fn status() -> GetStatusResponse {
        GetStatusResponse {
            cluster_id: "0123456789abcdef".to_owned(),
            incarnation: 1,
            answered_by: 1,
            nodes: vec![v1::Node {
                id: 1,
                address: "127.0.0.1:50051".to_owned(),
                role: "leader".to_owned(),
                term: 2,
                last_applied: 9,
                reachable: true,
                version: "0.1.0".to_owned(),
            }],
            runners_by_state: [("running".to_owned(), 2)].into(),
            projects: 1,
            info: Some(v1::ReadInfo { applied_index: 9, stale: false }),
            quorum: true,
            history: "embedded".to_owned(),
            version: "0.1.0".to_owned(),
            digest: "ab".to_owned(),
            uptime_ms: 5,
            whoami: "admin".to_owned(),
            ..Default::default()
        }
    }

    const CLUSTER: &str = concat!(
        r#""cluster":{"id":"0123456789abcdef","incarnation":1,"answered_by":1,"quorum":true,"applied_index":9,"#,
        r#""stale":false,"history":"embedded","version":"0.1.0","digest":"ab","uptime_ms":5,"whoami":"admin","alarms":[]}"#
    );
    const NODE: &str =
        r#"{"id":1,"address":"127.0.0.1:50051","role":"leader","term":2,"last_applied":9,"reachable":true}"#;

    #[test]
    fn the_status_as_json() {
        assert_eq!(
            compact(&Object::new("Status", StatusJson::from(&status()))),
            format!(
                r#"{{"apiVersion":"stratavore.v1","kind":"Status",{CLUSTER},"projects":1,"runners":{{"running":2}},"nodes":[{NODE}],"hosts":[]}}"#
            )
        );
    }

    #[test]
    fn the_nodes_as_json() {
        assert_eq!(
            compact(&Object::new("NodeList", NodeListJson::from(&status()))),
            format!(r#"{{"apiVersion":"stratavore.v1","kind":"NodeList",{CLUSTER},"items":[{NODE}]}}"#)
        );
    }

    #[test]
    fn the_headline_labels_what_is_stale_or_broken() {
        let mut broken = status();
        broken.quorum = false;
        broken.info = Some(v1::ReadInfo { applied_index: 7, stale: true });
        let text = anstream::adapter::strip_str(&headline(&broken)).to_string();
        assert!(
            text.contains("no quorum") && text.contains("stale: node 1's own state at index 7"),
            "{text}"
        );
    }
}
