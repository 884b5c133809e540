//! Peers that do not play by the rules, one level below the protocols.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use stratavore_certs::{Credentials, tls};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// A server that has not hung up on a peer after this long keeps it.
const PATIENCE: Duration = Duration::from_secs(45);

/// What a server did with a hostile peer.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate {
    /// It closed the connection, after these bytes.
    Closed(Vec<u8>),
    /// It keeps the connection open.
    Kept,
    /// It did not complete the handshake.
    Refused(String),
}

impl Fate {
    /// Whether the server got rid of the peer.
    #[must_use]
    pub fn is_over(&self) -> bool {
        *self != Self::Kept
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Sends bytes over plain TCP and keeps its own side open.
pub async fn plain(port: u16, bytes: &[u8]) -> Fate {
    match TcpStream::connect(loopback(port)).await {
        Ok(stream) => say(stream, bytes).await,
        Err(error) => Fate::Refused(error.to_string()),
    }
}

/// Sends bytes after a proper TLS handshake.
pub async fn encrypted(port: u16, config: Arc<rustls::ClientConfig>, bytes: &[u8]) -> Fate {
    let connected = async {
        let tcp = TcpStream::connect(loopback(port)).await?;
        TlsConnector::from(config).connect(tls::server_name(), tcp).await
    };
    match connected.await {
        Ok(stream) => say(stream, bytes).await,
        Err(error) => Fate::Refused(error.to_string()),
    }
}

async fn say(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> Fate {
    // The server may hang up in the middle of it.
    stream.write_all(bytes).await.ok();
    stream.flush().await.ok();
    let mut answer = Vec::new();
    match timeout(PATIENCE, stream.read_to_end(&mut answer)).await {
        Ok(_) => Fate::Closed(answer),
        Err(_) => Fate::Kept,
    }
}

/// Opens one QUIC stream as `who`, sends bytes on it and ends it there; what becomes of the connection.
///
/// # Errors
/// No socket, or no usable TLS configuration.
pub async fn quic(port: u16, who: &Credentials, bytes: &[u8]) -> anyhow::Result<Fate> {
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls::quic_client(who, None)?)?;
    let mut endpoint = quinn::Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    let connection = match endpoint.connect(loopback(port), tls::SERVER_NAME)?.await {
        Ok(connection) => connection,
        Err(error) => return Ok(Fate::Refused(error.to_string())),
    };
    if let Ok((mut send, _receive)) = connection.open_bi().await {
        send.write_all(bytes).await.ok();
        send.finish().ok();
        if let Ok(reason) = timeout(PATIENCE, connection.closed()).await {
            return Ok(Fate::Closed(reason.to_string().into_bytes()));
        }
        return Ok(Fate::Kept);
    }
    Ok(Fate::Closed(Vec::new()))
}
