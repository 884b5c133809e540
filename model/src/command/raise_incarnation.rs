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
    fn goes_up_only() {
        let mut lab = Lab::new();
        assert_eq!(lab.system(raise(1)).unwrap_err().code, Code::OlderIncarnation);
        lab.system(raise(3)).unwrap();
        assert_eq!(lab.state.incarnation(), 3);
        assert_eq!(lab.events_of(EventKind::ClusterRecovered), 1);
    }

    #[test]
    fn nothing_from_before_is_placed_until_every_host_has_listed() {
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
    fn a_runner_that_a_host_has_is_adopted() {
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
