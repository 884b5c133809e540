//! Survival 2 of the cluster: `kill -9` of all nodes. After their restart all acknowledged state is there, the runners
//! never stopped, and the agents came back by themselves.

use stratavore_chaos::farm::{Flood, Plan, text};
use stratavore_chaos::processes::is_alive;

/// A tenth of a second shows, and minutes of it stay in the log.
const LINES_PER_SECOND: u32 = 2_000;

#[test]
fn all_nodes_die_and_nothing_is_lost() {
    let mut farm = Plan::default().nodes(3).agents(2).start();
    farm.project("demo");
    let floods: Vec<Flood> = (0..2)
        .map(|host| Flood::start(&farm, "demo", &["--host", &format!("host-{host}")], LINES_PER_SECOND))
        .collect();
    floods.iter().for_each(Flood::go);
    let done = farm.launch("demo", &["--name", "done"], &["true"]);
    farm.await_runner(&text(&done, "id"), "terminated");
    let (runners, events) = (farm.runners(), farm.events());
    let agents: Vec<i32> = farm.agents.iter().map(|agent| agent.pid()).collect();

    (0..3).for_each(|node| farm.kill_node_at(node));
    farm.cli(&["--timeout", "2s", "status"]).refused(7, &["no node"]);
    assert!(floods.iter().all(|flood| is_alive(flood.pid)), "a runner died with the nodes");
    (0..3).for_each(|node| farm.spawn_node(node));
    (0..3).for_each(|node| farm.await_node_at(node));
    farm.await_voters(3);

    (0..2).for_each(|host| farm.await_host(&format!("host-{host}"), "ready"));
    assert!(agents.iter().all(|pid| is_alive(*pid)), "an agent had to be started again");
    for before in runners {
        let state = text(&before, "state");
        let after = farm.await_runner(&text(&before, "id"), &state);
        assert_eq!((&after["pid"], &after["epoch"]), (&before["pid"], &before["epoch"]));
    }
    let after = farm.events();
    assert_eq!(events[..], after[..events.len()], "events changed or vanished");
    let next = farm.launch("demo", &[], &["true"]);
    farm.await_runner(&text(&next, "id"), "terminated");
    floods.iter().for_each(|flood| flood.end(&farm));
}
