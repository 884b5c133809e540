//! Connections to other nodes: TLS with this node's certificate, to exactly the node that is meant, whose key the
//! registry holds now. Anything else is refused before a byte of ours is sent over it.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use stratavore_certs::tls::{self, Refusal, Verdict};
use stratavore_certs::{Credentials, SpkiHash};
use stratavore_model::{Actor, NodeId};
use stratavore_raft::{Connector, Peer, Transport};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::admission::{self, Registry};
use crate::exit::chain;

/// TCP and TLS together: a peer on the same site answers in milliseconds, and an election must not wait for a dead one.
const DIAL_TIMEOUT: Duration = Duration::from_secs(1);

/// Dials nodes. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Dialer {
    own: watch::Receiver<Arc<Credentials>>,
    registry: Arc<Registry>,
    complaints: Arc<Complaints>,
}

impl Dialer {
    pub(crate) fn new(own: watch::Receiver<Arc<Credentials>>, registry: Arc<Registry>) -> Self {
        Self { own, registry, complaints: Arc::default() }
    }

    /// A connection to `node`, which must be the one that answers at `address`.
    ///
    /// # Errors
    /// It is not there, is another node, or its key is not registered; the text says which.
    pub(crate) async fn dial(&self, node: NodeId, address: &str) -> io::Result<TlsStream<TcpStream>> {
        let dialled = match tokio::time::timeout(DIAL_TIMEOUT, self.connect(node, address)).await {
            Ok(dialled) => dialled,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")),
        };
        self.complaints.note(node, address, dialled.as_ref().err());
        dialled
    }

    async fn connect(&self, node: NodeId, address: &str) -> io::Result<TlsStream<TcpStream>> {
        let config = tls::raft_client(&self.own.borrow(), node.0).map_err(io::Error::other)?;
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let stream = TlsConnector::from(config).connect(tls::server_name(), tcp).await?;
        let peer = stream.get_ref().1.peer_certificates().and_then(admission::Peer::of_chain);
        let spki = peer.map(|peer| SpkiHash(peer.spki)).ok_or_else(|| io::Error::other("no certificate"))?;
        match self.registry.judge_node(&Actor::Node(node), &spki.0) {
            Verdict::Admit => Ok(stream),
            Verdict::Revoked => Err(refused(node, "was removed from the cluster")),
            Verdict::Unknown => Err(refused(node, "shows a key that is not registered for it")),
        }
    }

    /// For raft; being told that this node's key was removed is announced through `removed`.
    pub(crate) fn connector(&self, removed: Removal) -> Connector {
        let dialer = self.clone();
        Arc::new(move |peer: Peer| {
            let (dialer, removed) = (dialer.clone(), removed.clone());
            Box::pin(async move {
                let stream = dialer.dial(peer.node, &peer.address).await;
                let stream = stream.inspect_err(|error| removed.look_at(error, peer.node))?;
                Ok(Box::new(Watched { stream, removed, peer: peer.node }) as Box<dyn Transport>)
            })
        })
    }
}

fn refused(node: NodeId, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, format!("node {node} {what}"))
}

/// Raft dials again and again; each new reason is worth one line.
#[derive(Default)]
struct Complaints {
    last: Mutex<BTreeMap<NodeId, String>>,
}

impl Complaints {
    fn note(&self, node: NodeId, address: &str, error: Option<&io::Error>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(error) = error else {
            if last.remove(&node).is_some() {
                tracing::info!(%node, address, "node reached again");
            }
            return;
        };
        let text = Refusal::find(error).map_or_else(|| chain(error), |refusal| refusal.to_string());
        if last.get(&node) != Some(&text) {
            tracing::warn!(%node, address, error = %text, "node not reached");
            last.insert(node, text);
        }
    }
}

/// Becomes true when a peer says that this node's key was removed.
#[derive(Debug, Clone)]
pub(crate) struct Removal {
    told: watch::Sender<Option<String>>,
}

impl Removal {
    pub(crate) fn new() -> Self {
        Self { told: watch::Sender::new(None) }
    }

    /// The first word stays.
    pub(crate) fn report(&self, how: String) {
        self.told.send_if_modified(|told| {
            let first = told.is_none();
            told.get_or_insert(how);
            first
        });
    }

    /// Resolves when this node was removed, with how it learnt it.
    pub(crate) async fn happened(&self) -> String {
        let mut told = self.told.subscribe();
        match told.wait_for(Option::is_some).await.map(|told| told.clone()) {
            Ok(Some(how)) => how,
            // The sender is part of `self`.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// In TLS 1.3 the peer's verdict arrives with the first read. It is believed: the peer has proved that it is a
    /// registered node, and it can only know of a removal that was committed (P18).
    fn look_at(&self, error: &io::Error, peer: NodeId) {
        if Refusal::find(error) == Some(Refusal::Revoked) {
            self.report(format!("node {peer} says that this node's key was removed"));
        }
    }
}

/// A raft connection that looks at how it is ended.
struct Watched {
    stream: TlsStream<TcpStream>,
    removed: Removal,
    peer: NodeId,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Poll::Ready(Err(error)) = &polled {
            self.removed.look_at(error, self.peer);
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
