//! What a control node holds in memory after a write load, beside etcd after as many writes.

use std::time::Duration;

use crate::bench::sides::{Ours, etcd, etcd_writers, runtime};
use crate::bench::{Effort, Figure};
use crate::load::requests;
use crate::processes::memory_kib;

/// Writes of a short run.
const WRITES: u64 = 100_000;
const CLIENTS: usize = 512;
/// A hundredth of the rate that is expected.
const BOUND: Duration = Duration::from_secs(600);

/// Resident memory of the largest node.
#[must_use]
pub fn after_writes(effort: Effort) -> Vec<Figure> {
    let runtime = runtime();
    let total = effort.seconds(WRITES);
    let ours = Ours::start(&runtime);
    let writers = ours.writers(&runtime, ours.farm.leader(), CLIENTS);
    runtime.block_on(requests(writers, total, BOUND));
    let processes = ours.farm.nodes.iter().filter_map(|node| node.process.as_ref());
    let mine = mib(processes.map(|process| memory_kib(process.pid()).0).max());
    let mut figures = vec![Figure::new("control_rss", mine, "MiB", "")];
    if let Some(peer) = etcd(&runtime) {
        let writers = etcd_writers(&peer, &runtime, peer.leader(&runtime), CLIENTS);
        runtime.block_on(requests(writers, total, BOUND));
        let theirs = mib(peer.memory_kib().into_iter().max());
        figures.push(Figure::new("peer_etcd_control_rss", theirs, "MiB", ""));
        figures.push(Figure::new("control_rss_vs_etcd", mine / theirs, "ratio", "<= 1x"));
    }
    figures
}

fn mib(kib: Option<u64>) -> f64 {
    f64::from(u32::try_from(kib.unwrap_or(0)).unwrap_or(u32::MAX)) / 1024.0
}
