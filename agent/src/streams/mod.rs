//! Streams that the gateway opens: one per viewer or request, each on its own, none of them near the control stream.
//! A slow one is held back by its own flow control and by the shim's bound for viewers; it delays nobody else.

mod attach;
mod ended;

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use prost::Message;
use quinn::{RecvStream, SendStream};
use stratavore_proto::frame::{self, FrameReader};
use stratavore_proto::v1;
use stratavore_proto::v1::host_stream_reply::Reply;
use stratavore_proto::v1::stream_header::Request;
use tokio::sync::{Semaphore, mpsc, watch};
use tracing::{debug, warn};

use crate::epoch::RunnerKey;
use crate::ledger::unstarted;
use crate::registry::Registry;
use crate::runner::{self, Client, ClientError};

/// Streams served at once on one link: the transport's own bound on open streams is the same.
pub(crate) const STREAMS_MAX: usize = 256;

/// The gateway writes the header with the opening; one that does not come is not waited for.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes gathered into one write when frames come faster than they leave.
const WRITE_BYTES: usize = 64 * 1024;

/// Local order inside the connection: control before viewers before logs.
pub(crate) const PRIORITY_CONTROL: i32 = 10;
const PRIORITY_ATTACH: i32 = 5;

/// Accepts streams until the connection ends.
pub(crate) async fn accept(connection: quinn::Connection, registry: Arc<Registry>) {
    let slots = Arc::new(Semaphore::new(STREAMS_MAX));
    while let Ok((send, recv)) = connection.accept_bi().await {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let registry = Arc::clone(&registry);
        tokio::spawn(async move {
            serve(send, recv, &registry).await;
            drop(slot);
        });
    }
}

async fn serve(send: SendStream, recv: RecvStream, registry: &Registry) {
    let mut reader = FrameReader::new(recv);
    let header = tokio::time::timeout(HEADER_TIMEOUT, reader.next::<v1::StreamHeader>()).await;
    let request = match header {
        Ok(Ok(Some(header))) => header.request,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => return warn!(%error, "a stream of the gateway has no usable header"),
        Err(_) => return warn!("a stream of the gateway sent no header in time"),
    };
    let mut writer = Writer::new(send);
    let served = match request {
        Some(Request::Attach(attach)) => attach::serve(attach, &mut writer, reader, registry).await,
        Some(Request::Logs(logs)) => serve_logs(logs, &mut writer, registry).await,
        Some(Request::Screen(screen)) => serve_screen(screen, &mut writer, registry).await,
        Some(Request::Input(input)) => serve_input(input, &mut writer, registry).await,
        None => Err(Failure::refused("internal", "this agent does not know that kind of stream")),
    };
    if let Err(Failure::Refused(error)) = served {
        debug!(code = error.code, message = error.message, "a stream is refused");
        let _gone = writer.write(Reply::Error(error)).await;
    }
    writer.finish();
}

async fn serve_logs(logs: v1::LogStream, writer: &mut Writer, registry: &Registry) -> Result<(), Failure> {
    let key = key_of(&logs.runner, logs.epoch.as_ref())?;
    let dir = registry.dir().runner(&key);
    if !dir.is_dir() {
        return Err(Failure::not_found(&key));
    }
    if unstarted(registry.dir(), &key).is_some() {
        return Ok(());
    }
    let ended = registry.client(&key).map(|client| ended_flag(&client));
    let mut chunks = runner::read_logs(&dir, logs.read.unwrap_or_default(), ended);
    while let Some(chunk) = next_while_wanted(&mut chunks, writer).await {
        match chunk {
            Ok(chunk) => writer.write(Reply::Logs(chunk)).await?,
            Err(error) => {
                return Err(Failure::refused("internal", &format!("the output log cannot be read: {error}")));
            }
        }
    }
    Ok(())
}

/// The next item, or `None` when there is none or the reader has gone away.
async fn next_while_wanted<T>(items: &mut mpsc::Receiver<T>, writer: &Writer) -> Option<T> {
    tokio::select! {
        item = items.recv() => item,
        _ = writer.abandoned() => None,
    }
}

/// Turns true when the runner behind `client` has ended or its shim is gone.
fn ended_flag(client: &Client) -> watch::Receiver<bool> {
    let mut observations = client.watch();
    let (sender, flag) = watch::channel(false);
    tokio::spawn(async move {
        loop {
            let state = observations.borrow_and_update().state();
            let over = matches!(state, v1::RunnerState::Terminated | v1::RunnerState::Failed);
            tokio::select! {
                changed = observations.changed(), if !over => if changed.is_err() { break },
                () = sender.closed() => return,
                else => break,
            }
        }
        sender.send_replace(true);
        sender.closed().await;
    });
    flag
}

async fn serve_screen(
    screen: v1::ScreenStream,
    writer: &mut Writer,
    registry: &Registry,
) -> Result<(), Failure> {
    let client = client_of(&screen.runner, screen.epoch.as_ref(), registry)?;
    writer.write(Reply::Screen(client.screen().await?)).await
}

async fn serve_input(
    input: v1::InputStream,
    writer: &mut Writer,
    registry: &Registry,
) -> Result<(), Failure> {
    let client = client_of(&input.runner, input.epoch.as_ref(), registry)?;
    client.input(input.data.into(), input.steal, &input.viewer).await?;
    writer.write(Reply::Input(v1::SendInputResponse {})).await
}

fn key_of(runner: &str, epoch: Option<&v1::Epoch>) -> Result<RunnerKey, Failure> {
    RunnerKey::from_wire(runner, epoch).map_err(|error| Failure::refused("not_found", &error.to_string()))
}

fn client_of(runner: &str, epoch: Option<&v1::Epoch>, registry: &Registry) -> Result<Client, Failure> {
    let key = key_of(runner, epoch)?;
    match registry.client(&key) {
        Some(client) => Ok(client),
        None if registry.dir().acknowledged(&key).exists() => {
            Err(Failure::refused("ended", &format!("{key} has ended; `logs` still shows its output")))
        }
        None => Err(Failure::not_found(&key)),
    }
}

/// Why a stream is not served.
#[derive(Debug)]
enum Failure {
    Refused(v1::StreamError),
    /// The gateway or the viewer went away.
    Closed,
}

impl Failure {
    fn refused(code: &str, message: &str) -> Self {
        Self::Refused(v1::StreamError { code: code.to_owned(), message: message.to_owned() })
    }

    fn not_found(key: &RunnerKey) -> Self {
        Self::refused("not_found", &format!("{key} is not on this host"))
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused { code, message } => Self::refused(&code, &message),
            ClientError::Gone => Self::refused("ended", "the runner's shim is gone"),
            other => Self::refused("internal", &other.to_string()),
        }
    }
}

/// Writes replies; gathers those that come while others leave.
#[derive(Debug)]
struct Writer {
    send: SendStream,
    buffer: BytesMut,
}

impl Writer {
    fn new(send: SendStream) -> Self {
        Self { send, buffer: BytesMut::new() }
    }

    async fn write(&mut self, reply: Reply) -> Result<(), Failure> {
        self.gather(reply)?;
        self.flush().await
    }

    /// Adds one reply to the next write.
    fn gather(&mut self, reply: Reply) -> Result<(), Failure> {
        let reply = v1::HostStreamReply { reply: Some(reply) };
        frame::encode(&reply, &mut self.buffer).map_err(|error| {
            warn!(%error, bytes = reply.encoded_len(), "a reply does not fit one frame");
            Failure::refused("internal", "a reply does not fit one frame")
        })
    }

    fn has_room(&self) -> bool {
        self.buffer.len() < WRITE_BYTES
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        let chunk = self.buffer.split().freeze();
        self.send.write_chunk(chunk).await.map_err(|_| Failure::Closed)
    }

    /// Returns when the other side no longer wants this stream.
    async fn abandoned(&self) {
        let _how = self.send.stopped().await;
    }

    fn finish(mut self) {
        let _closed = self.send.finish();
    }
}
