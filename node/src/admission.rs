//! The registry is the authority: it is asked in every handshake, and connections that are open are closed when it
//! changes its mind (P18).

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use stratavore_certs::tls::{Admission, Verdict};
use stratavore_certs::{Identity, SpkiHash};
use stratavore_model::{Actor, query};
use stratavore_raft::Handle;
use tokio_util::sync::CancellationToken;

use crate::convert;
use crate::listen::bounds::CONNECTIONS_MAX;

/// Removal is checked at most this often under load, which stays well within the two seconds that P18 allows.
const SWEEP_PAUSE: Duration = Duration::from_millis(200);

/// Agents and API clients of one node together.
const PLACES_MAX: usize = CONNECTIONS_MAX + crate::link::SESSIONS_MAX;

/// Who is at the other end: an identity and the key that proved it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) actor: Actor,
    pub(crate) spki: [u8; 32],
}

impl Peer {
    /// From the certificates of a finished handshake.
    pub(crate) fn of_chain(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let peer = stratavore_certs::tls::Peer::of_chain(Some(chain)).ok()?;
        Some(Self { actor: convert::identity::actor(&peer.identity)?, spki: peer.spki.0 })
    }
}

/// The replicated registry, as handshakes ask it.
pub(crate) struct Registry {
    raft: Handle,
}

impl Registry {
    pub(crate) fn new(raft: Handle) -> Self {
        Self { raft }
    }

    fn verdict(&self, actor: &Actor, spki: &[u8; 32]) -> Verdict {
        match self.raft.read(|state| query::admission(state, spki, actor)) {
            query::Admission::Admitted => Verdict::Admit,
            query::Admission::Removed => Verdict::Revoked,
            query::Admission::Unknown => Verdict::Unknown,
        }
    }
}

impl Admission for Registry {
    fn admit(&self, identity: &Identity, spki: &SpkiHash) -> Verdict {
        convert::identity::actor(identity).map_or(Verdict::Unknown, |actor| self.verdict(&actor, &spki.0))
    }
}

/// Every open connection of this node.
#[derive(Debug, Clone)]
pub(crate) struct Connections {
    open: Arc<Mutex<BTreeMap<u64, Open>>>,
    next: Arc<AtomicU64>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Open {
    /// `None` on the join port.
    peer: Option<Peer>,
    token: CancellationToken,
}

/// One connection's entry; taken out on drop.
#[derive(Debug)]
pub(crate) struct ConnectionPlace {
    connections: Connections,
    key: u64,
    token: CancellationToken,
}

impl ConnectionPlace {
    /// Cancelled when the connection must be closed.
    pub(crate) fn token(&self) -> &CancellationToken {
        &self.token
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.connections.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl Connections {
    /// No connections yet; all of them are closed when `stop` is cancelled.
    pub(crate) fn new(stop: CancellationToken) -> Self {
        Self { open: Arc::default(), next: Arc::default(), stop }
    }

    /// A place for one more connection, or `None` when the node is full.
    pub(crate) fn enter(&self, peer: Option<&Peer>) -> Option<ConnectionPlace> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= PLACES_MAX {
            return None;
        }
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        let token = self.stop.child_token();
        open.insert(key, Open { peer: peer.cloned(), token: token.clone() });
        Some(ConnectionPlace { connections: self.clone(), key, token })
    }

    /// How many are open.
    pub(crate) fn len(&self) -> usize {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Closes those whose identity or key is no longer admitted.
    fn sweep(&self, registry: &Registry) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for connection in open.values() {
            let Some(peer) = &connection.peer else { continue };
            if registry.verdict(&peer.actor, &peer.spki) != Verdict::Admit && !connection.token.is_cancelled()
            {
                tracing::info!(peer = %peer.actor, "no longer admitted, its connection is closed");
                connection.token.cancel();
            }
        }
    }

    /// Sweeps after every change of the applied state, until cancelled.
    pub(crate) async fn run(self, raft: Handle, stop: CancellationToken) -> Result<(), Infallible> {
        let mut applied = raft.applied();
        let registry = Registry::new(raft);
        loop {
            self.sweep(&registry);
            let changed = async {
                tokio::time::sleep(SWEEP_PAUSE).await;
                applied.changed().await
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = changed => if changed.is_err() { return Ok(()) },
            }
        }
    }
}
