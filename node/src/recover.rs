//! `stratavored recover --accept-loss`: a one-node cluster goes on with what its damaged log still has. The incarnation
//! is raised (P1), so that nothing numbered before can be confused with what comes. With `--lost-quorum` one of several
//! voters goes on alone.

use std::path::Path;

use stratavore_model::NodeId;
use stratavore_raft::RecoverParams;

use crate::convert::id;
use crate::data_dir::DataDir;
use crate::exit::Failure;
use crate::storage;

/// What the recovery kept and gave up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    pub incarnation: u64,
    pub last_kept: u64,
    /// One sentence for each loss; empty when nothing is known to be lost.
    pub dropped: Vec<String>,
}

impl std::fmt::Display for Recovered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "incarnation {}, kept everything up to index {}", self.incarnation, self.last_kept)?;
        self.dropped.iter().try_for_each(|dropped| writeln!(f, "given up: {dropped}"))
    }
}

/// Recovers the node in `data_dir`; with `lost_quorum` also one of several voters, whose others are gone for good.
///
/// # Errors
/// The directory is not a node's, is in use, or cannot be recovered.
pub async fn recover_accept_loss(data_dir: &Path, lost_quorum: bool) -> Result<Recovered, Failure> {
    let (dir, node) = DataDir::open(data_dir)?;
    let nonce = id::random().map_err(|error| Failure::generic("cannot recover", &error))?;
    let params =
        RecoverParams { node_id: NodeId(node.node_id), cluster_id: node.cluster_id, nonce, at: id::now() };
    let recovered = if lost_quorum {
        stratavore_raft::recover_lost_quorum(dir.path(), params).await
    } else {
        stratavore_raft::recover_accept_loss(dir.path(), params).await
    };
    let recovered = recovered.map_err(|error| storage::failure(&error))?;
    Ok(Recovered {
        incarnation: recovered.incarnation,
        last_kept: recovered.last_kept,
        dropped: recovered.dropped,
    })
}
