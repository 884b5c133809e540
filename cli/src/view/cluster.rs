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
    voter: bool,
    /// P24: why it serves nothing; null while it does.
    quarantined: Option<String>,
    /// P4: how far its clock is ahead of the voters' median; null while nobody can say.
    clock_ahead_ms: Option<i64>,
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
            voter: node.voter,
            quarantined: Some(node.quarantined.clone()).filter(|why| !why.is_empty()),
            clock_ahead_ms: node.clock_ahead_ms,
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
    /// P13: until the first runner that is not kept stops by itself; null with quorum, or when there is none.
    self_stop_ms: Option<i64>,
    maintenance_until: Option<String>,
    version_in_force: u32,
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
            self_stop_ms: status.self_stop_ms,
            maintenance_until: time::rfc3339(status.maintenance_until_unix_ms),
            version_in_force: status.cluster_version,
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
    text.push_str(&availability(status));
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
    text.push_str(&availability(status));
    super::print(&text)
}

/// What an administrator changed about the control plane.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Changed {
    Leader { leader: u64 },
    Version { version: u32 },
    Maintenance { until: Option<String> },
    Clock { now: Option<String> },
    Snapshot { file: String, bytes: u64, applied_index: u64, incarnation: u64, cluster_id: String },
}

/// Prints a change: a line for people, an object for programs.
///
/// # Errors
/// When stdout is closed.
pub(crate) fn print_changed(output: Output, changed: &Changed) -> Result<()> {
    let (kind, line) = match changed {
        Changed::Leader { leader } => ("Leader", format!("node {leader} leads")),
        Changed::Version { version } => ("ClusterVersion", format!("the cluster is at version {version}")),
        Changed::Maintenance { until: Some(until) } => ("Maintenance", format!("maintenance until {until}")),
        Changed::Maintenance { until: None } => ("Maintenance", "no maintenance".to_owned()),
        Changed::Snapshot { file, bytes, applied_index, .. } => {
            ("Snapshot", format!("{file}: {bytes} bytes, everything up to index {applied_index}"))
        }
        Changed::Clock { now } => {
            ("Clock", format!("the cluster's time is {}", now.as_deref().unwrap_or_default()))
        }
    };
    match output {
        Output::Json => json::print(&Object::new(kind, changed)),
        Output::Table => super::print(&format!("{line}\n")),
    }
}

/// Prints nodes alone.
///
/// # Errors
/// When stdout is closed.
pub(crate) fn print_node_list(output: Output, nodes: &[v1::Node]) -> Result<()> {
    super::list(output, "NodeList", nodes.iter().map(NodeJson::from).collect(), || node_table(nodes))
}

/// What the nodes are good for, and until when their absence is.
fn availability(status: &GetStatusResponse) -> String {
    let voters = status.nodes.iter().filter(|node| node.voter).count();
    let present = status.nodes.iter().filter(|node| node.voter && node.reachable).count();
    let spare = present.saturating_sub(voters / 2 + 1);
    let mut lines = vec![match (status.quorum, spare) {
        (false, _) => paint(BAD, "no quorum: changes wait until more nodes are back"),
        (true, 0) if voters > 1 => paint(CARE, "the loss of one more node stops all changes"),
        (true, 0) => "one node: its loss stops all changes until it is back".to_owned(),
        (true, spare) => format!("the loss of {} stops nothing", counted(spare, "more node")),
    }];
    let learners = status.nodes.iter().filter(|node| !node.voter).map(|node| node.id.to_string());
    let learners = learners.collect::<Vec<_>>().join(", ");
    if !learners.is_empty() && voters % 2 == 1 {
        lines.push(format!(
            "without a vote: node {learners}; a second node adds no availability, voters come in pairs"
        ));
    }
    if let Some(ms) = status.self_stop_ms {
        lines.push(paint(
            CARE,
            &format!("runners that are not kept stop by themselves in {} at the earliest", time::span(ms)),
        ));
    }
    if let Some(until) = time::rfc3339(status.maintenance_until_unix_ms) {
        lines.push(paint(CARE, &format!("maintenance until {until}: holds are longer")));
    }
    if status.cluster_version < status.max_version {
        lines.push(format!(
            "version {} is in force, {} is possible: stratavore cluster finalize once all nodes run it",
            status.cluster_version, status.max_version
        ));
    }
    lines.into_iter().map(|line| line + "\n").collect()
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
        let role = match (node.role.as_str(), node.quarantined.is_empty()) {
            (_, false) => Cell::styled(BAD, "quarantined"),
            ("leader", true) => Cell::styled(GOOD, "leader"),
            (role, true) => role.into(),
        };
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
                voter: true,
                quarantined: String::new(),
                clock_ahead_ms: Some(-3),
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
            cluster_version: 2,
            ..Default::default()
        }
    }

    const CLUSTER: &str = concat!(
        r#""cluster":{"id":"0123456789abcdef","incarnation":1,"answered_by":1,"quorum":true,"applied_index":9,"#,
        r#""stale":false,"history":"embedded","version":"0.1.0","digest":"ab","uptime_ms":5,"whoami":"admin","#,
        r#""self_stop_ms":null,"maintenance_until":null,"version_in_force":2,"alarms":[]}"#
    );
    const NODE: &str = r#"{"id":1,"address":"127.0.0.1:50051","role":"leader","term":2,"last_applied":9,"reachable":true,"voter":true,"quarantined":null,"clock_ahead_ms":-3}"#;

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

    #[test]
    fn p21_what_another_node_would_be_good_for_is_said() {
        let node = |id, voter, reachable| v1::Node { id, voter, reachable, ..Default::default() };
        let said = |nodes: Vec<v1::Node>, quorum| {
            let status = GetStatusResponse { nodes, quorum, ..Default::default() };
            anstream::adapter::strip_str(&availability(&status)).to_string()
        };
        assert!(said(vec![node(1, true, true)], true).contains("its loss stops all changes"));
        let two = said(vec![node(1, true, true), node(2, false, true)], true);
        assert!(two.contains("node 2; a second node adds no availability"), "{two}");
        let three = |third| vec![node(1, true, true), node(2, true, true), node(3, true, third)];
        assert!(said(three(true), true).contains("the loss of 1 more node stops nothing"));
        assert!(said(three(false), true).contains("the loss of one more node stops all changes"));
        assert!(said(three(false), false).contains("no quorum"));
    }

    #[test]
    fn changes_as_json() {
        let json = |changed: &Changed| compact(&Object::new("X", changed));
        assert!(json(&Changed::Leader { leader: 2 }).ends_with(r#""kind":"X","leader":2}"#));
        assert!(json(&Changed::Maintenance { until: None }).ends_with(r#""until":null}"#));
    }

    #[test]
    fn p22_and_p13_what_is_not_finalized_and_maintenance_are_said() {
        let status = GetStatusResponse {
            cluster_version: 1,
            max_version: 2,
            maintenance_until_unix_ms: 1_700_000_000_000,
            ..Default::default()
        };
        let text = anstream::adapter::strip_str(&availability(&status)).to_string();
        assert!(text.contains("cluster finalize") && text.contains("maintenance until 2023-11-14"), "{text}");
    }

    #[test]
    fn p13_without_quorum_the_time_until_self_stop_is_said() {
        let status = GetStatusResponse { self_stop_ms: Some(42_000), ..Default::default() };
        let text = anstream::adapter::strip_str(&availability(&status)).to_string();
        assert!(text.contains("stop by themselves in 42s at the earliest"), "{text}");
    }
}
