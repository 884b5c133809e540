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
