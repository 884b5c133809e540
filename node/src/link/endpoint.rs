//! The QUIC endpoint: transport limits, and an accept loop that a handshake storm cannot turn against connected agents.

use std::convert::Infallible;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, Incoming, MtuDiscoveryConfig, ServerConfig, TokioRuntime, TransportConfig, VarInt};
use tokio::sync::{Semaphore, watch};

use crate::exit::{Code, Failure};
use crate::link::handshake::Greeter;
use crate::link::reset;
use crate::listen::bounds::HANDSHAKE_TIMEOUT;
use crate::tasks::{TaskKind, Tasks};

/// quinn works on a first packet under the endpoint's lock: more handshakes at once would stall connected agents.
const HANDSHAKES_MAX: usize = 64;
/// From here on an address must prove itself by a Retry before a handshake begins.
const HANDSHAKES_UNVALIDATED_MAX: usize = 32;
/// Beyond it proven addresses wait for their turn, so that the agents of a dead node come over one by one instead of being
/// turned away into their back-off. Each holds a packet or two.
const WAITING_MAX: usize = 4096;
/// Shorter than an agent waits for its handshake.
const TURN_TIMEOUT: Duration = Duration::from_secs(2);
/// Streams that one agent may open: control, and later uploads.
const AGENT_STREAMS_MAX: u32 = 64;
/// Window of one stream: keeps a terminal's output flowing over a long round trip.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// Window of a connection: what one agent may make this node hold.
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Unacknowledged bytes towards one agent.
const SEND_WINDOW_BYTES: u64 = 2 * 1024 * 1024;
/// Three keep-alives of the agent (15 s each) may be lost.
const IDLE_TIMEOUT_MS: u32 = 45_000;
/// How long closing connections may take to say so.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Where agents connect.
pub(crate) struct Link {
    endpoint: Endpoint,
    greeter: Arc<Greeter>,
    tasks: Tasks,
}

impl Link {
    /// Takes the bound socket over. `secret`: see [`reset::endpoint_config`].
    ///
    /// # Errors
    /// The TLS configuration does not suit QUIC, or the socket is unusable.
    pub(crate) fn new(
        socket: UdpSocket,
        tls: &watch::Receiver<Arc<rustls::ServerConfig>>,
        greeter: Greeter,
        secret: &[u8],
        tasks: Tasks,
    ) -> Result<Self, Failure> {
        let config = server_config(tls.borrow().clone())?;
        let endpoint =
            Endpoint::new(reset::endpoint_config(secret), Some(config), socket, Arc::new(TokioRuntime))
                .map_err(|error| Failure::generic("cannot open the QUIC endpoint", &error))?;
        Ok(Self { endpoint, greeter: Arc::new(greeter), tasks })
    }

    /// Starts accepting agents; a new certificate reaches new connections as soon as `tls` changes.
    pub(crate) fn start(self, tls: watch::Receiver<Arc<rustls::ServerConfig>>) {
        let tasks = self.tasks.clone();
        tasks.spawn(TaskKind::Link, async move { self.run(tls).await });
    }

    async fn run(self, mut tls: watch::Receiver<Arc<rustls::ServerConfig>>) -> Result<(), Infallible> {
        let stop = self.tasks.token().clone();
        let places = Places {
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
        };
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Ok(()) = tls.changed() => self.reconfigure(tls.borrow_and_update().clone()),
                incoming = self.endpoint.accept() => match incoming {
                    Some(incoming) => self.admit(incoming, &places),
                    None => break,
                },
            }
        }
        // Sessions say goodbye by themselves; this only stops newcomers.
        self.endpoint.set_server_config(None);
        Ok(())
    }

    fn reconfigure(&self, tls: Arc<rustls::ServerConfig>) {
        match server_config(tls) {
            Ok(config) => self.endpoint.set_server_config(Some(config)),
            Err(error) => tracing::error!(%error, "the renewed certificate is not usable for agents"),
        }
    }

    fn admit(&self, incoming: Incoming, places: &Places) {
        let address = incoming.remote_address();
        let crowded = places.handshakes.available_permits() < HANDSHAKES_MAX - HANDSHAKES_UNVALIDATED_MAX;
        if crowded && !incoming.remote_address_validated() {
            // Fails only for validated addresses, which this one is not.
            incoming.retry().ok();
            return;
        }
        let Ok(waiting) = places.waiting.clone().try_acquire_owned() else {
            tracing::debug!(%address, "too many handshakes, agent refused for now");
            incoming.refuse();
            return;
        };
        let (greeter, handshakes) = (self.greeter.clone(), places.handshakes.clone());
        self.tasks.spawn_infallible(TaskKind::Session, async move {
            let Ok(Ok(place)) = tokio::time::timeout(TURN_TIMEOUT, handshakes.acquire_owned()).await else {
                tracing::debug!(%address, "no turn for a handshake in time, agent refused for now");
                incoming.refuse();
                return;
            };
            drop(waiting);
            let connected = connect(incoming, address).await;
            drop(place);
            if let Some(quic) = connected {
                greeter.greet(quic).await;
            }
        });
    }

    /// The endpoint, to wait for the last close frames at the end.
    pub(crate) fn farewell(&self) -> Farewell {
        Farewell { endpoint: self.endpoint.clone() }
    }
}

/// Bounds of what newcomers may hold.
struct Places {
    handshakes: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

/// Waits until agents have been told.
pub(crate) struct Farewell {
    endpoint: Endpoint,
}

impl Farewell {
    /// Closes what is left and gives the close frames a moment.
    pub(crate) async fn wait(&self) {
        self.endpoint.close(VarInt::from_u32(super::close::STOPPING), b"node stopping");
        tokio::time::timeout(CLOSE_TIMEOUT, self.endpoint.wait_idle()).await.ok();
    }
}

async fn connect(incoming: Incoming, address: SocketAddr) -> Option<quinn::Connection> {
    let connecting =
        incoming.accept().map_err(|error| tracing::debug!(%address, %error, "agent not accepted")).ok()?;
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting).await {
        Ok(Ok(quic)) => Some(quic),
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "agent handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!(%address, "agent handshake timed out");
            None
        }
    }
}

fn server_config(tls: Arc<rustls::ServerConfig>) -> Result<ServerConfig, Failure> {
    let crypto = QuicServerConfig::try_from(tls).map_err(|error| {
        Failure::new(Code::Generic, format!("the TLS configuration does not suit QUIC: {error}"), "")
    })?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(Arc::new(transport()));
    Ok(config)
}

fn transport() -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(reset::UDP_PAYLOAD_BYTES_MAX);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(AGENT_STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(AGENT_STREAMS_MAX))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .datagram_receive_buffer_size(None)
        .mtu_discovery_config(Some(mtu))
        .max_idle_timeout(Some(VarInt::from_u32(IDLE_TIMEOUT_MS).into()));
    transport
}
