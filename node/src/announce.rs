//! Tells the cluster where this node listens now and which version it is, when that is not what the state says.

use stratavore_model::command::SetNodeAddress;
use stratavore_model::{Actor, Command, Entry, NodeAddresses, NodeId, Rejected};
use stratavore_raft::{Handle, ProposeError};
use tokio_util::sync::CancellationToken;

use crate::convert::id;

/// Why the cluster does not know.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnnounceError {
    #[error("the cluster refused this node's addresses: {0}")]
    Refused(#[from] Rejected),
    #[error("this node's addresses were not committed: {0}")]
    NotCommitted(#[from] ProposeError),
}

/// One announcement.
pub(crate) struct Announce {
    pub(crate) node: NodeId,
    pub(crate) addresses: NodeAddresses,
    pub(crate) raft: Handle,
}

impl Announce {
    /// Waits until this node leads (with one node: at once), and proposes if something differs.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), AnnounceError> {
        let mut leadership = self.raft.leadership();
        let leads = tokio::select! {
            () = stop.cancelled() => false,
            led = leadership.wait_for(|leadership| leadership.me) => led.is_ok(),
        };
        if leads && self.differs() { self.propose().await } else { Ok(()) }
    }

    fn differs(&self) -> bool {
        self.raft.read(|state| {
            state.node(self.node).is_none_or(|node| {
                node.addresses != self.addresses || node.version != env!("CARGO_PKG_VERSION")
            })
        })
    }

    async fn propose(self) -> Result<(), AnnounceError> {
        let command = Command::SetNodeAddress(SetNodeAddress {
            node: self.node,
            addresses: self.addresses,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        });
        let entry =
            Entry { actor: Actor::Node(self.node), request_id: None, at: id::now(), term: None, command };
        self.raft.propose(entry).await?.reply.into_result()?;
        Ok(())
    }
}
