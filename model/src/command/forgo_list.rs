//! A host has not listed since a recovery, and whatever it ran is past the longest hold (P30).

use crate::command::{Success, Verdict};
use crate::event::EventKind;
use crate::host::{HostRecord, LeaseBound};
use crate::id::HostId;
use crate::lease::waited_enough;
use crate::reply::{Code, Rejected, Reply};
use crate::runner::OnDisconnect;
use crate::tx::Tx;

use super::report::known_host;

/// Placement of what the recovered state holds waits for this host no longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForgoList {
    pub host: HostId,
    /// How long, by its own clock, the proposing leader has had no renewal of this host in its term.
    pub waited_ms: u64,
}

impl ForgoList {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        let host = known_host(tx, self.host)?;
        if !host.unlisted {
            return Ok(Success::done(Reply::Host(self.host)));
        }
        if let Some(why) = only_its_list_counts(tx, &host) {
            let message = format!("host {} has to list what it runs first: {why}", host.name);
            let next = "bring it back, or vouch for its end with `stratavore hosts declare-dead`";
            return Err(Rejected::new(Code::NotCoverable, message, next));
        }
        let longest = tx.state().cluster().map_or(u64::MAX, |cluster| cluster.lease.hold_max_ms);
        if !waited_enough(longest, self.waited_ms) {
            let message = format!("host {} was waited for {} ms of {longest}", host.name, self.waited_ms);
            return Err(Rejected::new(Code::NotCoverable, message, "the leader waits on by itself"));
        }
        tx.host_event(EventKind::HostListForgone, &host, "");
        tx.put_host(HostRecord { unlisted: false, ..host });
        Ok(Success::done(Reply::Host(self.host)))
    }
}

/// P30: a runner without deadline outlives any wait.
fn only_its_list_counts(tx: &Tx<'_>, host: &HostRecord) -> Option<&'static str> {
    if host.lease.bound != LeaseBound::Bounded {
        return Some("its lease is unbounded");
    }
    if host.lease.widened_ms > 0 {
        return Some("maintenance widened its lease");
    }
    let keeps = |on_disconnect| on_disconnect == OnDisconnect::Keep;
    if tx.state().runners_on(host.id).any(|runner| keeps(runner.on_disconnect)) {
        return Some("it had runners that are kept");
    }
    // In the history that is lost it may have been given what waits, or waits to be restarted, here.
    let raised_at = tx.state().cluster().map_or(0, |cluster| cluster.raised_at_index);
    let elsewhere = tx.state().runners().any(|runner| {
        keeps(runner.spec.on_disconnect) && runner.queued.index <= raised_at && runner.occupies().is_none()
    });
    elsewhere.then_some("it may have runners that are kept")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OnDisconnect::{Keep, Stop};
    use crate::command::RaiseIncarnation;
    use crate::lab::Lab;
    use crate::{Command, RunnerId};

    /// 1.01 times the default longest hold.
    const LONGEST_WAITED: u64 = 606_000;

    fn recovered(policy: OnDisconnect) -> (Lab, HostId, HostId, RunnerId) {
        let mut lab = Lab::new();
        lab.create_project("web", 9).unwrap();
        let (a, b) = lab.two_hosts(4);
        let (runner, _) = lab.placed(a, policy, true);
        raise(&mut lab);
        (lab, a, b, runner)
    }

    fn raise(lab: &mut Lab) {
        let raise = RaiseIncarnation { n: 2, nonce: [9; 16], reason: "quorum lost".into() };
        lab.system(Command::RaiseIncarnation(raise)).unwrap();
    }

    fn forgo(lab: &mut Lab, host: HostId, waited_ms: u64) -> Result<Reply, Rejected> {
        lab.system(Command::ForgoList(ForgoList { host, waited_ms }))
    }

    #[test]
    fn p30_after_the_longest_hold_a_host_without_kept_runners_is_waited_for_no_longer() {
        let (mut lab, a, b, _) = recovered(Stop);
        assert_eq!(forgo(&mut lab, a, LONGEST_WAITED - 1).unwrap_err().code, Code::NotCoverable);
        forgo(&mut lab, a, LONGEST_WAITED).unwrap();
        forgo(&mut lab, a, 0).unwrap();
        assert_eq!(lab.events_of(EventKind::HostListForgone), 1);
        assert_eq!(lab.state.unlisted_hosts().collect::<Vec<_>>(), [b]);
        forgo(&mut lab, b, LONGEST_WAITED).unwrap();
    }

    #[test]
    fn p30_for_kept_runners_only_the_list_or_an_operators_word_counts() {
        let (mut lab, a, b, _) = recovered(Keep);
        assert_eq!(forgo(&mut lab, a, u64::MAX).unwrap_err().code, Code::NotCoverable);
        lab.user(Command::DeclareHostDead(crate::command::DeclareHostDead { host: "a".into() })).unwrap();
        assert_eq!(lab.state.unlisted_hosts().collect::<Vec<_>>(), [b]);
        // What ended there may have been started again on the other, in the history that is lost.
        assert_eq!(forgo(&mut lab, b, u64::MAX).unwrap_err().code, Code::NotCoverable);
    }

    #[test]
    fn p30_an_unbounded_or_a_widened_lease_outlives_any_wait() {
        let mut lab = Lab::new();
        let host = lab.host("a", 4);
        raise(&mut lab);
        assert_eq!(forgo(&mut lab, host, u64::MAX).unwrap_err().code, Code::NotCoverable);
        let mut lab = Lab::new();
        let (a, _) = lab.two_hosts(4);
        lab.maintenance(1000).unwrap();
        raise(&mut lab);
        assert_eq!(forgo(&mut lab, a, u64::MAX).unwrap_err().code, Code::NotCoverable);
    }
}
