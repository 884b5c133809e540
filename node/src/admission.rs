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
use stratavore_model::{Actor, NodeId, query};
use stratavore_raft::Handle;
use tokio_util::sync::CancellationToken;

use crate::convert;
use crate::listen::bounds::CONNECTIONS_MAX;
use crate::trust::Trust;

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

/// The replicated registry, as handshakes ask it. It exists before raft does, because raft dials through it.
pub(crate) struct Registry {
    /// Taken out again at the end, so that a late handshake cannot keep the databases open.
    raft: Mutex<Option<Handle>>,
    trust: Trust,
}

impl Registry {
    /// Knows nobody but `trust` until [`Registry::attach`].
    pub(crate) fn new(trust: Trust) -> Self {
        Self { raft: Mutex::new(None), trust }
    }

    /// From now on the applied state decides.
    pub(crate) fn attach(&self, raft: Handle) {
        *self.raft.lock().unwrap_or_else(PoisonError::into_inner) = Some(raft);
    }

    /// The end of it: everybody is unknown.
    pub(crate) fn detach(&self) {
        self.raft.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn raft(&self) -> Option<Handle> {
        self.raft.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn verdict(&self, actor: &Actor, spki: &[u8; 32]) -> Verdict {
        let Some(raft) = self.raft() else { return Verdict::Unknown };
        match raft.read(|state| query::admission(state, spki, actor)) {
            query::Admission::Admitted => Verdict::Admit,
            query::Admission::Removed => Verdict::Revoked,
            query::Admission::Unknown => Verdict::Unknown,
        }
    }

    /// Whether a node may speak raft with this one. Wider than the registry in two ways: a node that this one cannot
    /// know yet, because it lags, must be able to bring it up to date; and a removed one stays until it has left the
    /// configuration, or its last acknowledgements would be missing.
    pub(crate) fn judge_node(&self, actor: &Actor, spki: &[u8; 32]) -> Verdict {
        let Actor::Node(node) = actor else { return Verdict::Unknown };
        let Some(raft) = self.raft() else { return self.judge_by_trust(*node, spki) };
        let (known, next) = raft.read(|state| {
            let next = state.cluster().map(|cluster| cluster.next_node);
            (query::admission(state, spki, actor), next)
        });
        match known {
            _ if next.is_none() => self.judge_by_trust(*node, spki),
            query::Admission::Admitted => Verdict::Admit,
            query::Admission::Removed if is_member(&raft, *node) => Verdict::Admit,
            query::Admission::Removed => Verdict::Revoked,
            // The CA certifies registered keys only and ids count up: this one was registered after what is applied.
            query::Admission::Unknown if next.is_some_and(|next| *node >= next) => Verdict::Admit,
            query::Admission::Unknown => Verdict::Unknown,
        }
    }

    fn judge_by_trust(&self, node: NodeId, spki: &[u8; 32]) -> Verdict {
        let newer = node.0 > self.trust.highest();
        if newer || self.trust.holds(node.0, spki) { Verdict::Admit } else { Verdict::Unknown }
    }

    /// For open connections: nodes are judged as on the raft port, since both of their ports end together.
    fn judge_open(&self, peer: &Peer) -> Verdict {
        match peer.actor {
            Actor::Node(_) => self.judge_node(&peer.actor, &peer.spki),
            _ => self.verdict(&peer.actor, &peer.spki),
        }
    }
}

fn is_member(raft: &Handle, node: NodeId) -> bool {
    raft.membership().members.iter().any(|member| member.node == node)
}

/// The raft port's view of the registry.
pub(crate) struct NodeRegistry(pub(crate) Arc<Registry>);

impl Admission for NodeRegistry {
    fn admit(&self, identity: &Identity, spki: &SpkiHash) -> Verdict {
        convert::identity::actor(identity)
            .map_or(Verdict::Unknown, |actor| self.0.judge_node(&actor, &spki.0))
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
            if registry.judge_open(peer) != Verdict::Admit && !connection.token.is_cancelled() {
                tracing::info!(peer = %peer.actor, "no longer admitted, its connection is closed");
                connection.token.cancel();
            }
        }
    }

    /// Sweeps after every change of the applied state, until cancelled.
    pub(crate) async fn run(
        self,
        raft: Handle,
        registry: Arc<Registry>,
        stop: CancellationToken,
    ) -> Result<(), Infallible> {
        let mut applied = raft.applied();
        drop(raft);
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
