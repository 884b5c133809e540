//! P22: what an entry does never changes by accident. A fixed log gives this digest in every version that knows its
//! commands; a deliberate change comes as a new command version, and with a new log here beside this one.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod lab;

use lab::Lab;
use stratavore_model::command::{EventRetention, Trim};
use stratavore_model::{Command, Role, RunnerState};

fn first_release() -> Lab {
    let mut lab = Lab::new();
    let (a, b) = (lab.host("a", 4), lab.host("b", 2));
    lab.create_project("web", 3).unwrap();
    let runners = lab.launch("web", 5);
    let request = lab.v7(1000);
    lab.launch_with_request("web", request).unwrap();
    let first = lab.assign(runners[0], a).unwrap();
    let second = lab.assign(runners[1], b).unwrap();
    lab.pass(1500);
    lab.report(a, vec![lab.observed(runners[0], first, 1, RunnerState::Running)]).unwrap();
    lab.report(b, vec![lab.observed(runners[1], second, 1, RunnerState::Failed)]).unwrap();
    lab.restart(runners[1]).unwrap();
    lab.kill(&[runners[0], runners[3]], true).unwrap();
    lab.unreachable(a).unwrap();
    lab.cordon("b", true).unwrap();
    lab.set_quota("web", 4).unwrap();
    let token = lab.token(Role::User);
    lab.join_user(token, "alice").unwrap();
    lab.connect(a, "boot-a2", 2, vec![]);
    lab.remove_host("b").unwrap();
    let events = EventRetention { age_ms: 1, count: 1, bytes: 1 };
    lab.system(Command::Trim(Trim { elapsed_ms: 60_000, events })).unwrap();
    lab
}

#[test]
fn the_first_releases_log_gives_its_digest() {
    let digest = first_release().state.digest();
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "6f92b1e65598ee78ef891260fa3c44befbdd366fb15ad3aed7643a30498d4996");
}
