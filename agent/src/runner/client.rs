//! The control connection to one shim.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use prost::Message;
use stratavore_proto::v1;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};

use super::attach::{self, Attachment};
use crate::shim::wire::{self, PROTOCOL_MAX, PROTOCOL_MIN, REPLY_BYTES_MAX, kind};

/// Requests waiting for one shim; its loop answers each within microseconds.
const REQUESTS_MAX: usize = 32;

/// A shim answers at once; one that does not within this time hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a request to a shim failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection ended; [`super::Launcher::adopt`] says what is left.
    #[error("the shim is gone")]
    Gone,
    #[error("refused ({code}): {message}")]
    Refused { code: String, message: String },
    #[error("the shim did not answer within {} s", ANSWER_TIMEOUT.as_secs())]
    Mute,
    #[error("the shim's socket failed")]
    Io(#[from] io::Error),
    #[error("the shim sent what this agent does not understand: {0}")]
    Protocol(String),
}

/// A living shim. Cheap to clone; all clones share one connection.
#[derive(Debug, Clone)]
pub struct Client {
    requests: mpsc::Sender<Request>,
    observation: watch::Receiver<v1::Observation>,
    lease: Option<wire::Lease>,
    socket: PathBuf,
}

#[derive(Debug)]
struct Request {
    frame: Vec<u8>,
    reply: oneshot::Sender<Result<Reply, ClientError>>,
}

/// A frame from the shim: kind and body.
type Reply = (u8, BytesMut);

impl Client {
    /// Connects and subscribes to the status.
    pub(super) async fn connect(socket: &Path) -> Result<Self, ClientError> {
        let (mut connection, welcome) = Connection::open(socket).await?;
        connection.send(&wire::raw_frame(kind::WATCH, &[])).await?;
        let status = welcome.status.and_then(|status| status.observation).unwrap_or_default();
        let (sender, observation) = watch::channel(status);
        let (requests, incoming) = mpsc::channel(REQUESTS_MAX);
        tokio::spawn(Link { connection, status: sender, incoming, pending: VecDeque::new() }.run());
        Ok(Self { requests, observation, lease: welcome.lease, socket: socket.into() })
    }

    /// The latest status.
    #[must_use]
    pub fn observation(&self) -> v1::Observation {
        self.observation.borrow().clone()
    }

    /// Every change from now on. The sender is dropped when the shim dies.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<v1::Observation> {
        self.observation.clone()
    }

    /// What the shim held when this connection was made; `None` from one that knows no deadlines.
    #[must_use]
    pub const fn lease(&self) -> Option<wire::Lease> {
        self.lease
    }

    /// Gives the shim a deadline (P5, P11), ns of CLOCK_BOOTTIME, 0 for none; what it holds then. An earlier one than
    /// the present counts only with `lower` (P13).
    ///
    /// # Errors
    /// When the shim is gone or hangs; refused by one that knows no deadlines.
    pub async fn set_lease(&self, deadline_ns: u64, lower: bool) -> Result<wire::Lease, ClientError> {
        let frame = wire::frame(kind::LEASE, &wire::SetLease { deadline_ns, lower });
        decode(&self.ask(frame).await?.1)
    }

    /// Starts the stop ladder, or escalates it with `force`. The end comes through [`Client::watch`].
    ///
    /// # Errors
    /// When the shim is gone.
    pub async fn stop(&self, force: bool, reason: &str) -> Result<(), ClientError> {
        let stop = wire::Stop { force, reason: reason.to_owned() };
        self.ask(wire::frame(kind::STOP, &stop)).await.map(drop)
    }

    /// The grid as text.
    ///
    /// # Errors
    /// Refused with `no_terminal` for runners with pipes.
    pub async fn screen(&self) -> Result<v1::GetScreenResponse, ClientError> {
        decode(&self.ask(wire::raw_frame(kind::SCREEN, &[])).await?.1)
    }

    /// Types into the program without attaching, at most 64 KiB at once.
    ///
    /// # Errors
    /// Refused with `driver_taken` while somebody drives (unless `steal`), `runner_ended`, `input_full`, `input_closed`.
    pub async fn input(&self, data: Vec<u8>, steal: bool, viewer: &str) -> Result<(), ClientError> {
        if data.len() > wire::CHUNK_BYTES_MAX {
            let message =
                format!("{} bytes at once, at most {} are taken", data.len(), wire::CHUNK_BYTES_MAX);
            return Err(ClientError::Refused { code: "bad_argument".into(), message });
        }
        let viewer = viewer.chars().take(32).collect();
        self.ask(wire::frame(kind::TYPE, &wire::Type { data, steal, viewer })).await.map(drop)
    }

    /// Lets the shim of an ended runner go: its end has been acknowledged.
    ///
    /// # Errors
    /// Refused with `running` before the end.
    pub async fn reap(&self) -> Result<(), ClientError> {
        self.ask(wire::raw_frame(kind::REAP, &[])).await.map(drop)
    }

    /// Opens a viewer, on a connection of its own.
    ///
    /// # Errors
    /// Refused with `driver_taken` unless observing or stealing.
    pub async fn attach(&self, open: v1::AttachOpen, viewer: &str) -> Result<Attachment, ClientError> {
        attach::open(&self.socket, open, viewer).await
    }

    async fn ask(&self, frame: Vec<u8>) -> Result<Reply, ClientError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request { frame, reply }).await.map_err(|_| ClientError::Gone)?;
        match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
            Ok(answer) => answer.map_err(|_| ClientError::Gone)?,
            Err(_) => Err(ClientError::Mute),
        }
    }
}

/// Owns the connection: requests go out, answers come back in order, status frames in between.
struct Link {
    connection: Connection,
    status: watch::Sender<v1::Observation>,
    incoming: mpsc::Receiver<Request>,
    pending: VecDeque<oneshot::Sender<Result<Reply, ClientError>>>,
}

impl Link {
    async fn run(mut self) {
        loop {
            let Connection { reader, writer, buffer } = &mut self.connection;
            tokio::select! {
                read = fill(reader, buffer) => {
                    if read.is_err() || self.handle_frames().is_err() {
                        return;
                    }
                }
                request = self.incoming.recv() => {
                    let Some(request) = request else { return };
                    self.pending.push_back(request.reply);
                    // Frames are small against a socket buffer that the shim empties at once.
                    if writer.write_all(&request.frame).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn handle_frames(&mut self) -> Result<(), ClientError> {
        while let Some((frame_kind, body)) = take(&mut self.connection.buffer)? {
            match frame_kind {
                kind::STATUS => {
                    let status: wire::Record = decode(&body)?;
                    if let Some(observation) = status.observation {
                        self.status.send_replace(observation);
                    }
                }
                kind::REFUSED => self.answer(Err(refusal(&body)?)),
                _ => self.answer(Ok((frame_kind, body))),
            }
        }
        Ok(())
    }

    fn answer(&mut self, answer: Result<Reply, ClientError>) {
        if let Some(reply) = self.pending.pop_front() {
            // Whoever asked may have given up.
            drop(reply.send(answer));
        }
    }
}

/// A connection after its greeting.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) reader: OwnedReadHalf,
    pub(super) writer: OwnedWriteHalf,
    pub(super) buffer: BytesMut,
}

impl Connection {
    /// Connects and greets.
    pub(super) async fn open(socket: &Path) -> Result<(Self, wire::Welcome), ClientError> {
        let (reader, writer) = UnixStream::connect(socket).await?.into_split();
        let mut connection = Self { reader, writer, buffer: BytesMut::new() };
        let hello = wire::Hello { protocol_min: PROTOCOL_MIN, protocol_max: PROTOCOL_MAX };
        connection.send(&wire::frame(kind::HELLO, &hello)).await?;
        let greeting = tokio::time::timeout(ANSWER_TIMEOUT, connection.receive()).await;
        let (frame_kind, body) = greeting.map_err(|_| ClientError::Mute)??;
        match frame_kind {
            kind::WELCOME => Ok((connection, decode(&body)?)),
            kind::REFUSED => Err(refusal(&body)?),
            other => Err(ClientError::Protocol(format!("frame {other} instead of a welcome"))),
        }
    }

    pub(super) async fn send(&mut self, frame: &[u8]) -> Result<(), ClientError> {
        Ok(self.writer.write_all(frame).await?)
    }

    pub(super) async fn receive(&mut self) -> Result<Reply, ClientError> {
        loop {
            if let Some(frame) = take(&mut self.buffer)? {
                return Ok(frame);
            }
            fill(&mut self.reader, &mut self.buffer).await?;
        }
    }
}

/// Reads more; the end of the connection is an error. Cancel-safe.
pub(super) async fn fill(reader: &mut OwnedReadHalf, buffer: &mut BytesMut) -> Result<(), ClientError> {
    if reader.read_buf(buffer).await? == 0 { Err(ClientError::Gone) } else { Ok(()) }
}

/// Takes one whole frame off the front.
pub(super) fn take(buffer: &mut BytesMut) -> Result<Option<Reply>, ClientError> {
    let length = wire::peek(buffer, REPLY_BYTES_MAX)
        .map_err(|length| ClientError::Protocol(format!("a frame of {length} bytes")))?;
    match length {
        Some(length) if buffer.len() >= length => {
            let mut frame = buffer.split_to(length);
            let frame_kind = frame[4];
            frame.advance(wire::HEADER_BYTES);
            Ok(Some((frame_kind, frame)))
        }
        Some(length) => {
            buffer.reserve(length - buffer.len());
            Ok(None)
        }
        None => Ok(None),
    }
}

pub(super) fn decode<M: Message + Default>(body: &[u8]) -> Result<M, ClientError> {
    M::decode(body).map_err(|error| ClientError::Protocol(error.to_string()))
}

pub(super) fn refusal(body: &[u8]) -> Result<ClientError, ClientError> {
    let refused: wire::Refused = decode(body)?;
    Ok(ClientError::Refused { code: refused.code, message: refused.message })
}
