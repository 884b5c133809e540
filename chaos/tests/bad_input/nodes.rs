//! Nodes at wrong addresses: each is refused before anything is said to it, and the message has the way out.

use stratavore_chaos::eventually::{SOON, eventually_true};
use stratavore_chaos::farm::Plan;
use stratavore_chaos::network::Network;

#[test]
fn a_node_that_answers_at_another_ones_address_is_refused_and_the_cluster_follows_both() {
    let mut farm = Plan::default().nodes(3).agents(0).start();
    farm.project("demo");
    // Two machines come back with each other's address.
    let (one, two) = (farm.node_id(1), farm.node_id(2));
    farm.kill_node_at(1);
    farm.kill_node_at(2);
    let (first, second) = (farm.nodes[1].ports, farm.nodes[2].ports);
    (farm.nodes[1].ports, farm.nodes[2].ports) = (second, first);
    farm.spawn_node_with(2, &first.flags());
    let says = |farm: &stratavore_chaos::farm::LocalFarm, words: &[&str]| {
        let log = farm.nodes[0].process.as_ref().expect("a started node").log();
        let told = |line: &str| words.iter().all(|word| line.contains(word));
        log.lines().any(told)
    };
    let address = format!("127.0.0.1:{}", first.raft);
    eventually_true("the wrong node to be named", SOON, || {
        says(&farm, &["node not reached", &address, &format!("node {two}"), &format!("node {one}")])
    });
    farm.spawn_node_with(1, &second.flags());
    farm.await_voters(3);
    assert_eq!((farm.node_id(1), farm.node_id(2)), (one, two), "each is known at its new address");
    farm.project("after");
}

#[test]
fn p21_joining_with_loopback_is_refused_while_a_member_is_remote() {
    if !Network::is_possible() {
        return eprintln!("not tested: addresses other than loopback need root");
    }
    let mut farm = Plan::default().nodes(1).agents(0).networked().start();
    let token = farm.token("node", &[]);
    let at = farm.prepare_node();
    let remote = std::mem::replace(&mut farm.nodes[at].address, [127, 0, 0, 1].into());
    let refused = farm.try_join_node(at, &token).refused(2, &["loopback", "--advertise"]);
    assert!(!farm.nodes[at].data.join("node.json").exists(), "{refused}");
    // The token was not spent on it.
    farm.nodes[at].address = remote;
    farm.try_join_node(at, &token).ok();
    farm.start_node_at(at);
    farm.await_voters(1);
}
