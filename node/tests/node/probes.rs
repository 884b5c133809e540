//! The HTTP port, reflection and health.

use std::net::SocketAddr;

use stratavore_certs::tls;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{self, Client};
use crate::fake_agent::Host;
use crate::harness::{Node, eventually, soon};

async fn get(at: SocketAddr, path: &str) -> (u16, String) {
    let mut tcp = TcpStream::connect(at).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon("an HTTP answer", tcp.read_to_string(&mut answer)).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
    (status, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_answer_with_one_line_per_component() {
    let node = Node::start().await;
    let at = node.at.metrics.unwrap();
    assert!(at.ip().is_loopback());
    let (status, body) = get(at, "/healthz").await;
    assert_eq!(status, 200, "{body}");
    let (status, body) = get(at, "/readyz").await;
    assert_eq!(status, 200, "{body}");
    let ready: serde_json::Value = serde_json::from_str(body.trim()).unwrap();
    for component in ["raft", "disk", "link"] {
        assert_eq!(ready["components"][component]["ok"], true, "{body}");
    }
    assert_eq!(get(at, "/nothing").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_show_state_and_flow() {
    let node = Node::start().await;
    // Before there are hosts and projects too.
    assert_eq!(get(node.at.metrics.unwrap(), "/metrics").await.0, 200);
    let host = Host::join(&node, "h1").await;
    let _agent = host.connect(&node).await;
    let mut client = Client::admin(&node).await;
    client.project("demo").await;
    client.launch("demo", 2).await;
    // Counters follow the state by a moment.
    let expected = [
        "stratavore_runners{state=\"starting\"} 2",
        "stratavore_runners_by_project{project=\"demo\"} 2",
        "stratavore_host_up{host=\"h1\"} 1",
        "stratavore_raft_is_leader 1",
        "stratavore_connected_hosts 1",
        "stratavore_placements_total{result=\"placed\"} 2",
        "stratavore_host_capacity{kind=\"used\",resource=\"slots\"} 2",
        "stratavore_raft_commit_seconds_bucket{le=\"+Inf\"}",
    ];
    let text = eventually("the placement in the metrics", || async {
        let (status, text) = get(node.at.metrics.unwrap(), "/metrics").await;
        assert_eq!(status, 200);
        expected.iter().all(|line| text.contains(line)).then_some(text)
    })
    .await;
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let distinct: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(names.len(), distinct.len());
    assert!(!text.contains("runner=\""), "runner ids are no labels");
    if let Some(complaints) = promtool(&text) {
        assert_eq!(complaints, "");
    }
}

/// What `promtool check metrics` says, where it is installed.
fn promtool(text: &str) -> Option<String> {
    use std::io::Write;
    let mut child = std::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .ok()?;
    child.stdin.take()?.write_all(text.as_bytes()).ok()?;
    let output = child.wait_with_output().ok()?;
    Some(String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout))
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_both_reflections_are_served_behind_the_same_door() {
    use tonic_health::pb::health_client::HealthClient;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let node = Node::start().await;
    let channel = client::channel(node.at.grpc, tls::grpc_client(&node.admin()).unwrap()).await.unwrap();
    let check = tonic_health::pb::HealthCheckRequest { service: "stratavore.v1.RunnerService".into() };
    let health = HealthClient::new(channel.clone()).check(check).await.unwrap().into_inner();
    assert_eq!(health.status(), tonic_health::pb::health_check_response::ServingStatus::Serving);
    let request = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    assert!(list.service.iter().any(|service| service.name == "stratavore.v1.RunnerService"));
}
