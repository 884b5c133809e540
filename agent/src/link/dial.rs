//! One connection to one node, up to its welcome.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ClientConfig, ConnectionError, Endpoint, MtuDiscoveryConfig, RecvStream, SendStream, TransportConfig,
    VarInt,
};
use stratavore_certs::tls::{self, Refusal};
use stratavore_certs::{Credentials, SpkiHash};
use stratavore_proto::frame::{self, FrameError, FrameReader};
use stratavore_proto::v1;
use stratavore_proto::v1::agent_message::Message as Up;
use stratavore_proto::v1::node_message::Message as Down;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::failure::chain;
use crate::membership::{Gateway, Trust};
use crate::shell::Input;
use crate::streams::{PRIORITY_CONTROL, STREAMS_MAX};

/// A silent port gives no error by itself before the idle timeout.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// Between the starts of two handshakes: many round trips, far less than the timeout of one to a dead node.
const HEAD_START: Duration = Duration::from_millis(400);
/// The gateway answers a hello after a commit, which may take an election.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// Sent by this side only; three get lost before the connection counts as dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const IDLE_TIMEOUT: Duration = Duration::from_secs(45);
/// Guess before the first measurement: a host and its cluster are near each other; wrong guesses cost one repeat.
const INITIAL_RTT: Duration = Duration::from_millis(50);
/// Largest packet tried: jumbo frames and loopback carry far more than Ethernet's 1452.
const MTU_MAX: u16 = 8952;
/// Input of viewers and orders come down: little. Output goes up: a screen flood per viewer.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
const SEND_WINDOW_BYTES: u64 = 8 * 1024 * 1024;

/// QUIC carries TLS alerts as the transport errors 0x100 to 0x1ff.
const CRYPTO_ERROR_FIRST: u64 = 0x100;

/// A connection whose gateway has welcomed this host.
pub(super) struct Welcomed {
    pub(super) node: u64,
    pub(super) endpoint: Endpoint,
    pub(super) connection: quinn::Connection,
    pub(super) send: SendStream,
    pub(super) reader: FrameReader<RecvStream>,
    pub(super) welcome: Box<v1::Welcome>,
    /// The number that the hello carried; names the link.
    pub(super) session: u64,
    /// What came behind the welcome and has not been handled.
    pub(super) early: Vec<Down>,
}

/// Why there is no link to one node.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("the address cannot be resolved")]
    Resolve(#[source] std::io::Error),
    #[error("the name has no address")]
    NoAddress,
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    #[error("no UDP socket")]
    Socket(#[source] std::io::Error),
    #[error("the address cannot be dialled")]
    Connect(#[from] quinn::ConnectError),
    #[error("no answer within {} s; is UDP to that port open?", HANDSHAKE_TIMEOUT.as_secs())]
    Silent,
    #[error("connected, but no welcome within {} s", WELCOME_TIMEOUT.as_secs())]
    NoWelcome,
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the connection broke")]
    Connection(#[source] ConnectionError),
    #[error("the control stream failed")]
    Frame(#[from] FrameError),
    #[error("refused ({code}): {message}")]
    ByNode { code: String, message: String },
    #[error("not followed: {0}")]
    NotFollowed(String),
    #[error("the agent cannot make its hello now")]
    NoHello,
}

impl From<ConnectionError> for DialError {
    fn from(error: ConnectionError) -> Self {
        refusal(&error).map_or_else(|| Self::Connection(error), Self::Refused)
    }
}

/// The node's TLS verdict in a connection's end. Our own verdict about the node is a transport error with its text.
pub(super) fn refusal(error: &ConnectionError) -> Option<Refusal> {
    let ConnectionError::ConnectionClosed(close) = error else { return None };
    let code = u64::from(close.error_code);
    let alert = code.checked_sub(CRYPTO_ERROR_FIRST).and_then(|alert| u8::try_from(alert).ok());
    alert.map(Refusal::from_alert)
}

/// What every dialling needs, copied at its start.
#[derive(Debug, Clone)]
pub(super) struct Dialer {
    pub(super) credentials: Arc<Credentials>,
    pub(super) trust: Trust,
    pub(super) gso: bool,
    pub(super) inputs: mpsc::Sender<Input>,
}

/// A connection after its handshake; the node has not been greeted yet.
struct Shaken {
    node: Gateway,
    endpoint: Endpoint,
    connection: quinn::Connection,
}

impl Dialer {
    /// Tries the nodes in `order` until one welcomes this host; `None` when none does. `greeting` is told before a
    /// hello goes out: from then on older connections may be refused (P14).
    ///
    /// # Errors
    /// [`Refusal::Revoked`] as soon as one node says so: nothing else ends the round.
    pub(super) async fn round(
        &self,
        mut order: Vec<Gateway>,
        greeting: &AtomicBool,
    ) -> Result<Option<Welcomed>, Revoked> {
        while !order.is_empty() {
            let Some(shaken) = self.first(&order).await else { return Ok(None) };
            order.retain(|node| node.id != shaken.node.id);
            let Gateway { id, quic } = shaken.node.clone();
            match self.greet(shaken, greeting).await {
                Ok(welcomed) => {
                    info!(node = id, address = quic, "welcomed");
                    return Ok(Some(welcomed));
                }
                Err(DialError::Refused(Refusal::Revoked)) => return Err(Revoked),
                Err(error) => warn!(node = id, address = quic, error = chain(&error), "no link"),
            }
        }
        Ok(None)
    }

    /// The first node that completes a handshake. Dead nodes give no sign, so the next is tried beside a slow one;
    /// earlier nodes have a head start each.
    async fn first(&self, order: &[Gateway]) -> Option<Shaken> {
        let mut waiting = order.iter();
        let mut racing = FuturesUnordered::new();
        racing.push(self.shake(waiting.next()?));
        loop {
            tokio::select! {
                Some((node, shaken)) = racing.next() => match shaken {
                    Ok(shaken) => return Some(shaken),
                    Err(error) => {
                        warn!(node = node.id, address = node.quic, error = chain(&error), "no link");
                        match waiting.next() {
                            Some(next) => racing.push(self.shake(next)),
                            None if racing.is_empty() => return None,
                            None => {}
                        }
                    }
                },
                () = tokio::time::sleep(HEAD_START), if waiting.len() > 0 => {
                    racing.extend(waiting.next().map(|next| self.shake(next)));
                }
            }
        }
    }

    async fn shake<'a>(&self, node: &'a Gateway) -> (&'a Gateway, Result<Shaken, DialError>) {
        (node, self.shake_any(node).await)
    }

    async fn shake_any(&self, node: &Gateway) -> Result<Shaken, DialError> {
        let mut last = DialError::NoAddress;
        for address in tokio::net::lookup_host(&node.quic).await.map_err(DialError::Resolve)? {
            match self.shake_address(node, address).await {
                // Nobody there: a name may have an address of another family.
                Err(error @ (DialError::Silent | DialError::Connect(_) | DialError::Socket(_))) => {
                    last = error
                }
                decided => return decided,
            }
        }
        Err(last)
    }

    async fn shake_address(&self, node: &Gateway, address: SocketAddr) -> Result<Shaken, DialError> {
        let endpoint = endpoint(address, &self.credentials, self.trust.keys(), self.gso)?;
        let connecting = endpoint.connect(address, tls::SERVER_NAME)?;
        let connection = timeout(HANDSHAKE_TIMEOUT, connecting).await.map_err(|_| DialError::Silent)??;
        Ok(Shaken { node: node.clone(), endpoint, connection })
    }

    async fn greet(&self, shaken: Shaken, greeting: &AtomicBool) -> Result<Welcomed, DialError> {
        let Shaken { node, endpoint, connection } = shaken;
        greeting.store(true, Ordering::Relaxed);
        // Our side of the handshake is done; whether the node takes our certificate shows with its first answer.
        let greeted = timeout(WELCOME_TIMEOUT, greet(&connection, &self.inputs, &self.trust)).await;
        match greeted.unwrap_or(Err(DialError::NoWelcome)) {
            Ok((send, reader, welcome, session)) => {
                let node = node.id;
                Ok(Welcomed { node, endpoint, connection, send, reader, welcome, session, early: Vec::new() })
            }
            Err(error) => {
                // The close reason says more than the broken stream does.
                let error = match connection.close_reason() {
                    Some(reason) => reason.into(),
                    None => error,
                };
                connection.close(VarInt::from_u32(0), b"no welcome");
                Err(error)
            }
        }
    }
}

/// The cluster removed this host.
#[derive(Debug)]
pub(super) struct Revoked;

type Greeted = (SendStream, FrameReader<RecvStream>, Box<v1::Welcome>, u64);

async fn greet(
    connection: &quinn::Connection,
    inputs: &mpsc::Sender<Input>,
    trust: &Trust,
) -> Result<Greeted, DialError> {
    let hello = ask(inputs, Input::Hello).await.ok_or(DialError::NoHello)?;
    let session = hello.connection;
    let (mut send, recv) = connection.open_bi().await?;
    let _closed = send.set_priority(PRIORITY_CONTROL);
    frame::write(&mut send, &v1::AgentMessage { message: Some(Up::Hello(hello)) }).await?;
    let mut reader = FrameReader::new(recv);
    let answer = reader.next::<v1::NodeMessage>().await?.ok_or(FrameError::Truncated)?;
    match answer.message {
        Some(Down::Welcome(welcome)) => {
            let welcome = Box::new(welcome);
            trust.check_incarnation(&welcome).map_err(DialError::NotFollowed)?;
            let check =
                ask(inputs, |reply| Input::Check(welcome.clone(), reply)).await.ok_or(DialError::NoHello)?;
            check.map_err(DialError::NotFollowed)?;
            Ok((send, reader, welcome, session))
        }
        Some(Down::Refused(refused)) => {
            let error = DialError::ByNode { code: refused.code.clone(), message: refused.message.clone() };
            let _ended = inputs.send(Input::Message(session, Down::Refused(refused))).await;
            Err(error)
        }
        Some(Down::Removed(_)) => Err(DialError::Refused(Refusal::Revoked)),
        _ => Err(DialError::ByNode {
            code: "protocol".into(),
            message: "the first answer is no welcome".into(),
        }),
    }
}

/// Asks the shell; `None` when it does not answer.
pub(super) async fn ask<T>(
    inputs: &mpsc::Sender<Input>,
    input: impl FnOnce(oneshot::Sender<T>) -> Input,
) -> Option<T> {
    let (reply, answer) = oneshot::channel();
    inputs.send(input(reply)).await.ok()?;
    answer.await.ok()
}

/// A fresh socket per connection follows changes of the host's own addresses.
fn endpoint(
    remote: SocketAddr,
    credentials: &Credentials,
    trusted: Option<Vec<SpkiHash>>,
    gso: bool,
) -> Result<Endpoint, DialError> {
    let setup = |error: &dyn std::error::Error| DialError::Tls(error.to_string());
    let config = tls::quic_client(credentials, trusted).map_err(|error| setup(&error))?;
    let crypto = QuicClientConfig::try_from(config).map_err(|error| setup(&error))?;
    let mut client = ClientConfig::new(Arc::new(crypto));
    client.transport_config(Arc::new(transport(gso)));
    let local: SocketAddr = match remote {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let mut endpoint = Endpoint::client(local).map_err(DialError::Socket)?;
    endpoint.set_default_client_config(client);
    Ok(endpoint)
}

fn transport(gso: bool) -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(MTU_MAX);
    let mut transport = TransportConfig::default();
    transport
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(IDLE_TIMEOUT.try_into().ok())
        .initial_rtt(INITIAL_RTT)
        .mtu_discovery_config(Some(mtu))
        .enable_segmentation_offload(gso)
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX as u32))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .datagram_receive_buffer_size(None);
    transport
}
