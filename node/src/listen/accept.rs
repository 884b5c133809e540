//! The accept loop of one TLS port: bounds first, then the handshake with a timeout, then the server above.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::admission::{Connections, Peer};
use crate::listen::bounds::{HANDSHAKE_TIMEOUT, HandshakePlace, Handshakes, JoinGate};
use crate::listen::stream::{Accepted, ConnectionInfo};
use crate::tasks::{TaskKind, Tasks};

/// Finished handshakes that wait for the server above; it takes them at once, so few are enough.
const ACCEPTED_QUEUE: usize = 16;

/// After an accept error (no file descriptors left) the loop rests this long instead of spinning.
const ACCEPT_ERROR_PAUSE: Duration = Duration::from_millis(50);

/// Who may connect.
#[derive(Debug, Clone)]
pub(crate) enum Admittance {
    /// Only peers whose certificate was verified in the handshake.
    Certified,
    /// Anybody, at a limited rate and for a limited time: the join port.
    Stranger { lifetime: Duration, gate: Arc<Mutex<JoinGate>> },
}

/// One TLS port.
pub(crate) struct Acceptor {
    name: &'static str,
    listener: TcpListener,
    tls: watch::Receiver<Arc<rustls::ServerConfig>>,
    admittance: Admittance,
    connections: Connections,
    handshakes: Handshakes,
    tasks: Tasks,
}

/// What the server above takes connections from.
pub(crate) type Incoming = mpsc::Receiver<io::Result<Accepted>>;

impl Acceptor {
    /// A port that accepts once [`Acceptor::start`] is called.
    pub(crate) fn new(
        name: &'static str,
        listener: TcpListener,
        tls: watch::Receiver<Arc<rustls::ServerConfig>>,
        admittance: Admittance,
        connections: Connections,
        tasks: Tasks,
    ) -> Self {
        Self { name, listener, tls, admittance, connections, handshakes: Handshakes::default(), tasks }
    }

    /// Starts accepting.
    pub(crate) fn start(self) -> Incoming {
        let (out, incoming) = mpsc::channel(ACCEPTED_QUEUE);
        let tasks = self.tasks.clone();
        tasks.spawn(TaskKind::Accept, async move { self.run(out).await });
        incoming
    }

    async fn run(self, out: mpsc::Sender<io::Result<Accepted>>) -> Result<(), Infallible> {
        let stop = self.tasks.token().clone();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((tcp, address)) => self.admit(tcp, address, &out),
                Err(error) => {
                    tracing::warn!(port = self.name, %error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_ERROR_PAUSE).await;
                }
            }
        }
    }

    /// Starts the handshake, or drops the connection when a bound is reached.
    fn admit(&self, tcp: TcpStream, address: SocketAddr, out: &mpsc::Sender<io::Result<Accepted>>) {
        if let Admittance::Stranger { gate, .. } = &self.admittance {
            let mut gate = gate.lock().unwrap_or_else(PoisonError::into_inner);
            if !gate.pass(address.ip(), Instant::now()) {
                tracing::debug!(port = self.name, %address, "too many joins, connection dropped");
                return;
            }
        }
        let Some(place) = self.handshakes.enter(address.ip()) else {
            tracing::debug!(port = self.name, %address, "too many handshakes, connection dropped");
            return;
        };
        tcp.set_nodelay(true).ok();
        let handshake = Handshake {
            name: self.name,
            address,
            tls: TlsAcceptor::from(self.tls.borrow().clone()),
            admittance: self.admittance.clone(),
            connections: self.connections.clone(),
            out: out.clone(),
        };
        let stop = self.tasks.token().clone();
        self.tasks.spawn_infallible(TaskKind::Handshake, async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = handshake.run(tcp, place) => {}
            }
        });
    }
}

/// One handshake on its way to an accepted connection.
struct Handshake {
    name: &'static str,
    address: SocketAddr,
    tls: TlsAcceptor,
    admittance: Admittance,
    connections: Connections,
    out: mpsc::Sender<io::Result<Accepted>>,
}

impl Handshake {
    async fn run(self, tcp: TcpStream, place: HandshakePlace) {
        let (name, address) = (self.name, self.address);
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, self.tls.accept(tcp)).await {
            Err(_) => tracing::debug!(port = name, %address, "handshake timed out"),
            Ok(Err(error)) => tracing::debug!(port = name, %address, %error, "handshake failed"),
            Ok(Ok(stream)) => match self.accepted(stream, place) {
                Some(accepted) => {
                    self.out.send(Ok(accepted)).await.ok();
                }
                None => tracing::debug!(port = name, %address, "connection not admitted"),
            },
        }
    }

    fn accepted(&self, stream: TlsStream<TcpStream>, place: HandshakePlace) -> Option<Accepted> {
        let certified = match &self.admittance {
            Admittance::Certified => None,
            Admittance::Stranger { lifetime, .. } => Some((*lifetime, place)),
        };
        let peer = match certified {
            None => Some(Peer::of_chain(stream.get_ref().1.peer_certificates()?)?),
            Some(_) => None,
        };
        let place = self.connections.enter(peer.as_ref())?;
        let info = ConnectionInfo { peer, address: self.address };
        Some(Accepted::new(stream, info, place, certified))
    }
}
