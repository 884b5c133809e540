//! One agent's control stream: one reader and one writer for as long as the connection lives.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use stratavore_model::{Epoch, HostId};
use stratavore_proto::frame::{self, FrameError, FrameReader};
use stratavore_proto::v1::{self, AgentMessage, NodeMessage, agent_message, node_message};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::admission::ConnectionPlace;
use crate::dispatch::{Connected, DispatchHandle};
use crate::link::certificate::Issuer;
use crate::link::handshake::Greeted;
use crate::link::hub::{Cut, Hub, SessionHandle};
use crate::link::ingest::IngestHandle;
use crate::link::{FAREWELL_TIMEOUT, close};
use crate::metrics::Counted;
use crate::peer::renewals::RenewalHandle;

/// Control frames overtake terminal bytes on the same connection.
const CONTROL_PRIORITY: i32 = 10;

/// Frames written with one system call when several are waiting.
const WRITE_BATCH: usize = 64;

/// Where an agent's messages go.
pub(crate) struct Up {
    pub(crate) ingest: IngestHandle,
    pub(crate) renewals: RenewalHandle,
    pub(crate) issuer: Issuer,
    pub(crate) counted: Counted,
}

/// A greeted agent.
pub(crate) struct Session {
    pub(crate) quic: quinn::Connection,
    pub(crate) send: quinn::SendStream,
    pub(crate) reader: FrameReader<quinn::RecvStream>,
    pub(crate) greeted: Greeted,
    pub(crate) place: ConnectionPlace,
    pub(crate) hub: Hub,
}

/// What is fixed for one connection of an agent.
struct Agent {
    /// The key it authenticated with.
    present: [u8; 32],
    host_epoch: Epoch,
}

/// How a session came to its end.
enum End {
    /// From this side.
    Cut(Cut),
    /// The agent closed, or the connection broke.
    Gone(String),
    /// The agent sent what no agent sends.
    Protocol(String),
}

impl Session {
    /// Serves the agent until either side ends it.
    pub(crate) async fn run(self, dispatch: &DispatchHandle, up: Up, stop: &CancellationToken) {
        let Self { quic, send, mut reader, greeted, place, hub } = self;
        let (handle, queue) = hub.session(greeted.host, greeted.connection, quic.clone());
        if !hub.enter(&handle) {
            quic.close(close::REPLACED.into(), b"a newer connection of this host is open");
            return;
        }
        send.set_priority(CONTROL_PRIORITY).ok();
        let host = greeted.host;
        let connected = Connected {
            session: handle.clone(),
            host_epoch: greeted.host_epoch,
            known: greeted.known,
            acknowledged: greeted.acknowledged,
        };
        dispatch.connected(connected).await;
        tracing::info!(%host, address = %quic.remote_address(), "agent connected");
        let agent = Agent { present: greeted.peer.spki, host_epoch: greeted.host_epoch };
        let mut writer = Writer { send, queue, bytes: BytesMut::new() };
        let end = tokio::select! {
            end = read_loop(&mut reader, &handle, &agent, &up) => end,
            end = writer.run() => end,
            cut = handle.was_cut() => End::Cut(cut),
            () = place.token().cancelled() => End::Cut(Cut::Removed),
            () = stop.cancelled() => End::Cut(Cut::Stopping),
        };
        // From here on nothing new is queued: the hub has forgotten the session.
        hub.leave(&handle);
        dispatch.disconnected(&handle).await;
        farewell(&quic, &mut writer, end, host).await;
    }
}

async fn read_loop(
    reader: &mut FrameReader<quinn::RecvStream>,
    handle: &SessionHandle,
    agent: &Agent,
    up: &Up,
) -> End {
    loop {
        let message = match reader.next::<AgentMessage>().await {
            Ok(Some(AgentMessage { message: Some(message) })) => message,
            // A newer agent's message that this version does not know.
            Ok(Some(AgentMessage { message: None })) => continue,
            Ok(None) => return End::Gone("agent closed the control stream".to_owned()),
            Err(FrameError::Io(error)) => return End::Gone(error.to_string()),
            Err(FrameError::Truncated) => return End::Gone("connection ended inside a frame".to_owned()),
            Err(error) => return End::Protocol(error.to_string()),
        };
        match message {
            agent_message::Message::Hello(_) => return End::Protocol("second hello".to_owned()),
            agent_message::Message::Renewal(renewal) => up.renewals.submit(handle, renewal),
            agent_message::Message::Observed(observed) => {
                up.ingest.submit(handle, agent.host_epoch, observed).await
            }
            agent_message::Message::Certificate(request) => {
                up.issuer.answer(handle, agent.present, request).await
            }
            agent_message::Message::Load(load) => {
                up.counted.heartbeat(Duration::from_micros(load.last_rtt_us));
                handle.report_load(load);
            }
        }
    }
}

/// The down direction. What was taken from the queue stays in `bytes` until it is written, so a session can be cut
/// between any two writes and still end with a whole frame.
struct Writer {
    send: quinn::SendStream,
    queue: mpsc::Receiver<NodeMessage>,
    bytes: BytesMut,
}

impl Writer {
    /// Cancel-safe.
    async fn run(&mut self) -> End {
        let mut batch = Vec::with_capacity(WRITE_BATCH);
        loop {
            if self.queue.recv_many(&mut batch, WRITE_BATCH).await == 0 {
                return End::Cut(Cut::Stopping);
            }
            if let Err(end) = self.encode(&mut batch) {
                return end;
            }
            if let Err(end) = self.flush().await {
                return end;
            }
        }
    }

    fn encode(&mut self, batch: &mut Vec<NodeMessage>) -> Result<(), End> {
        for message in batch.drain(..) {
            frame::encode(&message, &mut self.bytes).map_err(|error| End::Protocol(error.to_string()))?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), End> {
        while !self.bytes.is_empty() {
            let written = self.send.write(&self.bytes).await.map_err(|error| End::Gone(error.to_string()))?;
            self.bytes.advance(written);
        }
        Ok(())
    }

    /// Everything that is queued, then `last`, then the end of the stream.
    async fn finish(&mut self, last: Option<node_message::Message>) {
        let mut batch = Vec::new();
        while let Ok(message) = self.queue.try_recv() {
            batch.push(message);
        }
        batch.extend(last.map(|message| NodeMessage { message: Some(message) }));
        if self.encode(&mut batch).is_ok() && self.flush().await.is_ok() && self.send.finish().is_ok() {
            self.send.stopped().await.ok();
        }
    }
}

/// Says why, as far as the agent still listens, and closes.
async fn farewell(quic: &quinn::Connection, writer: &mut Writer, end: End, host: HostId) {
    let (code, last) = match end {
        End::Gone(reason) => {
            tracing::info!(%host, %reason, "agent gone");
            quic.close(close::ENDED.into(), b"");
            return;
        }
        End::Protocol(reason) => {
            tracing::warn!(%host, %reason, "agent broke the protocol, its connection is closed");
            quic.close(close::PROTOCOL.into(), reason.as_bytes());
            return;
        }
        End::Cut(cut) => last_words(cut),
    };
    tracing::info!(%host, code, "agent's connection is closed from this side");
    tokio::time::timeout(FAREWELL_TIMEOUT, writer.finish(last)).await.ok();
    quic.close(code.into(), b"");
}

fn last_words(cut: Cut) -> (u32, Option<node_message::Message>) {
    let go_away = |code: &str, reason: &str| {
        let (reason, code) = (reason.to_owned(), code.to_owned());
        Some(node_message::Message::GoAway(v1::GoAway { reason, code }))
    };
    match cut {
        Cut::Removed => {
            let reason = "the host was removed from the cluster".to_owned();
            (close::REMOVED, Some(node_message::Message::Removed(v1::Removed { reason })))
        }
        Cut::Replaced => (close::REPLACED, go_away("replaced", "a newer connection of this host is open")),
        Cut::Stopping => (close::STOPPING, go_away("stopping", "the node stops")),
        Cut::Quarantined => (close::STOPPING, go_away("stopping", "the node rebuilds its state")),
        Cut::Unreported => {
            (close::ENDED, go_away("unreported", "a report could not be committed, connect again"))
        }
        Cut::TooSlow => (close::TOO_SLOW, None),
    }
}
