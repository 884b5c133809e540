//! A renewal said that every shim of a host holds its own deadline (P13).

use super::host_unreachable::holder;
use crate::command::{Success, Verdict};
use crate::event::EventKind;
use crate::host::{HostLease, HostRecord, LeaseBound};
use crate::id::{Epoch, HostId};
use crate::reply::{Code, Rejected, Reply};
use crate::tx::Tx;

/// From here on the host can be fenced, and when no maintenance is on, after the holds themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseBounded {
    pub host: HostId,
    pub host_epoch: Epoch,
    /// [`crate::query::GrantTerms::maintenance`] when the grant was decided that the renewal answers.
    pub maintenance: u64,
}

impl LeaseBounded {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        let host = holder(tx, self.host, self.host_epoch)?;
        if host.lease.bound == LeaseBound::Unbounded {
            let message = format!("host {} is the only one, its lease is unbounded", host.name);
            return Err(Rejected::new(Code::LeaseUnbounded, message, "let a second host join first"));
        }
        let newest = tx.state().cluster().and_then(|cluster| cluster.maintenance).map_or(0, |m| m.at);
        if newest != self.maintenance {
            let message =
                format!("maintenance was set in entry {newest}, after host {} had narrowed", host.name);
            return Err(Rejected::new(Code::Fenced, message, "the leader looks again by itself"));
        }
        // While maintenance is on, wide grants go out: they are honoured to its end.
        let widened_ms = tx.state().cluster().map_or(0, |cluster| cluster.widening(tx.now()));
        let widened_ms = if widened_ms > 0 { host.lease.widened_ms.max(widened_ms) } else { 0 };
        let lease = HostLease { bound: LeaseBound::Bounded, widened_ms, ..host.lease };
        if lease != host.lease {
            tx.host_event(EventKind::HostLeaseBounded, &host, "");
            tx.put_host(HostRecord { lease, ..host });
        }
        Ok(Success::done(Reply::Host(self.host)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OnDisconnect::{Keep, Stop};
    use crate::command::RemoveHost;
    use crate::lab::{HOLD_WAITED, Lab};
    use crate::query::grant_terms;
    use crate::{Command, OnDisconnect};

    fn bound(lab: &Lab, host: HostId) -> LeaseBound {
        lab.state.host(host).unwrap().lease.bound
    }

    fn policy(lab: &Lab, runner: crate::RunnerId) -> OnDisconnect {
        crate::query::effective_policy(&lab.state, lab.state.runner(runner).unwrap())
    }

    #[test]
    fn p13_the_only_host_is_unbounded_until_its_shims_hold_deadlines() {
        let mut lab = Lab::new();
        lab.create_project("web", 9).unwrap();
        let first = lab.host("a", 4);
        let (runner, _) = lab.placed(first, Stop, true);
        assert_eq!((bound(&lab, first), policy(&lab, runner)), (LeaseBound::Unbounded, Keep));
        assert_eq!(lab.fence(first, u64::MAX, &[runner]).unwrap_err().code, Code::LeaseUnbounded);
        assert_eq!(lab.lease_bounded(first).unwrap_err().code, Code::LeaseUnbounded);
        let second = lab.host("b", 4);
        assert_eq!((bound(&lab, first), bound(&lab, second)), (LeaseBound::Bounding, LeaseBound::Bounded));
        assert!(grant_terms(&lab.state, first).unwrap().lower);
        assert_eq!(lab.fence(first, u64::MAX, &[runner]).unwrap_err().code, Code::LeaseUnbounded);
        // A reconnect keeps the host epoch, and what is not known about it.
        let epoch = lab.state.runner(runner).unwrap().epoch.unwrap();
        lab.connect(first, "boot-a", 2, vec![lab.observed(runner, epoch, 1, crate::RunnerState::Running)]);
        assert_eq!(bound(&lab, first), LeaseBound::Bounding);
        lab.lease_bounded(first).unwrap();
        lab.lease_bounded(first).unwrap();
        assert_eq!(lab.events_of(EventKind::HostLeaseBounded), 1);
        assert!(!grant_terms(&lab.state, first).unwrap().lower);
        assert_eq!(policy(&lab, runner), Stop);
        lab.fence(first, HOLD_WAITED, &[runner]).unwrap();
        assert_eq!(grant_terms(&lab.state, first), None);
    }

    #[test]
    fn p13_whoever_is_alone_again_is_unbounded_again() {
        let mut lab = Lab::new();
        let (a, _) = lab.two_hosts(4);
        // The lease of the one that connected as the second is bounded.
        lab.lease_bounded(a).unwrap();
        assert_eq!(bound(&lab, a), LeaseBound::Bounded);
        lab.user(Command::RemoveHost(RemoveHost { host: "b".into(), force: false })).unwrap();
        assert_eq!(bound(&lab, a), LeaseBound::Unbounded);
    }

    #[test]
    fn p13_a_fenced_host_that_is_alone_keeps_the_deadlines_that_the_fence_counts_on() {
        let mut lab = Lab::new();
        lab.create_project("web", 9).unwrap();
        let (a, _) = lab.two_hosts(4);
        let (one, _) = lab.placed(a, Stop, true);
        let (other, _) = lab.placed(a, Stop, true);
        lab.fence(a, HOLD_WAITED, &[one]).unwrap();
        lab.user(Command::RemoveHost(RemoveHost { host: "b".into(), force: true })).unwrap();
        lab.fence(a, HOLD_WAITED, &[other]).unwrap();
    }

    #[test]
    fn p3_only_the_present_host_epoch_is_bounded() {
        let mut lab = Lab::new();
        let (a, _) = lab.two_hosts(4);
        let host_epoch = lab.state.host(a).unwrap().host_epoch.unwrap();
        lab.connect(a, "boot-a2", 2, vec![]);
        let old = Command::LeaseBounded(LeaseBounded { host: a, host_epoch, maintenance: 0 });
        assert_eq!(lab.system(old).unwrap_err().code, Code::Fenced);
    }
}
