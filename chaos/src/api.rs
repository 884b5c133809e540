//! The public API as any client may use it: one open connection with a person's certificate, and calls with any bytes.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::{Buf, BufMut, Bytes};
use hyper_util::rt::TokioIo;
use stratavore_certs::{Credentials, tls};
use stratavore_settings::context::{Context, Contexts};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};

/// The only context of a context file.
///
/// # Errors
/// The file cannot be read or holds none.
pub fn context(file: &Path) -> anyhow::Result<Context> {
    let contexts = Contexts::load(file)?;
    contexts.contexts.into_values().next().with_context(|| format!("{} holds no context", file.display()))
}

/// The identity in a context file.
///
/// # Errors
/// The file cannot be read or what it holds does not fit together.
pub fn credentials(file: &Path) -> anyhow::Result<Credentials> {
    let context = context(file)?;
    Ok(Credentials::from_pem(&context.ca, &context.certificate, &context.key)?)
}

/// An open connection to the first endpoint of a context file.
///
/// # Errors
/// Nobody listens there, or the handshake fails.
pub async fn connect(file: &Path) -> anyhow::Result<Channel> {
    let address = context(file)?.endpoints.into_iter().next().context("a context without endpoints")?;
    connect_to(file, address).await
}

/// An open connection to the node at `address`, with the identity of a context file.
///
/// # Errors
/// Nobody listens there, or the handshake fails.
pub async fn connect_to(file: &Path, address: String) -> anyhow::Result<Channel> {
    let connector = TlsConnector::from(tls::grpc_client(&credentials(file)?)?);
    let dial = tower::service_fn(move |_: http::Uri| {
        let (address, connector) = (address.clone(), connector.clone());
        async move {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            let name = tls::server_name();
            Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, tcp).await?))
        }
    });
    Ok(Endpoint::from_static("http://stratavore").connect_with_connector(dial).await?)
}

/// Calls `path` with `body` as the message, whatever it is; the answer's bytes.
///
/// # Errors
/// The server's status.
pub async fn call(channel: Channel, path: &'static str, body: Bytes) -> Result<Bytes, Status> {
    let mut client = tonic::client::Grpc::new(channel).max_encoding_message_size(usize::MAX);
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = http::uri::PathAndQuery::from_static(path);
    Ok(client.unary(tonic::Request::new(body), path, AnyBytes).await?.into_inner())
}

/// A runtime for synchronous callers.
///
/// # Panics
/// When the host gives no threads.
#[must_use]
pub fn runtime() -> Arc<tokio::runtime::Runtime> {
    Arc::new(tokio::runtime::Runtime::new().expect("start a runtime"))
}

/// Messages that are nothing but bytes.
#[derive(Clone, Copy, Debug, Default)]
struct AnyBytes;

impl Codec for AnyBytes {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for AnyBytes {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(item.len());
        out.put(item);
        Ok(())
    }
}

impl Decoder for AnyBytes {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
