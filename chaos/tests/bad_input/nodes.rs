//! Nodes at wrong addresses: each is refused before anything is said to it, and the message has the way out.

use stratavore_chaos::eventually::{SOON, eventually_true};
use stratavore_chaos::farm::Plan;
use stratavore_chaos::network::Network;

#[test]
fn a_node_that_answers_at_another_ones_address_is_refused_and_named() {
    let mut farm = Plan::default().nodes(3).agents(0).start();
    farm.project("demo");
    let (one, two) = (farm.node_id(1), farm.node_id(2));
    farm.kill_node_at(1);
    farm.kill_node_at(2);
    // The third comes back where the second was.
    let address = format!("127.0.0.1:{}", farm.nodes[1].ports.raft);
    farm.spawn_node_with(2, &farm.nodes[1].ports.flags());
    let refusal =
        format!("the server is node {two}, but node {one} was dialled; check its advertised address");
    eventually_true("the wrong node to be named", SOON, || {
        let log = farm.nodes[0].process.as_ref().expect("a started node").log();
        log.lines().any(|line| line.contains(&address) && line.contains(&refusal))
    });
    // With everybody at his own address again all is well.
    farm.kill_node_at(2);
    farm.start_node_at(2);
    farm.start_node_at(1);
    farm.await_voters(3);
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
    let refused = farm.try_join_node(at, &token).refused(2, &["only its own machine reaches", "--advertise"]);
    assert!(!farm.nodes[at].data.join("node.json").exists(), "{refused}");
    // The token was not spent on it.
    farm.nodes[at].address = remote;
    farm.try_join_node(at, &token).ok();
    farm.start_node_at(at);
    farm.await_voters(1);
}
