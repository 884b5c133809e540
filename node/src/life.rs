//! What a node does at the beginning and the end of its life in a cluster: refuse a state that it does not understand,
//! hand over before it stops, notice that it was removed.

use std::time::Duration;

use stratavore_model::COMMAND_VERSION;
use stratavore_raft::Handle;

use crate::exit::{Code, Failure};
use crate::peer::dial::Removal;

/// A hand-over takes a round trip; longer means that nobody can take over, and the stop must not wait for that.
const HAND_OVER_GRACE: Duration = Duration::from_secs(3);

/// P22: a program that does not know the cluster's version would apply entries to something else than they mean.
pub(crate) async fn refuse_older_program(raft: &Handle) -> Result<(), Failure> {
    let version = raft.read(|state| state.cluster().map_or(0, |cluster| cluster.version));
    if version <= COMMAND_VERSION {
        return Ok(());
    }
    raft.clone().shutdown().await;
    Err(Failure::new(
        Code::Usage,
        format!(
            "the cluster was finalized at version {version}, this program knows {COMMAND_VERSION} at most"
        ),
        "start the newer version of stratavored",
    ))
}

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
