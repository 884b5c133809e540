//! A gateway without a cluster behind it: what the test says is desired.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use stratavore_certs::tls::{self, Admission, Verdict};
use stratavore_certs::{Credentials, Identity, SpkiHash};
use stratavore_proto::frame::{self, FrameReader};
use stratavore_proto::v1;
use stratavore_proto::v1::agent_message::Message as Up;
use stratavore_proto::v1::node_message::Message as Down;

use super::{epoch, within};

/// Answers every handshake alike, as the test last said.
struct Registry(Arc<Mutex<Verdict>>);

impl Admission for Registry {
    fn admit(&self, _: &Identity, _: &SpkiHash) -> Verdict {
        *self.0.lock().unwrap()
    }
}

pub(crate) struct Gateway {
    endpoint: Endpoint,
    verdict: Arc<Mutex<Verdict>>,
}

impl Gateway {
    /// Serves on any port of loopback.
    pub(crate) fn start(node: &Credentials) -> Self {
        let verdict = Arc::new(Mutex::new(Verdict::Admit));
        let config = tls::quic_server(node, Arc::new(Registry(Arc::clone(&verdict)))).unwrap();
        let crypto = QuicServerConfig::try_from(config).unwrap();
        let server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        Self { endpoint: Endpoint::server(server, (Ipv4Addr::LOCALHOST, 0).into()).unwrap(), verdict }
    }

    /// As a killed process: its port is closed, nothing is said, nothing answered.
    pub(crate) fn vanish(&self) {
        let elsewhere = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        // What it still sends comes from a port that the agent does not know, and is dropped there.
        elsewhere.connect((Ipv4Addr::LOCALHOST, 9)).unwrap();
        self.endpoint.rebind(elsewhere).unwrap();
    }

    pub(crate) fn node_address(&self, id: u64) -> v1::NodeAddress {
        v1::NodeAddress { id, quic: self.address().to_string(), ..Default::default() }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.endpoint.local_addr().unwrap()
    }

    pub(crate) fn judge(&self, verdict: Verdict) {
        *self.verdict.lock().unwrap() = verdict;
    }

    /// The next agent that says hello. Connections that break before are passed over.
    pub(crate) async fn accept(&self) -> Control {
        within("an agent connects", async {
            loop {
                let incoming = self.endpoint.accept().await.unwrap();
                let Ok(connection) = incoming.await else { continue };
                if let Some(control) = Control::open(connection).await {
                    return control;
                }
            }
        })
        .await
    }

    /// Lets handshakes happen, for tests in which none must succeed.
    pub(crate) fn serve_nobody(&self) {
        let endpoint = self.endpoint.clone();
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                if let Ok(connection) = incoming.await {
                    connection.closed().await;
                }
            }
        });
    }
}

/// One agent's control stream, from the node's side.
pub(crate) struct Control {
    pub(crate) hello: v1::Hello,
    pub(crate) connection: Connection,
    pub(crate) loads: Vec<v1::LoadReport>,
    pub(crate) certificates: Vec<v1::CertificateRequest>,
    /// What every renewal is answered with; by default that of the only host of a cluster.
    pub(crate) grants: v1::Grant,
    /// Renewals that were answered.
    pub(crate) renewals: Vec<v1::Renewal>,
    /// For the welcome: 0 = the agent's default; nodes in this host's order.
    pub(crate) lease_ms: u64,
    pub(crate) nodes: Vec<v1::NodeAddress>,
    send: SendStream,
    reader: FrameReader<RecvStream>,
}

impl Control {
    async fn open(connection: Connection) -> Option<Self> {
        let (send, recv) = connection.accept_bi().await.ok()?;
        let mut reader = FrameReader::new(recv);
        match reader.next::<v1::AgentMessage>().await {
            Ok(Some(v1::AgentMessage { message: Some(Up::Hello(hello)) })) => {
                let grants = v1::Grant { unbounded: true, ..Default::default() };
                Some(Self {
                    hello,
                    connection,
                    loads: vec![],
                    certificates: vec![],
                    grants,
                    renewals: vec![],
                    lease_ms: 0,
                    nodes: vec![],
                    send,
                    reader,
                })
            }
            other => panic!("no hello: {other:?}"),
        }
    }

    pub(crate) async fn send(&mut self, message: Down) {
        frame::write(&mut self.send, &v1::NodeMessage { message: Some(message) }).await.unwrap();
    }

    /// Bytes that are no frame.
    pub(crate) async fn send_raw(&mut self, bytes: &[u8]) {
        self.send.write_all(bytes).await.unwrap();
    }

    pub(crate) fn finish(&mut self) {
        self.send.finish().unwrap();
    }

    pub(crate) async fn welcome(&mut self, index: u64, runners: Vec<v1::DesiredRunner>) {
        let welcome = v1::Welcome {
            protocol: 1,
            host_epoch: Some(epoch(1)),
            desired: Some(v1::Desired { index: Some(epoch(index)), full: true, runners, more: false }),
            incarnation: 1,
            renew_ms: 200,
            load_report_ms: 200,
            lease_ms: self.lease_ms,
            nodes: self.nodes.clone(),
            ..Default::default()
        };
        self.send(Down::Welcome(welcome)).await;
    }

    pub(crate) async fn desire(&mut self, index: u64, runners: Vec<v1::DesiredRunner>) {
        let desired = v1::Desired { index: Some(epoch(index)), full: false, runners, more: false };
        self.send(Down::Desired(desired)).await;
    }

    /// Reads until a report satisfies `wanted`; grants renewals meanwhile.
    pub(crate) async fn observe(
        &mut self,
        what: &str,
        wanted: impl Fn(&v1::Observation) -> bool,
    ) -> v1::Observation {
        within(what, async {
            loop {
                if let Some(found) = self.next_reports().await.into_iter().find(&wanted) {
                    return found;
                }
            }
        })
        .await
    }

    pub(crate) async fn state_of(&mut self, runner: &str, state: v1::RunnerState) -> v1::Observation {
        self.observe(&format!("{runner} {state:?}"), |report| {
            report.runner == runner && report.state() == state
        })
        .await
    }

    /// Answers so many renewals more, and everything before them.
    pub(crate) async fn grants_more(&mut self, count: usize) {
        let enough = self.renewals.len() + count;
        within("renewals come", async {
            while self.renewals.len() < enough {
                self.next_reports().await;
            }
        })
        .await;
    }

    /// Answers whatever comes until `other` ends.
    pub(crate) async fn serve_until(&mut self, what: &str, other: impl Future<Output = ()>) {
        tokio::pin!(other);
        within(what, async {
            loop {
                tokio::select! {
                    () = &mut other => return,
                    _ = self.next_reports() => {}
                }
            }
        })
        .await;
    }

    /// The reports of one frame; empty for other frames.
    pub(crate) async fn next_reports(&mut self) -> Vec<v1::Observation> {
        let message = self.reader.next::<v1::AgentMessage>().await.unwrap().expect("the agent is there");
        match message.message {
            Some(Up::Observed(observed)) => return observed.runners,
            Some(Up::Renewal(renewal)) => {
                self.renewals.push(renewal.clone());
                let grant = v1::Grant { renewal: Some(renewal), ..self.grants.clone() };
                self.send(Down::Grant(grant)).await;
            }
            Some(Up::Load(load)) => self.loads.push(load),
            Some(Up::Certificate(request)) => self.certificates.push(request),
            _ => {}
        }
        vec![]
    }

    pub(crate) async fn acknowledge(&mut self, report: &v1::Observation) {
        let key = v1::ObservedKey { runner: report.runner.clone(), epoch: report.epoch, rev: report.rev };
        self.send(Down::ObservedAck(v1::ObservedAck { runners: vec![key] })).await;
    }

    /// A stream as for a viewer.
    pub(crate) async fn stream(
        &self,
        request: v1::stream_header::Request,
    ) -> (SendStream, FrameReader<RecvStream>) {
        let (mut send, recv) = self.connection.open_bi().await.unwrap();
        frame::write(&mut send, &v1::StreamHeader { request: Some(request) }).await.unwrap();
        (send, FrameReader::new(recv))
    }
}
