//! Agents accept only nodes of their last trust bundle (P18): whenever a node comes, moves or goes, the agents of this
//! node are told, as long as what is applied here is known to be fresh (P17).

use std::convert::Infallible;
use std::time::Duration;

use stratavore_model::{NodeAddresses, NodeId, State};
use stratavore_proto::v1::{self, node_message};
use stratavore_raft::Handle;
use tokio_util::sync::CancellationToken;

use crate::link::hub::Hub;
use crate::welcome;

/// Looks at most this often under load; nodes come and go in minutes.
const PAUSE: Duration = Duration::from_millis(500);

/// What a bundle is made of: where nodes are, and every key, those that backups hold included.
type Bundle = (Vec<(NodeId, NodeAddresses)>, Vec<v1::TrustedNode>);

fn bundle(state: &State) -> Bundle {
    let present = state.nodes().filter(|node| !node.removed);
    (present.map(|node| (node.id, node.addresses.clone())).collect(), welcome::trusted(state))
}

/// Watches the nodes.
pub(crate) struct TrustUpdates {
    pub(crate) raft: Handle,
    pub(crate) hub: Hub,
}

impl TrustUpdates {
    /// Runs until cancelled. A session that begins meanwhile has the bundle of its welcome, and hears of any later one.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), Infallible> {
        let mut applied = self.raft.applied();
        let mut told = self.raft.read(bundle);
        loop {
            let changed = async {
                tokio::time::sleep(PAUSE).await;
                applied.changed().await
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = changed => if changed.is_err() { return Ok(()) },
            }
            let now = self.raft.read(bundle);
            if now != told && self.raft.is_fresh() {
                self.tell();
                told = now;
            }
        }
    }

    fn tell(&self) {
        let trusted = self.raft.read(welcome::trusted);
        for session in self.hub.all() {
            let nodes = self.raft.read(|state| welcome::gateways(state, session.host()));
            let update = v1::TrustUpdate { trusted: trusted.clone(), nodes };
            session.send(node_message::Message::Trust(update));
        }
    }
}
