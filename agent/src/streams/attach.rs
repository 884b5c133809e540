//! One viewer: what it types goes to the shim, what the shim shows goes to it.

use quinn::RecvStream;
use stratavore_proto::frame::FrameReader;
use stratavore_proto::v1;
use stratavore_proto::v1::attach_response::Message as Tell;
use stratavore_proto::v1::host_stream_reply::Reply;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Failure, PRIORITY_ATTACH, Writer, ended, key_of};
use crate::registry::Registry;
use crate::runner::{Attachment, ClientError};

/// Serves until the runner has ended, or the viewer has closed its side. A viewer that is behind when the shim goes
/// sees the rest from the log.
pub(super) async fn serve(
    attach: v1::AttachStream,
    writer: &mut Writer,
    reader: FrameReader<RecvStream>,
    registry: &Registry,
) -> Result<(), Failure> {
    let key = key_of(&attach.runner, attach.epoch.as_ref())?;
    let open = attach.open.unwrap_or_default();
    let _closed = writer.send.set_priority(PRIORITY_ATTACH);
    let attached = match registry.client(&key) {
        Some(client) => client.attach(open.clone(), &attach.viewer).await,
        None => Err(ClientError::Gone),
    };
    let Attachment { requests, mut responses } = match attached {
        Ok(attachment) => attachment,
        Err(ClientError::Gone) => return ended::serve(&key, open.from_offset, writer, registry.dir()).await,
        Err(error) => return Err(error.into()),
    };
    let viewer_left = CancellationToken::new();
    let reading = tokio::spawn(relay_requests(reader, requests, viewer_left.clone()));
    let mut shown = Shown { offset: open.from_offset, exit: false };
    let result = show(&mut responses, writer, &mut shown).await;
    reading.abort();
    result?;
    if shown.exit || viewer_left.is_cancelled() {
        return Ok(());
    }
    ended::finish(&key, shown.offset, writer, registry.dir()).await
}

/// Ends, and with it the attachment, when the viewer closes or resets its side.
async fn relay_requests(
    mut reader: FrameReader<RecvStream>,
    requests: mpsc::Sender<v1::AttachRequest>,
    viewer_left: CancellationToken,
) {
    while let Ok(Some(request)) = reader.next::<v1::AttachRequest>().await {
        if requests.send(request).await.is_err() {
            return;
        }
    }
    viewer_left.cancel();
}

/// How far a viewer has been served.
struct Shown {
    /// Of the next byte, once one is known.
    offset: Option<u64>,
    exit: bool,
}

impl Shown {
    fn note(&mut self, response: &v1::AttachResponse) {
        match &response.message {
            Some(Tell::Output(output)) => self.offset = Some(output.offset + output.data.len() as u64),
            Some(Tell::Snapshot(snapshot)) => self.offset = Some(snapshot.offset),
            Some(Tell::Exit(_)) => self.exit = true,
            Some(Tell::Ready(_) | Tell::Driver(_)) | None => {}
        }
    }
}

async fn show(
    responses: &mut mpsc::Receiver<v1::AttachResponse>,
    writer: &mut Writer,
    shown: &mut Shown,
) -> Result<(), Failure> {
    loop {
        let first = tokio::select! {
            response = responses.recv() => response,
            () = writer.abandoned() => return Err(Failure::Closed),
        };
        let Some(first) = first else { return Ok(()) };
        shown.note(&first);
        writer.gather(Reply::Attach(first))?;
        while writer.has_room() {
            let Ok(next) = responses.try_recv() else { break };
            shown.note(&next);
            writer.gather(Reply::Attach(next))?;
        }
        writer.flush().await?;
    }
}
