//! The client against a node on the other side of a real connection.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use stratavore_certs::tls::Verdict;
use stratavore_proto::v1;
use stratavore_proto::v1::token_service_server::{TokenService, TokenServiceServer};
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::Client;
use super::testing::{Cuttable, Pki, node};
use crate::errors::Exit;

/// What the node does with the n-th request to revoke a token.
enum Script {
    Answer,
    Unavailable,
    /// Does it, but its answer is lost.
    Cut,
}

struct Tokens {
    wire: Cuttable,
    scripts: Vec<Script>,
    seen: Arc<Mutex<Vec<String>>>,
}

#[tonic::async_trait]
impl TokenService for Tokens {
    async fn create_token(
        &self,
        _: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_tokens(
        &self,
        _: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        Ok(Response::new(v1::ListTokensResponse::default()))
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        let attempt = {
            let mut seen = self.seen.lock().unwrap();
            seen.push(request.into_inner().request_id);
            seen.len() - 1
        };
        match self.scripts.get(attempt) {
            Some(Script::Unavailable) => Err(Status::unavailable("no leader")),
            Some(Script::Cut) => {
                self.wire.cut();
                std::future::pending().await
            }
            Some(Script::Answer) | None => Ok(Response::new(v1::RevokeTokenResponse::default())),
        }
    }
}

struct Bench {
    pki: Pki,
    wire: Cuttable,
    seen: Arc<Mutex<Vec<String>>>,
}

async fn bench(verdict: Verdict, scripts: Vec<Script>) -> Bench {
    let pki = Pki::new();
    let seen = Arc::default();
    let (wire, listener) = Cuttable::new().await;
    let service = Tokens { wire: wire.clone(), scripts, seen: Arc::clone(&seen) };
    let address = node(&pki, verdict, Routes::new(TokenServiceServer::new(service))).await;
    wire.lead(listener, address);
    Bench { pki, wire, seen }
}

/// A port on which nobody listens.
async fn dead_endpoint() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

async fn revoke(client: &Client) -> crate::errors::Result<v1::RevokeTokenResponse> {
    client
        .mutate("revoke a token", None, async |channel, request_id| {
            super::tokens(channel)
                .revoke_token(v1::RevokeTokenRequest { request_id, token_id: "t".to_owned() })
                .await
        })
        .await
}

async fn list(client: &Client) -> crate::errors::Result<v1::ListTokensResponse> {
    client
        .read("list the tokens", async |channel| {
            super::tokens(channel).list_tokens(v1::ListTokensRequest {}).await
        })
        .await
}

#[tokio::test]
async fn a_change_is_repeated_with_the_same_request_id() {
    let bench = bench(Verdict::Admit, vec![Script::Unavailable, Script::Cut, Script::Answer]).await;
    let client = Client::new(bench.pki.dialer(vec![bench.wire.endpoint.clone()]), None, false);
    revoke(&client).await.unwrap();
    let seen = bench.seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 3);
    assert!(uuid::Uuid::parse_str(&seen[0]).is_ok());
    assert!(seen.iter().all(|id| *id == seen[0]), "{seen:?}");
}

#[tokio::test]
async fn another_change_has_another_request_id() {
    let bench = bench(Verdict::Admit, vec![]).await;
    let client = Client::new(bench.pki.dialer(vec![bench.wire.endpoint.clone()]), None, false);
    revoke(&client).await.unwrap();
    revoke(&client).await.unwrap();
    let seen = bench.seen.lock().unwrap().clone();
    assert_ne!(seen[0], seen[1]);
}

#[tokio::test]
async fn without_quorum_a_change_ends_in_8() {
    let scripts = std::iter::repeat_with(|| Script::Unavailable).take(1000).collect();
    let bench = bench(Verdict::Admit, scripts).await;
    let timeout = Some(Duration::from_millis(300));
    let client = Client::new(bench.pki.dialer(vec![bench.wire.endpoint.clone()]), timeout, false);
    let failure = revoke(&client).await.unwrap_err();
    assert_eq!(failure.exit(), Exit::Timeout);
    assert!(bench.seen.lock().unwrap().len() > 1);
}

#[tokio::test]
async fn every_endpoint_is_tried_and_7_means_that_none_replied() {
    let bench = bench(Verdict::Admit, vec![]).await;
    let (dead, live) = (dead_endpoint().await, bench.wire.endpoint.clone());
    let client = Client::new(bench.pki.dialer(vec![dead.clone(), live]), None, false);
    list(&client).await.unwrap();
    let client = Client::new(bench.pki.dialer(vec![dead.clone()]), None, false);
    let failure = list(&client).await.unwrap_err();
    assert_eq!(failure.exit(), Exit::Unreachable);
    assert!(failure.render().contains(&dead), "{}", failure.render());
}

#[tokio::test]
async fn a_silent_endpoint_does_not_hold_up_the_others() {
    let bench = bench(Verdict::Admit, vec![]).await;
    // Accepts at the kernel's level, and never speaks.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoints = vec![silent.local_addr().unwrap().to_string(), bench.wire.endpoint.clone()];
    let client = Client::new(bench.pki.dialer(endpoints), None, false);
    let begin = std::time::Instant::now();
    list(&client).await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(4), "the next endpoint is not waited for");
}

#[tokio::test]
async fn a_removed_key_and_a_foreign_cluster_are_permission_failures() {
    let removed = bench(Verdict::Revoked, vec![]).await;
    let client = Client::new(removed.pki.dialer(vec![removed.wire.endpoint.clone()]), None, false);
    let failure = list(&client).await.unwrap_err();
    assert_eq!(failure.exit(), Exit::Permission, "{}", failure.render());
    assert!(failure.render().contains("removed"), "{}", failure.render());
    let foreign = Client::new(Pki::new().dialer(vec![removed.wire.endpoint.clone()]), None, false);
    assert_eq!(list(&foreign).await.unwrap_err().exit(), Exit::Permission);
}
