//! A log in another order, by other actors.

use stratavore_model::{Actor, Entry, NodeId};

pub(crate) fn shuffle(entries: &mut [Entry], seed: u64) {
    let mut random = seed | 1;
    for at in (1..entries.len()).rev() {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let other = (random % (at as u64 + 1)) as usize;
        entries.swap(at, other);
    }
    // Some under other names.
    for entry in entries.iter_mut().step_by(17) {
        entry.actor = Actor::Node(NodeId(1));
    }
}
