//! Truncated, oversized and senseless bytes on every port and socket: the peer is turned away, everybody else is served.

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use stratavore_certs::{Credentials, tls};
use stratavore_chaos::farm::{LocalFarm, Plan};
use stratavore_chaos::{api, http, processes, wire};
use stratavore_proto::v1;
use tonic::Code;

/// Start of an HTTP/2 connection.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Larger than any message the API takes.
const OVERSIZED_BYTES: usize = 16 * 1024 * 1024;

/// The node serves and starts runners as if nothing had been.
#[track_caller]
fn unharmed(farm: &mut LocalFarm) {
    let node = farm.nodes[0].process.as_mut().and_then(stratavore_chaos::spawned::Spawned::ended);
    assert!(node.is_none(), "the node died: {node:?}");
    for agent in &mut farm.agents {
        let ended = agent.process.as_mut().and_then(stratavore_chaos::spawned::Spawned::ended);
        assert!(ended.is_none(), "an agent died: {ended:?}");
    }
    assert_eq!(http::get(farm.ports().metrics, "/readyz").map(|a| a.0).ok(), Some(200));
    let runner = farm.launch("demo", &[], &["true"]);
    farm.await_runner(&stratavore_chaos::farm::text(&runner, "id"), "terminated");
}

fn farm() -> LocalFarm {
    let farm = LocalFarm::start();
    farm.project("demo");
    farm
}

/// A TLS client hello that says it is longer than it is.
fn cut_hello() -> Vec<u8> {
    let mut hello = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    hello.extend([7; 40]);
    hello
}

#[test]
fn plain_bytes_on_every_tcp_port_are_turned_away() {
    let mut farm = farm();
    let ports = farm.ports();
    let noise: Vec<u8> = (0..100_000u32).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let hostile =
        [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), cut_hello(), HTTP2.to_vec(), noise, Vec::new()];
    let runtime = api::runtime();
    let fates = runtime.block_on(async {
        let mut set = tokio::task::JoinSet::new();
        for port in [ports.grpc, ports.raft, ports.join] {
            for bytes in hostile.clone() {
                set.spawn(async move { (port, bytes.len(), wire::plain(port, &bytes).await) });
            }
        }
        set.join_all().await
    });
    for (port, length, fate) in fates {
        assert!(fate.is_over(), "a peer without TLS ({length} bytes) is kept on port {port}");
    }
    unharmed(&mut farm);
}

#[test]
fn broken_http2_inside_proper_tls_is_turned_away() {
    let mut farm = farm();
    let admin = api::credentials(&farm.admin_context()).unwrap();
    let config = tls::grpc_client(&admin).unwrap();
    let preface = |more: &[u8]| [HTTP2, &[0, 0, 0, 4, 0, 0, 0, 0, 0], more].concat();
    let hostile = [
        b"no http2 at all".to_vec(),
        // A frame of 16 MiB, far above what was agreed.
        preface(&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]),
        // HEADERS with undecodable content.
        preface(&[0, 0, 5, 1, 4, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff]),
        // DATA for a stream that was never opened.
        preface(&[0, 0, 1, 0, 0, 0, 0, 0, 9, 0]),
    ];
    let port = farm.ports().grpc;
    let fates = api::runtime().block_on(async {
        let mut set = tokio::task::JoinSet::new();
        for bytes in hostile {
            let config = config.clone();
            set.spawn(async move { wire::encrypted(port, config, &bytes).await });
        }
        set.join_all().await
    });
    assert!(fates.iter().all(wire::Fate::is_over), "{fates:?}");
    unharmed(&mut farm);
}

#[test]
fn truncated_oversized_and_senseless_messages_are_typed_refusals() {
    let mut farm = farm();
    let context = farm.admin_context();
    let launch = "/stratavore.v1.RunnerService/LaunchRunners";
    let proper = v1::LaunchRunnersRequest {
        request_id: uuid::Uuid::now_v7().to_string(),
        project: "demo".to_owned(),
        count: 1,
        ..Default::default()
    };
    let encoded = proper.encode_to_vec();
    let runtime = api::runtime();
    let call = |path: &'static str, body: Vec<u8>| {
        runtime.block_on(async {
            let channel = api::connect(&context).await.expect("connect");
            api::call(channel, path, Bytes::from(body)).await
        })
    };
    let cut = call(launch, encoded[..encoded.len() - 3].to_vec()).unwrap_err();
    assert!(matches!(cut.code(), Code::Internal | Code::InvalidArgument), "{cut:?}");
    let noise = call(launch, vec![0xff; 300]).unwrap_err();
    assert!(matches!(noise.code(), Code::Internal | Code::InvalidArgument), "{noise:?}");
    let oversized = v1::CreateProjectRequest { path: "x".repeat(OVERSIZED_BYTES), ..Default::default() };
    let large = call("/stratavore.v1.ProjectService/CreateProject", oversized.encode_to_vec()).unwrap_err();
    assert!(
        matches!(
            large.code(),
            Code::OutOfRange | Code::ResourceExhausted | Code::InvalidArgument | Code::Internal
        ),
        "{large:?}"
    );
    let empty = call(launch, Vec::new()).unwrap_err();
    assert_eq!(empty.code(), Code::InvalidArgument, "{empty:?}");
    let unknown = call("/stratavore.v1.RunnerService/NoSuchMethod", Vec::new()).unwrap_err();
    assert_eq!(unknown.code(), Code::Unimplemented, "{unknown:?}");
    let foreign = v1::LaunchRunnersRequest { request_id: "not-a-uuid".to_owned(), ..proper };
    let foreign = call(launch, foreign.encode_to_vec()).unwrap_err();
    assert_eq!(foreign.code(), Code::InvalidArgument, "{foreign:?}");
    assert!(farm.runners().is_empty(), "a refused message started something");
    unharmed(&mut farm);
}

#[test]
fn identities_work_only_on_the_ports_they_are_for() {
    let mut farm = farm();
    let host = Credentials::load(&farm.agents[0].data.join("pki"), "host").unwrap();
    let admin = api::credentials(&farm.admin_context()).unwrap();
    let ports = farm.ports();
    api::runtime().block_on(async {
        // A host's certificate on the API port: refused in the handshake or with the first call.
        let fate = wire::encrypted(ports.grpc, tls::grpc_client(&host).unwrap(), HTTP2).await;
        assert!(fate.is_over(), "a host's certificate is served on the API port");
        let fate = wire::encrypted(ports.raft, tls::grpc_client(&admin).unwrap(), HTTP2).await;
        assert!(fate.is_over(), "a person's certificate is served on the raft port");
        let fate = wire::quic(ports.quic, &admin, b"x").await.unwrap();
        assert!(fate.is_over(), "a person's certificate is served on the agents' port");
    });
    unharmed(&mut farm);
}

#[test]
fn hostile_frames_of_a_proper_host_cost_only_its_own_connection() {
    let mut farm = farm();
    // A host that joined but whose agent never runs: its certificate is good, its words are not.
    let data = farm.path("hostile");
    let token = farm.token("host", &[]);
    farm.try_join("hostile", &data, &token, &[]).ok();
    let host = Arc::new(Credentials::load(&data.join("pki"), "host").unwrap());
    let hello = v1::AgentMessage {
        message: Some(v1::agent_message::Message::Hello(v1::Hello {
            protocol_min: 99,
            protocol_max: 99,
            ..Default::default()
        })),
    };
    let mut future_protocol = bytes::BytesMut::new();
    stratavore_proto::frame::encode(&hello, &mut future_protocol).unwrap();
    let hostile = [
        vec![0xff, 0xff, 0xff, 0xff, 0xff],
        vec![0x80, 0x80, 0x80, 0x01],
        vec![0x05, 1, 2],
        vec![0x03, 0xff, 0xff, 0xff],
        vec![0x00],
        future_protocol[..future_protocol.len() - 1].to_vec(),
        future_protocol.to_vec(),
        Vec::new(),
    ];
    let port = farm.ports().quic;
    let runtime = api::runtime();
    let fates = runtime.block_on(async {
        let mut set = tokio::task::JoinSet::new();
        for bytes in hostile {
            let host = host.clone();
            set.spawn(async move { wire::quic(port, &host, &bytes).await.expect("a QUIC client") });
        }
        set.join_all().await
    });
    assert!(fates.iter().all(wire::Fate::is_over), "{fates:?}");
    unharmed(&mut farm);
}

#[test]
fn datagrams_of_noise_on_the_agents_port_change_nothing() {
    let mut farm = farm();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for size in [0, 1, 20, 1200, 9000] {
        for seed in 0..200u8 {
            let noise: Vec<u8> =
                (0..size).map(|i: u32| seed.wrapping_mul(31).wrapping_add(i.to_be_bytes()[3])).collect();
            socket.send_to(&noise, ("127.0.0.1", farm.ports().quic)).ok();
        }
    }
    unharmed(&mut farm);
}

#[test]
fn a_huge_request_on_the_metrics_port_changes_nothing() {
    let mut farm = farm();
    let mut request = b"GET /metrics HTTP/1.1\r\nX: ".to_vec();
    request.resize(4 * 1024 * 1024, b'x');
    let fate = api::runtime().block_on(wire::plain(farm.ports().metrics, &request));
    assert!(fate.is_over(), "four MiB of header are waited for");
    unharmed(&mut farm);
}

/// Every unix socket of the farm: the agent's and the shims'.
fn sockets(farm: &LocalFarm) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let places =
        [farm.path("run"), farm.path("tmp"), PathBuf::from("/run/stratavore"), farm.root().to_path_buf()];
    for place in places {
        walk(&place, 4, &mut found);
    }
    found.sort();
    found.dedup();
    found
}

fn walk(directory: &Path, depth: u32, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_socket() {
            found.push(entry.path());
        } else if kind.is_dir() && depth > 0 {
            walk(&entry.path(), depth - 1, found);
        }
    }
}

#[test]
fn noise_on_the_sockets_of_agent_and_shims_hurts_no_runner() {
    let mut farm = farm();
    let runner = farm.running("demo", &[], &["sleep", "100000"]);
    let pid = farm.pid_of(&runner);
    let sockets = sockets(&farm);
    assert!(!sockets.is_empty(), "no socket found");
    for socket in &sockets {
        for noise in
            [&[0xff; 64][..], &[0, 0, 0, 5, 1], &[0x7f, 0xff, 0xff, 0xff, 9], b"GET / HTTP/1.1\r\n\r\n", &[]]
        {
            // Somebody else's stale socket may lie in the shared directory.
            let Ok(mut stream) = UnixStream::connect(socket) else { continue };
            stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            stream.write_all(noise).ok();
            // Whatever it answers, and whether it hangs up, is its own business.
            std::io::copy(&mut Read::take(&mut stream, 1024), &mut std::io::sink()).ok();
        }
    }
    assert!(processes::is_alive(pid), "noise on a socket ended a runner");
    farm.cli(&["screen", &runner]).ok();
    unharmed(&mut farm);
    farm.cli(&["kill", &runner]).ok();
}

#[test]
fn a_thousand_silent_connections_do_not_keep_a_person_out() {
    let mut farm = Plan::default().start();
    farm.project("demo");
    let silent: Vec<_> = (0..1000)
        .filter_map(|_| std::net::TcpStream::connect(("127.0.0.1", farm.ports().grpc)).ok())
        .collect();
    assert!(silent.len() > 200, "the flood itself failed");
    farm.cli_until_ok(&["status"]);
    unharmed(&mut farm);
}
