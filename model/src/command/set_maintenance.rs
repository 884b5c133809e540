//! `stratavore cluster maintenance` (P13).

use serde::Serialize;

use crate::cluster::{ClusterRecord, Maintenance};
use crate::command::{Success, Verdict};
use crate::event::EventKind;
use crate::host::{HostLease, HostRecord, HostState};
use crate::limits::MAINTENANCE_MS_MAX;
use crate::reply::{Code, Rejected, Reply};
use crate::row::Row;
use crate::tx::Tx;

/// Widens every finite hold for a while, so that a planned absence of the control plane ends nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SetMaintenance {
    /// From now on; 0 ends it.
    pub for_ms: u64,
}

impl SetMaintenance {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        let Some(cluster) = tx.state().cluster().cloned() else {
            return Err(Rejected::new(Code::NotInitialized, "there is no cluster here yet", ""));
        };
        if self.for_ms > MAINTENANCE_MS_MAX {
            let message = format!("{} ms are more than {MAINTENANCE_MS_MAX}", self.for_ms);
            return Err(Rejected::bad_argument("for_ms", message, "ask for 30m or less, again if need be"));
        }
        let now = tx.now();
        let maintenance = match self.for_ms {
            0 => cluster.maintenance.map(|present| present.over(now)),
            hold_ms => Some(Maintenance { until: now.plus(hold_ms), hold_ms, at: tx.position.index }),
        };
        tx.event(EventKind::ClusterMaintenance, &format!("for {} ms", self.for_ms));
        tx.put(Row::Cluster(Box::new(ClusterRecord { maintenance, ..cluster })));
        widen_all(tx, self.for_ms);
        Ok(Success::done(Reply::Done))
    }
}

/// From this entry on any host may be granted so much; each one's row remembers the widest until the host proves that
/// it is gone.
fn widen_all(tx: &mut Tx<'_>, widen_ms: u64) {
    let narrower = |host: &&HostRecord| {
        host.host_epoch.is_some() && host.state != HostState::Removed && host.lease.widened_ms < widen_ms
    };
    let hosts: Vec<_> = tx.state().hosts().filter(narrower).cloned().collect();
    for host in hosts {
        tx.put_host(HostRecord { lease: HostLease { widened_ms: widen_ms, ..host.lease }, ..host });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Command;
    use crate::OnDisconnect::{Keep, Stop};
    use crate::lab::{HOLD_WAITED, LEASE_WAITED, Lab};
    use crate::query::{coverable, grant_terms};

    const MINUTE: u64 = 60_000;

    #[test]
    fn p13_a_fence_honours_the_widest_lease_that_a_host_may_still_hold() {
        let mut lab = Lab::new();
        lab.create_project("web", 9).unwrap();
        let (a, b) = lab.two_hosts(4);
        lab.lease_bounded(a).unwrap();
        let (runner, _) = lab.placed(a, Stop, true);
        let (starting, _) = lab.placed(a, Keep, false);
        lab.maintenance(20 * MINUTE).unwrap();
        assert_eq!(grant_terms(&lab.state, a).unwrap().widen_ms, 20 * MINUTE);
        assert!(lab.fence(a, HOLD_WAITED, &[runner]).is_err());
        assert!(lab.fence(a, LEASE_WAITED, &[starting]).is_err());
        // Over by the clock: no wide grants, and still only the host's word makes it narrow.
        lab.pass(21 * MINUTE);
        lab.cordon("b", true).unwrap();
        let terms = grant_terms(&lab.state, a).unwrap();
        assert_eq!((terms.widen_ms, terms.lower), (0, true));
        assert!(lab.fence(a, HOLD_WAITED, &[runner]).is_err());
        lab.lease_bounded(a).unwrap();
        assert_eq!(lab.state.host(a).unwrap().lease.widened_ms, 0);
        lab.fence(a, HOLD_WAITED, &[runner]).unwrap();
        // The other one has not said so.
        assert_eq!(lab.state.host(b).unwrap().lease.widened_ms, 20 * MINUTE);
    }

    #[test]
    fn p13_a_host_that_says_so_during_maintenance_stays_wide() {
        let mut lab = Lab::new();
        lab.create_project("web", 9).unwrap();
        let (a, _) = lab.two_hosts(4);
        let (_, _) = lab.placed(a, Stop, true);
        lab.maintenance(20 * MINUTE).unwrap();
        lab.lease_bounded(a).unwrap();
        assert_eq!(coverable(&lab.state, a)[0].hold_ms, 20 * MINUTE + 120_000);
        // A new host epoch under the same boot is granted no less.
        lab.connect(a, "boot-a2", 2, vec![]);
        assert_eq!(lab.state.host(a).unwrap().lease.widened_ms, 20 * MINUTE);
        lab.maintenance(0).unwrap();
        assert_eq!(grant_terms(&lab.state, a).unwrap().widen_ms, 0);
        assert!(grant_terms(&lab.state, a).unwrap().lower);
    }

    #[test]
    fn p4_a_clock_that_is_set_back_does_not_bring_maintenance_back() {
        let mut lab = Lab::new();
        let (a, _) = lab.two_hosts(4);
        lab.maintenance(20 * MINUTE).unwrap();
        let right = lab.now;
        lab.pass(21 * MINUTE);
        lab.cordon("b", true).unwrap();
        lab.lease_bounded(a).unwrap();
        lab.user(Command::ResetClock(crate::command::ResetClock { to: right })).unwrap();
        let terms = grant_terms(&lab.state, a).unwrap();
        assert_eq!((terms.widen_ms, terms.lower), (0, false));
        lab.now = right;
        let b = lab.state.host_named(&"b".parse().unwrap()).unwrap().id;
        assert_eq!(grant_terms(&lab.state, b).unwrap().widen_ms, 0, "not even where it may still be held");
    }

    #[test]
    fn p4_a_proof_from_before_maintenance_narrows_nothing_whatever_the_clock_says() {
        let mut lab = Lab::new();
        let (a, _) = lab.two_hosts(4);
        let host_epoch = lab.state.host(a).unwrap().host_epoch.unwrap();
        lab.maintenance(MINUTE).unwrap();
        lab.pass(10 * MINUTE);
        let before =
            Command::LeaseBounded(crate::command::LeaseBounded { host: a, host_epoch, maintenance: 0 });
        assert_eq!(lab.system(before).unwrap_err().code, Code::Fenced);
        assert_eq!(lab.state.host(a).unwrap().lease.widened_ms, MINUTE);
        lab.lease_bounded(a).unwrap();
        assert_eq!(lab.state.host(a).unwrap().lease.widened_ms, 0);
    }

    #[test]
    fn p13_at_most_half_an_hour() {
        let mut lab = Lab::new();
        assert_eq!(lab.maintenance(30 * MINUTE + 1).unwrap_err().code, Code::BadArgument);
        lab.maintenance(30 * MINUTE).unwrap();
        assert_eq!(lab.events_of(EventKind::ClusterMaintenance), 1);
    }
}
