//! The gRPC servers of the three TLS ports, with the bounds of HTTP/2 that their peers deserve.

use std::time::Duration;

use stratavore_proto::v1::join_service_server::JoinServiceServer;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::{Error, Server};

use crate::api::auth::GuardLayer;
use crate::join::{self, Join};
use crate::listen::accept::Incoming;

/// Calls in flight on one connection; more wait in the client.
const STREAMS_MAX: u32 = 256;
/// Calls in flight on a stranger's connection: it has one thing to ask.
const JOIN_STREAMS_MAX: u32 = 2;
/// Headers of one call: ours are below one KiB, details of errors below twelve.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;
/// A dead client is noticed within half a minute.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Keeps the input of an attached terminal flowing over a long round trip.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Streams opened and reset at once (rapid reset) that are tolerated before the connection is closed.
const RESETS_PENDING_MAX: usize = 64;

fn builder(streams_max: u32) -> Server {
    Server::builder()
        .max_concurrent_streams(streams_max)
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_pending_accept_reset_streams(Some(RESETS_PENDING_MAX))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
}

/// The API port: every call passes the table of permissions first.
pub(crate) async fn api(routes: Routes, incoming: Incoming, stop: CancellationToken) -> Result<(), Error> {
    builder(STREAMS_MAX)
        .layer(GuardLayer)
        .add_routes(routes)
        .serve_with_incoming_shutdown(ReceiverStream::new(incoming), stop.cancelled_owned())
        .await
}

/// The raft port: its listener admits nodes only.
pub(crate) async fn raft(routes: Routes, incoming: Incoming, stop: CancellationToken) -> Result<(), Error> {
    builder(STREAMS_MAX)
        .add_routes(routes)
        .serve_with_incoming_shutdown(ReceiverStream::new(incoming), stop.cancelled_owned())
        .await
}

/// The join port: one small call.
pub(crate) async fn join(join: Join, incoming: Incoming, stop: CancellationToken) -> Result<(), Error> {
    let service = JoinServiceServer::new(join).max_decoding_message_size(join::REQUEST_BYTES_MAX);
    builder(JOIN_STREAMS_MAX)
        .timeout(join::CALL_TIMEOUT)
        .add_service(service)
        .serve_with_incoming_shutdown(ReceiverStream::new(incoming), stop.cancelled_owned())
        .await
}
