//! P17: agents of a node that has lost the leader for long are advised to go elsewhere. Advice only: their links stay,
//! and an agent moves when another node has answered it.

use std::convert::Infallible;
use std::time::Duration;

use stratavore_proto::v1::{self, node_message};
use stratavore_raft::Handle;
use tokio_util::sync::CancellationToken;

use crate::link::hub::Hub;

/// A fraction of three election timeouts, which is what is being waited for.
const LOOK: Duration = Duration::from_millis(500);

/// Watches this node's contact.
pub(crate) struct Contact {
    pub(crate) raft: Handle,
    pub(crate) hub: Hub,
}

impl Contact {
    /// Runs until cancelled.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), Infallible> {
        let mut advised = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(LOOK) => {}
            }
            let lost = self.hub.len() > 0 && self.raft.out_of_contact();
            if lost && !advised {
                tracing::warn!("no contact to a leader: agents are advised to go to another node");
                let reason = "this node has lost the rest of the cluster".to_owned();
                let code = "no_leader".to_owned();
                let advice = v1::GoAway { reason, code };
                for session in self.hub.all() {
                    session.send(node_message::Message::GoAway(advice.clone()));
                }
            }
            advised = lost;
        }
    }
}
