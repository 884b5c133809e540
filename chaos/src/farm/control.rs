//! Who leads, who votes: what the control plane says about itself, through the command line like everything else.

use serde_json::Value;

use crate::eventually::{SOON, eventually};
use crate::http;
use crate::ran::{Ran, run};

use super::LocalFarm;

impl LocalFarm {
    /// All nodes' endpoints, separated by commas.
    #[must_use]
    pub fn endpoints(&self) -> String {
        self.nodes.iter().map(super::Node::endpoint).collect::<Vec<_>>().join(",")
    }

    /// Runs the command line as the administrator, with node `at` as its only endpoint.
    #[must_use]
    #[track_caller]
    pub fn cli_through(&self, at: usize, arguments: &[&str]) -> Ran {
        let mut command =
            self.cli_command_as(&self.admin_context(), &["--cluster", &self.nodes[at].endpoint()]);
        run(command.args(arguments))
    }

    /// Position of the node that has this id or address in `cluster status`.
    fn position(&self, shown: &Value) -> Option<usize> {
        self.nodes.iter().position(|node| shown["address"] == node.endpoint().as_str())
    }

    /// The nodes as `cluster status` through any node shows them, in the order of [`LocalFarm::nodes`]; removed ones
    /// are left out.
    ///
    /// # Errors
    /// The command failed; what it said.
    pub fn node_statuses(&self) -> Result<Vec<(usize, Value)>, String> {
        let ran = self.cli(&["cluster", "status", "-o", "json"]);
        if ran.code != Some(0) {
            return Err(ran.to_string());
        }
        let items = ran.items("NodeList");
        Ok(items.into_iter().filter_map(|node| Some((self.position(&node)?, node))).collect())
    }

    /// The id of node `at`, as commands take it.
    ///
    /// # Panics
    /// When it is not shown within a minute.
    #[must_use]
    #[track_caller]
    pub fn node_id(&self, at: usize) -> String {
        eventually(&format!("the id of node {at}"), SOON, || {
            let nodes = self.node_statuses()?;
            let node = nodes.iter().find(|(position, _)| *position == at);
            node.map(|(_, node)| node["id"].to_string()).ok_or_else(|| format!("{nodes:?}"))
        })
    }

    /// One node as `cluster status` through node `through` shows it.
    ///
    /// # Errors
    /// The command failed or does not list it; what it said.
    pub fn node_as_shown(&self, at: usize, through: usize) -> Result<Value, String> {
        let ran = self.cli_through(through, &["cluster", "status", "-o", "json"]);
        if ran.code != Some(0) {
            return Err(ran.to_string());
        }
        let shown = ran.items("NodeList").into_iter().find(|node| self.position(node) == Some(at));
        shown.ok_or_else(|| ran.to_string())
    }

    /// The value of a metric without labels at node `at`.
    ///
    /// # Errors
    /// The node does not answer, or has no such metric.
    pub fn metric(&self, at: usize, name: &str) -> Result<f64, String> {
        let (_, text) = http::get(self.nodes[at].ports.metrics, "/metrics").map_err(|e| e.to_string())?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.ok_or_else(|| format!("no {name} in:\n{text}"))
    }

    /// Waits until these nodes have applied the same and have the same digest there (P24).
    ///
    /// # Panics
    /// When they do not within two minutes.
    #[track_caller]
    pub fn await_equal_states(&self, nodes: &[usize]) {
        eventually("equal states", 2 * SOON, || {
            let mut seen = Vec::new();
            for at in nodes {
                let ran = self.cli_through(*at, &["cluster", "status", "--stale", "-o", "json"]);
                if ran.code != Some(0) {
                    return Err(ran.to_string());
                }
                let cluster = &ran.json()["cluster"];
                seen.push((cluster["applied_index"].to_string(), cluster["digest"].to_string()));
            }
            if seen.iter().all(|one| *one == seen[0]) { Ok(()) } else { Err(format!("{seen:?}")) }
        });
    }

    /// Position of the node that leads and answers.
    ///
    /// # Panics
    /// When none does within a minute.
    #[must_use]
    #[track_caller]
    pub fn leader(&self) -> usize {
        self.leader_that("that answers", |_| true)
    }

    /// Waits until another node than `old` leads and answers; its position.
    ///
    /// # Panics
    /// When none does within a minute.
    #[track_caller]
    pub fn await_another_leader(&self, old: usize) -> usize {
        self.leader_that(&format!("other than {old}"), |at| at != old)
    }

    #[track_caller]
    fn leader_that(&self, what: &str, is_right: impl Fn(usize) -> bool) -> usize {
        eventually(&format!("a leader {what}"), SOON, || {
            let nodes = self.node_statuses()?;
            let leads = |node: &Value| node["role"] == "leader" && node["reachable"] == true;
            let leader = nodes.iter().find(|(at, node)| leads(node) && is_right(*at));
            leader.map(|(at, _)| *at).ok_or_else(|| format!("{nodes:?}"))
        })
    }

    /// Position of a node that runs, is a voter and does not lead.
    ///
    /// # Panics
    /// When there is none within a minute.
    #[must_use]
    #[track_caller]
    pub fn follower(&self) -> usize {
        eventually("a follower", SOON, || {
            let nodes = self.node_statuses()?;
            let follows = |node: &Value| node["role"] == "follower" && node["reachable"] == true;
            let follower = nodes.iter().find(|(_, node)| follows(node));
            follower.map(|(at, _)| *at).ok_or_else(|| format!("{nodes:?}"))
        })
    }

    /// Waits until exactly `wanted` nodes are voters and all of them answer.
    ///
    /// # Panics
    /// When it is not so within two minutes.
    #[track_caller]
    pub fn await_voters(&self, wanted: usize) {
        eventually(&format!("{wanted} voters that answer"), 2 * SOON, || {
            let nodes = self.node_statuses()?;
            let voters: Vec<&Value> =
                nodes.iter().map(|(_, node)| node).filter(|node| node["voter"] == true).collect();
            let all_answer = voters.iter().all(|node| node["reachable"] == true);
            if voters.len() == wanted && all_answer { Ok(()) } else { Err(format!("{nodes:?}")) }
        });
    }
}
