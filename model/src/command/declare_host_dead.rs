//! `stratavore hosts declare-dead`: an operator vouches that nothing on a host lives (P30).

use serde::Serialize;

use super::declare_runner_dead::DECLARED_DEAD;
use super::fence_host::end_host_epoch;
use crate::command::{Success, Verdict};
use crate::event::EventKind;
use crate::host::{HostRecord, HostState};
use crate::lifecycle::close;
use crate::query::resolve_host;
use crate::reply::{Code, Covered, Rejected};
use crate::runner::OnDisconnect;
use crate::tx::Tx;

/// Covers everything on a silent host on an operator's word; its event says whose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeclareHostDead {
    /// Name or id.
    pub host: String,
}

impl DeclareHostDead {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        let host = resolve_host(tx.state(), &self.host)?.clone();
        let id = host.id;
        if host.state == HostState::Ready {
            let message = format!("host {} answers", host.name);
            let next = format!("empty it with `stratavore hosts drain {}`", host.name);
            return Err(Rejected::new(Code::HostReachable, message, next).field("host"));
        }
        tx.host_event(EventKind::HostDeclaredDead, &host, "");
        let runners: Vec<_> = tx.state().runners_on(id).cloned().collect();
        let covered = runners.iter().filter_map(|r| Some(Covered { runner: r.id, epoch: r.epoch? }));
        let covered: Vec<_> = covered.collect();
        end_host_epoch(tx, HostRecord { unlisted: false, rebooted: None, ..host }, &covered);
        for runner in runners {
            let again = runner.on_disconnect == OnDisconnect::Stop;
            tx.runner_event(EventKind::RunnerDeclaredDead, &runner, "");
            close(tx, runner, DECLARED_DEAD, again);
        }
        Ok(Success::host(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OnDisconnect::{Keep, Stop};
    use crate::lab::Lab;
    use crate::{Command, Reply, RunnerState};

    fn declare(lab: &mut Lab) -> Result<Reply, Rejected> {
        lab.user(Command::DeclareHostDead(DeclareHostDead { host: "a".into() }))
    }

    #[test]
    fn p30_everything_on_a_dead_host_is_covered_and_may_never_come_back() {
        let mut lab = Lab::new();
        lab.create_project("web", 9).unwrap();
        let (a, b) = lab.two_hosts(4);
        let (kept, epoch) = lab.placed(a, Keep, true);
        let (stopped, _) = lab.placed(a, Stop, true);
        assert_eq!(declare(&mut lab).unwrap_err().code, Code::HostReachable);
        lab.unreachable(a).unwrap();
        declare(&mut lab).unwrap();
        assert_eq!(lab.state.runner(kept).unwrap().reason, "declared_dead");
        lab.assign(stopped, b).unwrap();
        let alive = vec![lab.observed(kept, epoch, 2, RunnerState::Running)];
        let connect = Command::HostConnect(lab.connect_command(a, "boot-a", 2, None, alive));
        assert_eq!(lab.as_host(a, connect).unwrap_err().code, Code::CoveredAlive);
        lab.connect(a, "boot-a", 3, vec![]);
        assert_eq!(lab.events_of(EventKind::HostDeclaredDead), 1);
    }
}
