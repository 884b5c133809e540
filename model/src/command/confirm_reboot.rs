//! The leader has waited as long as the holds for renewals of a host's earlier boot, and none came (P8).

use super::fence_host::check_named;
use crate::command::{Success, Verdict};
use crate::host::HostRecord;
use crate::id::{Epoch, HostId};
use crate::lease::{hold_ms, reboot_waiting, waited_enough, waits_for_reboot};
use crate::lifecycle::{HOST_REBOOTED, close};
use crate::reply::{Code, Covered, RefusedCoverage, Rejected, Reply};
use crate::runner::{OnDisconnect, RunnerRecord};
use crate::tx::Tx;

/// A new boot id alone may be a copy of the machine beside the running original; with this silence it is a reboot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfirmReboot {
    pub host: HostId,
    /// The host epoch of the earlier boot.
    pub host_epoch: Epoch,
    /// How long, by its own clock, the proposing leader has had no renewal of that host epoch in its term.
    pub waited_ms: u64,
    pub runners: Vec<Covered>,
}

impl ConfirmReboot {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        check_named(&self.runners)?;
        let host = tx
            .state()
            .host(self.host)
            .filter(|host| host.rebooted.is_some_and(|reboot| reboot.old == self.host_epoch));
        let Some(host) = host.cloned() else {
            let message = format!("no reboot after host epoch {} waits to be confirmed", self.host_epoch);
            return Err(Rejected::new(Code::Fenced, message, "the leader looks again by itself"));
        };
        let (mut covered, mut refused) = (Vec::new(), Vec::new());
        for one in &self.runners {
            match self.settled_by(tx, &host, one) {
                Ok(runner) => {
                    let again = runner.on_disconnect == OnDisconnect::Stop;
                    close(tx, runner, HOST_REBOOTED, again);
                    covered.push(*one);
                }
                Err(reason) => refused.push(RefusedCoverage { runner: one.runner, reason: reason.into() }),
            }
        }
        if reboot_waiting(tx.state(), self.host).is_empty() {
            tx.put_host(HostRecord { rebooted: None, ..host });
        }
        Ok(Success::done(Reply::Fenced { covered, refused }))
    }

    fn settled_by(
        &self,
        tx: &Tx<'_>,
        host: &HostRecord,
        one: &Covered,
    ) -> Result<RunnerRecord, &'static str> {
        let state = tx.state();
        let runner = state.runner(one.runner).filter(|runner| {
            runner.epoch == Some(one.epoch)
                && runner.host == Some(self.host)
                && waits_for_reboot(state, runner)
        });
        let runner = runner.ok_or("not_current")?;
        // The other machine holds no lease any more, so what has a deadline has met it; the rest may live.
        if host.cloned && runner.on_disconnect == OnDisconnect::Keep {
            return Err("host_cloned");
        }
        let hold = hold_ms(state, runner).max(runner.hold_ms);
        if waited_enough(hold, self.waited_ms) { Ok(runner.clone()) } else { Err("too_early") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OnDisconnect::{Keep, Stop};
    use crate::lab::{HOLD_NOT_WAITED, HOLD_WAITED, Lab};
    use crate::{Command, EventKind, Exit, Lost, RunnerId, RunnerState};

    fn lab() -> (Lab, HostId, RunnerId, RunnerId) {
        let mut lab = Lab::new();
        lab.create_project("web", 9).unwrap();
        let (a, _) = lab.two_hosts(4);
        let (kept, _) = lab.placed(a, Keep, true);
        let (stopped, _) = lab.placed(a, Stop, true);
        (lab, a, kept, stopped)
    }

    #[test]
    fn p8_a_new_boot_id_places_nothing_again_before_the_hold_has_passed() {
        let (mut lab, a, kept, stopped) = lab();
        lab.connect(a, "boot-a2", 2, vec![]);
        let record = lab.state.runner(kept).unwrap();
        assert_eq!((record.state, record.settled), (RunnerState::Failed, false));
        assert_eq!(lab.restart(kept).unwrap_err().code, Code::RunnerUnsettled);
        let record = lab.state.runner(stopped).unwrap();
        assert_eq!((record.state, record.lost), (RunnerState::Running, Some(Lost::HostRebooted)));
        assert!(lab.confirm_reboot(a, HOLD_NOT_WAITED).unwrap().is_empty());
        assert_eq!(lab.confirm_reboot(a, HOLD_WAITED).unwrap().len(), 2);
        let record = lab.state.runner(stopped).unwrap();
        assert_eq!((record.state, record.restarts), (RunnerState::Pending, 1));
        let record = lab.state.runner(kept).unwrap();
        assert_eq!((record.state, record.settled), (RunnerState::Failed, true), "never restarted by itself");
        assert_eq!((lab.state.host(a).unwrap().rebooted, lab.state.host_load(a).runners), (None, 0));
        assert_eq!(lab.events_of(EventKind::RunnerRestarted), 1);
        lab.restart(kept).unwrap();
    }

    #[test]
    fn p8_what_the_agent_says_of_an_earlier_boot_is_no_more_than_the_boot_id() {
        let (mut lab, a, kept, stopped) = lab();
        let rebooted = |lab: &Lab, runner: RunnerId| {
            let epoch = lab.state.runner(runner).unwrap().epoch.unwrap();
            let mut seen = lab.observed(runner, epoch, 9, RunnerState::Failed);
            seen.exit = Some(Exit { reason: HOST_REBOOTED.into(), ..Exit::default() });
            seen
        };
        let (one, other) = (rebooted(&lab, kept), rebooted(&lab, stopped));
        lab.connect(a, "boot-a2", 2, vec![one.clone()]);
        lab.report(a, vec![one, other]).unwrap();
        assert!(!lab.state.runner(kept).unwrap().settled);
        assert_eq!(lab.state.runner(stopped).unwrap().lost, Some(Lost::HostRebooted));
        assert_eq!(lab.confirm_reboot(a, HOLD_WAITED).unwrap().len(), 2);
    }

    #[test]
    fn p8_a_fence_of_the_new_boot_does_not_speak_for_the_old_one() {
        let (mut lab, a, _, stopped) = lab();
        lab.connect(a, "boot-a2", 2, vec![]);
        assert_eq!(lab.fence(a, u64::MAX, &[stopped]).unwrap_err().code, Code::NotCoverable);
    }

    #[test]
    fn p8_of_a_cloned_machine_nothing_that_is_kept_is_settled() {
        let (mut lab, a, kept, stopped) = lab();
        lab.connect(a, "boot-a2", 2, vec![]);
        let original = Command::HostConnect(lab.connect_command(a, "boot-a", 3, None, vec![]));
        assert_eq!(lab.as_host(a, original).unwrap_err().code, Code::DuplicateHost);
        assert_eq!(lab.confirm_reboot(a, u64::MAX).unwrap(), [stopped]);
        assert!(!lab.state.runner(kept).unwrap().settled);
        lab.cordon("a", false).unwrap();
        assert_eq!(lab.confirm_reboot(a, u64::MAX).unwrap(), [kept]);
    }

    #[test]
    fn p8_only_the_earlier_host_epoch_is_confirmed() {
        let (mut lab, a, _, stopped) = lab();
        lab.connect(a, "boot-a2", 2, vec![]);
        let host_epoch = lab.state.host(a).unwrap().host_epoch.unwrap();
        let runners = lab.covered(&[stopped]);
        let confirm = ConfirmReboot { host: a, host_epoch, waited_ms: u64::MAX, runners };
        assert_eq!(lab.system(Command::ConfirmReboot(confirm)).unwrap_err().code, Code::Fenced);
    }

    #[test]
    fn a_stop_that_was_wanted_is_done_by_the_reboot() {
        let (mut lab, a, _, stopped) = lab();
        lab.kill(&[stopped], false).unwrap();
        lab.connect(a, "boot-a2", 2, vec![]);
        assert_eq!(lab.state.runner(stopped).unwrap().state, RunnerState::Failed);
        lab.confirm_reboot(a, HOLD_WAITED).unwrap();
        assert_eq!(lab.state.runner(stopped).unwrap().state, RunnerState::Failed);
    }
}
