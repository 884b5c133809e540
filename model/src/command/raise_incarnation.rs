//! Forced recovery and restore (P1).

use super::host_unreachable::show_unreachable;
use crate::cluster::ClusterRecord;
use crate::command::{Success, Verdict};
use crate::event::EventKind;
use crate::host::{HostRecord, HostState};
use crate::id::Incarnation;
use crate::reply::{Code, Rejected, Reply};
use crate::row::Row;
use crate::token::{TokenRecord, TokenState};
use crate::tx::Tx;

/// Raises the incarnation: everything numbered from here on is above everything before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaiseIncarnation {
    /// At least the present one plus 1.
    pub n: u64,
    pub nonce: [u8; 16],
    /// Why, for the event.
    pub reason: String,
}

impl RaiseIncarnation {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        let Some(cluster) = tx.state().cluster().cloned() else {
            return Err(Rejected::new(Code::NotInitialized, "there is no cluster here yet", ""));
        };
        if self.n <= cluster.incarnation.n {
            let message =
                format!("incarnation {} is not above the present {}", self.n, cluster.incarnation.n);
            return Err(Rejected::new(Code::OlderIncarnation, message, "start this node on its own data"));
        }
        let raised_at_index = tx.position.index;
        tx.put(Row::Cluster(Box::new(ClusterRecord {
            incarnation: Incarnation { n: self.n, nonce: self.nonce },
            raised_at_index,
            ..cluster
        })));
        tx.event(EventKind::ClusterRecovered, &self.reason);
        void_unused_tokens(tx);
        forget_host_epochs(tx);
        Ok(Success::done(Reply::Done))
    }
}

/// A token that was issued in history that is lost, or by a clock that was wrong, admits nobody (P4, P30).
pub(crate) fn void_unused_tokens(tx: &mut Tx<'_>) {
    let unused = tx.state().tokens().filter(|token| token.state == TokenState::Unused);
    let unused: Vec<_> = unused.cloned().collect();
    for token in unused {
        tx.event(EventKind::TokenRevoked, &format!("token {}", token.id));
        let state = TokenState::Revoked { at: tx.now() };
        tx.put(Row::Token(TokenRecord { state, ..token }));
    }
}

/// P30: what the hosts run may differ from what is recorded here; nothing is placed until they have said.
fn forget_host_epochs(tx: &mut Tx<'_>) {
    let present = |host: &&HostRecord| host.state != HostState::Removed;
    let hosts: Vec<_> = tx.state().hosts().filter(present).cloned().collect();
    for host in hosts {
        let fenced = host.host_epoch.or(host.fenced);
        let host = HostRecord { host_epoch: None, fenced, unlisted: true, ..host };
        // One that never connected here may have done so in the history that is lost.
        if host.state == HostState::Joined { tx.put_host(host) } else { show_unreachable(tx, host) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Lab;
    use crate::{Command, RunnerState};

    fn raise(n: u64) -> Command {
        Command::RaiseIncarnation(RaiseIncarnation { n, nonce: [9; 16], reason: "quorum lost".into() })
    }

    #[test]
    fn p1_goes_up_only() {
        let mut lab = Lab::new();
        assert_eq!(lab.system(raise(1)).unwrap_err().code, Code::OlderIncarnation);
        lab.system(raise(3)).unwrap();
        assert_eq!(lab.state.incarnation(), 3);
        assert_eq!(lab.events_of(EventKind::ClusterRecovered), 1);
    }

    #[test]
    fn p30_nothing_from_before_is_placed_until_every_host_has_listed() {
        let mut lab = Lab::new();
        let (a, b) = (lab.host("a", 4), lab.host("b", 4));
        lab.create_project("web", 5).unwrap();
        let old = lab.launch("web", 1)[0];
        lab.system(raise(2)).unwrap();
        lab.connect(a, "boot-a", 2, vec![]);
        let new = lab.launch("web", 1)[0];
        assert!(lab.assign(old, a).is_err(), "a runner of the backup was placed too early");
        assert_eq!(lab.assign(new, a).unwrap().incarnation, 2);
        lab.connect(b, "boot-b", 2, vec![]);
        lab.assign(old, a).unwrap();
    }

    #[test]
    fn p30_what_waits_and_what_is_restarted_wait_for_every_list_one_that_only_joined_included() {
        let mut lab = Lab::new();
        let a = lab.host("a", 4);
        let joined = lab.join_host("b", 4);
        lab.create_project("web", 5).unwrap();
        let (ended, epoch) = lab.placed(a, crate::OnDisconnect::Keep, true);
        lab.report(a, vec![lab.observed(ended, epoch, 2, RunnerState::Terminated)]).unwrap();
        lab.system(raise(2)).unwrap();
        lab.connect(a, "boot-a", 2, vec![]);
        lab.restart(ended).unwrap();
        assert!(lab.assign(ended, a).is_err(), "the other host may have it");
        lab.connect(joined, "boot-b", 1, vec![]);
        lab.assign(ended, a).unwrap();
    }

    #[test]
    fn p30_what_was_started_again_in_the_lost_history_is_adopted_not_killed() {
        let mut lab = Lab::new();
        let a = lab.host("a", 4);
        lab.create_project("web", 5).unwrap();
        let (runner, epoch) = lab.placed(a, crate::OnDisconnect::Keep, true);
        lab.report(a, vec![lab.observed(runner, epoch, 2, RunnerState::Terminated)]).unwrap();
        let name = lab.state.runner(runner).unwrap().name.clone();
        let mut launch = lab.launch_command("web", 1);
        launch.name = Some(name);
        lab.user(Command::Launch(launch)).unwrap();
        lab.system(raise(2)).unwrap();
        let later = crate::Epoch { incarnation: 1, index: 900 };
        lab.connect(a, "boot-a", 2, vec![lab.observed(runner, later, 3, RunnerState::Running)]);
        let record = lab.state.runner(runner).unwrap();
        assert_eq!((record.state, record.epoch), (RunnerState::Running, Some(later)));
        assert_eq!(record.name.to_string(), format!("orphaned-{runner}"), "its name is another's now");
        assert_eq!(crate::query::desired(&lab.state, a)[0].want, crate::query::DesiredWant::Run);
    }

    #[test]
    fn p13_p30_after_a_recovery_nothing_is_fenced_before_the_shims_say_that_they_hold_deadlines() {
        let mut lab = Lab::new();
        lab.create_project("web", 5).unwrap();
        let (a, _) = lab.two_hosts(4);
        let (runner, epoch) = lab.placed(a, crate::OnDisconnect::Stop, true);
        lab.system(raise(2)).unwrap();
        assert_eq!(lab.fence(a, u64::MAX, &[runner]).unwrap_err().code, Code::LeaseUnbounded);
        lab.connect(a, "boot-a", 2, vec![lab.observed(runner, epoch, 1, RunnerState::Running)]);
        assert_eq!(lab.fence(a, u64::MAX, &[runner]).unwrap_err().code, Code::LeaseUnbounded);
        lab.lease_bounded(a).unwrap();
        lab.fence(a, u64::MAX, &[runner]).unwrap();
    }

    #[test]
    fn p30_a_runner_that_a_host_has_is_adopted() {
        let mut lab = Lab::new();
        let host = lab.host("a", 4);
        lab.create_project("web", 5).unwrap();
        let runner = lab.launch("web", 1)[0];
        lab.system(raise(2)).unwrap();
        // Its placement was in the part of the log that is lost.
        let epoch = crate::Epoch { incarnation: 1, index: 900 };
        lab.connect(host, "boot-a", 2, vec![lab.observed(runner, epoch, 3, RunnerState::Running)]);
        let record = lab.state.runner(runner).unwrap();
        assert_eq!(
            (record.state, record.epoch, record.host),
            (RunnerState::Running, Some(epoch), Some(host))
        );
    }
}
