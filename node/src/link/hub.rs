//! Which agents are connected to this node: at most one session per host, and the newest connection wins (P14).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use stratavore_model::HostId;
use stratavore_proto::v1::{LoadReport, NodeMessage, node_message};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Why a session is ended from this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The host is no longer registered.
    Removed,
    /// A newer connection of the same host arrived.
    Replaced,
    /// The node stops.
    Stopping,
    /// The agent does not read.
    TooSlow,
    /// P24: this node's state is not what it should be.
    Quarantined,
    /// A report could not be committed; the next connection brings the full list.
    Unreported,
}

/// One agent's connection, as the rest of the node sees it.
#[derive(Debug, Clone)]
pub(crate) struct SessionHandle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    host: HostId,
    connection: u64,
    serial: u64,
    quic: quinn::Connection,
    down: mpsc::Sender<NodeMessage>,
    cut: OnceLock<Cut>,
    ended: CancellationToken,
    /// The machine's last word on its load: for people, never replicated.
    load: Mutex<Option<LoadReport>>,
}

impl SessionHandle {
    pub(crate) fn host(&self) -> HostId {
        self.inner.host
    }

    /// The number the agent gave its connection (P14).
    pub(crate) fn connection(&self) -> u64 {
        self.inner.connection
    }

    /// Distinguishes sessions of this process.
    pub(crate) fn serial(&self) -> u64 {
        self.inner.serial
    }

    pub(crate) fn quic(&self) -> &quinn::Connection {
        &self.inner.quic
    }

    /// Queues a frame for the agent. An agent whose queue is full is cut: nothing may be skipped.
    pub(crate) fn send(&self, message: node_message::Message) {
        let message = NodeMessage { message: Some(message) };
        if let Err(mpsc::error::TrySendError::Full(_)) = self.inner.down.try_send(message) {
            tracing::warn!(host = %self.inner.host, "agent does not read, its connection is cut");
            self.cut(Cut::TooSlow);
        }
    }

    /// Keeps the newest load report.
    pub(crate) fn report_load(&self, load: LoadReport) {
        *self.inner.load.lock().unwrap_or_else(PoisonError::into_inner) = Some(load);
    }

    /// Ends the session; the first reason stays.
    pub(crate) fn cut(&self, why: Cut) {
        self.inner.cut.get_or_init(|| why);
        self.inner.ended.cancel();
    }

    /// Resolves when the session was cut.
    pub(crate) async fn was_cut(&self) -> Cut {
        self.inner.ended.cancelled().await;
        self.inner.cut.get().copied().unwrap_or(Cut::Stopping)
    }
}

/// The routing table of this node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hub {
    sessions: Arc<Mutex<BTreeMap<HostId, SessionHandle>>>,
    serials: Arc<AtomicU64>,
}

impl Hub {
    /// A handle for a new session and the queue of frames that it has to write.
    pub(crate) fn session(
        &self,
        host: HostId,
        connection: u64,
        quic: quinn::Connection,
    ) -> (SessionHandle, mpsc::Receiver<NodeMessage>) {
        let (down, queue) = mpsc::channel(super::DOWN_QUEUE);
        let serial = self.serials.fetch_add(1, Ordering::Relaxed);
        let inner = Inner {
            host,
            connection,
            serial,
            quic,
            down,
            cut: OnceLock::new(),
            ended: CancellationToken::new(),
            load: Mutex::default(),
        };
        (SessionHandle { inner: Arc::new(inner) }, queue)
    }

    /// Enters the session and cuts the one it replaces. False when a newer connection of the host is already here.
    pub(crate) fn enter(&self, session: &SessionHandle) -> bool {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(present) = sessions.get(&session.host()) {
            if present.connection() > session.connection() {
                return false;
            }
            present.cut(Cut::Replaced);
        }
        sessions.insert(session.host(), session.clone());
        true
    }

    /// Forgets the session, unless another one of the host has taken its place.
    pub(crate) fn leave(&self, session: &SessionHandle) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.get(&session.host()).is_some_and(|present| present.serial() == session.serial()) {
            sessions.remove(&session.host());
        }
    }

    /// The session of `host`, if its agent is connected to this node.
    pub(crate) fn get(&self, host: HostId) -> Option<SessionHandle> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).get(&host).cloned()
    }

    /// The agents of this node.
    pub(crate) fn all(&self) -> Vec<SessionHandle> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Hosts connected to this node whose disk is full.
    pub(crate) fn full_disks(&self) -> Vec<HostId> {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = |session: &&SessionHandle| {
            let load = session.inner.load.lock().unwrap_or_else(PoisonError::into_inner);
            load.as_ref().is_some_and(|load| load.disk_full)
        };
        sessions.values().filter(is_full).map(SessionHandle::host).collect()
    }

    /// Agents connected to this node.
    pub(crate) fn len(&self) -> usize {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Connections seen since the start, reconnects included.
    pub(crate) fn connections_seen(&self) -> u64 {
        self.serials.load(Ordering::Relaxed)
    }
}
