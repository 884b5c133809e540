//! Keeps the log within its byte bound (P19); the bound in entries is openraft's own.

use std::time::Duration;

use crate::handle::Raft;
use crate::log_store::LogStore;

/// A snapshot is milliseconds of work and a purge less; a disk that takes longer gets another try.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs until the core ends: whenever the log outgrows its bound, makes a snapshot and purges behind it.
pub(crate) async fn run(raft: Raft, log: LogStore) {
    loop {
        let upto = log.outgrown().await;
        tracing::info!(upto, "the log has outgrown its bound and is purged");
        if raft.trigger().snapshot().await.is_err() {
            return;
        }
        let reached = |id: Option<crate::types::LogId>| id.is_some_and(|id| id.index() >= upto);
        let wait = raft.wait(Some(STEP_TIMEOUT));
        if let Err(error) =
            wait.metrics(|metrics| reached(metrics.snapshot), "a snapshot to purge behind").await
        {
            tracing::warn!(%error, "the log stays above its bound for now");
            continue;
        }
        if raft.trigger().purge_log(upto).await.is_err() {
            return;
        }
        if let Err(error) = wait.metrics(|metrics| reached(metrics.purged), "the purge").await {
            tracing::warn!(%error, "the log stays above its bound for now");
        }
    }
}
