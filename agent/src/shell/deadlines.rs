//! Brings deadlines to shims: the newest wish per runner, one request under way per runner, so that an earlier one can
//! never arrive after a later one.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::warn;

use super::runner::Context;
use crate::epoch::RunnerKey;
use crate::failure::chain;
use crate::runner::ClientError;
use crate::shim::wire;
use crate::supervisor::{Deadline, Held, RunnerEvent, Terms};

/// What the core wants a shim to hold.
#[derive(Debug, Clone, Copy)]
struct Wish {
    deadline: Deadline,
    lower: bool,
}

/// Wishes by runner; a key without wish has a request under way.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    wishes: Mutex<BTreeMap<RunnerKey, Option<Wish>>>,
}

impl Deadlines {
    /// Notes a wish; true when [`deliver`] must be started for it.
    pub(super) fn wish(&self, key: &RunnerKey, deadline: Deadline, lower: bool) -> bool {
        match self.lock().entry(key.clone()) {
            Entry::Vacant(place) => {
                place.insert(Some(Wish { deadline, lower }));
                true
            }
            Entry::Occupied(mut place) => {
                // A lowering that has not gone out yet is part of the newer wish.
                let lower = lower || place.get().is_some_and(|before| before.lower);
                place.insert(Some(Wish { deadline, lower }));
                false
            }
        }
    }

    /// The next wish; without one the key is free again.
    fn next(&self, key: &RunnerKey) -> Option<Wish> {
        let mut wishes = self.lock();
        let wish = wishes.get_mut(key).and_then(Option::take);
        if wish.is_none() {
            wishes.remove(key);
        }
        wish
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RunnerKey, Option<Wish>>> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Delivers until there is no newer wish; says what the shim holds.
pub(super) async fn deliver(context: Arc<Context>, key: RunnerKey) {
    while let Some(wish) = context.deadlines.next(&key) {
        let Some(client) = context.registry.client(&key) else { continue };
        let answer = client.set_lease(wish.deadline.to_wire(), wish.lower).await;
        let leased = match answer {
            Ok(lease) => Some(held(Some(lease))),
            // Its end, or its adoption, tells the rest.
            Err(ClientError::Gone) => None,
            Err(error) => {
                warn!(runner = %key, error = chain(&error), "the shim did not take its deadline; it keeps the one before");
                None
            }
        };
        context.tell(&key, RunnerEvent::Leased(leased)).await;
    }
}

/// A shim that knows no deadlines lives on without contact: `keep`.
pub(super) fn held(lease: Option<wire::Lease>) -> Held {
    let lease = lease.unwrap_or(wire::Lease { deadline_ns: 0, keep: true, hold_ms: 0 });
    let terms = Terms { keep: lease.keep, hold_ms: lease.hold_ms };
    Held { deadline: Deadline::from_wire(lease.deadline_ns), terms }
}
