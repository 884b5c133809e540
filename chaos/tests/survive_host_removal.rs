//! Survival 7 of the cluster: a removed host. Its connections are closed within 2 s, on whatever node they are; its certificate
//! is refused by every node; what it goes on to report has no effect.

use std::time::{Duration, Instant};

use stratavore_chaos::eventually::{SOON, eventually_true};
use stratavore_chaos::farm::Plan;
use stratavore_chaos::processes::is_alive;

/// P18, on every connected node.
const CLOSED_WITHIN: Duration = Duration::from_secs(2);

#[test]
fn p18_a_removed_host_is_cut_refused_and_not_heard() {
    let mut farm = Plan::default().nodes(3).agents(2).start();
    farm.project("demo");
    let runner = farm.running("demo", &["--host", "host-0"], &["sleep", "100000"]);
    let pid = farm.pid_of(&runner);
    farm.cli(&["hosts", "remove", "host-0"]).refused(5, &["--force"]);
    // Through a node that is not its gateway: the word has to get there.
    let through = (farm.gateway("host-0") + 1) % 3;
    farm.cli_through(through, &["hosts", "remove", "host-0", "--force"]).ok();
    let removed = Instant::now();
    let agent = farm.agents[0].process.as_mut().expect("a started agent");
    eventually_true("the agent to be told and gone", SOON, || agent.log().contains("removed"));
    assert!(removed.elapsed() < CLOSED_WITHIN + Duration::from_secs(1), "told after {:?}", removed.elapsed());
    eventually_true("its runner to be ended", SOON, || !is_alive(pid));
    let ended = farm.await_runner(&runner, "failed");
    assert_eq!(ended["reason"], "lost_with_host", "{ended}");
    let events = farm.events().len();
    // It may try as often as it likes.
    farm.agents[0].process.as_mut().expect("a started agent").kill9();
    farm.spawn_agent(0);
    let agent = farm.agents[0].process.as_mut().expect("a started agent");
    eventually_true("the agent to say that it was removed", SOON, || {
        agent.log().matches("removed").count() > 1 || agent.ended().is_some()
    });
    let since = farm.events().split_off(events);
    assert!(since.iter().all(|event| event["host"] != "host-0"), "{since:?}");
    let hosts = farm.cli(&["hosts", "-o", "json"]).ok().items("HostList");
    assert!(hosts.iter().all(|host| host["name"] != "host-0"), "{hosts:?}");
    assert_eq!(farm.runner(&runner)["reason"], "lost_with_host");
}
