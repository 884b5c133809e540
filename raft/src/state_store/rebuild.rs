//! Replacing state that is not what was applied (P24) by a peer's, while the node runs.

use std::io;

use openraft::LogIdOptionExt;

use super::{StateStore, applied_of};
use crate::log_store::LogStore;
use crate::snapshot::{self, SnapshotDir};
use crate::types::SnapshotMeta;

/// Entries replayed at a time.
const REPLAY_CHUNK: u64 = 1024;

impl StateStore {
    /// Puts a peer's snapshot in place of the state in use. What this node had applied behind it is applied again
    /// from its own log, so that the applied position does not move back. Apply waits meanwhile.
    ///
    /// # Errors
    /// When the snapshot is ahead of what is applied here (the caller waits for that), or the log behind it is gone.
    pub(crate) fn rebuild(
        &self,
        log: &LogStore,
        meta: &SnapshotMeta,
        source: &SnapshotDir,
    ) -> io::Result<u64> {
        let prepared = snapshot::prepare(self, meta, source)?;
        let _writing = self.writing();
        let (db, mut image) = (prepared.db, prepared.image);
        let upto = applied_of(&self.image());
        let mut next = image.applied.next_index();
        if next > upto + 1 {
            return Err(io::Error::other(format!(
                "the snapshot is at {}, this node has applied {upto}",
                next - 1
            )));
        }
        while next <= upto {
            let end = (next + REPLAY_CHUNK).min(upto + 1);
            let entries = log.entries(next, end)?;
            next += entries.len() as u64;
            self.replay(&mut image, &db, &entries)?;
        }
        snapshot::activate(self, meta, db, image, prepared.kept)?;
        Ok(upto)
    }
}
