//! Durable writes, one request each: three nodes, fsync on, mTLS, beside etcd in the same run.

use crate::bench::sides::{Aims, Ours, REPETITIONS, Runs, compared, etcd, etcd_writers, runtime};
use crate::bench::{Effort, Figure};
use crate::load::{Span, closed_loop};

const CLIENTS: [(usize, Aims); 3] = [
    (1, Aims { rate: "", p50: "<= 0.75x", p99: "" }),
    (64, Aims { rate: ">= 2x", p50: "", p99: "<= 0.5x" }),
    (512, Aims { rate: ">= 1.8x", p50: "", p99: "<= 0.5x" }),
];

/// Writes of 1, 64 and 512 clients to the leader.
#[must_use]
pub fn writes(effort: Effort) -> Vec<Figure> {
    let runtime = runtime();
    let ours = Ours::start(&runtime);
    let peer = etcd(&runtime);
    let span = Span::seconds(effort.seconds(2));
    let mut figures = Vec::new();
    for (clients, aims) in CLIENTS {
        let (mut mine, mut theirs) = (Runs::default(), Runs::default());
        // In turns, so that what disturbs the machine disturbs both.
        for _ in 0..REPETITIONS {
            let writers = ours.writers(&runtime, ours.farm.leader(), clients);
            mine.push(runtime.block_on(closed_loop(writers, span)));
            if let Some(peer) = &peer {
                let writers = etcd_writers(peer, &runtime, peer.leader(&runtime), clients);
                theirs.push(runtime.block_on(closed_loop(writers, span)));
            }
        }
        figures.extend(compared(&format!("durable_{clients}"), &mine, &theirs, aims));
    }
    figures
}
