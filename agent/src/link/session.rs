//! A link that is up: one task reads, one writes, one accepts the gateway's streams.

use std::sync::Arc;
use std::time::Duration;

use quinn::{ConnectionError, Endpoint, RecvStream, SendStream, VarInt};
use stratavore_proto::frame::{self, FrameReader};
use stratavore_proto::v1;
use stratavore_proto::v1::node_message::Message as Down;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::warn;

use super::dial::{Welcomed, refusal};
use crate::registry::Registry;
use crate::shell::Input;
use crate::streams;
use stratavore_certs::tls::Refusal;

/// Frames waiting to be written. Reports are pulled when there is room, so more would only delay them.
const OUTBOX_MAX: usize = 8;

/// Certificates under way: one request at a time.
const CERTIFICATES_MAX: usize = 1;

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
    connection: quinn::Connection,
    endpoint: Endpoint,
    _tasks: JoinSet<()>,
}

impl Session {
    /// Tells the shell that the link is up, then starts the tasks; messages go to the shell under this session's
    /// number and so can only come after that.
    pub(super) async fn start(
        welcomed: Welcomed,
        node: u64,
        inputs: mpsc::Sender<Input>,
        registry: Arc<Registry>,
    ) -> Self {
        let Welcomed { endpoint, connection, send, reader, welcome, session } = welcomed;
        let (outbox, outgoing) = mpsc::channel(OUTBOX_MAX);
        let (certificate, certificates) = mpsc::channel(CERTIFICATES_MAX);
        let _ended = inputs.send(Input::Up { session, welcome, sender: outbox.clone() }).await;
        let mut tasks = JoinSet::new();
        tasks.spawn(write(send, outgoing, connection.clone()));
        tasks.spawn(read(reader, session, inputs, certificate, connection.clone()));
        tasks.spawn(streams::accept(connection.clone(), registry));
        Self {
            id: session,
            node,
            since: Instant::now(),
            outbox,
            certificates,
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
) {
    while let Some(message) = outgoing.recv().await {
        if let Err(error) = frame::write(&mut send, &message).await {
            if connection.close_reason().is_none() {
                warn!(%error, "the control stream cannot be written");
                connection.close(VarInt::from_u32(CLOSE_BAD_FRAME), b"the control stream failed");
            }
            return;
        }
    }
}

async fn read(
    mut reader: FrameReader<RecvStream>,
    session: u64,
    inputs: mpsc::Sender<Input>,
    certificates: mpsc::Sender<v1::CertificateResponse>,
    connection: quinn::Connection,
) {
    loop {
        let message = match reader.next::<v1::NodeMessage>().await {
            Ok(Some(message)) => message.message,
            Ok(None) => return connection.close(VarInt::from_u32(CLOSE_BYE), b"the control stream ended"),
            Err(error) => {
                if connection.close_reason().is_none() {
                    warn!(%error, "the gateway sent what is no frame of this protocol; the connection is closed");
                    connection.close(VarInt::from_u32(CLOSE_BAD_FRAME), error.to_string().as_bytes());
                }
                return;
            }
        };
        match message {
            Some(Down::Certificate(response)) => {
                let _unasked = certificates.try_send(response);
            }
            // The end of this conversation: a new hello starts the next.
            Some(message @ Down::Refused(_)) => {
                let _ended = inputs.send(Input::Message(session, message)).await;
                return connection.close(VarInt::from_u32(CLOSE_BYE), b"refused");
            }
            Some(message) => {
                if inputs.send(Input::Message(session, message)).await.is_err() {
                    return;
                }
            }
            None => warn!(
                "the gateway sent a message that this version does not know; is this agent older than the nodes?"
            ),
        }
    }
}
