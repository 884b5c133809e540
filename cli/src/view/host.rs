//! Hosts, as table and as JSON.

use std::collections::BTreeMap;

use serde::Serialize;
use stratavore_proto::v1::{self, HostState};

use super::json::known;
use super::style::{BAD, CARE, GOOD, PLAIN, QUIET};
use super::table::{Cell, Table};
use super::time;
use crate::args::Output;
use crate::errors::Result;

/// The JSON shape of a host.
#[derive(Debug, Serialize)]
pub(crate) struct HostJson {
    id: String,
    name: String,
    state: &'static str,
    cordoned: bool,
    labels: BTreeMap<String, String>,
    slots: u32,
    slots_used: u32,
    boot_id: Option<String>,
    lease_ms_left: Option<i64>,
    gateway: Option<String>,
    runners: u32,
    features: Vec<String>,
    /// P13: unbounded, bounding or bounded.
    lease: Option<String>,
    draining: bool,
}

impl From<&v1::Host> for HostJson {
    fn from(host: &v1::Host) -> Self {
        Self {
            id: host.id.clone(),
            name: host.name.clone(),
            state: state_word(host.state()),
            cordoned: host.cordoned,
            labels: host.labels.clone().into_iter().collect(),
            slots: host.slots,
            slots_used: host.slots_used,
            boot_id: known(&host.boot_id),
            lease_ms_left: host.lease_ms_left,
            gateway: known(&host.gateway),
            runners: host.runners,
            features: host.features.clone(),
            lease: known(&host.lease),
            draining: host.draining,
        }
    }
}

/// Prints hosts.
///
/// # Errors
/// When stdout is closed.
pub(crate) fn print(output: Output, hosts: &[v1::Host], verbose: bool) -> Result<()> {
    super::list(output, "HostList", hosts.iter().map(HostJson::from).collect(), || table(hosts, verbose))
}

/// The table of hosts.
pub(crate) fn table(hosts: &[v1::Host], verbose: bool) -> Table {
    let mut heads = vec!["HOST", "ID", "STATE", "SLOTS", "RUNNERS", "LEASE", "GATEWAY"];
    if verbose {
        heads.extend(["AGE", "AGENT", "FEATURES"]);
    }
    heads.push("LABELS");
    let mut table = Table::new(&heads);
    for host in hosts {
        let lease = match (host.state(), host.lease_ms_left) {
            (_, Some(ms)) => time::span(ms),
            (HostState::Ready, None) if host.lease.is_empty() => "unbounded".to_owned(),
            (HostState::Ready, None) => host.lease.clone(),
            (_, None) => "-".to_owned(),
        };
        let mut row: Vec<Cell> = vec![
            host.name.as_str().into(),
            host.id.as_str().into(),
            state_cell(host),
            format!("{}/{}", host.slots_used, host.slots).into(),
            host.runners.to_string().into(),
            lease.into(),
            if host.gateway.is_empty() { Cell::styled(QUIET, "-") } else { host.gateway.as_str().into() },
        ];
        if verbose {
            row.push(time::age(host.joined_at_unix_ms).into());
            row.push(host.agent_version.as_str().into());
            row.push(host.features.join(",").into());
        }
        let labels: BTreeMap<&String, &String> = host.labels.iter().collect();
        row.push(labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ").into());
        table.row(row);
    }
    table
}

fn state_cell(host: &v1::Host) -> Cell {
    let style = match host.state() {
        HostState::Ready if host.cordoned => CARE,
        HostState::Ready => GOOD,
        HostState::Joined => CARE,
        HostState::Unreachable => BAD,
        HostState::Removed => QUIET,
        HostState::Unspecified => PLAIN,
    };
    let cordoned = match (host.draining, host.cordoned) {
        (true, _) => ",draining",
        (false, true) => ",cordoned",
        (false, false) => "",
    };
    Cell::styled(style, format!("{}{cordoned}", state_word(host.state())))
}

/// The word for a state.
pub(crate) fn state_word(state: HostState) -> &'static str {
    match state {
        HostState::Joined => "joined",
        HostState::Ready => "ready",
        HostState::Unreachable => "unreachable",
        HostState::Removed => "removed",
        HostState::Unspecified => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::super::json::tests::compact;
    use super::*;

    #[test]
    fn a_host_as_json() {
        let host = v1::Host {
            id: "h123456789".to_owned(),
            name: "alpha".to_owned(),
            state: HostState::Ready.into(),
            labels: [("zone".to_owned(), "a".to_owned())].into(),
            slots: 1000,
            slots_used: 3,
            boot_id: "b".to_owned(),
            lease_ms_left: Some(14_000),
            gateway: "1".to_owned(),
            runners: 3,
            features: vec!["cgroup2".to_owned()],
            lease: "bounded".to_owned(),
            ..Default::default()
        };
        assert_eq!(
            compact(&HostJson::from(&host)),
            concat!(
                r#"{"id":"h123456789","name":"alpha","state":"ready","cordoned":false,"labels":{"zone":"a"},"#,
                r#""slots":1000,"slots_used":3,"boot_id":"b","lease_ms_left":14000,"gateway":"1","runners":3,"#,
                r#""features":["cgroup2"],"lease":"bounded","draining":false}"#
            )
        );
        let unknown = HostJson::from(&v1::Host::default());
        assert!(compact(&unknown).contains(r#""boot_id":null,"lease_ms_left":null,"gateway":null"#));
    }

    #[test]
    fn a_cordon_shows_beside_the_state() {
        let host = v1::Host { state: HostState::Ready.into(), cordoned: true, ..Default::default() };
        let text = anstream::adapter::strip_str(&table(&[host], false).render(None)).to_string();
        assert!(text.contains("ready,cordoned") && text.contains("unbounded"), "{text}");
    }
}
