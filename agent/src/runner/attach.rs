//! One viewer's connection to a shim, as the API's messages.

use std::path::Path;

use bytes::Bytes;
use stratavore_proto::v1;
use stratavore_proto::v1::attach_request::Message as Ask;
use stratavore_proto::v1::attach_response::Message as Tell;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;

use super::client::{ClientError, Connection, decode, refusal};
use crate::shim::wire::{self, kind};

/// Responses on their way to a viewer: with 64 KiB each this bounds a slow one at 512 KiB here. Then the shim's own
/// bound holds.
const RESPONSES_MAX: usize = 8;

/// Requests on their way to the shim; a fast typist is slow.
const REQUESTS_MAX: usize = 64;

/// Snapshots above this are sent as several messages, since a frame between agent and gateway ends at 1 MiB.
const SNAPSHOT_BYTES_MAX: usize = 512 * 1024;

/// Read from the shim at once: two frames of a flood.
const READ_BYTES: usize = 2 * wire::CHUNK_BYTES_MAX;

/// With less room than this a read is not worth its call.
const READ_BYTES_MIN: usize = 4 * 1024;

/// An open viewer. The first response is `ready`; the last one `exit`. Dropping either half closes it.
#[derive(Debug)]
pub struct Attachment {
    pub requests: mpsc::Sender<v1::AttachRequest>,
    pub responses: mpsc::Receiver<v1::AttachResponse>,
}

pub(super) async fn open(
    socket: &Path,
    open: v1::AttachOpen,
    viewer: &str,
) -> Result<Attachment, ClientError> {
    let (mut connection, _) = Connection::open(socket).await.map_err(gone)?;
    let attach = wire::Attach { open: Some(open), viewer: viewer.to_owned() };
    connection.send(&wire::frame(kind::ATTACH, &attach)).await?;
    let (frame_kind, body) = connection.receive().await?;
    let ready = match frame_kind {
        kind::READY => Tell::Ready(decode(&body)?),
        kind::REFUSED => return Err(refusal(&body)?),
        other => return Err(ClientError::Protocol(format!("frame {other} instead of ready"))),
    };
    let (requests, incoming) = mpsc::channel(REQUESTS_MAX);
    let (outgoing, responses) = mpsc::channel(RESPONSES_MAX);
    tokio::spawn(relay(connection, ready, incoming, outgoing));
    Ok(Attachment { requests, responses })
}

/// A socket that is not there any more is a shim that is not there any more.
fn gone(error: ClientError) -> ClientError {
    match error {
        ClientError::Io(_) => ClientError::Gone,
        other => other,
    }
}

/// Runs both directions until one of them ends.
async fn relay(
    connection: Connection,
    ready: Tell,
    incoming: mpsc::Receiver<v1::AttachRequest>,
    outgoing: mpsc::Sender<v1::AttachResponse>,
) {
    let Connection { reader, writer, buffer } = connection;
    let mut down = Reading { reader, buffer, outgoing: outgoing.clone() };
    tokio::select! {
        _ended = down.run(ready) => {}
        _closed = write(writer, incoming) => {}
        () = outgoing.closed() => {}
    }
}

/// What the shim shows, on its way to the viewer.
struct Reading {
    reader: tokio::net::unix::OwnedReadHalf,
    buffer: bytes::BytesMut,
    outgoing: mpsc::Sender<v1::AttachResponse>,
}

impl Reading {
    async fn run(&mut self, ready: Tell) -> Result<(), ClientError> {
        self.tell(ready).await?;
        loop {
            while let Some((frame_kind, body)) = super::client::take(&mut self.buffer)? {
                match frame_kind {
                    kind::OUTPUT => self.output(body.freeze()).await?,
                    kind::SNAPSHOT => self.snapshot(decode(&body)?).await?,
                    kind::DRIVER => self.tell(Tell::Driver(decode(&body)?)).await?,
                    kind::EXIT => {
                        let record: wire::Record = decode(&body)?;
                        let exit = record.observation.and_then(|observation| observation.exit);
                        return self.tell(Tell::Exit(v1::AttachExit { exit })).await;
                    }
                    // Newer shims may say more.
                    _ => {}
                }
            }
            // Room for a whole frame of output: one that has to grow on the way is copied.
            if self.buffer.capacity() - self.buffer.len() < READ_BYTES_MIN {
                self.buffer.reserve(READ_BYTES);
            }
            super::client::fill(&mut self.reader, &mut self.buffer).await?;
        }
    }

    async fn output(&self, body: Bytes) -> Result<(), ClientError> {
        let Some((offset, stream, data)) = wire::parse_output(&body) else {
            return Err(ClientError::Protocol("an output frame without a header".into()));
        };
        let (data, stderr) = (body.slice_ref(data), stream == wire::Stream::Err);
        self.tell(Tell::Output(v1::AttachOutput { data, offset, stderr })).await
    }

    async fn snapshot(&self, mut snapshot: v1::AttachSnapshot) -> Result<(), ClientError> {
        while snapshot.data.len() > SNAPSHOT_BYTES_MAX {
            let data = snapshot.data.split_to(SNAPSHOT_BYTES_MAX);
            self.tell(Tell::Snapshot(v1::AttachSnapshot { data, ..snapshot })).await?;
        }
        self.tell(Tell::Snapshot(snapshot)).await
    }

    async fn tell(&self, message: Tell) -> Result<(), ClientError> {
        let response = v1::AttachResponse { message: Some(message) };
        self.outgoing.send(response).await.map_err(|_| ClientError::Gone)
    }
}

/// What the viewer does, on its way to the shim.
async fn write(
    mut writer: OwnedWriteHalf,
    mut incoming: mpsc::Receiver<v1::AttachRequest>,
) -> Result<(), ClientError> {
    while let Some(request) = incoming.recv().await {
        match request.message {
            Some(Ask::Input(data)) => {
                for piece in data.chunks(wire::CHUNK_BYTES_MAX) {
                    writer.write_all(&wire::raw_frame(kind::INPUT, piece)).await?;
                }
            }
            Some(Ask::Resize(size)) => writer.write_all(&wire::frame(kind::RESIZE, &size)).await?,
            Some(Ask::CloseInput(true)) => writer.write_all(&wire::raw_frame(kind::CLOSE_INPUT, &[])).await?,
            Some(Ask::TakeDriver(true)) => writer.write_all(&wire::raw_frame(kind::TAKE_DRIVER, &[])).await?,
            // `open` again, or nothing: the viewer is open already.
            Some(Ask::Open(_) | Ask::CloseInput(false) | Ask::TakeDriver(false)) | None => {}
        }
    }
    Ok(())
}
