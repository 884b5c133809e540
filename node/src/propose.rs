//! Proposals that outlive elections: the same entry again until it is committed, or the patience of the caller ends.

use std::time::{Duration, Instant};

use stratavore_model::Entry;
use stratavore_raft::{Applied, Handle, ProposeError};

use crate::convert::id;

/// Between two attempts; an election takes seconds.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Proposes `entry` until its outcome is known. Only for entries that may be applied twice: those of a request id
/// (P25), and reports, which are idempotent by runner, epoch and revision. Dropping the future ends it.
///
/// # Errors
/// What does not pass by waiting, or the last error when `patience` is over.
pub(crate) async fn until_committed(
    raft: &Handle,
    mut entry: Entry,
    patience: Duration,
) -> Result<Applied, ProposeError> {
    let give_up = Instant::now() + patience;
    loop {
        let error = match raft.propose(entry.clone()).await {
            Ok(applied) => return Ok(applied),
            Err(error) => error,
        };
        if !may_pass(&error) || Instant::now() >= give_up {
            return Err(error);
        }
        tracing::debug!(%error, command = entry.command.name(), "proposed again");
        tokio::time::sleep(RETRY_PAUSE).await;
        entry.at = id::now();
    }
}

/// Whether another attempt may succeed: an election is under way, or the answer was lost.
pub(crate) const fn may_pass(error: &ProposeError) -> bool {
    matches!(error, ProposeError::NotLeader { .. } | ProposeError::Unknown(_))
}
