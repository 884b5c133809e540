//! Streams for viewers: from an API call on this node to the host that runs the runner. Bytes pass, nothing is kept.

use stratavore_proto::frame::{self, FrameError, FrameReader};
use stratavore_proto::v1::{
    self, HostStreamReply, HostStreamRequest, HostStreamResponse, StreamHeader, host_stream_reply,
    host_stream_request, stream_header,
};
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt};
use tonic::{Status, Streaming};

use crate::link::OPEN_TIMEOUT;
use crate::link::hub::SessionHandle;

/// Terminals overtake log downloads on one connection.
const ATTACH_PRIORITY: i32 = 5;

/// Why a stream to a host gives no more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RelayError {
    /// The host refused or failed; `code` is one of `StreamError`.
    #[error("{message}")]
    Refused { code: String, message: String },
    /// The connection to the agent broke.
    #[error("the connection to the host broke: {0}")]
    Broken(String),
    /// The agent does not answer.
    #[error("the host did not answer within {} s", OPEN_TIMEOUT.as_secs())]
    TimedOut,
    /// The agent answered with something else.
    #[error("the host answered with a frame that does not belong here")]
    Confused,
}

impl From<FrameError> for RelayError {
    fn from(error: FrameError) -> Self {
        Self::Broken(error.to_string())
    }
}

/// The way back from the host.
pub(crate) enum Replies {
    Host(FrameReader<quinn::RecvStream>),
    /// By way of the node that is its gateway.
    Peer(Streaming<HostStreamResponse>),
}

impl Replies {
    /// The next reply, `None` at the end of the stream. Cancel-safe.
    ///
    /// # Errors
    /// The host's refusal, or what broke.
    pub(crate) async fn next(&mut self) -> Result<Option<host_stream_reply::Reply>, RelayError> {
        let reply = match self {
            Self::Host(reader) => reader.next::<HostStreamReply>().await?,
            Self::Peer(responses) => match responses.message().await {
                Ok(response) => response.and_then(|response| response.reply),
                Err(status) => return Err(RelayError::Broken(status.message().to_owned())),
            },
        };
        match reply {
            None => Ok(None),
            Some(HostStreamReply { reply: Some(host_stream_reply::Reply::Error(error)) }) => {
                Err(RelayError::Refused { code: error.code, message: error.message })
            }
            Some(HostStreamReply { reply: Some(reply) }) => Ok(Some(reply)),
            Some(HostStreamReply { reply: None }) => Err(RelayError::Confused),
        }
    }

    /// The only reply of a request.
    ///
    /// # Errors
    /// As [`Replies::next`], or no reply in time.
    pub(crate) async fn one(mut self) -> Result<host_stream_reply::Reply, RelayError> {
        match tokio::time::timeout(OPEN_TIMEOUT, self.next()).await {
            Ok(Ok(Some(reply))) => Ok(reply),
            Ok(Ok(None)) => Err(RelayError::Broken("the stream ended without an answer".to_owned())),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(RelayError::TimedOut),
        }
    }
}

/// The way to the host: frames of an attached viewer.
pub(crate) enum Requests {
    Host(quinn::SendStream),
    /// By way of the node that is its gateway.
    Peer(mpsc::Sender<HostStreamRequest>),
}

impl Requests {
    /// # Errors
    /// The connection to the agent broke.
    pub(crate) async fn send(&mut self, request: &v1::AttachRequest) -> Result<(), RelayError> {
        match self {
            Self::Host(send) => Ok(frame::write(send, request).await?),
            Self::Peer(up) => {
                let message = host_stream_request::Message::Attach(request.clone());
                let sent = up.send(HostStreamRequest { message: Some(message) }).await;
                sent.map_err(|_| RelayError::Broken("the gateway ended the stream".to_owned()))
            }
        }
    }

    /// The viewer will say no more.
    pub(crate) fn finish(self) {
        // Already gone is finished too; towards a gateway the end of the queue says it.
        if let Self::Host(mut send) = self {
            send.finish().ok();
        }
    }
}

/// Opens a stream to the agent and writes its header at once: a stream is seen by the peer only after its first bytes.
///
/// # Errors
/// The agent does not take it in time, or the connection broke.
pub(crate) async fn open(
    session: &SessionHandle,
    request: stream_header::Request,
) -> Result<(Requests, Replies), RelayError> {
    let attach = matches!(request, stream_header::Request::Attach(_));
    let opening = async {
        let (mut send, recv) =
            session.quic().open_bi().await.map_err(|error| RelayError::Broken(error.to_string()))?;
        if attach {
            send.set_priority(ATTACH_PRIORITY).ok();
        }
        frame::write(&mut send, &StreamHeader { request: Some(request) }).await?;
        Ok((Requests::Host(send), Replies::Host(FrameReader::new(recv))))
    };
    tokio::time::timeout(OPEN_TIMEOUT, opening).await.unwrap_or(Err(RelayError::TimedOut))
}

/// Passes what the viewer types to the host and what the host says to the viewer, until the host ends the stream or the
/// viewer is gone. `show` makes the viewer's message of a reply; after an error of its own nothing follows.
pub(crate) async fn both_ways<T>(
    mut typed: impl Stream<Item = v1::AttachRequest> + Unpin,
    (mut up, mut down): (Requests, Replies),
    out: mpsc::Sender<Result<T, Status>>,
    show: impl Fn(Result<host_stream_reply::Reply, RelayError>) -> Result<T, Status>,
) {
    let typing = async {
        while let Some(request) = typed.next().await {
            if up.send(&request).await.is_err() {
                break;
            }
        }
        // The viewer closed its side: the host ends the stream when it has seen that.
        up.finish();
        std::future::pending::<()>().await;
    };
    let showing = async {
        while let Some(reply) = down.next().await.transpose() {
            let item = show(reply);
            let failed = item.is_err();
            if out.send(item).await.is_err() || failed {
                break;
            }
        }
    };
    tokio::select! {
        () = typing => {}
        () = showing => {}
        () = out.closed() => {}
    }
}
