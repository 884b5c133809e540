//! The leader has had no renewal of a host for too long (P7).

use super::report::known_host;
use crate::command::{Success, Verdict};
use crate::event::EventKind;
use crate::host::{HostRecord, HostState};
use crate::id::{Epoch, HostId};
use crate::lifecycle::lose;
use crate::reply::{Code, Rejected, Reply};
use crate::runner::Lost;
use crate::tx::Tx;

/// Shows the host as unreachable and its runners as lost; its host epoch lives on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostUnreachable {
    pub host: HostId,
    pub host_epoch: Epoch,
}

impl HostUnreachable {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        let host = holder(tx, self.host, self.host_epoch)?;
        if host.state == HostState::Ready {
            show_unreachable(tx, host);
        }
        Ok(Success::done(Reply::Host(self.host)))
    }
}

/// The host, if it holds this host epoch still.
pub(super) fn holder(tx: &Tx<'_>, id: HostId, host_epoch: Epoch) -> Result<HostRecord, Rejected> {
    let host = known_host(tx, id)?;
    if host.host_epoch != Some(host_epoch) {
        let message = format!("host {} does not hold host epoch {host_epoch} any more", host.name);
        return Err(Rejected::new(Code::Fenced, message, ""));
    }
    Ok(host)
}

/// Shows the host as unreachable and what it runs as lost.
pub(super) fn show_unreachable(tx: &mut Tx<'_>, host: HostRecord) {
    let id = host.id;
    tx.host_event(EventKind::HostUnreachable, &host, "");
    let since = tx.now();
    tx.put_host(HostRecord { state: HostState::Unreachable, since, ..host });
    let runners: Vec<_> = tx.state().runners_on(id).cloned().collect();
    for runner in runners {
        lose(tx, runner, Lost::HostUnreachable);
    }
}

#[cfg(test)]
mod tests {
    use crate::lab::Lab;
    use crate::{Code, Command, EventKind, HostState, ShownState};

    use super::*;

    #[test]
    fn runners_show_as_lost_and_come_back_with_the_host() {
        let mut lab = Lab::new();
        let host = lab.host("a", 4);
        lab.create_project("web", 3).unwrap();
        let runner = lab.launch("web", 1)[0];
        lab.assign(runner, host).unwrap();
        lab.unreachable(host).unwrap();
        lab.unreachable(host).unwrap();
        let shown = |lab: &Lab| lab.state.runner(runner).unwrap().shown_state();
        assert_eq!(shown(&lab), ShownState::Lost);
        assert_eq!(lab.state.count(ShownState::Lost), 1);
        assert_eq!(lab.events_of(EventKind::RunnerLost), 1);
        assert_eq!(lab.state.placeable().count(), 0);
        lab.reachable(host).unwrap();
        assert_eq!(shown(&lab), ShownState::Starting);
        assert_eq!(lab.state.host(host).unwrap().state, HostState::Ready);
    }

    #[test]
    fn only_the_present_host_epoch_counts() {
        let mut lab = Lab::new();
        let host = lab.host("a", 4);
        let old = lab.state.host(host).unwrap().host_epoch.unwrap();
        lab.connect(host, "boot-b", 2, vec![]);
        let command = Command::HostUnreachable(HostUnreachable { host, host_epoch: old });
        assert_eq!(lab.system(command).unwrap_err().code, Code::Fenced);
    }
}
