//! What a node does at the end of its life in a cluster: hand over before it stops, notice that it was removed.

use std::time::Duration;

use stratavore_raft::Handle;

use crate::peer::dial::Removal;

/// A hand-over takes a round trip; longer means that nobody can take over, and the stop must not wait for that.
const HAND_OVER_GRACE: Duration = Duration::from_secs(3);

/// Resolves with how this node learnt that it is out of the cluster.
pub(crate) async fn removed(raft: Handle, removal: Removal) -> String {
    let mut left = raft.removed();
    let left = async {
        // An error means that raft has ended, which is told otherwise.
        if left.wait_for(|left| *left).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        how = removal.happened() => how,
        () = left => "the cluster's configuration is without it".to_owned(),
    }
}

/// A planned stop costs no election.
pub(crate) async fn hand_over(raft: &Handle) {
    let alone = raft.membership().voters().count() <= 1;
    if alone || !raft.leadership().borrow().me {
        return;
    }
    match tokio::time::timeout(HAND_OVER_GRACE, raft.transfer_leadership(None)).await {
        Ok(Ok(leader)) => tracing::info!(%leader, "leadership handed over"),
        Ok(Err(error)) => tracing::warn!(%error, "stopping while leading"),
        Err(_) => tracing::warn!("stopping while leading: nobody took over in time"),
    }
}
