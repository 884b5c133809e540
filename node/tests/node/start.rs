//! A node that cannot start says why, with the code that fits.

use std::net::{SocketAddr, TcpListener, UdpSocket};

use stratavore_certs::Credentials;
use stratavore_node::config::Config;
use stratavore_node::exit::Code;
use stratavore_node::init;
use stratavore_node::server::Server;
use stratavore_settings::{Environment, Sources};

use crate::harness::{Node, config, eventually, made, options};

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_named_for_every_port() {
    let config = config();
    let dir = made(&config).await;
    let daemon = &config.daemon;
    for (port, flag) in [
        (daemon.grpc_port, "--grpc-port"),
        (daemon.raft_port, "--raft-port"),
        (daemon.join_port, "--join-port"),
        (daemon.metrics_port, "--metrics-port"),
    ] {
        let _holder = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port.unwrap()))).unwrap();
        let failure = Server::start(options(dir.path(), &config)).await.unwrap_err();
        assert_eq!(failure.code, Code::Conflict);
        assert!(failure.message.contains(&port.unwrap().to_string()), "{failure}");
        assert!(failure.next.contains(flag), "{failure}");
    }
    let _holder = UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], daemon.quic_port.unwrap()))).unwrap();
    let failure = Server::start(options(dir.path(), &config)).await.unwrap_err();
    assert!(failure.next.contains("--quic-port"), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_on_one_directory_are_one_too_many() {
    let node = Node::start().await;
    let failure = Server::start(options(node.dir.path(), &config())).await.unwrap_err();
    assert_eq!(failure.code, Code::Conflict);
    assert!(failure.message.contains("in use"), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_another_cluster_is_refused() {
    let (one, two) = (config(), config());
    let (mine, other) = (made(&one).await, made(&two).await);
    for name in ["node.crt", "node.key", "ca.crt"] {
        std::fs::copy(other.path().join("pki").join(name), mine.path().join("pki").join(name)).unwrap();
    }
    let failure = Server::start(options(mine.path(), &one)).await.unwrap_err();
    assert_eq!(failure.code, Code::Conflict, "{failure}");
    assert!(failure.message.contains("node.json"), "{failure}");
    // Its databases under our identity are refused by the storage itself.
    let (mine, one) = {
        let config = config();
        (made(&config).await, config)
    };
    for name in ["raft-log", "state"] {
        std::fs::remove_dir_all(mine.path().join(name)).unwrap();
        std::fs::rename(other.path().join(name), mine.path().join(name)).unwrap();
    }
    let failure = Server::start(options(mine.path(), &one)).await.unwrap_err();
    assert!(matches!(failure.code, Code::Conflict | Code::BelowHighWaterMark), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_or_used_directory_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let failure = Server::start(options(dir.path(), &config())).await.unwrap_err();
    assert_eq!(failure.code, Code::Usage);
    assert!(failure.next.contains("stratavored init"), "{failure}");
    let config = config();
    let dir = made(&config).await;
    let again = init::init(dir.path(), &"127.0.0.1".parse().unwrap(), &config).await.unwrap_err();
    assert_eq!(again.code, Code::Conflict);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_the_log_names_the_file_and_the_way_out() {
    let mut node = Node::start().await;
    let mut client = crate::client::Client::admin(&node).await;
    for n in 0..20 {
        client.project(&format!("p{n}")).await;
    }
    node.stop().await;
    let log = std::fs::read_dir(node.dir.path().join("raft-log"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "log" || ext == "sst"))
        .max_by_key(|path| path.metadata().unwrap().len())
        .unwrap();
    let mut bytes = std::fs::read(&log).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(&log, bytes).unwrap();
    // The UDP socket is closed by a task of quinn's, a moment after the drain.
    let failure = eventually("a start on free ports", || async {
        let failure = Server::start(options(node.dir.path(), &node.config)).await.unwrap_err();
        (failure.code != Code::Conflict).then_some(failure)
    })
    .await;
    assert!(matches!(failure.code, Code::Corrupt | Code::BelowHighWaterMark), "{failure}");
    let text = failure.to_string();
    assert!(text.contains("raft-log") || text.contains(node.dir.path().to_str().unwrap()), "{text}");
    assert!(!failure.next.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn init_leaves_what_the_contract_names_and_nothing_is_open_to_others() {
    use std::os::unix::fs::PermissionsExt;
    let config = config();
    let dir = made(&config).await;
    for name in ["node.json", "admin.yaml", "pki/ca.crt", "pki/node.crt", "pki/node.key", "raft-log", "state"]
    {
        assert!(dir.path().join(name).exists(), "{name} is missing");
    }
    for name in ["admin.yaml", "pki/node.key"] {
        let mode = dir.path().join(name).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name} has mode {mode:o}");
    }
    let node = Credentials::load(&dir.path().join("pki"), "node").unwrap();
    assert!(node.identity().to_string().ends_with("/node/1"));
}

#[test]
fn an_unknown_key_is_named_with_file_line_and_column() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("node.yaml");
    std::fs::write(&file, "daemon:\n  grpc_port: 1234\n  grcp_port: 5\n").unwrap();
    let sources = Sources { environment: Environment::of([]), ..Sources::new(Some(file)) };
    let failure = Config::load(sources).unwrap_err();
    assert_eq!(failure.code, Code::Usage);
    let text = failure.to_string();
    for part in ["node.yaml", "grcp_port", "3:3"] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
}

#[test]
fn environment_and_file_are_layers_and_problems_are_listed_together() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("node.yaml");
    std::fs::write(&file, "daemon:\n  grpc_port: 1234\n  raft_port: 1234\nlease:\n  ttl_ms: 5\n").unwrap();
    let load = |environment| Config::load(Sources { environment, ..Sources::new(Some(file.clone())) });
    let text = load(Environment::of([])).unwrap_err().to_string();
    assert!(text.contains("daemon.raft_port") && text.contains("lease.ttl_ms"), "{text}");
    let environment =
        Environment::of([("STRATAVORE_DAEMON__RAFT_PORT", "1235"), ("STRATAVORE_LEASE__TTL_MS", "15000")]);
    let loaded = load(environment).unwrap();
    assert_eq!(loaded.value.daemon.raft_port, Some(1235));
    assert!(loaded.show(true).contains("STRATAVORE_DAEMON__RAFT_PORT"), "{}", loaded.show(true));
}

#[test]
fn sections_of_later_releases_are_refused_and_not_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("node.yaml");
    std::fs::write(&file, "database:\n  postgresql:\n    host: db\n").unwrap();
    let sources = Sources { environment: Environment::of([]), ..Sources::new(Some(file)) };
    let text = Config::load(sources).unwrap_err().to_string();
    assert!(text.contains("database") && text.contains("next: remove this section"), "{text}");
}
