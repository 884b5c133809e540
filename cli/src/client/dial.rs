//! One TLS connection to whichever node of the context answers first.
//!
//! Endpoints are tried in order, the next one as soon as the one before failed or has been silent for a moment, so
//! that one dead node costs no time worth naming.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use stratavore_certs::tls;
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Silence after which the next endpoint is tried beside this one.
const STAGGER: Duration = Duration::from_millis(250);

/// TCP and TLS together; a round trip around the world takes a third of a second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Read from the socket at once. TLS by itself asks for 4 KiB, a call for each quarter of a record.
const READ_BYTES: usize = 64 * 1024;

/// A connection whose node has proven who it is.
pub(crate) type Connection = TlsStream<BufReader<TcpStream>>;

/// Where the nodes are and how to prove who is who.
#[derive(Clone)]
pub(crate) struct Dialer {
    endpoints: Vec<String>,
    tls: Arc<rustls::ClientConfig>,
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

/// Why no endpoint could be used, each with its reason.
#[derive(Debug)]
pub(crate) struct DialError {
    pub(crate) attempts: Vec<(String, io::Error)>,
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (endpoint, error)) in self.attempts.iter().enumerate() {
            if at > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{endpoint}: {}", words(error))?;
        }
        Ok(())
    }
}

impl std::error::Error for DialError {}

impl Dialer {
    /// Dials `endpoints` (HOST:PORT each).
    pub(crate) fn new(endpoints: Vec<String>, tls: Arc<rustls::ClientConfig>) -> Self {
        Self { endpoints, tls }
    }

    /// The endpoints, in the order they are tried.
    pub(crate) fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// The first connection that stands; `first` is tried first, then the others in order.
    ///
    /// # Errors
    /// When every endpoint failed.
    pub(crate) async fn dial(&self, first: usize) -> Result<Connection, DialError> {
        let count = self.endpoints.len();
        let mut waiting = (0..count).map(|at| &self.endpoints[(first + at) % count]);
        let mut running = FuturesUnordered::new();
        let mut failed = Vec::new();
        loop {
            if running.is_empty() {
                match waiting.next() {
                    Some(endpoint) => running.push(self.connect(endpoint)),
                    None => return Err(DialError { attempts: failed }),
                }
            }
            let more = waiting.len() > 0;
            tokio::select! {
                Some((endpoint, result)) = running.next() => match result {
                    Ok(stream) => return Ok(stream),
                    Err(error) => failed.push((endpoint, error)),
                },
                () = sleep(STAGGER), if more => running.extend(waiting.next().map(|endpoint| self.connect(endpoint))),
            }
        }
    }

    async fn connect(&self, endpoint: &str) -> (String, io::Result<Connection>) {
        let result = match timeout(CONNECT_TIMEOUT, self.handshake(endpoint)).await {
            Ok(result) => result,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer to the connection attempt")),
        };
        (endpoint.to_owned(), result)
    }

    async fn handshake(&self, endpoint: &str) -> io::Result<Connection> {
        // A literal address needs no resolver (and no thread for one).
        let stream = match endpoint.parse::<SocketAddr>() {
            Ok(address) => TcpStream::connect(address).await?,
            Err(_) => TcpStream::connect(endpoint).await?,
        };
        stream.set_nodelay(true)?;
        let stream = BufReader::with_capacity(READ_BYTES, stream);
        // The certificate names an identity of the cluster, not a host: the verifier looks at that.
        TlsConnector::from(Arc::clone(&self.tls)).connect(tls::server_name(), stream).await
    }
}

/// An I/O error for people: without "os error" and without the library's name.
fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "nothing listens there".to_owned(),
        io::ErrorKind::UnexpectedEof => "closed during the TLS handshake".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_is_named_with_its_reason() {
        let error = DialError {
            attempts: vec![
                ("a:1".to_owned(), io::Error::from(io::ErrorKind::ConnectionRefused)),
                ("b:2".to_owned(), io::Error::other("odd")),
            ],
        };
        assert_eq!(error.to_string(), "a:1: nothing listens there; b:2: odd");
    }
}
