//! The frames that desired state travels in. A set that does not fit one frame comes in several (`more`); a start
//! order is only in it for epochs that the host cannot know yet.

use std::time::Duration;

use prost::Message;
use sha2::{Digest, Sha256};
use stratavore_model::query::{DesiredRunner, DesiredWant};
use stratavore_model::{Epoch, HostId, State};
use stratavore_proto::v1;
use stratavore_proto::{AGENT_PROTOCOL_MAX, frame};

use crate::convert::{id, runner};

/// Lines of one frame together; what is around them and the lengths fit into the rest.
const LINES_BYTES_MAX: usize = frame::FRAME_BYTES_MAX - 64 * 1024;

/// How often agents and nodes talk when nothing happens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Periods {
    /// Every agent gets the full set again, whatever was sent before, and sends its own.
    pub(crate) resync: Duration,
    /// The load report is for people and planning, not for liveness.
    pub(crate) load_report: Duration,
}

fn millis(period: Duration) -> u64 {
    u64::try_from(period.as_millis()).unwrap_or(u64::MAX)
}

/// One line of a set.
pub(crate) fn line(
    state: &State,
    wanted: &DesiredRunner,
    host_epoch: Epoch,
    with_start: bool,
) -> v1::DesiredRunner {
    let mut line = v1::DesiredRunner {
        runner: wanted.runner.to_string(),
        epoch: Some(id::epoch(wanted.epoch)),
        ..Default::default()
    };
    match &wanted.want {
        DesiredWant::Run => {
            line.want = v1::Want::Run as i32;
            let grace = state.cluster().map_or(0, |cluster| cluster.lease.kill_grace_ms);
            line.start = state
                .runner(wanted.runner)
                .filter(|_| with_start)
                .map(|record| runner::start(record, host_epoch, grace));
        }
        DesiredWant::Stop { force, reason } => {
            line.want = v1::Want::Stop as i32;
            line.force = *force;
            line.stop_reason.clone_from(reason);
        }
        DesiredWant::Gone => line.want = v1::Want::Gone as i32,
    }
    line
}

/// Cuts `lines` into frames of one index; all but the last say that more follow.
pub(crate) fn chunks(lines: Vec<v1::DesiredRunner>, index: Epoch, full: bool) -> Vec<v1::Desired> {
    let empty = || v1::Desired { index: Some(id::epoch(index)), full, runners: Vec::new(), more: false };
    let mut frames = vec![empty()];
    let mut bytes = 0;
    for line in lines {
        let length = line.encoded_len() + 8;
        if bytes + length > LINES_BYTES_MAX && bytes > 0 {
            frames.push(empty());
            bytes = 0;
        }
        bytes += length;
        if let Some(frame) = frames.last_mut() {
            frame.runners.push(line);
        }
    }
    let last = frames.len() - 1;
    frames.iter_mut().take(last).for_each(|frame| frame.more = true);
    frames
}

/// What a new connection is told first, but for the set.
pub(crate) fn message(state: &State, host: HostId, host_epoch: Epoch, periods: Periods) -> v1::Welcome {
    let cluster = state.cluster();
    let lease = cluster.map(|cluster| cluster.lease).unwrap_or_default();
    v1::Welcome {
        protocol: AGENT_PROTOCOL_MAX,
        host_epoch: Some(id::epoch(host_epoch)),
        desired: None,
        nodes: gateways(state, host),
        incarnation: state.incarnation(),
        incarnation_nonce: cluster
            .map(|cluster| cluster.incarnation.nonce.to_vec().into())
            .unwrap_or_default(),
        renew_ms: lease.renew_ms,
        lease_ms: lease.ttl_ms,
        trust_ca_der: cluster.map(|cluster| cluster.ca_cert_der.clone().into()).unwrap_or_default(),
        trusted: trusted(state),
        load_report_ms: millis(periods.load_report),
        resync_ms: millis(periods.resync),
    }
}

/// Where the nodes listen.
pub(crate) fn nodes(state: &State) -> Vec<v1::NodeAddress> {
    let address = |node: &stratavore_model::NodeRecord| v1::NodeAddress {
        id: node.id.0,
        grpc: node.addresses.grpc.clone(),
        quic: node.addresses.quic.clone(),
        raft: node.addresses.raft.clone(),
        join: node.addresses.join.clone(),
    };
    state.nodes().filter(|node| !node.removed).map(address).collect()
}

/// The nodes in the order in which `host` prefers them: a rendezvous hash spreads hosts evenly, gives each a second
/// choice of its own, and moves no others when a node comes or goes.
pub(crate) fn gateways(state: &State, host: HostId) -> Vec<v1::NodeAddress> {
    let mut nodes = nodes(state);
    nodes.sort_by_cached_key(|node| std::cmp::Reverse(weight(host, node.id)));
    nodes
}

fn weight(host: HostId, node: u64) -> [u8; 32] {
    Sha256::new().chain_update(host.as_str()).chain_update(node.to_be_bytes()).finalize().into()
}

/// Every registered key of every node, those reserved for restores too: agents accept no others (P18).
pub(crate) fn trusted(state: &State) -> Vec<v1::TrustedNode> {
    let keys = state.keys().filter(|key| !key.removed);
    keys.filter_map(|key| match key.identity {
        stratavore_model::Actor::Node(node) => {
            Some(v1::TrustedNode { id: node.0, spki_sha256: key.spki.to_vec().into() })
        }
        _ => None,
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use stratavore_proto::v1::node_message;

    const INDEX: Epoch = Epoch { incarnation: 1, index: 9 };

    fn big_line(n: usize) -> v1::DesiredRunner {
        let start = v1::RunnerStart { workdir: "x".repeat(48 * 1024), ..Default::default() };
        v1::DesiredRunner { runner: n.to_string(), start: Some(start), ..Default::default() }
    }

    #[test]
    fn rendezvous_spreads_hosts_and_moves_only_those_of_a_node_that_left() {
        let favourite = |host: HostId, nodes: &[u64]| {
            nodes.iter().copied().max_by_key(|node| weight(host, *node)).unwrap()
        };
        let hosts: Vec<HostId> = (0..300_u32).map(|n| format!("{n:0>10}").parse().unwrap()).collect();
        let mut counts = std::collections::BTreeMap::<u64, usize>::new();
        for host in &hosts {
            let before = favourite(*host, &[1, 2, 3]);
            *counts.entry(before).or_default() += 1;
            if before != 3 {
                assert_eq!(favourite(*host, &[1, 2]), before);
            }
        }
        assert!(counts.values().all(|count| (60..=140).contains(count)), "{counts:?}");
    }

    #[test]
    fn an_empty_set_is_one_complete_frame() {
        let frames = chunks(Vec::new(), INDEX, true);
        assert_eq!(frames.len(), 1);
        assert!(frames[0].full && !frames[0].more);
    }

    #[test]
    fn a_large_set_comes_in_frames_within_the_bound_and_loses_no_line() {
        let frames = chunks((0..100).map(big_line).collect(), INDEX, true);
        assert!(frames.len() > 4);
        let named: Vec<String> =
            frames.iter().flat_map(|f| f.runners.iter().map(|r| r.runner.clone())).collect();
        assert_eq!(named, (0..100).map(|n| n.to_string()).collect::<Vec<_>>());
        for (n, desired) in frames.iter().enumerate() {
            assert_eq!(desired.more, n + 1 < frames.len());
            assert!(desired.full);
            let welcome = v1::Welcome { desired: Some(desired.clone()), ..Default::default() };
            let message = v1::NodeMessage { message: Some(node_message::Message::Welcome(welcome)) };
            assert!(message.encoded_len() <= frame::FRAME_BYTES_MAX);
        }
    }
}
