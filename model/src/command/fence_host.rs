//! The leader has waited out the holds of a silent host's runners (P7).

use super::host_unreachable::show_unreachable;
use crate::command::{Success, Verdict};
use crate::event::EventKind;
use crate::host::{HostRecord, HostState, LeaseBound};
use crate::id::{Epoch, HostId};
use crate::lease::{hold_ms, waited_enough, why_not_coverable};
use crate::lifecycle::close;
use crate::limits::COVERED_MAX;
use crate::reply::{Code, Covered, RefusedCoverage, Rejected, Reply};
use crate::runner::{OnDisconnect, RunnerState};
use crate::tx::Tx;

/// Ends a host epoch and covers runners of it: nothing of a covered epoch lives any more, so it may be placed again.
/// Runners with longer holds are covered by further entries, which name the same, ended host epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FenceHost {
    pub host: HostId,
    pub host_epoch: Epoch,
    /// How long, by its own clock, the proposing leader has had no renewal of this host in its term.
    pub waited_ms: u64,
    pub runners: Vec<Covered>,
}

impl FenceHost {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        check_named(&self.runners)?;
        let host = self.fenceable(tx)?;
        let (covered, refused) = self.sort_out(tx);
        if covered.is_empty() {
            let why = refused.first().map_or("", |first| first.reason.as_str());
            let message =
                format!("host {} was not fenced: none of its runners may be covered ({why})", host.name);
            return Err(Rejected::new(Code::NotCoverable, message, "the leader looks again by itself"));
        }
        end_host_epoch(tx, host, &covered);
        for one in &covered {
            self.cover(tx, *one);
        }
        Ok(Success::done(Reply::Fenced { covered, refused }))
    }

    /// The host, if this host epoch is its present one or ended last, and its shims are known to hold deadlines.
    fn fenceable(&self, tx: &Tx<'_>) -> Result<HostRecord, Rejected> {
        // A removed one, too: its `stop` runners end by fence (P18).
        let Some(host) = tx.state().host(self.host).cloned() else {
            return Err(Rejected::new(Code::HostNotFound, format!("there is no host {}", self.host), ""));
        };
        if host.host_epoch.or(host.fenced) != Some(self.host_epoch) {
            let message = format!("host {} does not hold host epoch {} any more", host.name, self.host_epoch);
            return Err(Rejected::new(Code::Fenced, message, "the leader looks again by itself"));
        }
        if host.lease.bound != LeaseBound::Bounded || host.unlisted {
            let message = format!("shims of host {} may hold no deadline, so it cannot be fenced", host.name);
            let next = "wait for it, or vouch for its end with `stratavore hosts declare-dead`";
            return Err(Rejected::new(Code::LeaseUnbounded, message, next));
        }
        Ok(host)
    }

    fn sort_out(&self, tx: &Tx<'_>) -> (Vec<Covered>, Vec<RefusedCoverage>) {
        let (mut covered, mut refused) = (Vec::new(), Vec::new());
        for one in &self.runners {
            match self.why_not(tx, one) {
                None if covered.contains(one) => {}
                None => covered.push(*one),
                Some(reason) => {
                    refused.push(RefusedCoverage { runner: one.runner, reason: reason.to_owned() });
                }
            }
        }
        (covered, refused)
    }

    fn why_not(&self, tx: &Tx<'_>, one: &Covered) -> Option<&'static str> {
        let state = tx.state();
        let runner = state.runner(one.runner);
        let Some(runner) = runner.filter(|r| r.epoch == Some(one.epoch) && r.host == Some(self.host)) else {
            return Some("not_current");
        };
        let too_early = || (!waited_enough(hold_ms(state, runner), self.waited_ms)).then_some("too_early");
        why_not_coverable(state, runner).or_else(too_early)
    }

    fn cover(&self, tx: &mut Tx<'_>, one: Covered) {
        let Some(runner) = tx.state().runner(one.runner).cloned() else { return };
        tx.runner_event(EventKind::RunnerFenced, &runner, HOST_FENCED);
        // P10: one that was not known to run yet counts as `stop` also in this.
        let again = runner.state == RunnerState::Starting || runner.on_disconnect == OnDisconnect::Stop;
        close(tx, runner, HOST_FENCED, again);
    }
}

/// Reason of what a fence ended.
const HOST_FENCED: &str = "host_fenced";

/// Remembers what is covered until the host has shown it dead (P3). The first entry also ends the host epoch.
pub(super) fn end_host_epoch(tx: &mut Tx<'_>, mut host: HostRecord, covered: &[Covered]) {
    let id = host.id;
    host.covered.extend(covered.iter().map(|one| (one.runner, one.epoch)));
    let ended = host.host_epoch.take();
    if let Some(ended) = ended {
        host.fenced = Some(ended);
        tx.host_event(EventKind::HostFenced, &host, &ended.to_string());
    }
    let ready = host.state == HostState::Ready;
    tx.put_host(host);
    if ready && let Some(host) = tx.state().host(id).cloned() {
        show_unreachable(tx, host);
    }
}

/// The count of epochs that one entry names.
pub(super) fn check_named(runners: &[Covered]) -> Result<(), Rejected> {
    if runners.is_empty() || runners.len() > COVERED_MAX {
        let message = format!("{} runners is not between 1 and {COVERED_MAX}", runners.len());
        return Err(Rejected::new(Code::TooMany, message, "send several entries"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OnDisconnect::{Keep, Stop};
    use crate::lab::{HOLD_NOT_WAITED, HOLD_WAITED, LEASE_WAITED, Lab};
    use crate::query::{coverable, desired};
    use crate::{Command, Fence, Lost, RunnerId, ShownState};

    fn lab() -> (Lab, HostId, HostId) {
        let mut lab = Lab::new();
        lab.create_project("web", 9).unwrap();
        let (a, b) = lab.two_hosts(4);
        (lab, a, b)
    }

    fn reasons(lab: &mut Lab, host: HostId, waited_ms: u64, runners: &[RunnerId]) -> Vec<String> {
        let fence = Command::FenceHost(lab.fence_command(host, waited_ms, runners));
        match lab.system(fence).unwrap() {
            Reply::Fenced { refused, .. } => refused.into_iter().map(|one| one.reason).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn p7_a_fence_ends_the_host_epoch_and_its_stop_runners_are_queued_again() {
        let (mut lab, a, b) = lab();
        let (runner, first) = lab.placed(a, Stop, true);
        let host_epoch = lab.state.host(a).unwrap().host_epoch;
        assert_eq!(coverable(&lab.state, a).len(), 1);
        assert_eq!(lab.fence(a, HOLD_WAITED, &[runner]).unwrap(), [runner]);
        let host = lab.state.host(a).unwrap();
        assert_eq!((host.host_epoch, host.fenced, host.state), (None, host_epoch, HostState::Unreachable));
        assert_eq!(host.covered.get(&runner), Some(&first));
        let record = lab.state.runner(runner).unwrap();
        assert_eq!((record.shown_state(), record.admitted, record.restarts), (ShownState::Pending, true, 1));
        let second = lab.assign(runner, b).unwrap();
        assert!(second > first);
        for kind in [EventKind::HostFenced, EventKind::RunnerFenced, EventKind::RunnerRestarted] {
            assert_eq!(lab.events_of(kind), 1, "{kind}");
        }
    }

    #[test]
    fn p7_nobody_is_covered_before_his_hold_has_passed() {
        let (mut lab, a, _) = lab();
        let (runner, _) = lab.placed(a, Stop, true);
        assert_eq!(lab.fence(a, HOLD_NOT_WAITED, &[runner]).unwrap_err().code, Code::NotCoverable);
        assert!(lab.state.host(a).unwrap().host_epoch.is_some(), "nothing was covered, nothing ended");
        lab.fence(a, HOLD_WAITED, &[runner]).unwrap();
    }

    #[test]
    fn p2_a_fence_covers_the_present_epoch_on_this_host_and_no_other() {
        let (mut lab, a, b) = lab();
        let (runner, _) = lab.placed(a, Stop, true);
        let (elsewhere, _) = lab.placed(b, Stop, true);
        let mut fence = lab.fence_command(a, HOLD_WAITED, &[runner]);
        fence.runners[0].epoch.index -= 1;
        assert_eq!(lab.system(Command::FenceHost(fence)).unwrap_err().code, Code::NotCoverable);
        assert_eq!(lab.fence(a, HOLD_WAITED, &[elsewhere]).unwrap_err().code, Code::NotCoverable);
        assert_eq!(
            lab.fence(a, HOLD_WAITED, &[runner, runner]).unwrap(),
            [runner],
            "named twice, ended once"
        );
    }

    #[test]
    fn p7_later_holds_are_covered_under_the_same_ended_host_epoch() {
        let (mut lab, a, _) = lab();
        let (short, _) = lab.placed(a, Keep, false);
        let (long, _) = lab.placed(a, Stop, true);
        assert_eq!(reasons(&mut lab, a, LEASE_WAITED, &[short, long]), ["too_early"]);
        let record = lab.state.runner(long).unwrap();
        assert_eq!((record.lost, record.state), (Some(Lost::HostUnreachable), RunnerState::Running));
        assert_eq!(lab.state.host_load(a).runners, 1, "the one that is not covered keeps its room");
        lab.fence(a, HOLD_WAITED, &[long]).unwrap();
        assert_eq!(lab.events_of(EventKind::HostFenced), 1);
        assert_eq!(lab.state.host(a).unwrap().covered.len(), 2);
    }

    #[test]
    fn p7_a_fence_of_another_term_or_of_none_is_refused() {
        let (mut lab, a, _) = lab();
        let (runner, _) = lab.placed(a, Stop, true);
        lab.entry_term = Some(lab.term - 1);
        assert_eq!(lab.fence(a, HOLD_WAITED, &[runner]).unwrap_err().code, Code::StaleTerm);
        let command = Command::FenceHost(lab.fence_command(a, HOLD_WAITED, &[runner]));
        let entry =
            crate::Entry { actor: crate::Actor::System, request_id: None, at: lab.now, term: None, command };
        let refused = lab.apply_entry(&entry).reply;
        assert_eq!(refused.rejected().unwrap().code, Code::StaleTerm);
    }

    #[test]
    fn p3_a_fence_of_an_older_host_epoch_is_refused() {
        let (mut lab, a, _) = lab();
        let old = lab.state.host(a).unwrap().host_epoch.unwrap();
        lab.connect(a, "boot-a2", 2, vec![]);
        let (runner, _) = lab.placed(a, Stop, true);
        let fence = FenceHost { host_epoch: old, ..lab.fence_command(a, HOLD_WAITED, &[runner]) };
        assert_eq!(lab.system(Command::FenceHost(fence)).unwrap_err().code, Code::Fenced);
    }

    #[test]
    fn p3_what_a_fenced_host_says_is_refused_until_it_has_listed() {
        let (mut lab, a, _) = lab();
        let (runner, epoch) = lab.placed(a, Stop, true);
        let host_epoch = lab.state.host(a).unwrap().host_epoch.unwrap();
        lab.fence(a, HOLD_WAITED, &[runner]).unwrap();
        let observations = vec![lab.observed(runner, epoch, 2, RunnerState::Running)];
        let report = crate::command::Report { host_epoch, ..lab.report_command(a, observations) };
        assert_eq!(lab.as_host(a, Command::Report(report)).unwrap_err().code, Code::Fenced);
        let renewed = Command::HostReachable(crate::command::HostReachable { host: a, host_epoch });
        assert_eq!(lab.system(renewed).unwrap_err().code, Code::Fenced);
        assert_eq!(lab.assign(runner, a).unwrap_err(), "not_ready");
    }

    #[test]
    fn p9_keep_runners_are_never_covered_and_keep_epoch_and_room() {
        let (mut lab, a, _) = lab();
        let (kept, epoch) = lab.placed(a, Keep, true);
        let (stopped, _) = lab.placed(a, Stop, true);
        assert_eq!(lab.fence(a, u64::MAX, &[kept]).unwrap_err().code, Code::NotCoverable);
        assert_eq!(reasons(&mut lab, a, u64::MAX, &[kept, stopped]), ["keep"]);
        let record = lab.state.runner(kept).unwrap();
        assert_eq!((record.epoch, record.shown_state()), (Some(epoch), ShownState::Lost));
        assert_eq!(lab.state.host_load(a).runners, 1);
        // P3: it carries over under a new host epoch.
        lab.connect(a, "boot-a", 2, vec![lab.observed(kept, epoch, 1, RunnerState::Running)]);
        let record = lab.state.runner(kept).unwrap();
        assert_eq!((record.epoch, record.shown_state()), (Some(epoch), ShownState::Running));
    }

    #[test]
    fn p9_a_covered_runner_that_was_to_stop_ends() {
        let (mut lab, a, _) = lab();
        let (runner, _) = lab.placed(a, Stop, true);
        lab.kill(&[runner], false).unwrap();
        lab.fence(a, HOLD_WAITED, &[runner]).unwrap();
        let record = lab.state.runner(runner).unwrap();
        assert_eq!((record.state, record.reason.as_str()), (RunnerState::Failed, "host_fenced"));
        assert!(record.settled && desired(&lab.state, a).is_empty());
    }

    #[test]
    fn p10_until_it_is_known_to_run_every_runner_counts_as_stop_with_a_lease() {
        let (mut lab, a, _) = lab();
        let (runner, _) = lab.placed(a, Keep, false);
        assert_eq!(coverable(&lab.state, a)[0].hold_ms, 15_000);
        assert_eq!(lab.fence(a, LEASE_WAITED - 1, &[runner]).unwrap_err().code, Code::NotCoverable);
        lab.fence(a, LEASE_WAITED, &[runner]).unwrap();
        assert_eq!(lab.state.runner(runner).unwrap().state, RunnerState::Pending);
    }

    #[test]
    fn p11_on_a_host_that_cannot_fence_everything_is_kept() {
        let (mut lab, a, _) = lab();
        for fence in [Fence::Weak, Fence::Unknown] {
            let connection = lab.state.host(a).unwrap().connection + 1;
            let mut connect = lab.connect_command(a, "boot-a", connection, None, vec![]);
            connect.facts.fence = fence;
            lab.as_host(a, Command::HostConnect(connect)).unwrap();
            let (starting, _) = lab.placed(a, Stop, false);
            assert_eq!(lab.state.runner(starting).unwrap().on_disconnect, Keep);
            assert_eq!(lab.fence(a, u64::MAX, &[starting]).unwrap_err().code, Code::NotCoverable);
        }
    }

    #[test]
    fn p11_a_runner_whose_own_fence_is_weak_is_kept() {
        let (mut lab, a, _) = lab();
        let (runner, epoch) = lab.placed(a, Stop, false);
        let mut weak = lab.observed(runner, epoch, 1, RunnerState::Running);
        weak.fence = Fence::Weak;
        lab.report(a, vec![weak]).unwrap();
        assert_eq!(lab.fence(a, u64::MAX, &[runner]).unwrap_err().code, Code::NotCoverable);
    }

    #[test]
    fn p15_a_deadline_is_no_proof_for_what_could_not_be_ended() {
        let (mut lab, a, _) = lab();
        let (runner, epoch) = lab.placed(a, Stop, true);
        let mut exited = lab.observed(runner, epoch, 2, RunnerState::Terminated);
        exited.exit = Some(crate::Exit { leftovers: vec!["7 sh".into()], ..crate::Exit::default() });
        lab.report(a, vec![exited]).unwrap();
        assert_eq!(lab.fence(a, u64::MAX, &[runner]).unwrap_err().code, Code::NotCoverable);
    }

    #[test]
    fn p15_a_fence_settles_what_was_closed_while_lost() {
        let (mut lab, a, _) = lab();
        let (runner, _) = lab.placed(a, Stop, true);
        lab.unreachable(a).unwrap();
        lab.kill(&[runner], true).unwrap();
        lab.fence(a, HOLD_WAITED, &[runner]).unwrap();
        let record = lab.state.runner(runner).unwrap();
        assert_eq!((record.state, record.settled), (RunnerState::Failed, true));
        lab.restart(runner).unwrap();
    }

    #[test]
    fn a_fence_names_some_and_not_too_many() {
        let (mut lab, a, _) = lab();
        assert_eq!(lab.fence(a, u64::MAX, &[]).unwrap_err().code, Code::TooMany);
        let many: Vec<_> = (0..=COVERED_MAX).map(|_| lab.fresh_runner_id()).collect();
        assert_eq!(lab.fence(a, u64::MAX, &many).unwrap_err().code, Code::TooMany);
        let stranger = lab.fresh_runner_id();
        // One that never connected holds no host epoch.
        let unheard = lab.join_host("c", 1);
        assert_eq!(lab.fence(unheard, 1, &[stranger]).unwrap_err().code, Code::Fenced);
    }
}
