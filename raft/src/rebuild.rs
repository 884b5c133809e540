//! Damaged state: how a node learns of it by itself, and how it takes a peer's instead (P24).

use std::time::Duration;

use model::NodeId;
use stratavore_model as model;
use stratavore_proto::raft as pb;

use crate::error::RebuildError;
use crate::handle::Handle;
use crate::snapshot_stream;

/// How long a peer may take to make a checkpoint and begin.
const OFFER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long this node may take to apply what the peer had; it takes part in replication all the time.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(120);

impl Handle {
    /// Why this node's stored rows cannot be what it applied; none while they can. Found at the start and by
    /// [`Self::scrub`]. The node must be quarantined then (P24).
    #[must_use]
    pub fn state_damage(&self) -> Option<String> {
        self.shared.state.damage()
    }

    /// Reads every stored row and recomputes the digest (P24): the slow scrub. Returns what is wrong.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn scrub(&self) -> Result<Option<String>, RebuildError> {
        let store = self.shared.state.clone();
        let found = tokio::task::spawn_blocking(move || {
            let found = store.db().scrub()?;
            if let Some(damage) = &found {
                store.report_damage(damage.clone());
            }
            Ok::<_, std::io::Error>(found)
        });
        Ok(found.await.map_err(|error| RebuildError::Stopped(error.to_string()))??)
    }

    /// Discards this node's state and takes `peer`'s, while log, votes and replication go on (P24). Watchers see a
    /// jump (P16). Returns the index the new state is at.
    ///
    /// # Errors
    /// Nothing was changed then; try another peer.
    pub async fn rebuild_state_from(&self, peer: NodeId) -> Result<u64, RebuildError> {
        let member = self.member(peer).ok_or_else(|| {
            RebuildError::Peer(format!("node {peer} is in no configuration of this cluster"))
        })?;
        let gone =
            |error: &dyn std::fmt::Display| RebuildError::Peer(format!("node {peer} gave no state: {error}"));
        let mut client = self.shared.forwarder.network().client(peer.0, &member.raft_address);
        let parts = tokio::time::timeout(OFFER_TIMEOUT, client.pull_snapshot(pb::PullSnapshotRequest {}))
            .await
            .map_err(|error| gone(&error))?
            .map_err(|status| gone(&status.message()))?
            .into_inner();
        let store = self.shared.state.clone();
        let received =
            snapshot_stream::receive(&store, parts).await.map_err(|status| gone(&status.message()))?;
        let at = received.meta.last_log_id.map_or(0, |id| id.index());
        let mut applied = self.applied();
        let caught_up = applied.wait_for(|applied| *applied >= at);
        match tokio::time::timeout(CATCH_UP_TIMEOUT, caught_up).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Err(RebuildError::Stopped("the state is closing".into())),
            Err(_) => return Err(RebuildError::Behind { at }),
        }
        let log = self.shared.log.clone();
        let rebuilt =
            tokio::task::spawn_blocking(move || store.rebuild(&log, &received.meta, &received.snapshot));
        let index = rebuilt.await.map_err(|error| RebuildError::Stopped(error.to_string()))??;
        tracing::info!(index, %peer, "the state was rebuilt from a peer");
        Ok(index)
    }
}
