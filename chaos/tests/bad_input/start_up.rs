//! What stops a program from starting: its configuration, its ports, its arguments.

use std::fs;
use std::net::{TcpListener, UdpSocket};

use stratavore_chaos::eventually::{SOON, eventually_true};
use stratavore_chaos::farm::{LocalFarm, Plan};
use stratavore_chaos::ran::{Ran, run};

fn check(farm: &LocalFarm, configuration: &str) -> Ran {
    let file = farm.path("stratavore.yaml");
    fs::write(&file, configuration).expect("write a configuration");
    run(farm.command(&farm.binaries().node()).arg("--config-check").arg("--config").arg(&file))
}

#[test]
fn an_unknown_key_is_named_with_line_and_column() {
    let farm = LocalFarm::empty();
    check(&farm, "daemon:\n  grpc_port: 21051\n").ok();
    let ran = check(&farm, "daemon:\n  grpc_port: 21051\n  grpc_prot: 1\n").exits(2);
    ran.says(&["grpc_prot", "stratavore.yaml", "3:3"]);
    let ran = check(&farm, "daemon:\n  grpc_port: eleven\n").exits(2);
    ran.says(&["daemon.grpc_port", "2:14"]);
    let ran = check(&farm, "daemon: [\n").exits(2);
    ran.says(&["stratavore.yaml"]);
    let ran = check(&farm, "nosuchsection:\n  a: 1\n").exits(2);
    ran.says(&["nosuchsection", "1:1"]);
}

#[test]
fn a_bad_environment_value_is_named() {
    let farm = LocalFarm::empty();
    let mut command = farm.command(&farm.binaries().node());
    let ran = run(command.arg("--config-check").env("STRATAVORE_DAEMON__GRPC_PORT", "eleven")).exits(2);
    ran.says(&["stratavore_daemon__grpc_port"]);
    let mut command = farm.command(&farm.binaries().node());
    let ran = run(command.arg("--config-check").env("STRATAVORE_DAEMON__GRPC_PROT", "1")).exits(2);
    ran.says(&["grpc_prot"]);
}

#[test]
fn config_show_says_where_each_value_comes_from() {
    let farm = LocalFarm::empty();
    let file = farm.path("stratavore.yaml");
    fs::write(&file, "daemon:\n  grpc_port: 21051\n").unwrap();
    let mut command = farm.command(&farm.binaries().node());
    command
        .args(["config", "show", "--source", "--config"])
        .arg(&file)
        .env("STRATAVORE_DAEMON__QUIC_PORT", "21052");
    let ran = run(&mut command).ok();
    let line = |key: &str| {
        ran.stdout.lines().find(|l| l.contains(key)).unwrap_or_else(|| panic!("no {key}: {ran}")).to_owned()
    };
    assert!(line("grpc_port").contains("21051") && line("grpc_port").contains("stratavore.yaml"), "{ran}");
    assert!(
        line("quic_port").contains("21052") && line("quic_port").contains("STRATAVORE_DAEMON__QUIC_PORT"),
        "{ran}"
    );
    assert!(line("join_port").to_lowercase().contains("default"), "{ran}");
}

#[test]
fn a_taken_port_is_named_with_its_flag() {
    let farm = LocalFarm::empty();
    farm.init_node();
    let ports = farm.ports();
    for (name, port) in
        [("grpc", ports.grpc), ("raft", ports.raft), ("join", ports.join), ("metrics", ports.metrics)]
    {
        let _taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let ran = farm.run_node_to_end(&[]).exits(5);
        ran.says(&[&port.to_string(), name, "next"]);
    }
    let _taken = UdpSocket::bind(("127.0.0.1", ports.quic)).unwrap();
    farm.run_node_to_end(&[]).exits(5).says(&[&ports.quic.to_string(), "quic"]);
}

#[test]
fn a_directory_that_was_never_initialised_says_init() {
    let farm = LocalFarm::empty();
    let ran = farm.run_node_to_end(&[]);
    assert!(ran.code.is_some_and(|c| c != 0), "{ran}");
    ran.says(&["stratavored init"]);
    let mut command = farm.command(&farm.binaries().agent());
    let ran = run(command.arg("run").arg("--data-dir").arg(farm.path("a0")));
    assert!(ran.code.is_some_and(|c| c != 0), "{ran}");
    ran.says(&["stratavore-agent join"]);
}

#[test]
fn init_and_join_refuse_a_directory_that_is_in_use_and_change_nothing() {
    let mut farm = LocalFarm::start();
    let before = fs::read(farm.admin_context()).unwrap();
    let init = |farm: &LocalFarm| {
        let mut command = farm.command(&farm.binaries().node());
        run(command.arg("init").arg("--data-dir").arg(farm.node_data()).args(["--advertise", "127.0.0.1"]))
    };
    init(&farm).exits(5).says(&["in use", "next:"]);
    farm.kill_node();
    init(&farm).exits(5).says(&["already", "next:"]);
    assert_eq!(fs::read(farm.admin_context()).unwrap(), before);
    farm.start_node();
    let token = farm.token("host", &[]);
    let ran = farm.try_join("other", &farm.agents[0].data, &token, &[]);
    ran.exits(5).says(&["already"]);
    // The token was not spent on it.
    farm.try_join("other", &farm.path("a9"), &token, &[]).ok();
}

#[test]
fn join_at_a_wrong_address_fails_soon_and_keeps_the_token() {
    let farm = Plan::default().agents(0).start();
    let token = farm.token("host", &[]);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for address in [
        silent.local_addr().unwrap().to_string(),
        dead.to_string(),
        format!("127.0.0.1:{}", farm.ports().grpc),
    ] {
        let mut command = farm.command(&farm.binaries().agent());
        command
            .arg("join")
            .arg("--data-dir")
            .arg(farm.path("a0"))
            .args(["--server", &address, "--token-file"])
            .arg(&token);
        let ran = run(&mut command);
        assert!(matches!(ran.code, Some(1 | 4 | 7 | 8)), "{ran}");
        ran.says(&[&address]);
    }
    farm.try_join("host-0", &farm.path("a0"), &token, &[]).ok();
}

#[test]
fn an_agent_without_a_node_waits_and_says_so() {
    let mut farm = LocalFarm::start();
    farm.kill_agent(0);
    farm.kill_node();
    farm.spawn_agent(0);
    let port = farm.ports().quic.to_string();
    let agent = farm.agents[0].process.as_mut().unwrap();
    eventually_true("a word about the missing node", SOON, || agent.log().contains(&port));
    assert!(agent.ended().is_none(), "an agent must outlast its nodes:\n{}", agent.log());
    farm.start_node();
    farm.await_host("host-0", "ready");
}
