//! An accepted TLS connection: who is at the other end, and a switch that closes it from outside.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;

use crate::admission::{ConnectionPlace, Peer};
use crate::listen::bounds::HandshakePlace;

/// What a request can know about its connection.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionInfo {
    /// Who presented the certificate; `None` on the join port.
    pub(crate) peer: Option<Peer>,
    /// Where from.
    pub(crate) address: SocketAddr,
}

/// One accepted connection.
pub(crate) struct Accepted {
    tls: TlsStream<TcpStream>,
    info: ConnectionInfo,
    /// Fires when the identity is removed or the node stops.
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    /// On the join port: how long the whole connection may last.
    lifetime: Option<Pin<Box<Sleep>>>,
    _place: ConnectionPlace,
    /// On the join port nobody is authenticated, so the connection keeps its handshake's place.
    _stranger: Option<HandshakePlace>,
}

impl Accepted {
    pub(crate) fn new(
        tls: TlsStream<TcpStream>,
        info: ConnectionInfo,
        place: ConnectionPlace,
        stranger: Option<(Duration, HandshakePlace)>,
    ) -> Self {
        let (lifetime, stranger) =
            stranger.map(|(lifetime, place)| (Box::pin(tokio::time::sleep(lifetime)), place)).unzip();
        let closed = Box::pin(place.token().clone().cancelled_owned());
        Self { tls, info, closed, lifetime, _place: place, _stranger: stranger }
    }

    /// Whether the connection must end now, and why.
    fn cut(&mut self, cx: &mut Context<'_>) -> Option<io::Error> {
        if self.closed.as_mut().poll(cx).is_ready() {
            return Some(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "identity removed or node stopping",
            ));
        }
        let lifetime = self.lifetime.as_mut()?;
        lifetime.as_mut().poll(cx).is_ready().then(|| io::Error::from(io::ErrorKind::TimedOut))
    }
}

impl std::fmt::Debug for Accepted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accepted").field("info", &self.info).finish_non_exhaustive()
    }
}

impl Connected for Accepted {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        self.info.clone()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(error) = self.cut(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}
