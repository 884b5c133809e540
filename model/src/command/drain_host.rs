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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OnDisconnect::{Keep, Stop};
    use crate::lab::Lab;
    use crate::{Command, RunnerState};

    fn drain(lab: &mut Lab) {
        lab.user(Command::DrainHost(DrainHost { host: "a".into() })).unwrap();
    }

    #[test]
    fn what_may_move_is_stopped_and_queued_again_and_the_rest_stays() {
        let mut lab = Lab::new();
        lab.create_project("web", 9).unwrap();
        let (a, b) = lab.two_hosts(4);
        let (kept, _) = lab.placed(a, Keep, true);
        let (moved, epoch) = lab.placed(a, Stop, true);
        let (killed, _) = lab.placed(a, Stop, true);
        lab.kill(&[killed], false).unwrap();
        drain(&mut lab);
        drain(&mut lab);
        let wish = |lab: &Lab, id| {
            let runner = lab.state.runner(id).unwrap();
            (runner.want, runner.restart_wanted)
        };
        assert_eq!(wish(&lab, kept), (Want::Run, false));
        assert_eq!(wish(&lab, moved), (Want::Stop { force: false }, true));
        assert_eq!(wish(&lab, killed), (Want::Stop { force: false }, false), "it was not to run on");
        lab.report(a, vec![lab.observed(moved, epoch, 2, RunnerState::Terminated)]).unwrap();
        assert_eq!(lab.assign(moved, a).unwrap_err(), "cordoned");
        lab.assign(moved, b).unwrap();
        assert_eq!(lab.events_of(EventKind::HostDraining), 1);
    }

    #[test]
    fn uncordoning_takes_it_back_and_a_pinned_runner_has_nowhere_to_go() {
        let mut lab = Lab::new();
        lab.create_project("web", 9).unwrap();
        let (a, _) = lab.two_hosts(4);
        let mut launch = lab.launch_command("web", 1);
        launch.spec.on_disconnect = Stop;
        launch.spec.host = "a".into();
        let pinned = launch.ids[0];
        lab.user(Command::Launch(launch)).unwrap();
        lab.assign(pinned, a).unwrap();
        drain(&mut lab);
        assert_eq!(lab.state.runner(pinned).unwrap().want, Want::Run);
        lab.cordon("a", false).unwrap();
        let host = lab.state.host(a).unwrap();
        assert_eq!((host.cordoned, host.draining), (false, false));
    }
}
