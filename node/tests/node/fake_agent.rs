//! An agent that does what a test tells it: the protocol without any process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quinn::crypto::rustls::QuicClientConfig;
use stratavore_certs::{Credentials, Identity, Role, tls};
use stratavore_proto::frame::{self, FrameReader};
use stratavore_proto::v1::{self, AgentMessage, NodeMessage, agent_message, node_message};

use crate::client;
use crate::harness::{Node, soon};

static CONNECTIONS: AtomicU64 = AtomicU64::new(1);

pub(crate) const BOOT_ID: &str = "11111111-2222-3333-4444-555555555555";

/// A host with its key.
pub(crate) struct Host {
    pub(crate) id: String,
    pub(crate) cluster_id: String,
    pub(crate) credentials: Credentials,
}

impl Host {
    pub(crate) async fn join(node: &Node, name: &str) -> Self {
        let (response, credentials) = client::joined(node, Role::Host, name).await;
        let Identity::Host { id, cluster } = credentials.identity().clone() else { panic!("not a host") };
        assert_eq!(response.name, name);
        Self { id, cluster_id: cluster, credentials }
    }

    pub(crate) fn hello(&self) -> v1::Hello {
        v1::Hello {
            host_id: self.id.clone(),
            cluster_id: self.cluster_id.clone(),
            boot_id: BOOT_ID.into(),
            instance: vec![1; 16].into(),
            connection: CONNECTIONS.fetch_add(1, Ordering::Relaxed),
            protocol_min: 1,
            protocol_max: 1,
            facts: Some(v1::HostFacts {
                slots: 50,
                cpu_milli: 8000,
                memory_bytes: 1 << 34,
                fence: "cgroup".into(),
                ..Default::default()
            }),
            version: "0.1.0".into(),
            ..Default::default()
        }
    }

    pub(crate) async fn quic(&self, at: SocketAddr) -> Result<quinn::Connection, quinn::ConnectionError> {
        let crypto = QuicClientConfig::try_from(tls::quic_client(&self.credentials, None).unwrap()).unwrap();
        let mut endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
        endpoint.connect(at, tls::SERVER_NAME).unwrap().await
    }

    /// A connection that has been welcomed.
    pub(crate) async fn connect(&self, node: &Node) -> Agent {
        self.connect_as(node, self.hello()).await
    }

    pub(crate) async fn connect_as(&self, node: &Node, hello: v1::Hello) -> Agent {
        let mut agent = self.greet(node, hello).await;
        match agent.next().await {
            node_message::Message::Welcome(welcome) => {
                agent.host_epoch = welcome.host_epoch;
                agent.welcome = Some(welcome);
            }
            other => panic!("no welcome: {other:?}"),
        }
        agent
    }

    /// A connection that has said hello.
    pub(crate) async fn greet(&self, node: &Node, hello: v1::Hello) -> Agent {
        let quic = soon("agent handshake", self.quic(node.at.quic)).await.unwrap();
        let (send, recv) = quic.open_bi().await.unwrap();
        let mut agent = Agent { quic, send, reader: FrameReader::new(recv), host_epoch: None, welcome: None };
        agent.say(agent_message::Message::Hello(hello)).await;
        agent
    }
}

/// One connection of a fake agent.
pub(crate) struct Agent {
    pub(crate) quic: quinn::Connection,
    pub(crate) send: quinn::SendStream,
    pub(crate) reader: FrameReader<quinn::RecvStream>,
    pub(crate) host_epoch: Option<v1::Epoch>,
    pub(crate) welcome: Option<v1::Welcome>,
}

impl Agent {
    pub(crate) async fn say(&mut self, message: agent_message::Message) {
        frame::write(&mut self.send, &AgentMessage { message: Some(message) }).await.unwrap();
    }

    pub(crate) async fn next(&mut self) -> node_message::Message {
        let message: NodeMessage = soon("a frame", self.reader.next()).await.unwrap().expect("stream ended");
        message.message.unwrap()
    }

    /// The next frame of one kind; others are passed over.
    pub(crate) async fn wait_for<T>(&mut self, pick: impl Fn(node_message::Message) -> Option<T>) -> T {
        loop {
            let message = self.next().await;
            if let Some(found) = pick(message) {
                return found;
            }
        }
    }

    /// The next order that says something about runners.
    pub(crate) async fn orders(&mut self) -> v1::Desired {
        self.wait_for(|message| match message {
            node_message::Message::Desired(desired) if !desired.runners.is_empty() => Some(desired),
            _ => None,
        })
        .await
    }

    /// The next order about one runner.
    pub(crate) async fn order(&mut self, runner: &str, want: v1::Want) -> v1::DesiredRunner {
        self.wait_for(|message| match message {
            node_message::Message::Desired(desired) => {
                desired.runners.into_iter().find(|line| line.runner == runner && line.want() == want)
            }
            _ => None,
        })
        .await
    }

    pub(crate) async fn report(&mut self, observations: Vec<v1::Observation>) {
        let observed = v1::Observed { runners: observations, full: false, seen: None };
        self.say(agent_message::Message::Observed(observed)).await;
    }

    pub(crate) async fn acknowledged(&mut self) -> Vec<v1::ObservedKey> {
        self.wait_for(|message| match message {
            node_message::Message::ObservedAck(ack) => Some(ack.runners),
            _ => None,
        })
        .await
    }

    pub(crate) fn renewal(&self) -> v1::Renewal {
        v1::Renewal { host_epoch: self.host_epoch, boot_id: BOOT_ID.into(), b0_ns: 42, bounded: false }
    }
}

/// What a shim would say.
pub(crate) fn observation(line: &v1::DesiredRunner, rev: u64, state: v1::RunnerState) -> v1::Observation {
    v1::Observation {
        runner: line.runner.clone(),
        epoch: line.epoch,
        rev,
        state: state as i32,
        pid: 4242,
        started_at_unix_ms: 1_700_000_000_000,
        fence: "cgroup".into(),
        ..Default::default()
    }
}

/// How a command ended well.
pub(crate) fn exited(line: &v1::DesiredRunner, rev: u64) -> v1::Observation {
    v1::Observation {
        exit: Some(v1::Exit { code: Some(7), reason: "exited".into(), ..Default::default() }),
        reason: "exited".into(),
        ..observation(line, rev, v1::RunnerState::Terminated)
    }
}
