//! openraft's own storage suite against the real stores.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use stratavore_model::NodeId;
use tempfile::TempDir;

use crate::bootstrap::create_stores;
use crate::layout::Layout;
use crate::log_store::LogStore;
use crate::open::open_stores;
use crate::state_db::Identity;
use crate::state_machine::StateMachine;
use crate::types::TypeConfig;

pub(crate) fn identity() -> Identity {
    Identity { node_id: NodeId(1), cluster_id: "0123456789abcdef".parse().expect("cluster id") }
}

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, Arc<TempDir>> for Builder {
    async fn build(&self) -> Result<(Arc<TempDir>, LogStore, StateMachine), StorageError<TypeConfig>> {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let layout = Layout::new(dir.path());
        create_stores(&layout, &identity()).unwrap();
        let stores = open_stores(&layout, identity()).unwrap();
        Ok((dir, stores.log, StateMachine::new(stores.state)))
    }
}

#[test]
fn openraft_storage_suite() {
    TypeConfig::run(async { Suite::test_all(Builder).await.unwrap() });
}
