//! A node for tests: real TLS, real gRPC, scripted answers, and a wire in front of it that can be cut at any time.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use stratavore_certs::tls::{self, Admission, Verdict};
use stratavore_certs::{Ca, Credentials, Identity, KeyPair, SpkiHash, Validity};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use super::Dialer;

const CLUSTER: &str = "0123456789abcdef";

/// A CA and whoever it certifies.
pub(crate) struct Pki(Ca);

impl Pki {
    pub(crate) fn new() -> Self {
        Self(Ca::generate(CLUSTER, now()).unwrap())
    }

    fn credentials(&self, identity: &Identity) -> Credentials {
        let key = KeyPair::generate().unwrap();
        let validity = Validity::for_identity(identity, now());
        let certificate = self.0.issue(&key.public(), identity, &[], validity).unwrap();
        Credentials::new(self.0.certificate_der(), &certificate, key).unwrap()
    }

    /// A dialer for a user of this cluster.
    pub(crate) fn dialer(&self, endpoints: Vec<String>) -> Dialer {
        let user = self.credentials(&Identity::User { cluster: CLUSTER.to_owned(), name: "u".to_owned() });
        Dialer::new(endpoints, tls::grpc_client(&user).unwrap())
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

struct Everybody(Verdict);

impl Admission for Everybody {
    fn admit(&self, _: &Identity, _: &SpkiHash) -> Verdict {
        self.0
    }
}

/// Starts a node; its address.
pub(crate) async fn node(pki: &Pki, verdict: Verdict, services: Routes) -> SocketAddr {
    let own = pki.credentials(&Identity::Node { cluster: CLUSTER.to_owned(), id: 1 });
    let acceptor = TlsAcceptor::from(tls::grpc_server(&own, Arc::new(Everybody(verdict))).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (accepted, incoming) = mpsc::channel::<io::Result<Accepted>>(8);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, accepted) = (acceptor.clone(), accepted.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    accepted.send(Ok(Accepted(stream))).await.ok();
                }
            });
        }
    });
    tokio::spawn(async move {
        Server::builder().add_routes(services).serve_with_incoming(ReceiverStream::new(incoming)).await
    });
    address
}

/// A wire to a node.
#[derive(Clone)]
pub(crate) struct Cuttable {
    pub(crate) endpoint: String,
    connections: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Cuttable {
    /// A wire whose other end is chosen later, because services want to know the wire.
    pub(crate) async fn new() -> (Self, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        (Self { endpoint, connections: Arc::default() }, listener)
    }

    /// Leads every connection of the wire to `node`.
    pub(crate) fn lead(&self, listener: TcpListener, node: SocketAddr) {
        let connections = Arc::clone(&self.connections);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let copying = tokio::spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(node).await {
                        copy_bidirectional(&mut near, &mut far).await.ok();
                    }
                });
                connections.lock().unwrap().push(copying);
            }
        });
    }

    /// Cuts every connection.
    pub(crate) fn cut(&self) {
        for connection in self.connections.lock().unwrap().drain(..) {
            connection.abort();
        }
    }
}

struct Accepted(TlsStream<TcpStream>);

impl Connected for Accepted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
