//! Survival 4 of the cluster: a gateway is cut off from the other nodes but not from its agents. Its agents move to another
//! node (P17), and no runner dies, is lost, or is started a second time.

use stratavore_chaos::eventually::{SOON, eventually};
use stratavore_chaos::farm::{Flood, LocalFarm, Plan};
use stratavore_chaos::network::Network;
use stratavore_chaos::processes::is_alive;

const HOST: &str = "host-0";

/// Enough to see the gap if there were one.
const LINES_PER_SECOND: u32 = 2_000;

/// Another node than the host's gateway leads, so that the cut ends nothing but the gateway's own contact.
fn gateway_that_does_not_lead(farm: &LocalFarm) -> usize {
    let gateway = farm.gateway(HOST);
    if farm.leader() == gateway {
        farm.cli_until_ok(&["cluster", "transfer-leader"]);
        farm.await_another_leader(gateway);
    }
    gateway
}

#[test]
fn p17_agents_of_a_gateway_that_is_cut_off_from_the_leader_move() {
    if !Network::is_possible() {
        return eprintln!("not tested: cutting networks needs root");
    }
    let farm = Plan::default().nodes(3).agents(2).networked().start();
    farm.project("demo");
    let keep = Flood::start(&farm, "demo", &["--host", HOST], LINES_PER_SECOND);
    let stop = Flood::start(&farm, "demo", &["--host", HOST, "--on-disconnect", "stop"], LINES_PER_SECOND);
    let before = [farm.runner(&keep.runner), farm.runner(&stop.runner)];
    keep.go();
    stop.go();
    let cut = gateway_that_does_not_lead(&farm);
    let events = farm.events().len();
    let network = farm.network.as_ref().expect("a networked farm");
    let name = |node: usize| format!("n{node}");
    (0..3).filter(|node| *node != cut).for_each(|node| network.part(&name(cut), &name(node)));

    let through = (cut + 1) % 3;
    eventually("the agent to be connected elsewhere", SOON, || {
        let ran = farm.cli_through(through, &["hosts", "-o", "json"]);
        if ran.code != Some(0) {
            return Err(ran.to_string());
        }
        let nodes = farm.cli_through(through, &["cluster", "status", "-o", "json"]).items("NodeList");
        let old = nodes.iter().find(|node| node["address"] == farm.nodes[cut].endpoint().as_str());
        let old = old.map(|node| node["id"].to_string()).ok_or("the node is not listed")?;
        let host = ran.items("HostList").into_iter().find(|host| host["name"] == HOST);
        let moved = host.is_some_and(|host| host["state"] == "ready" && host["gateway"] != old.as_str());
        if moved { Ok(()) } else { Err(ran.stdout) }
    });
    assert!(is_alive(keep.pid) && is_alive(stop.pid), "a runner died");

    (0..3).filter(|node| *node != cut).for_each(|node| network.join_again(&name(cut), &name(node)));
    farm.await_voters(3);
    for (flood, before) in [&keep, &stop].into_iter().zip(before) {
        let after = farm.await_runner(&flood.runner, "running");
        assert_eq!((&after["pid"], &after["epoch"]), (&before["pid"], &before["epoch"]));
        flood.end(&farm);
    }
    let bad = ["runner.lost", "runner.failed", "runner.fenced", "host.fenced"];
    let since = farm.events().split_off(events);
    let happened: Vec<_> =
        since.iter().filter(|event| event["type"].as_str().is_some_and(|kind| bad.contains(&kind))).collect();
    assert!(happened.is_empty(), "{happened:?}");
}
