//! Hello to Welcome: who the agent is, whether this cluster can take it, and its place in the replicated state.

use std::collections::BTreeSet;

use stratavore_model::{
    Actor, Code, Command, Entry, Epoch, HostId, NodeId, ObservedKey, Rejected, Reply, RunnerId, State,
};
use stratavore_proto::frame::{self, FrameReader};
use stratavore_proto::v1::{self, NodeMessage, agent_message, node_message};
use stratavore_proto::{AGENT_PROTOCOL_MAX, AGENT_PROTOCOL_MIN};
use stratavore_raft::{Handle, ProposeError};

use crate::admission::{Connections, Peer};
use crate::convert::{agent, id};
use crate::dispatch::DispatchHandle;
use crate::leader::liveness;
use crate::link::certificate::Issuer;
use crate::link::hub::Hub;
use crate::link::ingest::IngestHandle;
use crate::link::session::{Session, Up};
use crate::link::{HELLO_TIMEOUT, SESSIONS_MAX, close};
use crate::metrics::Counted;
use crate::peer::renewals::RenewalHandle;
use crate::quarantine::Quarantine;
use crate::tasks::Tasks;

/// Longest version and boot id texts that are taken into state; ours are 5 and 36 characters.
const TEXT_BYTES_MAX: usize = 128;

/// Everything a new connection needs to become a session.
pub(crate) struct Greeter {
    pub(crate) node: NodeId,
    pub(crate) raft: Handle,
    pub(crate) hub: Hub,
    pub(crate) connections: Connections,
    pub(crate) dispatch: DispatchHandle,
    pub(crate) ingest: IngestHandle,
    pub(crate) renewals: RenewalHandle,
    pub(crate) issuer: Issuer,
    pub(crate) counted: Counted,
    pub(crate) tasks: Tasks,
    pub(crate) quarantine: Quarantine,
}

/// Why no session came of a connection.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    /// Told to the agent as `Refused{code, message}`.
    #[error("{code}: {message}")]
    Said { code: &'static str, message: String },
    /// P3: epochs that a fence covered live on there.
    #[error("fenced: {0}")]
    Fenced(String, Vec<v1::RunnerEpoch>),
    /// The host was removed: told as `Removed` (P18).
    #[error("host removed")]
    Removed,
    /// Nobody we can talk to.
    #[error("{0}")]
    Silent(String),
}

impl Refusal {
    fn said(code: &'static str, message: impl Into<String>) -> Self {
        Self::Said { code, message: message.into() }
    }
}

/// What a greeted agent is, once its hello is committed.
pub(crate) struct Greeted {
    pub(crate) host: HostId,
    pub(crate) peer: Peer,
    pub(crate) connection: u64,
    pub(crate) host_epoch: Epoch,
    /// What the hello listed as started: these need no start order again.
    pub(crate) known: BTreeSet<(RunnerId, Epoch)>,
    pub(crate) acknowledged: Vec<ObservedKey>,
}

impl Greeter {
    /// From a QUIC connection to a session, until the session ends.
    pub(crate) async fn greet(&self, quic: quinn::Connection) {
        let address = quic.remote_address();
        let Some(peer) = peer_of(&quic) else {
            quic.close(close::REFUSED.into(), b"no identity");
            return;
        };
        let Some(place) = self.connections.enter(Some(&peer)) else {
            quic.close(close::REMOVED.into(), b"not admitted");
            return;
        };
        let Ok(Ok((send, recv))) = tokio::time::timeout(HELLO_TIMEOUT, quic.accept_bi()).await else {
            tracing::debug!(%address, "agent opened no control stream");
            quic.close(close::PROTOCOL.into(), b"no control stream");
            return;
        };
        let (mut send, mut reader) = (send, FrameReader::new(recv));
        match self.welcome(&peer, &quic, &mut reader).await {
            Ok(greeted) => {
                let up = Up {
                    ingest: self.ingest.clone(),
                    renewals: self.renewals.clone(),
                    issuer: self.issuer.clone(),
                    counted: self.counted.clone(),
                };
                let session = Session { quic, send, reader, greeted, place, hub: self.hub.clone() };
                session.run(&self.dispatch, up, self.tasks.token()).await;
            }
            Err(refusal) => {
                tracing::info!(%address, peer = %peer.actor, %refusal, "agent refused");
                say(&mut send, &quic, refusal).await;
            }
        }
    }

    async fn welcome(
        &self,
        peer: &Peer,
        quic: &quinn::Connection,
        reader: &mut FrameReader<quinn::RecvStream>,
    ) -> Result<Greeted, Refusal> {
        let Actor::Host(host) = peer.actor else {
            return Err(Refusal::said("identity", format!("{} is not a host", peer.actor)));
        };
        let hello = read_hello(reader).await?;
        self.check(host, &hello)?;
        let known = known(&hello);
        let connection = hello.connection;
        tracing::debug!(%host, connection, address = %quic.remote_address(), "hello");
        let (host_epoch, acknowledged) = self.connect(host, hello).await?;
        Ok(Greeted { host, peer: peer.clone(), connection, host_epoch, known, acknowledged })
    }

    /// What can be refused without asking the state machine.
    fn check(&self, host: HostId, hello: &v1::Hello) -> Result<(), Refusal> {
        if hello.host_id != host.as_str() {
            return Err(Refusal::said("identity", "the hello names another host than the certificate"));
        }
        if hello.protocol_min > AGENT_PROTOCOL_MAX || hello.protocol_max < AGENT_PROTOCOL_MIN {
            return Err(Refusal::said("protocol", protocol_message(hello)));
        }
        if hello.boot_id.is_empty()
            || hello.boot_id.len() > TEXT_BYTES_MAX
            || hello.version.len() > TEXT_BYTES_MAX
        {
            return Err(Refusal::said("protocol", "boot id or version is missing or too long"));
        }
        self.quarantine.check().map_err(|why| Refusal::said("unavailable", why))?;
        if self.hub.len() >= SESSIONS_MAX {
            return Err(Refusal::said("busy", format!("this node serves {SESSIONS_MAX} agents already")));
        }
        let (cluster, incarnation) =
            self.raft.read(|state| (state.cluster().map(|cluster| cluster.id), state.incarnation()));
        if cluster.is_none_or(|cluster| cluster.as_str() != hello.cluster_id) {
            return Err(Refusal::said("foreign_cluster", "the agent belongs to another cluster"));
        }
        // P1: an agent that has seen a newer incarnation must not obey an older one.
        if hello.seen.is_some_and(|seen| seen.incarnation > incarnation) {
            return Err(Refusal::said(
                "older_incarnation",
                format!("this cluster is at incarnation {incarnation}, the agent has seen a newer one"),
            ));
        }
        Ok(())
    }

    /// Commits the hello: the host's epoch (P3), its facts and its full list.
    async fn connect(&self, host: HostId, hello: v1::Hello) -> Result<(Epoch, Vec<ObservedKey>), Refusal> {
        let command = Command::HostConnect(agent::host_connect(host, self.node, hello));
        let entry = Entry { actor: Actor::Host(host), request_id: None, at: id::now(), term: None, command };
        let applied = self.raft.propose(entry).await.map_err(|error| not_committed(&error))?;
        match applied.reply {
            Reply::Connected { host_epoch, acknowledged } => Ok((host_epoch, acknowledged)),
            Reply::Rejected(rejected) if rejected.code == Code::CoveredAlive => {
                Err(self.raft.read(|state| covered(state, host, rejected.message)))
            }
            Reply::Rejected(rejected) => Err(refused(rejected)),
            other => Err(Refusal::Silent(format!("unexpected reply {other:?}"))),
        }
    }
}

/// The identity of the peer's certificate, which the handshake has verified and admission has admitted.
fn peer_of(quic: &quinn::Connection) -> Option<Peer> {
    let chain = quic.peer_identity()?.downcast::<Vec<rustls_pki_types::CertificateDer<'static>>>().ok()?;
    Peer::of_chain(&chain)
}

async fn read_hello(reader: &mut FrameReader<quinn::RecvStream>) -> Result<v1::Hello, Refusal> {
    let first = tokio::time::timeout(HELLO_TIMEOUT, reader.next::<v1::AgentMessage>()).await;
    match first {
        Ok(Ok(Some(v1::AgentMessage { message: Some(agent_message::Message::Hello(hello)) }))) => Ok(hello),
        Ok(Ok(_)) => Err(Refusal::said("protocol", "the first frame must be a hello")),
        Ok(Err(error)) => Err(Refusal::said("protocol", format!("the first frame cannot be read: {error}"))),
        Err(_) => Err(Refusal::Silent("no hello in time".to_owned())),
    }
}

fn protocol_message(hello: &v1::Hello) -> String {
    format!(
        "this node speaks agent protocol {AGENT_PROTOCOL_MIN} to {AGENT_PROTOCOL_MAX}, the agent {} to {}: upgrade the older one",
        hello.protocol_min, hello.protocol_max
    )
}

fn known(hello: &v1::Hello) -> BTreeSet<(RunnerId, Epoch)> {
    let key =
        |observed: &v1::Observation| Some((observed.runner.parse().ok()?, id::epoch_of(observed.epoch?)));
    // Without a revision there is no shim yet: the agent was killed before it could carry the order out.
    hello.runners.iter().filter(|observed| observed.rev > 0).filter_map(key).collect()
}

fn not_committed(error: &ProposeError) -> Refusal {
    match error {
        ProposeError::TooLarge { .. } => {
            Refusal::said("protocol", "the hello lists more than one entry can hold")
        }
        ProposeError::NotLeader { .. }
        | ProposeError::Unknown(_)
        | ProposeError::Stopped(_)
        | ProposeError::Refused(_) => Refusal::said("unavailable", error.to_string()),
    }
}

/// What the agent has to end before its host gets a new epoch (P3).
fn covered(state: &State, host: HostId, message: String) -> Refusal {
    Refusal::Fenced(message, liveness::fenced(state, host).covered)
}

fn refused(rejected: Rejected) -> Refusal {
    match rejected.code {
        Code::HostRemoved | Code::IdentityRemoved => Refusal::Removed,
        code => Refusal::said(code.as_str(), rejected.message),
    }
}

/// Tells the agent why and closes.
async fn say(send: &mut quinn::SendStream, quic: &quinn::Connection, refusal: Refusal) {
    let (code, message) = match refusal {
        Refusal::Silent(reason) => {
            quic.close(close::REFUSED.into(), reason.as_bytes());
            return;
        }
        Refusal::Removed => {
            let removed = v1::Removed { reason: "the host was removed from the cluster".to_owned() };
            (close::REMOVED, node_message::Message::Removed(removed))
        }
        Refusal::Fenced(message, covered) => {
            let refused = v1::Refused { code: "fenced".to_owned(), message, covered };
            (close::REFUSED, node_message::Message::Refused(refused))
        }
        Refusal::Said { code, message } => {
            let refused = v1::Refused { code: code.to_owned(), message, covered: Vec::new() };
            (close::REFUSED, node_message::Message::Refused(refused))
        }
    };
    let told = async {
        if frame::write(send, &NodeMessage { message: Some(message) }).await.is_ok() && send.finish().is_ok()
        {
            send.stopped().await.ok();
        }
    };
    tokio::time::timeout(super::FAREWELL_TIMEOUT, told).await.ok();
    quic.close(code.into(), b"refused");
}
