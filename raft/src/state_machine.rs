//! The state machine that openraft drives: a thin shell around the state store.

use std::io;
use std::sync::Arc;

use futures::{Stream, TryStreamExt};
use openraft::OptionalSend;
use openraft::alias::SnapshotOf;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};

use crate::metrics::Counters;
use crate::snapshot::{self, SnapshotDir};
use crate::state_db::applied_index;
use crate::state_store::StateStore;
use crate::types::{LogId, SnapshotMeta, StoredMembership, TypeConfig};

/// What openraft passes around as a snapshot: a directory, kept alive by whoever reads it.
pub(crate) type SnapshotData = Arc<SnapshotDir>;

#[derive(Clone)]
pub(crate) struct StateMachine {
    store: StateStore,
}

impl StateMachine {
    pub(crate) fn new(store: StateStore) -> Self {
        Self { store }
    }
}

/// Runs a long piece of disk work off the async threads; its failure ends the node.
async fn blocking<T: Send + 'static>(
    store: &StateStore,
    doing: &'static str,
    work: impl FnOnce(&StateStore) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let shared = store.clone();
    let result = tokio::task::spawn_blocking(move || work(&shared)).await.map_err(io::Error::other)?;
    result.inspect_err(|error| store.fatal().storage(doing, error))
}

impl RaftSnapshotBuilder<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, SnapshotData>, io::Error> {
        let (meta, snapshot) = blocking(&self.store, "building a snapshot", snapshot::build).await?;
        Ok(SnapshotOf::<TypeConfig, SnapshotData> { meta, snapshot })
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let image = self.store.image();
        Ok((image.applied, image.membership.clone()))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        // openraft hands over at most one committed range; all of it becomes one write batch.
        let batch: Vec<EntryResponder<TypeConfig>> = entries.try_collect().await?;
        let responses = self.store.apply(batch.iter().map(|(entry, _)| entry))?;
        for ((_, responder), response) in batch.into_iter().zip(responses) {
            if let Some(responder) = responder {
                responder.send(response);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        let meta = meta.clone();
        blocking(&self.store, "installing a snapshot", move |store| {
            snapshot::install(store, &meta, &snapshot)?;
            Counters::add(&store.counters().snapshots_installed, 1);
            tracing::info!(
                index = applied_index(meta.last_log_id.as_ref()),
                "installed a snapshot of the leader's"
            );
            Ok(())
        })
        .await
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<TypeConfig, SnapshotData>>, io::Error> {
        Ok(self
            .store
            .snapshot()
            .clone()
            .map(|(meta, snapshot)| SnapshotOf::<TypeConfig, SnapshotData> { meta, snapshot }))
    }
}
