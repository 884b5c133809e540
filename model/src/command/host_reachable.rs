//! A host renewed again (P7).

use super::host_unreachable::holder;
use crate::command::{Success, Verdict};
use crate::event::EventKind;
use crate::host::{HostRecord, HostState};
use crate::id::{Epoch, HostId};
use crate::lifecycle::recover;
use crate::reply::Reply;
use crate::runner::Lost;
use crate::tx::Tx;

/// Undoes [`super::HostUnreachable`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostReachable {
    pub host: HostId,
    pub host_epoch: Epoch,
}

impl HostReachable {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        let host = holder(tx, self.host, self.host_epoch)?;
        if host.state == HostState::Unreachable {
            tx.host_event(EventKind::HostReady, &host, "");
            let since = tx.now();
            tx.put_host(HostRecord { state: HostState::Ready, since, ..host });
            let lost = tx.state().runners_on(self.host).filter(|r| r.lost == Some(Lost::HostUnreachable));
            let lost: Vec<_> = lost.cloned().collect();
            for runner in lost {
                recover(tx, runner);
            }
        }
        Ok(Success::done(Reply::Host(self.host)))
    }
}

#[cfg(test)]
mod tests {
    use crate::lab::Lab;
    use crate::{EventKind, RunnerState, ShownState};

    #[test]
    fn does_not_find_what_the_host_did_not_list() {
        let mut lab = Lab::new();
        let host = lab.host("a", 4);
        lab.create_project("web", 3).unwrap();
        let runner = lab.launch("web", 1)[0];
        let epoch = lab.assign(runner, host).unwrap();
        lab.report(host, vec![lab.observed(runner, epoch, 1, RunnerState::Running)]).unwrap();
        lab.connect(host, "boot-a", 2, vec![]);
        lab.unreachable(host).unwrap();
        lab.reachable(host).unwrap();
        assert_eq!(lab.state.runner(runner).unwrap().shown_state(), ShownState::Lost);
    }

    #[test]
    fn says_nothing_about_a_host_that_is_ready() {
        let mut lab = Lab::new();
        let host = lab.host("a", 4);
        lab.reachable(host).unwrap();
        assert_eq!(lab.events_of(EventKind::HostReady), 1, "the connect's only");
    }
}
