//! The way to a host that is connected to another node: over that node, its gateway.

use stratavore_model::{Actor, HostId, NodeId};
use stratavore_proto::v1::peer_service_client::PeerServiceClient;
use stratavore_proto::v1::{
    HostStreamOpen, HostStreamRequest, StreamHeader, host_stream_request, stream_header,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::link::OPEN_TIMEOUT;
use crate::link::hub::SessionHandle;
use crate::link::relay::{self, RelayError, Replies, Requests};
use crate::peer::channels::Channels;

/// Frames on their way to the gateway; then the viewer waits.
const UP_QUEUE: usize = 16;

/// Where a host is reached.
#[derive(Clone)]
pub(crate) enum Way {
    /// It is connected to this node.
    Here(SessionHandle),
    /// It is connected to another one.
    There { gateway: NodeId, channels: Channels },
}

impl Way {
    /// Opens a stream to the host, for `caller`.
    ///
    /// # Errors
    /// The host or its gateway does not take it.
    pub(crate) async fn open(
        &self,
        host: HostId,
        caller: &Actor,
        request: stream_header::Request,
    ) -> Result<(Requests, Replies), RelayError> {
        match self {
            Self::Here(session) => relay::open(session, request).await,
            Self::There { gateway, channels } => through(*gateway, channels, host, caller, request).await,
        }
    }
}

async fn through(
    gateway: NodeId,
    channels: &Channels,
    host: HostId,
    caller: &Actor,
    request: stream_header::Request,
) -> Result<(Requests, Replies), RelayError> {
    let broken = |why: String| RelayError::Broken(format!("its gateway, node {gateway}: {why}"));
    let channel = channels.channel(gateway).map_err(|error| broken(error.to_string()))?;
    let (up, requests) = mpsc::channel(UP_QUEUE);
    let open = HostStreamOpen {
        host: host.to_string(),
        caller: caller.to_string(),
        header: Some(StreamHeader { request: Some(request) }),
    };
    let first = HostStreamRequest { message: Some(host_stream_request::Message::Open(open)) };
    // The queue is empty, so this cannot fail.
    up.try_send(first).ok();
    let mut client = PeerServiceClient::new(channel);
    match tokio::time::timeout(OPEN_TIMEOUT, client.host_stream(ReceiverStream::new(requests))).await {
        Ok(Ok(response)) => Ok((Requests::Peer(up), Replies::Peer(response.into_inner()))),
        Ok(Err(status)) if status.code() == Code::PermissionDenied => {
            Err(RelayError::Refused { code: "not_allowed".to_owned(), message: status.message().to_owned() })
        }
        Ok(Err(status)) => Err(broken(status.message().to_owned())),
        Err(_) => Err(RelayError::TimedOut),
    }
}
