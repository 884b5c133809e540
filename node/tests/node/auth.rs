//! Who gets in: nobody without a registered certificate, hosts not on the API port, removed keys not at all.

use prost::Message;
use stratavore_certs::{Ca, Credentials, Identity, KeyPair, Role, Validity, tls};
use stratavore_proto::v1;
use tonic::Code;
use tonic::transport::Channel;

use crate::client::{self, Client, joined, reason};
use crate::fake_agent::Host;
use crate::harness::{Node, soon};

/// Calls a method with an empty message, as far as the headers of the answer: streams may never end. The refusal of a
/// stranger comes before any handler.
async fn call(channel: &Channel, path: &str) -> Result<(), tonic::Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| tonic::Status::unavailable(format!("{error:?}")))?;
    let codec: tonic_prost::ProstCodec<v1::ListTokensRequest, v1::ListTokensResponse> = Default::default();
    let request = tonic::Request::new(v1::ListTokensRequest {});
    grpc.server_streaming(request, path.parse().unwrap(), codec).await.map(drop)
}

fn methods() -> Vec<String> {
    let set = prost_types::FileDescriptorSet::decode(stratavore_proto::DESCRIPTORS).unwrap();
    let mut methods = Vec::new();
    for file in set.file.iter().filter(|file| file.package() == "stratavore.v1") {
        for service in &file.service {
            for method in &service.method {
                methods.push(format!("/stratavore.v1.{}/{}", service.name(), method.name()));
            }
        }
    }
    methods
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_reaches_every_method_of_the_api_and_no_other() {
    let node = Node::start().await;
    let channel = client::channel(node.at.grpc, tls::grpc_client(&node.admin()).unwrap()).await.unwrap();
    for path in methods() {
        let result = soon(&path, call(&channel, &path)).await;
        let of_nodes = path.contains("PeerService") || path.ends_with("/HandOver");
        if of_nodes {
            assert_eq!(result.unwrap_err().code(), Code::PermissionDenied, "{path}");
        } else if path.contains("JoinService") {
            assert_eq!(result.unwrap_err().code(), Code::Unimplemented, "{path}");
        } else if let Err(status) = result {
            // An empty message is often a bad one, but it was looked at.
            assert!(
                !matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated),
                "{path}: {status:?}"
            );
        }
    }
    let status = call(&channel, "/stratavore.v1.RunnerService/Unheard").await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unimplemented, "unknown_method"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_may_look_and_no_more() {
    let node = Node::start().await;
    let pki = node.dir.path().join("pki");
    let credentials = Credentials::load(&pki, "node").unwrap();
    let mut peer = Client::with(&node, &credentials).await;
    assert_eq!(peer.status().await.whoami, "node/1");
    let request =
        v1::CreateProjectRequest { request_id: client::request_id(), name: "p".into(), ..Default::default() };
    let status = peer.projects.create_project(request).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_cannot_call_the_api_at_all() {
    let node = Node::start().await;
    let host = Host::join(&node, "h1").await;
    let config = tls::grpc_client(&host.credentials).unwrap();
    match client::channel(node.at.grpc, config).await {
        Err(_) => {}
        // In TLS 1.3 the refusal may come with the first read.
        Ok(channel) => assert!(call(&channel, "/stratavore.v1.ClusterService/GetStatus").await.is_err()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_the_registry_does_not_know_is_worth_nothing() {
    let node = Node::start().await;
    let admin = node.admin();
    let identity = Identity::User { cluster: admin.cluster().to_owned(), name: "admin".into() };
    let key = KeyPair::generate().unwrap();
    let now_s = 1_790_000_000;
    // Even the right name from another CA that calls itself by the same name.
    let ca = Ca::generate(admin.cluster(), now_s).unwrap();
    let certificate =
        ca.issue(&key.public(), &identity, &[], Validity::for_identity(&identity, now_s)).unwrap();
    let forged = Credentials::new(ca.certificate_der(), &certificate, key).unwrap();
    assert!(client::channel(node.at.grpc, tls::grpc_client(&forged).unwrap()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_person_joins_and_has_a_name() {
    let node = Node::start().await;
    let (response, credentials) = joined(&node, Role::User, "alice").await;
    assert_eq!(response.id, "alice");
    let mut alice = Client::with(&node, &credentials).await;
    assert_eq!(alice.status().await.whoami, "user/alice");
    alice.project("hers").await;
    let launched = alice.launch("hers", 1).await;
    assert_eq!(launched.runners[0].created_by, "user/alice");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate_nobody_gets_in() {
    let node = Node::start().await;
    let admin = node.admin();
    for at in [node.at.grpc, node.at.raft] {
        let config = tls::join_client(admin.pin().unwrap(), admin.cluster()).unwrap();
        match client::channel(at, config).await {
            Err(_) => {}
            // In TLS 1.3 the refusal may come with the first read.
            Ok(channel) => assert!(call(&channel, "/stratavore.v1.ClusterService/GetStatus").await.is_err()),
        }
    }
    // A user is nobody on the raft port.
    match client::channel(node.at.raft, tls::grpc_client(&admin).unwrap()).await {
        Err(_) => {}
        Ok(channel) => assert!(call(&channel, "/stratavore.raft.v1.RaftService/Vote").await.is_err()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_whose_certificate_grows_old_gets_one_for_the_same_key_and_no_other() {
    let node = Node::start().await;
    let admin = node.admin();
    let aged = aged(&node, &admin);
    let mut client = Client::with(&node, &aged).await;
    let mut renew = async |csr_der: Vec<u8>| {
        let request = v1::RenewCertificateRequest { csr_der: csr_der.into() };
        client.cluster.renew_certificate(request).await.map(tonic::Response::into_inner)
    };
    let answer = renew(aged.key().csr_der().unwrap()).await.unwrap();
    let key = KeyPair::from_pkcs8_der(aged.key().pkcs8_der()).unwrap();
    let renewed = Credentials::new(&answer.ca_der, &answer.certificate_der, key).unwrap();
    assert_eq!(renewed.identity(), admin.identity());
    let until = |credentials: &Credentials| credentials.validity().unwrap().not_after_unix_s;
    assert!(until(&renewed) > until(&aged) + 200 * 86_400);
    assert_eq!(Client::with(&node, &renewed).await.status().await.whoami, "user/admin");
    let other = renew(KeyPair::generate().unwrap().csr_der().unwrap()).await.unwrap_err();
    assert_eq!((other.code(), reason(&other).as_str()), (Code::InvalidArgument, "bad_argument"));
    let node_itself = Credentials::load(&node.dir.path().join("pki"), "node").unwrap();
    let request = v1::RenewCertificateRequest { csr_der: node_itself.key().csr_der().unwrap().into() };
    let refused = Client::with(&node, &node_itself).await.cluster.renew_certificate(request).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
}

/// The same key, certified nine months ago.
fn aged(node: &Node, of: &Credentials) -> Credentials {
    let (cert, key) = node.raft().read(|state| {
        let cluster = state.cluster().unwrap();
        (cluster.ca_cert_der.clone(), cluster.ca_key_der.clone())
    });
    let ca = Ca::from_parts(&cert, key.reveal()).unwrap();
    let then = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let validity = Validity::for_identity(of.identity(), then - 270 * 86_400);
    let certificate = ca.issue(&of.key().public(), of.identity(), &[], validity).unwrap();
    let key = KeyPair::from_pkcs8_der(of.key().pkcs8_der()).unwrap();
    Credentials::new(&cert, &certificate, key).unwrap()
}
