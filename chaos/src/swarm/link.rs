//! One link of a simulated agent: handshake, hello, welcome, and frames both ways.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quinn::{ClientConfig, Endpoint};
use rustix::time::{ClockId, clock_gettime};
use stratavore_certs::tls;
use stratavore_proto::frame::{self, FrameReader};
use stratavore_proto::v1::agent_message::Message as Up;
use stratavore_proto::v1::node_message::Message as Down;
use stratavore_proto::v1::{self, AgentMessage, NodeMessage};
use stratavore_proto::{AGENT_PROTOCOL_MAX, AGENT_PROTOCOL_MIN};
use tokio::time::{Instant, timeout};

use super::join::Joined;
use super::socket;

/// As the real agent's.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);

/// Of every host alike: they never reboot.
const BOOT_ID: &str = "6f2a4f8e-9d1b-4c57-8a35-0c1d2e3f4a5b";

/// A host as it introduces itself.
#[derive(Debug)]
pub struct Host {
    id: String,
    cluster: String,
    config: ClientConfig,
    connections: AtomicU64,
}

impl Host {
    /// Of one that joined.
    ///
    /// # Errors
    /// Its credentials are of no use for QUIC.
    pub fn new(joined: Joined) -> anyhow::Result<Self> {
        let config = socket::client(&joined.credentials)?;
        let Joined { id, cluster, .. } = joined;
        Ok(Self { id, cluster, config, connections: AtomicU64::new(0) })
    }

    fn hello(&self, runners: Vec<v1::Observation>, seen: Option<v1::Epoch>) -> v1::Hello {
        v1::Hello {
            host_id: self.id.clone(),
            cluster_id: self.cluster.clone(),
            boot_id: BOOT_ID.to_owned(),
            instance: vec![7; 16].into(),
            // P14: counted up with every connection.
            connection: self.connections.fetch_add(1, Ordering::AcqRel) + 1,
            protocol_min: AGENT_PROTOCOL_MIN,
            protocol_max: AGENT_PROTOCOL_MAX,
            facts: Some(v1::HostFacts {
                cpu_milli: 64_000,
                memory_bytes: 1 << 38,
                os: "linux".to_owned(),
                arch: "x86_64".to_owned(),
                features: vec!["cgroup2".to_owned(), "pidns".to_owned()],
                fence: "cgroup".to_owned(),
                ..Default::default()
            }),
            seen,
            runners,
            version: "0.1.0".to_owned(),
            ..Default::default()
        }
    }
}

/// A link that was welcomed.
#[derive(Debug)]
pub struct Link {
    connection: quinn::Connection,
    send: quinn::SendStream,
    reader: FrameReader<quinn::RecvStream>,
    host_epoch: Option<v1::Epoch>,
    /// From the dial to the QUIC connection.
    pub handshake: Duration,
    /// What the welcome ordered, until it is taken.
    pub first: Option<v1::Desired>,
}

impl Link {
    /// Dials a node and says hello with what is on the host.
    ///
    /// # Errors
    /// The node is not there, refuses, or is silent.
    pub async fn open(
        endpoint: &Endpoint,
        at: SocketAddr,
        host: &Host,
        runners: Vec<v1::Observation>,
        seen: Option<v1::Epoch>,
    ) -> anyhow::Result<Self> {
        let began = Instant::now();
        let connecting = endpoint.connect_with(host.config.clone(), at, tls::SERVER_NAME)?;
        let connection = timeout(HANDSHAKE_TIMEOUT, connecting).await??;
        let handshake = began.elapsed();
        let (send, receive) = connection.open_bi().await?;
        let reader = FrameReader::new(receive);
        let mut link = Self { connection, send, reader, host_epoch: None, handshake, first: None };
        link.say(Up::Hello(host.hello(runners, seen))).await?;
        match timeout(WELCOME_TIMEOUT, link.next()).await?? {
            Down::Welcome(welcome) => {
                link.host_epoch = welcome.host_epoch;
                link.first = welcome.desired;
                Ok(link)
            }
            other => anyhow::bail!("no welcome but {other:?}"),
        }
    }

    /// Writes one frame. Not cancel-safe.
    ///
    /// # Errors
    /// The link is gone.
    pub async fn say(&mut self, message: Up) -> anyhow::Result<()> {
        Ok(frame::write(&mut self.send, &AgentMessage { message: Some(message) }).await?)
    }

    /// The next frame. Cancel-safe.
    ///
    /// # Errors
    /// The link is gone.
    pub async fn next(&mut self) -> anyhow::Result<Down> {
        loop {
            let Some(NodeMessage { message }) = self.reader.next().await? else {
                anyhow::bail!("the node ended the control stream")
            };
            if let Some(message) = message {
                return Ok(message);
            }
        }
    }

    /// Asks for a lease, as of now.
    ///
    /// # Errors
    /// The link is gone.
    pub async fn renew(&mut self) -> anyhow::Result<()> {
        let renewal = v1::Renewal {
            host_epoch: self.host_epoch,
            boot_id: BOOT_ID.to_owned(),
            b0_ns: boottime_ns(),
            bounded: true,
        };
        self.say(Up::Renewal(renewal)).await
    }

    /// Ends the link.
    pub fn close(self) {
        self.connection.close(0_u32.into(), b"bye");
    }
}

fn boottime_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// That an epoch runs, in its revision `rev`.
#[must_use]
pub fn running(line: &v1::DesiredRunner, rev: u64) -> v1::Observation {
    v1::Observation {
        runner: line.runner.clone(),
        epoch: line.epoch,
        rev,
        state: v1::RunnerState::Running.into(),
        pid: 4242,
        started_at_unix_ms: 1_700_000_000_000,
        fence: "cgroup".to_owned(),
        ..Default::default()
    }
}

/// That an epoch has run and ended well.
#[must_use]
pub fn ended(line: &v1::DesiredRunner) -> v1::Observation {
    v1::Observation {
        state: v1::RunnerState::Terminated.into(),
        exit: Some(v1::Exit { code: Some(0), reason: "exited".to_owned(), ..Default::default() }),
        ..running(line, 2)
    }
}
