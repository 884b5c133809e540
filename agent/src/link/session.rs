//! A link that is up: one task reads, one writes, one accepts the gateway's streams.

use std::sync::Arc;
use std::time::Duration;

use quinn::{ConnectionError, Endpoint, RecvStream, SendStream, VarInt};
use stratavore_proto::frame::{self, FrameReader};
use stratavore_proto::v1;
use stratavore_proto::v1::node_message::Message as Down;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::warn;

use super::dial::{Welcomed, refusal};
use super::pulse::Pulse;
use crate::registry::Registry;
use crate::shell::Input;
use crate::streams;
use stratavore_certs::tls::Refusal;

/// Frames waiting to be written. Reports are pulled when there is room, so more would only delay them.
const OUTBOX_MAX: usize = 8;

/// Certificates under way: one request at a time.
const CERTIFICATES_MAX: usize = 1;

/// Changes of the trust bundle that wait; each is whole, and they are rare.
const TRUSTS_MAX: usize = 4;

/// How long the end of the process waits for the connection's.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(300);

/// Application codes of a close.
const CLOSE_BYE: u32 = 0;
const CLOSE_BAD_FRAME: u32 = 1;

/// Why a session ended.
#[derive(Debug)]
pub(super) enum End {
    /// The node says that this host's key was removed (P18).
    Revoked,
    Broken(String),
}

/// One link; dropping it closes the connection.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: u64,
    pub(super) node: u64,
    pub(super) since: Instant,
    pub(super) outbox: mpsc::Sender<v1::AgentMessage>,
    pub(super) certificates: mpsc::Receiver<v1::CertificateResponse>,
    pub(super) trust: mpsc::Receiver<v1::TrustUpdate>,
    /// Counts grants: the node has answered a renewal.
    pub(super) granted: watch::Receiver<u64>,
    /// Counts frames written: each must draw a datagram from a node that lives.
    written: watch::Receiver<u64>,
    connection: quinn::Connection,
    endpoint: Endpoint,
    _tasks: JoinSet<()>,
}

impl Session {
    /// Tells the shell that the link is up, then starts the tasks; messages go to the shell under this session's
    /// number and so can only come after that.
    pub(super) async fn start(
        welcomed: Welcomed,
        inputs: mpsc::Sender<Input>,
        registry: Arc<Registry>,
    ) -> Self {
        let Welcomed { node, endpoint, connection, send, reader, welcome, session, early } = welcomed;
        let (outbox, outgoing) = mpsc::channel(OUTBOX_MAX);
        let (certificate, certificates) = mpsc::channel(CERTIFICATES_MAX);
        let (trusts, trust) = mpsc::channel(TRUSTS_MAX);
        let (grants, granted) = watch::channel(0);
        let (writes, written) = watch::channel(0);
        let _ended = inputs.send(Input::Up { session, welcome, sender: outbox.clone() }).await;
        let mut tasks = JoinSet::new();
        tasks.spawn(write(send, outgoing, connection.clone(), writes));
        let sinks = Sinks { session, inputs, certificate, trusts, grants, connection: connection.clone() };
        tasks.spawn(sinks.read(reader, early));
        tasks.spawn(streams::accept(connection.clone(), registry));
        Self {
            id: session,
            node,
            since: Instant::now(),
            outbox,
            certificates,
            trust,
            granted,
            written,
            connection,
            endpoint,
            _tasks: tasks,
        }
    }

    /// Waits for the connection's end. Cancel-safe.
    pub(super) fn ended(&self) -> impl Future<Output = End> + use<> {
        let connection = self.connection.clone();
        async move {
            let error = connection.closed().await;
            match refusal(&error) {
                Some(Refusal::Revoked) => End::Revoked,
                Some(other) => End::Broken(other.to_string()),
                None => End::Broken(reason(&error)),
            }
        }
    }
}

impl Session {
    /// What tells a living node from a dead one.
    pub(super) fn pulse(&self) -> Pulse {
        Pulse::new(self.connection.clone(), self.written.clone())
    }

    /// Says goodbye and waits a moment for it to leave, so that the gateway knows at once.
    pub(super) async fn close(self) {
        let endpoint = self.endpoint.clone();
        drop(self);
        let _left = tokio::time::timeout(GOODBYE_TIMEOUT, endpoint.wait_idle()).await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.close(VarInt::from_u32(CLOSE_BYE), b"bye");
    }
}

fn reason(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ApplicationClosed(close) if !close.reason.is_empty() => {
            format!("closed by the node: {}", String::from_utf8_lossy(&close.reason))
        }
        ConnectionError::LocallyClosed => "closed by this agent".into(),
        other => other.to_string(),
    }
}

async fn write(
    mut send: SendStream,
    mut outgoing: mpsc::Receiver<v1::AgentMessage>,
    connection: quinn::Connection,
    writes: watch::Sender<u64>,
) {
    while let Some(message) = outgoing.recv().await {
        if let Err(error) = frame::write(&mut send, &message).await {
            if connection.close_reason().is_none() {
                warn!(%error, "the control stream cannot be written");
                connection.close(VarInt::from_u32(CLOSE_BAD_FRAME), b"the control stream failed");
            }
            return;
        }
        writes.send_modify(|count| *count += 1);
    }
}

/// Where the messages of one link go.
struct Sinks {
    session: u64,
    inputs: mpsc::Sender<Input>,
    certificate: mpsc::Sender<v1::CertificateResponse>,
    trusts: mpsc::Sender<v1::TrustUpdate>,
    grants: watch::Sender<u64>,
    connection: quinn::Connection,
}

impl Sinks {
    /// Reads until the end of the link, after what came `early`.
    async fn read(self, mut reader: FrameReader<RecvStream>, early: Vec<Down>) {
        for message in early {
            if !self.take(message).await {
                return;
            }
        }
        let connection = &self.connection;
        loop {
            let message = match reader.next::<v1::NodeMessage>().await {
                Ok(Some(message)) => message.message,
                Ok(None) => {
                    return connection.close(VarInt::from_u32(CLOSE_BYE), b"the control stream ended");
                }
                Err(error) => {
                    if connection.close_reason().is_none() {
                        warn!(%error, "the gateway sent what is no frame of this protocol; the connection is closed");
                        connection.close(VarInt::from_u32(CLOSE_BAD_FRAME), error.to_string().as_bytes());
                    }
                    return;
                }
            };
            match message {
                Some(message) => {
                    if !self.take(message).await {
                        return;
                    }
                }
                None => warn!(
                    "the gateway sent a message that this version does not know; is this agent older than the nodes?"
                ),
            }
        }
    }

    /// False when the conversation is over.
    async fn take(&self, message: Down) -> bool {
        match message {
            Down::Certificate(response) => {
                let _unasked = self.certificate.try_send(response);
                true
            }
            Down::Trust(update) => self.trusts.send(update).await.is_ok(),
            // The end of this conversation: a new hello starts the next.
            message @ Down::Refused(_) => {
                let _ended = self.inputs.send(Input::Message(self.session, message)).await;
                self.connection.close(VarInt::from_u32(CLOSE_BYE), b"refused");
                false
            }
            message => {
                if matches!(message, Down::Grant(_)) {
                    self.grants.send_modify(|count| *count += 1);
                }
                self.inputs.send(Input::Message(self.session, message)).await.is_ok()
            }
        }
    }
}
