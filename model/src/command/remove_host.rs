//! `stratavore hosts remove` (P18).

use serde::Serialize;

use crate::command::{Success, Verdict};
use crate::event::EventKind;
use crate::host::{HostRecord, HostState};
use crate::identity::{Actor, KeyRecord};
use crate::lease::{effective_policy, follow_host_count, waits_for_reboot};
use crate::lifecycle::{End, end};
use crate::query::resolve_host;
use crate::reply::{Code, Rejected};
use crate::row::Row;
use crate::runner::{Lost, OnDisconnect, RunnerRecord, RunnerState};
use crate::tx::Tx;

/// Removes a host: its keys stop working at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RemoveHost {
    /// Name or id.
    pub host: String,
    /// Also with live runners: `keep` ones end as `lost_with_host`, `stop` ones by a fence after their hold.
    pub force: bool,
}

impl RemoveHost {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        let host = resolve_host(tx.state(), &self.host)?.clone();
        let id = host.id;
        let runners: Vec<_> = tx.state().runners_on(id).cloned().collect();
        let live = runners.iter().filter(|runner| runner.is_live()).count();
        if live > 0 && !self.force {
            let message = format!("host {} has {live} live runners", host.name);
            let next = "stop them first, or end them with --force";
            return Err(Rejected::new(Code::HostHasRunners, message, next).field("host"));
        }
        for runner in runners {
            give_up(tx, runner);
        }
        cut_keys(tx, &Actor::Host(id));
        tx.host_event(EventKind::HostRemoved, &host, "");
        let since = tx.now();
        // What is still to be fenced is fenced under the host epoch that ends here.
        let fenced = host.host_epoch.or(host.fenced);
        tx.put_host(HostRecord {
            state: HostState::Removed,
            host_epoch: None,
            fenced,
            gateway: None,
            unlisted: false,
            draining: false,
            since,
            ..host
        });
        follow_host_count(tx);
        Ok(Success::host(id))
    }
}

/// P18: an operator gave up the host and what ran on it; the agent, told so, stops all.
const LOST_WITH_HOST: &str = "lost_with_host";

/// P18: what a fence can still cover waits for it, lost, and is placed elsewhere then; what it cannot, ends here.
fn give_up(tx: &mut Tx<'_>, runner: RunnerRecord) {
    let fence_comes = effective_policy(tx.state(), &runner) == OnDisconnect::Stop
        || (waits_for_reboot(tx.state(), &runner) && runner.is_live());
    if !runner.is_live() {
        tx.put_runner(RunnerRecord { settled: true, ..runner });
    } else if fence_comes {
        if runner.lost.is_none() {
            tx.runner_event(EventKind::RunnerLost, &runner, Lost::HostRemoved.as_str());
            tx.put_runner(RunnerRecord { lost: Some(Lost::HostRemoved), ..runner });
        }
    } else {
        let runner = RunnerRecord { restart_wanted: false, ..runner };
        let (state, reason) = (RunnerState::Failed, LOST_WITH_HOST.into());
        end(tx, runner, End { state, exit: None, reason, settled: true });
    }
}

pub(super) fn cut_keys(tx: &mut Tx<'_>, identity: &Actor) {
    let keys: Vec<_> = tx.state().keys_of(identity).cloned().collect();
    for key in keys {
        tx.put(Row::Key(KeyRecord { removed: true, ..key }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Command;
    use crate::lab::{HOLD_NOT_WAITED, HOLD_WAITED, Lab};
    use crate::query::{Admission, admission, desired};

    fn remove(force: bool) -> Command {
        Command::RemoveHost(RemoveHost { host: "a".into(), force })
    }

    #[test]
    fn live_runners_need_force_and_end_with_the_host() {
        let mut lab = Lab::new();
        let host = lab.host("a", 4);
        lab.create_project("web", 1).unwrap();
        let runners = lab.launch("web", 2);
        lab.assign(runners[0], host).unwrap();
        assert_eq!(lab.user(remove(false)).unwrap_err().code, Code::HostHasRunners);
        lab.user(remove(true)).unwrap();
        let record = lab.state.runner(runners[0]).unwrap();
        assert_eq!((record.state, record.reason.as_str()), (RunnerState::Failed, "lost_with_host"));
        assert!(lab.state.runner(runners[1]).unwrap().admitted, "its quota place is free");
        assert!(desired(&lab.state, host).is_empty());
    }

    #[test]
    fn p18_kept_runners_end_with_the_host_and_the_others_by_fence() {
        let mut lab = Lab::new();
        lab.create_project("web", 9).unwrap();
        let (a, b) = lab.two_hosts(4);
        lab.host("c", 1);
        let (kept, _) = lab.placed(a, OnDisconnect::Keep, true);
        let (stopped, _) = lab.placed(a, OnDisconnect::Stop, true);
        lab.user(remove(true)).unwrap();
        assert_eq!(lab.state.runner(kept).unwrap().reason, "lost_with_host");
        let record = lab.state.runner(stopped).unwrap();
        assert_eq!((record.state, record.lost), (RunnerState::Running, Some(Lost::HostRemoved)));
        assert!(lab.assign(stopped, b).is_err(), "it may live until its deadline");
        assert_eq!(lab.fence(a, HOLD_NOT_WAITED, &[stopped]).unwrap_err().code, Code::NotCoverable);
        lab.fence(a, HOLD_WAITED, &[stopped]).unwrap();
        assert_eq!(lab.state.host(a).unwrap().state, HostState::Removed);
        lab.assign(stopped, b).unwrap();
    }

    #[test]
    fn its_key_is_cut_and_its_name_free() {
        let mut lab = Lab::new();
        let host = lab.host("a", 4);
        let spki = lab.state.host(host).unwrap().spki;
        assert_eq!(admission(&lab.state, &spki, &Actor::Host(host)), Admission::Admitted);
        lab.user(remove(false)).unwrap();
        assert_eq!(admission(&lab.state, &spki, &Actor::Host(host)), Admission::Removed);
        assert_eq!(lab.user(remove(false)).unwrap_err().code, Code::HostNotFound);
        let connect = lab.connect_command(host, "boot-a", 2, None, vec![]);
        let refused = lab.as_host(host, Command::HostConnect(connect)).unwrap_err();
        assert_eq!(refused.code, Code::IdentityRemoved);
        assert_ne!(lab.host("a", 4), host);
    }
}
