//! Real handshakes in memory: who gets in, and what those learn who do not.

#![allow(clippy::unwrap_used, reason = "the lint's exemption for tests misses their builders")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::{ClientConfig, HandshakeKind, ServerConfig};
use stratavore_certs::tls::{self, Admission, Peer, Refusal, ServerError, Verdict};
use stratavore_certs::{Ca, Credentials, Identity, KeyPair, SpkiHash, Validity};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const CLUSTER: &str = "0123456789abcdef";
const SECRET: &[u8] = b"the secret of a join token";

#[expect(clippy::disallowed_methods, reason = "the TLS library goes by the real clock")]
fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn node(id: u64) -> Identity {
    Identity::Node { cluster: CLUSTER.into(), id }
}

fn host() -> Identity {
    Identity::Host { cluster: CLUSTER.into(), id: "0123456789".into() }
}

fn user() -> Identity {
    Identity::User { cluster: CLUSTER.into(), name: "alice".into() }
}

fn issue(ca: &Ca, identity: &Identity, validity: Validity) -> Credentials {
    let key = KeyPair::generate().unwrap();
    let certificate = ca.issue(&key.public(), identity, &[], validity).unwrap();
    Credentials::new(ca.certificate_der(), &certificate, key).unwrap()
}

fn credentials(ca: &Ca, identity: &Identity) -> Credentials {
    issue(ca, identity, Validity::for_identity(identity, now()))
}

/// Gives everybody the same answer and counts how often it was asked.
struct Registry {
    answer: Verdict,
    asked: AtomicUsize,
}

impl Admission for Registry {
    fn admit(&self, _: &Identity, _: &SpkiHash) -> Verdict {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.answer
    }
}

fn saying(answer: Verdict) -> Arc<Registry> {
    Arc::new(Registry { answer, asked: AtomicUsize::new(0) })
}

/// What each side saw. The client sends [`SECRET`] as soon as its handshake is done and then waits for one byte, which
/// the server sends only after it has verified the client.
struct Outcome {
    client: Result<(), std::io::Error>,
    server: Result<Vec<u8>, std::io::Error>,
    peer: Option<Peer>,
    kinds: [Option<HandshakeKind>; 2],
}

impl Outcome {
    #[track_caller]
    fn refusal(&self) -> Refusal {
        assert!(self.server.is_err(), "the server took {:?}", self.server);
        let error = self.client.as_ref().expect_err("the client was let in");
        Refusal::find(error).unwrap_or_else(|| panic!("no verdict in {error:?}"))
    }
}

async fn meet(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> Outcome {
    let (near, far) = duplex(64 * 1024);
    let ((client, kind), (server, peer, server_kind)) = tokio::join!(call(client, near), answer(server, far));
    Outcome { client, server, peer, kinds: [kind, server_kind] }
}

async fn call(config: Arc<ClientConfig>, wire: DuplexStream) -> (std::io::Result<()>, Option<HandshakeKind>) {
    let mut stream = match TlsConnector::from(config).connect(tls::server_name(), wire).await {
        Ok(stream) => stream,
        Err(error) => return (Err(error), None),
    };
    let result = async {
        stream.write_all(SECRET).await?;
        stream.flush().await?;
        stream.read_u8().await.map(|_| ())
    }
    .await;
    (result, stream.get_ref().1.handshake_kind())
}

async fn answer(
    config: Arc<ServerConfig>,
    wire: DuplexStream,
) -> (std::io::Result<Vec<u8>>, Option<Peer>, Option<HandshakeKind>) {
    let mut stream = match TlsAcceptor::from(config).accept(wire).await {
        Ok(stream) => stream,
        Err(error) => return (Err(error), None, None),
    };
    let (peer, kind) = {
        let connection = stream.get_ref().1;
        (Peer::of_chain(connection.peer_certificates()).ok(), connection.handshake_kind())
    };
    let mut received = vec![0; SECRET.len()];
    let result = async {
        stream.read_exact(&mut received).await?;
        stream.write_u8(1).await?;
        stream.flush().await
    }
    .await;
    (result.map(|()| received), peer, kind)
}

struct Cluster {
    ca: Ca,
    node: Credentials,
}

impl Cluster {
    fn new() -> Self {
        let ca = Ca::generate(CLUSTER, now()).unwrap();
        let node = credentials(&ca, &node(1));
        Self { ca, node }
    }
}

#[tokio::test]
async fn each_port_admits_its_kinds_and_knows_who_came() {
    let Cluster { ca, node: own } = Cluster::new();
    let [alice, machine, second] = [user(), host(), node(2)].map(|identity| credentials(&ca, &identity));
    let registry = || saying(Verdict::Admit);
    let cases = [
        (tls::grpc_server(&own, registry()).unwrap(), tls::grpc_client(&alice).unwrap(), &alice),
        (tls::grpc_server(&own, registry()).unwrap(), tls::grpc_client(&second).unwrap(), &second),
        (tls::raft_server(&own, registry()).unwrap(), tls::raft_client(&second, 1).unwrap(), &second),
        (tls::quic_server(&own, registry()).unwrap(), tls::quic_client(&machine, None).unwrap(), &machine),
    ];
    for (server, client, who) in cases {
        let outcome = meet(server, client).await;
        outcome.client.unwrap();
        assert_eq!(outcome.server.unwrap(), SECRET);
        assert_eq!(outcome.peer, Some(Peer { identity: who.identity().clone(), spki: who.spki() }));
    }
}

#[tokio::test]
async fn the_wrong_kind_of_identity_is_told_so() {
    let Cluster { ca, node: own } = Cluster::new();
    let [alice, machine, second] = [user(), host(), node(2)].map(|identity| credentials(&ca, &identity));
    let registry = || saying(Verdict::Admit);
    let cases = [
        (tls::grpc_server(&own, registry()).unwrap(), tls::grpc_client(&machine).unwrap()),
        (tls::raft_server(&own, registry()).unwrap(), tls::raft_client(&alice, 1).unwrap()),
        (tls::raft_server(&own, registry()).unwrap(), tls::raft_client(&machine, 1).unwrap()),
        (tls::quic_server(&own, registry()).unwrap(), tls::quic_client(&alice, None).unwrap()),
        (tls::quic_server(&own, registry()).unwrap(), tls::quic_client(&second, None).unwrap()),
    ];
    for (server, client) in cases {
        assert_eq!(meet(server, client).await.refusal(), Refusal::WrongKind);
    }
}

#[tokio::test]
async fn a_removed_key_sees_alert_44_and_an_unknown_one_does_not() {
    let Cluster { ca, node: own } = Cluster::new();
    let machine = credentials(&ca, &host());
    for (answer, expected) in [(Verdict::Revoked, Refusal::Revoked), (Verdict::Unknown, Refusal::UnknownKey)]
    {
        let outcome =
            meet(tls::quic_server(&own, saying(answer)).unwrap(), tls::quic_client(&machine, None).unwrap())
                .await;
        assert_eq!(outcome.refusal(), expected);
    }
    assert_eq!(Refusal::from_alert(44), Refusal::Revoked);
}

#[tokio::test]
async fn a_foreign_ca_is_refused_by_both_sides() {
    let (ours, theirs) = (Cluster::new(), Cluster::new());
    let stranger = credentials(&theirs.ca, &user());
    // The client is the first to see that the other end is not its cluster.
    let registry = saying(Verdict::Admit);
    let server = tls::grpc_server(&ours.node, registry.clone()).unwrap();
    let outcome = meet(server, tls::grpc_client(&stranger).unwrap()).await;
    assert_eq!(outcome.refusal(), Refusal::ForeignServer);
    // A client that believes our server, with a certificate of theirs.
    let server = tls::grpc_server(&ours.node, registry.clone()).unwrap();
    let outcome = meet(server, believing(&stranger, &ours.node)).await;
    assert_eq!(outcome.refusal(), Refusal::OtherCluster);
    assert_eq!(registry.asked.load(Ordering::SeqCst), 0, "the registry is asked about verified chains only");
}

/// A client that trusts the cluster of `trusting` but shows the certificate of `shown`.
fn believing(shown: &Credentials, trusting: &Credentials) -> Arc<ClientConfig> {
    let mut config = ClientConfig::clone(&tls::grpc_client(trusting).unwrap());
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(shown.key().pkcs8_der().to_vec());
    let signing = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&key.into()).unwrap();
    let certified = rustls::sign::CertifiedKey::new(vec![shown.certificate_der().clone()], signing);
    // Whatever issuers the server names: show it regardless.
    config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
    Arc::new(config)
}

#[tokio::test]
async fn another_cluster_under_the_same_ca_is_refused() {
    let Cluster { ca, node: own } = Cluster::new();
    let elsewhere = Identity::User { cluster: "zzzzzzzzzzzzzzzz".into(), name: "alice".into() };
    let stranger = credentials(&ca, &elsewhere);
    let server = tls::grpc_server(&own, saying(Verdict::Admit)).unwrap();
    assert_eq!(meet(server, believing(&stranger, &own)).await.refusal(), Refusal::OtherCluster);
    let server = tls::grpc_server(&own, saying(Verdict::Admit)).unwrap();
    let refusal = meet(server, tls::grpc_client(&stranger).unwrap()).await.refusal();
    assert!(matches!(refusal, Refusal::Server(ServerError::NotANode { .. })), "{refusal:?}");
}

#[tokio::test]
async fn an_expired_certificate_is_told_so() {
    let Cluster { ca, node: own } = Cluster::new();
    let past = Validity { not_before_unix_s: now() - 1000, not_after_unix_s: now() - 500 };
    let expired = issue(&ca, &user(), past);
    let server = tls::grpc_server(&own, saying(Verdict::Admit)).unwrap();
    assert_eq!(meet(server, tls::grpc_client(&expired).unwrap()).await.refusal(), Refusal::Expired);
}

#[tokio::test]
async fn clients_insist_on_the_node_they_dialled() {
    let Cluster { ca, node: own } = Cluster::new();
    let second = credentials(&ca, &node(2));
    let server = tls::raft_server(&own, saying(Verdict::Admit)).unwrap();
    let refusal = meet(server, tls::raft_client(&second, 3).unwrap()).await.refusal();
    assert_eq!(refusal, Refusal::Server(ServerError::OtherNode { expected: 3, found: 1 }));
}

#[tokio::test]
async fn agents_accept_listed_nodes_only() {
    let Cluster { ca, node: own } = Cluster::new();
    let machine = credentials(&ca, &host());
    let server = || tls::quic_server(&own, saying(Verdict::Admit)).unwrap();
    let listed = tls::quic_client(&machine, Some(vec![SpkiHash([0; 32]), own.spki()])).unwrap();
    meet(server(), listed).await.client.unwrap();
    let unlisted = tls::quic_client(&machine, Some(vec![SpkiHash([0; 32])])).unwrap();
    let refusal = meet(server(), unlisted).await.refusal();
    assert_eq!(refusal, Refusal::Server(ServerError::Untrusted { id: 1 }));
}

#[tokio::test]
async fn only_nodes_can_be_servers() {
    let Cluster { ca, node: own } = Cluster::new();
    let [alice, machine] = [user(), host()].map(|identity| credentials(&ca, &identity));
    for fake in [&machine, &alice] {
        // Its certificate is not for servers at all.
        let server = tls::grpc_server(fake, saying(Verdict::Admit)).unwrap();
        let outcome = meet(server, tls::grpc_client(&alice).unwrap()).await;
        assert_eq!(outcome.refusal(), Refusal::ForeignServer);
        let server = tls::join_server(fake).unwrap();
        let client = tls::join_client(own.pin().unwrap(), &CLUSTER[..8]).unwrap();
        assert_eq!(meet(server, client).await.refusal(), Refusal::ForeignServer);
    }
}

#[tokio::test]
async fn joining_needs_the_pin_and_no_certificate() {
    let Cluster { node: own, .. } = Cluster::new();
    let client = tls::join_client(own.pin().unwrap(), &CLUSTER[..8]).unwrap();
    let outcome = meet(tls::join_server(&own).unwrap(), client).await;
    outcome.client.unwrap();
    assert_eq!(outcome.server.unwrap(), SECRET);
    assert_eq!(outcome.peer, None);
}

#[tokio::test]
async fn a_wrong_pin_ends_the_handshake_before_anything_is_sent() {
    let (ours, theirs) = (Cluster::new(), Cluster::new());
    let pin = ours.node.pin().unwrap();
    let client = tls::join_client(pin, &CLUSTER[..8]).unwrap();
    let outcome = meet(tls::join_server(&theirs.node).unwrap(), client).await;
    // `server` is what arrived: the handshake failed there too, so no byte of the secret did.
    assert_eq!(outcome.refusal(), Refusal::Server(ServerError::Pin { pin }));
}

#[tokio::test]
async fn showing_the_pinned_ca_does_not_help_a_server_it_did_not_certify() {
    let (ours, theirs) = (Cluster::new(), Cluster::new());
    let pin = ours.node.pin().unwrap();
    // The CA certificate is public: anybody can append it to a chain of their own.
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(theirs.node.key().pkcs8_der().to_vec());
    let chain = vec![theirs.node.certificate_der().clone(), ours.ca.certificate_der().clone()];
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut fake = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key.into())
        .unwrap();
    fake.alpn_protocols = vec![tls::ALPN_HTTP2.to_vec()];
    let client = tls::join_client(pin, &CLUSTER[..8]).unwrap();
    assert_eq!(meet(Arc::new(fake), client).await.refusal(), Refusal::ForeignServer);
}

#[tokio::test]
async fn a_token_of_another_cluster_under_the_same_ca_is_refused() {
    let Cluster { node: own, .. } = Cluster::new();
    let client = tls::join_client(own.pin().unwrap(), "zzzzzzzz").unwrap();
    let refusal = meet(tls::join_server(&own).unwrap(), client).await.refusal();
    assert!(matches!(refusal, Refusal::Server(ServerError::NotANode { .. })), "{refusal:?}");
}

#[tokio::test]
async fn a_stranger_without_certificate_enters_the_join_port_only() {
    let Cluster { node: own, .. } = Cluster::new();
    let client = tls::join_client(own.pin().unwrap(), &CLUSTER[..8]).unwrap();
    let server = tls::grpc_server(&own, saying(Verdict::Admit)).unwrap();
    assert_eq!(meet(server, client).await.refusal(), Refusal::CertificateRequired);
}

#[tokio::test]
async fn the_wrong_port_speaks_another_protocol() {
    let Cluster { ca, node: own } = Cluster::new();
    let machine = credentials(&ca, &host());
    let server = tls::grpc_server(&own, saying(Verdict::Admit)).unwrap();
    let outcome = meet(server, tls::quic_client(&machine, None).unwrap()).await;
    assert_eq!(outcome.refusal(), Refusal::Protocol);
}

#[tokio::test]
async fn every_handshake_is_a_full_one_and_asks_the_registry() {
    let Cluster { ca, node: own } = Cluster::new();
    let alice = credentials(&ca, &user());
    let registry = saying(Verdict::Admit);
    let server = tls::grpc_server(&own, registry.clone()).unwrap();
    // A client that would resume if it were given anything to resume with.
    let mut eager = ClientConfig::clone(&tls::grpc_client(&alice).unwrap());
    eager.resumption = rustls::client::Resumption::in_memory_sessions(8);
    let eager = Arc::new(eager);
    for round in 1..=3 {
        let outcome = meet(server.clone(), eager.clone()).await;
        outcome.client.unwrap();
        for kind in outcome.kinds {
            assert!(matches!(kind, Some(HandshakeKind::Full)), "round {round}: {kind:?}");
        }
        assert_eq!(registry.asked.load(Ordering::SeqCst), round);
    }
}

/// A ClientHello that offers TLS 1.2 with one ECDSA suite and nothing newer.
fn hello_of_tls12() -> Vec<u8> {
    let extensions: &[u8] = &[
        0x00, 0x0a, 0x00, 0x04, 0x00, 0x02, 0x00, 0x17, // supported_groups: secp256r1
        0x00, 0x0b, 0x00, 0x02, 0x01, 0x00, // ec_point_formats: uncompressed
        0x00, 0x0d, 0x00, 0x04, 0x00, 0x02, 0x04, 0x03, // signature_algorithms: ecdsa_secp256r1_sha256
        0x00, 0x17, 0x00, 0x00, // extended_master_secret
    ];
    let mut body = vec![0x03, 0x03];
    body.extend([7; 32]); // random
    body.push(0); // no session id
    body.extend([0x00, 0x02, 0xc0, 0x2b]); // ECDHE-ECDSA-AES128-GCM-SHA256
    body.extend([0x01, 0x00]); // no compression
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    let length = u16::try_from(body.len()).unwrap();
    let mut record = vec![0x16, 0x03, 0x01];
    record.extend((length + 4).to_be_bytes());
    record.extend([0x01, 0x00]);
    record.extend(length.to_be_bytes());
    record.extend(body);
    record
}

#[tokio::test]
async fn tls12_is_refused() {
    let Cluster { node: own, .. } = Cluster::new();
    for server in [tls::join_server(&own).unwrap(), tls::grpc_server(&own, saying(Verdict::Admit)).unwrap()] {
        let (mut near, far) = duplex(64 * 1024);
        let client = async {
            near.write_all(&hello_of_tls12()).await.unwrap();
            let mut alert = [0; 7];
            near.read_exact(&mut alert).await.unwrap();
            alert
        };
        let (alert, (accepted, ..)) = tokio::join!(client, answer(server, far));
        assert!(accepted.is_err());
        // Record type alert, level fatal, protocol_version.
        assert_eq!((alert[0], alert[5], alert[6]), (21, 2, 70), "{alert:?}");
    }
}
