//! `stratavore hosts drain`: cordon, and move what can move.

use serde::Serialize;

use crate::command::{Success, Verdict};
use crate::event::EventKind;
use crate::host::HostRecord;
use crate::lifecycle::ask_to_stop;
use crate::query::resolve_host;
use crate::runner::{OnDisconnect, RunnerRecord, Want};
use crate::tx::Tx;

/// `stop` runners are stopped with grace and started again elsewhere; `keep` runners stay until they end by themselves.
/// Taken back by uncordoning; what has been asked to move moves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DrainHost {
    /// Name or id.
    pub host: String,
}

impl DrainHost {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        let host = resolve_host(tx.state(), &self.host)?.clone();
        let id = host.id;
        if !host.draining {
            tx.host_event(EventKind::HostDraining, &host, "");
            tx.put_host(HostRecord { cordoned: true, draining: true, ..host });
        }
        let movable = tx.state().runners_on(id).filter(|runner| may_move(runner));
        let movable: Vec<_> = movable.cloned().collect();
        for runner in movable {
            ask_to_stop(tx, runner, false, true);
        }
        Ok(Success::host(id))
    }
}

/// What was asked for counts here, not what it was placed under: a graceful stop needs no fence.
fn may_move(runner: &RunnerRecord) -> bool {
    runner.state.is_placed()
        && runner.want == Want::Run
        && runner.pinned.is_none()
        && runner.spec.on_disconnect == OnDisconnect::Stop
}
