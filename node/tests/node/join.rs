//! Tokens: single use, bound to a role and a time, and a lost answer costs nothing.

use stratavore_certs::{Credentials, JoinToken, KeyPair, Role, SpkiHash};
use stratavore_proto::v1;
use tonic::Code;

use crate::client::{self, Client, join, join_request, reason, request_id};
use crate::harness::{Node, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_may_ask_again_and_another_one_may_not() {
    let node = Node::start().await;
    let token = Client::admin(&node).await.token(Role::Host, 0).await;
    let key = KeyPair::generate().unwrap();
    let first = join(&node, &token, join_request(&token, &key)).await.unwrap();
    let again = join(&node, &token, join_request(&token, &key)).await.unwrap();
    assert_eq!((&first.id, &first.name, &first.ca_der), (&again.id, &again.name, &again.ca_der));
    Credentials::new(&again.ca_der, &again.certificate_der, key).unwrap();
    assert_eq!(first.nodes[0].quic, node.at.quic.to_string());
    let thief = KeyPair::generate().unwrap();
    let status = join(&node, &token, join_request(&token, &thief)).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::PermissionDenied, "token_used"));
    let hosts = Client::admin(&node).await.hosts.list_hosts(v1::ListHostsRequest::default()).await;
    assert_eq!(hosts.unwrap().into_inner().hosts.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_revoked_foreign_and_wrong_tokens_are_refused_with_the_reason() {
    let node = Node::start().await;
    let mut admin = Client::admin(&node).await;
    let key = KeyPair::generate().unwrap();

    let expired = admin.token(Role::Host, 1).await;
    let status = eventually("the expiry", || async {
        // Time in state moves with entries only: a new token is one.
        let another = Client::admin(&node).await.token(Role::User, 0).await;
        drop(another);
        let key = KeyPair::generate().unwrap();
        join(&node, &expired, join_request(&expired, &key)).await.err()
    })
    .await;
    assert_eq!((status.code(), reason(&status).as_str()), (Code::PermissionDenied, "token_expired"));

    let revoked = admin.token(Role::User, 0).await;
    let request = v1::RevokeTokenRequest { request_id: request_id(), token_id: revoked.id().to_owned() };
    let info = admin.tokens.revoke_token(request).await.unwrap().into_inner().token.unwrap();
    assert_eq!(info.state, "revoked");
    let status = join(&node, &revoked, join_request(&revoked, &key)).await.unwrap_err();
    assert_eq!(reason(&status), "token_revoked");

    let token = admin.token(Role::Host, 0).await;
    let unknown = v1::JoinRequest { token_id: client::random_id(), ..join_request(&token, &key) };
    let status = join(&node, &token, unknown).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "token_unknown"));

    let foreign = v1::JoinRequest { cluster_id: "zzzzzzzz".into(), ..join_request(&token, &key) };
    let status = join(&node, &token, foreign).await.unwrap_err();
    assert_eq!(reason(&status), "token_foreign");

    for secret in [vec![0; 16], vec![], vec![9; 5000]] {
        let guess = v1::JoinRequest { secret: secret.into(), ..join_request(&token, &key) };
        let status = join(&node, &token, guess).await.unwrap_err();
        assert!(matches!(status.code(), Code::NotFound | Code::PermissionDenied), "{status:?}");
    }

    let role = v1::JoinRequest { role: v1::Role::User as i32, ..join_request(&token, &key) };
    let status = join(&node, &token, role).await.unwrap_err();
    assert_eq!(reason(&status), "token_role");

    let garbage = v1::JoinRequest { csr_der: vec![7; 300].into(), ..join_request(&token, &key) };
    let status = join(&node, &token, garbage).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "bad_argument"));

    // None of this has spent the token.
    join(&node, &token, join_request(&token, &key)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joiner_that_expects_another_ca_sends_nothing() {
    let node = Node::start().await;
    let cluster = node.admin_context().cluster_id;
    let token = JoinToken::generate(Role::Host, &cluster, SpkiHash([3; 32])).unwrap();
    let key = KeyPair::generate().unwrap();
    let status = join(&node, &token, join_request(&token, &key)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_taken_once() {
    let node = Node::start().await;
    client::joined(&node, Role::Host, "h1").await;
    let token = Client::admin(&node).await.token(Role::Host, 0).await;
    let key = KeyPair::generate().unwrap();
    let request = v1::JoinRequest { name: "h1".into(), ..join_request(&token, &key) };
    let status = join(&node, &token, request).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::AlreadyExists, "name_taken"));
}
