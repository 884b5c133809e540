//! Survival 6 of the cluster: one join token used by fifty hosts at once, through three nodes, while the leader is killed.
//! Exactly one joins.

use std::process::{Child, Stdio};

use stratavore_chaos::eventually::{SOON, eventually};
use stratavore_chaos::farm::{LocalFarm, Plan};

/// Hosts that try.
const HOSTS: usize = 50;

/// At work at once: all that want to, as far as two cores let them.
fn start_join(farm: &LocalFarm, host: usize, token: &std::path::Path) -> Child {
    // Each begins at another node, and has the others to go on with.
    let servers: Vec<String> = (0..3).map(|at| farm.nodes[(host + at) % 3].join_server()).collect();
    let mut command = farm.command(&farm.binaries().agent());
    command.arg("join").arg("--data-dir").arg(data(farm, host)).arg("--server").arg(servers.join(","));
    command.args(["--name", &format!("racer-{host}")]).arg("--token-file").arg(token);
    let log = std::fs::File::create(farm.path(&format!("logs/join-{host}.log"))).expect("a log file");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("start a join")
}

fn data(farm: &LocalFarm, host: usize) -> std::path::PathBuf {
    farm.path(&format!("racer-{host}"))
}

#[test]
fn one_token_admits_one_of_fifty_hosts_through_a_leader_kill() {
    let mut farm = Plan::default().nodes(3).agents(0).start();
    let token = farm.token("host", &[]);
    let leader = farm.leader();
    let mut joins: Vec<Child> = (0..HOSTS).map(|host| start_join(&farm, host, &token)).collect();
    farm.kill_node_at(leader);
    let codes = eventually("every join to end", 2 * SOON, || {
        let codes: Vec<Option<i32>> = joins
            .iter_mut()
            .map(|join| join.try_wait().ok().flatten().map(|s| s.code().unwrap_or(-1)))
            .collect();
        let running = codes.iter().filter(|code| code.is_none()).count();
        if running == 0 {
            Ok(codes.into_iter().flatten().collect::<Vec<i32>>())
        } else {
            Err(format!("{running} run"))
        }
    });
    let joined: Vec<usize> = (0..HOSTS).filter(|host| codes[*host] == 0).collect();
    let hosts = farm.cli_until_ok(&["hosts", "--all", "-o", "json"]).items("HostList");
    // A join whose answer was lost with the leader has joined, whatever it could tell its user.
    assert!(joined.len() <= 1, "{joined:?} joined with one token; {hosts:?}");
    assert_eq!(hosts.len(), 1, "the cluster counts {hosts:?}");
    for host in &joined {
        assert_eq!(hosts[0]["name"], format!("racer-{host}").as_str());
        assert!(data(&farm, *host).join("agent.json").exists());
    }
    farm.start_node_at(leader);
    farm.await_voters(3);
    farm.try_join("late", &farm.path("late"), &token, &[]).refused(4, &["used"]);
    assert_eq!(farm.cli_until_ok(&["hosts", "--all", "-o", "json"]).items("HostList").len(), 1);
}
