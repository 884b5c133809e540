//! The one place where a storage failure ends the node: a failed write is "unknown", never "absent".

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use crate::reserve;

/// Remembers the first failure and tells whoever waits. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Fatal {
    reason: Arc<watch::Sender<Option<String>>>,
    /// Freed on a full disk, so that the restarted process can open its databases (P26).
    reserve: PathBuf,
}

impl Fatal {
    pub(crate) fn new(reserve: PathBuf) -> Self {
        Self { reason: Arc::new(watch::Sender::new(None)), reserve }
    }

    /// Reports a storage failure; on a full disk the reserve file is freed.
    pub(crate) fn storage(&self, doing: &str, error: &io::Error) {
        let mut reason = format!("{doing} failed: {error}");
        if error.kind() == io::ErrorKind::StorageFull {
            reason.push_str(if reserve::free(&self.reserve) {
                "; the reserve file was freed so that the node can start again: free disk space"
            } else {
                "; free disk space, then start the node again"
            });
        }
        self.report(reason);
    }

    pub(crate) fn report(&self, reason: String) {
        tracing::error!(%reason, "fatal");
        self.reason.send_if_modified(|first| {
            let new = first.is_none();
            if new {
                *first = Some(reason);
            }
            new
        });
    }

    pub(crate) fn get(&self) -> Option<String> {
        self.reason.borrow().clone()
    }

    /// Waits for the first failure; never returns while all is well.
    pub(crate) async fn wait(&self) -> String {
        let mut receiver = self.reason.subscribe();
        let reason = receiver.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        match reason {
            Some(reason) => reason,
            // The sender lives in `self`, so this is not reached; waiting is the honest answer.
            None => std::future::pending().await,
        }
    }
}
