//! Linearizable reads of one record, beside etcd in the same run.

use crate::bench::sides::{Aims, Ours, REPETITIONS, Runs, compared, etcd, etcd_readers, runtime};
use crate::bench::{Effort, Figure};
use crate::load::{Span, closed_loop};

const AIMS: Aims = Aims { rate: ">= 4x", p50: "", p99: "" };

/// Reads of 64 and 512 clients from the leader.
#[must_use]
pub fn linearizable(effort: Effort) -> Vec<Figure> {
    let runtime = runtime();
    let ours = Ours::start(&runtime);
    let peer = etcd(&runtime);
    let span = Span::seconds(effort.seconds(2));
    let mut figures = Vec::new();
    for clients in [64, 512] {
        let (mut mine, mut theirs) = (Runs::default(), Runs::default());
        for _ in 0..REPETITIONS {
            let readers = ours.readers(&runtime, ours.farm.leader(), clients);
            mine.push(runtime.block_on(closed_loop(readers, span)));
            if let Some(peer) = &peer {
                let readers = etcd_readers(peer, &runtime, peer.leader(&runtime), clients);
                theirs.push(runtime.block_on(closed_loop(readers, span)));
            }
        }
        figures.extend(compared(&format!("reads_{clients}"), &mine, &theirs, AIMS));
    }
    figures
}
