//! The join port of a node that registers nothing.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use stratavore_certs::{Ca, Credentials, Identity, PublicKey, Validity, tls};
use stratavore_proto::v1;
use stratavore_proto::v1::join_service_server::{JoinService, JoinServiceServer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::{Authority, CLUSTER, now_s};

/// What the next call gets; when none is left every call succeeds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Answer {
    /// Registered, but the answer does not arrive.
    Lost,
    Refused(&'static str),
}

struct Service {
    ca: Ca,
    host_id: String,
    quic: SocketAddr,
    validity: Option<Validity>,
    answers: Mutex<Vec<Answer>>,
    requests: Arc<Mutex<Vec<v1::JoinRequest>>>,
}

#[tonic::async_trait]
impl JoinService for Service {
    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::JoinResponse>, Status> {
        let request = request.into_inner();
        let key = PublicKey::from_csr(&request.csr_der).unwrap();
        self.requests.lock().unwrap().push(request.clone());
        let answer = { self.answers.lock().unwrap().pop() };
        match answer {
            Some(Answer::Lost) => return Err(Status::unavailable("the leader died")),
            Some(Answer::Refused(reason)) => {
                let details = ErrorDetails::with_error_info(
                    reason,
                    "stratavore",
                    [("next_step".to_owned(), "ask for a new token".to_owned())],
                );
                let message = "the token cannot be used";
                return Err(Status::with_error_details(Code::PermissionDenied, message, details));
            }
            None => {}
        }
        let identity = Identity::Host { cluster: CLUSTER.into(), id: self.host_id.clone() };
        let validity = self.validity.unwrap_or_else(|| Validity::for_identity(&identity, now_s()));
        let certificate = self.ca.issue(&key, &identity, &[], validity).unwrap();
        Ok(Response::new(v1::JoinResponse {
            id: self.host_id.clone(),
            name: request.name,
            cluster_id: CLUSTER.into(),
            certificate_der: certificate.to_vec().into(),
            ca_der: self.ca.certificate_der().to_vec().into(),
            nodes: vec![v1::NodeAddress { id: 1, quic: self.quic.to_string(), ..Default::default() }],
            incarnation: 1,
            trusted: Vec::new(),
        }))
    }
}

pub(crate) struct JoinServer {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<v1::JoinRequest>>>,
}

impl JoinServer {
    /// `answers` are given last to first; `validity` is what the host's certificate gets.
    pub(crate) async fn start(
        authority: &Authority,
        host_id: &str,
        quic: SocketAddr,
        answers: Vec<Answer>,
        validity: Option<Validity>,
    ) -> Self {
        let ca = Ca::from_parts(authority.ca.certificate_der(), authority.ca.key_pkcs8_der()).unwrap();
        let requests = Arc::new(Mutex::new(vec![]));
        let service = Service {
            ca,
            host_id: host_id.into(),
            quic,
            validity,
            answers: Mutex::new(answers),
            requests: Arc::clone(&requests),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let streams = accept(listener, &authority.node);
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(JoinServiceServer::new(service))
                .serve_with_incoming(streams),
        );
        Self { address, requests }
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn requests(&self) -> Vec<v1::JoinRequest> {
        self.requests.lock().unwrap().clone()
    }
}

fn accept(listener: TcpListener, node: &Credentials) -> ReceiverStream<std::io::Result<Accepted>> {
    let acceptor = TlsAcceptor::from(tls::join_server(node).unwrap());
    let (sender, streams) = tokio::sync::mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(tcp).await {
                let _closed = sender.send(Ok(Accepted(stream))).await;
            }
        }
    });
    ReceiverStream::new(streams)
}

struct Accepted(tokio_rustls::server::TlsStream<TcpStream>);

impl Connected for Accepted {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
