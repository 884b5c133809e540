//! `stratavore-agent join` against a join port over real TLS.

use std::os::unix::fs::PermissionsExt;

use crate::support::{Answer, Authority, JoinServer, join_with, unique_id};
use stratavore_certs::SpkiHash;

async fn server(authority: &Authority, answers: Vec<Answer>) -> JoinServer {
    JoinServer::start(authority, &unique_id(), "127.0.0.1:1".parse().unwrap(), answers, None).await
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_with_the_same_key() {
    let authority = Authority::new();
    let server = server(&authority, vec![Answer::Lost]).await;
    let dir = tempfile::tempdir().unwrap();
    let labels = ["--name", "box-1", "--label", "gpu=yes", "--slots", "7"];
    let joined = join_with(dir.path(), &server.address(), &authority.token().reveal(), &labels).await;
    assert!(joined.status.success(), "{}", text(&joined.stderr));
    assert!(text(&joined.stdout).contains("run: stratavore-agent run --data-dir"));
    let requests = server.requests();
    let keys: Vec<_> = requests.iter().map(|request| SpkiHash::of_csr(&request.csr_der).unwrap()).collect();
    assert_eq!(keys.len(), 2);
    assert_eq!(keys[0], keys[1]);
    assert_eq!(
        (requests[1].name.as_str(), requests[1].slots, requests[1].labels["gpu"].as_str()),
        ("box-1", 7, "yes")
    );
    let key = std::fs::metadata(dir.path().join("pki/host.key")).unwrap();
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_second_join_of_the_same_directory_is_refused() {
    let authority = Authority::new();
    let server = server(&authority, vec![]).await;
    let dir = tempfile::tempdir().unwrap();
    let token = authority.token();
    assert!(join_with(dir.path(), &server.address(), &token.reveal(), &[]).await.status.success());
    let second = join_with(dir.path(), &server.address(), &token.reveal(), &[]).await;
    assert_eq!(second.status.code(), Some(5));
    assert!(text(&second.stderr).contains("another --data-dir"), "{}", text(&second.stderr));
    assert_eq!(server.requests().len(), 1, "the second token was not spent");
}

#[tokio::test]
async fn refusals_of_the_token_are_told_with_their_reason_and_the_next_step() {
    let authority = Authority::new();
    for reason in ["token_expired", "token_used", "token_revoked", "token_foreign"] {
        let server = server(&authority, vec![Answer::Refused(reason)]).await;
        let dir = tempfile::tempdir().unwrap();
        let refused = join_with(dir.path(), &server.address(), &authority.token().reveal(), &[]).await;
        let said = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(4), "{said}");
        assert!(said.contains(reason) && said.contains("next: ask for a new token"), "{said}");
        assert_eq!(server.requests().len(), 1, "a refusal is final");
        assert!(!dir.path().join("agent.json").exists());
    }
}

#[tokio::test]
async fn another_cluster_never_sees_the_secret() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = server(&theirs, vec![]).await;
    let dir = tempfile::tempdir().unwrap();
    let refused = join_with(dir.path(), &server.address(), &ours.token().reveal(), &[]).await;
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(4), "{said}");
    assert!(said.contains("the secret was not sent"), "{said}");
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn what_is_no_token_and_who_does_not_answer() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    let nonsense = join_with(dir.path(), "127.0.0.1:1", "svt1.host.nonsense", &[]).await;
    assert_eq!(nonsense.status.code(), Some(2), "{}", text(&nonsense.stderr));
    let nobody = join_with(dir.path(), "127.0.0.1:1", &authority.token().reveal(), &[]).await;
    assert_eq!(nobody.status.code(), Some(7), "{}", text(&nobody.stderr));
    assert!(text(&nobody.stderr).contains("next: "));
}
