//! Garbage, on every port: the peer is dropped, the node goes on.

use std::net::SocketAddr;

use stratavore_proto::frame::FRAME_BYTES_MAX;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::Client;
use crate::fake_agent::Host;
use crate::harness::{Node, soon};

async fn dropped(at: SocketAddr, bytes: &[u8]) {
    let mut tcp = TcpStream::connect(at).await.unwrap();
    // The node may close before all is written.
    tcp.write_all(bytes).await.ok();
    let mut rest = Vec::new();
    soon("the end of a garbage connection", async { tcp.read_to_end(&mut rest).await.ok() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_every_tcp_port_is_dropped() {
    let node = Node::start().await;
    let http = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".as_slice();
    let random: Vec<u8> = (0..4096u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for at in [node.at.grpc, node.at.raft, node.at.join] {
        for bytes in [http, random.as_slice(), &[0x16, 0x03, 0x01, 0xff, 0xff]] {
            dropped(at, bytes).await;
        }
    }
    dropped(node.at.metrics.unwrap(), &random).await;
    Client::admin(&node).await.status().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_datagrams_do_no_harm() {
    let node = Node::start().await;
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for length in [1, 20, 1200, 1400] {
        socket.send_to(&vec![0xc3; length], node.at.quic).await.unwrap();
    }
    Host::join(&node, "h1").await.connect(&node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_frames_end_the_connection_and_nothing_else() {
    let node = Node::start().await;
    let host = Host::join(&node, "h1").await;
    let oversized = {
        let mut bytes = Vec::new();
        let mut length = FRAME_BYTES_MAX + 1;
        while length >= 0x80 {
            bytes.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        bytes.push(length as u8);
        bytes
    };
    for bytes in [oversized, vec![0xff; 16], vec![3, 0xff, 0xff, 0xff]] {
        // As first frame, and behind a hello.
        let quic = host.quic(node.at.quic).await.unwrap();
        let (mut send, _recv) = quic.open_bi().await.unwrap();
        send.write_all(&bytes).await.unwrap();
        soon("the end of the connection", quic.closed()).await;
        let mut agent = host.connect(&node).await;
        agent.send.write_all(&bytes).await.unwrap();
        soon("the end of the connection", agent.quic.closed()).await;
    }
    // A frame that is cut short by the end of the stream.
    let mut agent = host.connect(&node).await;
    agent.send.write_all(&[100, 1, 2]).await.unwrap();
    agent.send.finish().unwrap();
    soon("the end of the connection", agent.quic.closed()).await;
    host.connect(&node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_request_is_refused() {
    let node = Node::start().await;
    let mut client = Client::admin(&node).await;
    let request = stratavore_proto::v1::CreateProjectRequest {
        request_id: crate::client::request_id(),
        name: "p".into(),
        path: "x".repeat(3 * 1024 * 1024),
        ..Default::default()
    };
    let status = client.projects.create_project(request).await.unwrap_err();
    assert_ne!(status.code(), tonic::Code::Internal, "{status:?}");
    client.status().await;
}
