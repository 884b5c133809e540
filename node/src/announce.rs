//! Tells the cluster where this node listens now and which version it is, when that is not what the state says (P21,
//! P22). On every node: the proposal finds the leader by itself.

use std::time::Duration;

use stratavore_model::command::SetNodeAddress;
use stratavore_model::{Actor, COMMAND_VERSION, Command, Entry, NodeAddresses, NodeId, Rejected, State};
use stratavore_raft::Handle;
use tokio_util::sync::CancellationToken;

use crate::convert::id;

/// Between two attempts while the cluster cannot commit.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// Why the cluster does not know.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnnounceError {
    #[error("the cluster refused this node's addresses: {0}")]
    Refused(#[from] Rejected),
}

/// One announcement.
pub(crate) struct Announce {
    pub(crate) node: NodeId,
    pub(crate) addresses: NodeAddresses,
    pub(crate) raft: Handle,
}

impl Announce {
    /// Waits until this node is known here, and proposes until the cluster knows.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), AnnounceError> {
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            done = self.announce() => done.inspect_err(|error| tracing::error!(%error, "not announced")),
        }
    }

    async fn announce(&self) -> Result<(), AnnounceError> {
        let mut applied = self.raft.applied();
        while !self.raft.read(|state| state.node(self.node).is_some()) {
            if applied.changed().await.is_err() {
                return Ok(());
            }
        }
        // What is applied here may be old; only what the cluster says now is to be compared.
        loop {
            if self.raft.linearize().await.is_ok() {
                if !self.raft.read(|state| self.differs(state)) {
                    return Ok(());
                }
                match self.raft.propose(self.entry()).await {
                    Ok(applied) => return Ok(applied.reply.into_result().map(drop)?),
                    Err(error) => tracing::info!(%error, "this node's addresses were not committed yet"),
                }
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    fn differs(&self, state: &State) -> bool {
        state.node(self.node).filter(|node| !node.removed).is_some_and(|node| {
            node.addresses != self.addresses
                || node.version != env!("CARGO_PKG_VERSION")
                || node.max_version != COMMAND_VERSION
        })
    }

    fn entry(&self) -> Entry {
        let command = Command::SetNodeAddress(SetNodeAddress {
            node: self.node,
            addresses: self.addresses.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            max_version: COMMAND_VERSION,
        });
        Entry { actor: Actor::Node(self.node), request_id: None, at: id::now(), term: None, command }
    }
}
