//! What a host says about its runners.

use std::sync::Arc;

use crate::command::{Success, Verdict};
use crate::event::EventKind;
use crate::host::{Fence, HostRecord, HostState};
use crate::id::{Epoch, HostId, RunnerId};
use crate::lifecycle::{End, HOST_REBOOTED, end_as_reported, end_by_reboot, recover, settled_late};
use crate::limits::bounded;
use crate::reply::{Code, ObservedKey, Rejected, Reply};
use crate::runner::{Exit, RunnerRecord, RunnerState};
use crate::time::Millis;
use crate::tx::Tx;

/// Observations of one entry; an agent with more sends several.
pub const OBSERVATIONS_MAX: usize = 4096;

/// One runner as its host sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    pub runner: RunnerId,
    pub epoch: Epoch,
    /// Counted by the shim, from 1; a higher one is newer.
    pub rev: u64,
    /// Never pending.
    pub state: RunnerState,
    /// 0 until started.
    pub pid: u32,
    /// With terminated and failed.
    pub exit: Option<Exit>,
    pub reason: String,
    pub started_at: Option<Millis>,
    pub fence: Fence,
}

/// Observations of one host, since its last report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub host: HostId,
    pub host_epoch: Epoch,
    pub connection: u64,
    pub observations: Vec<Observation>,
}

impl Report {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        check_count(self.observations.len())?;
        let host = known_host(tx, self.host)?;
        if host.host_epoch != Some(self.host_epoch) {
            let message = format!("host epoch {} has ended", self.host_epoch);
            return Err(Rejected::new(Code::Fenced, message, "connect again with a full list"));
        }
        if host.connection != self.connection {
            let message = format!("connection {} is not the newest, {}", self.connection, host.connection);
            return Err(Rejected::new(Code::StaleConnection, message, "use the newest connection"));
        }
        let mut acknowledged = Vec::with_capacity(self.observations.len());
        for observation in &self.observations {
            if observe(tx, self.host, observation) == Seen::Known {
                acknowledged.push(observation.key());
            }
        }
        Ok(Success::done(Reply::Observed { acknowledged }))
    }
}

impl Observation {
    pub(crate) const fn key(&self) -> ObservedKey {
        ObservedKey { runner: self.runner, epoch: self.epoch, rev: self.rev }
    }
}

pub(super) fn check_count(count: usize) -> Result<(), Rejected> {
    if count <= OBSERVATIONS_MAX {
        return Ok(());
    }
    let message = format!("{count} observations are more than {OBSERVATIONS_MAX}");
    Err(Rejected::new(Code::TooMany, message, "send them in several reports"))
}

pub(super) fn known_host(tx: &Tx<'_>, id: HostId) -> Result<HostRecord, Rejected> {
    match tx.state().host(id) {
        None => Err(Rejected::new(Code::HostNotFound, format!("there is no host {id}"), "")),
        Some(host) if host.state == HostState::Removed => {
            let message = format!("host {} was removed", host.name);
            Err(Rejected::new(Code::HostRemoved, message, "join again with a new token"))
        }
        Some(host) => Ok(host.clone()),
    }
}

/// Whether the cluster has, or needs nothing of, what was observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// To be acknowledged: taken, or stale and of no more use.
    Known,
    /// A live runner that the cluster knows nothing about (P14).
    Stranger,
}

/// Takes one observation in; what is not of the present epoch or not newer changes nothing (P2, P15).
pub(super) fn observe(tx: &mut Tx<'_>, host: HostId, observation: &Observation) -> Seen {
    let Some(runner) = tx.state().runner(observation.runner) else {
        return if observation.state.is_ended() { Seen::Known } else { Seen::Stranger };
    };
    if runner.epoch != Some(observation.epoch) || runner.host != Some(host) {
        return Seen::Known;
    }
    let mut runner = runner.clone();
    if observation.state.is_ended() && claims_reboot(tx, host, observation) {
        if runner.is_live() {
            end_by_reboot(tx, runner);
        }
        return Seen::Known;
    }
    if !runner.is_live() {
        settle(tx, runner, observation);
        return Seen::Known;
    }
    if observation.rev < runner.rev {
        return Seen::Known;
    }
    recover(tx, runner.clone());
    runner.lost = None;
    if observation.rev > runner.rev || runner.rev == 0 {
        advance(tx, runner, observation);
    }
    Seen::Known
}

/// P8: of an epoch of an earlier boot the host knows no more than that it rebooted.
fn claims_reboot(tx: &Tx<'_>, host: HostId, observation: &Observation) -> bool {
    let exit = observation.exit.as_ref().map(|exit| exit.reason.as_str());
    let reboot = tx.state().host(host).and_then(|host| host.rebooted);
    (observation.reason == HOST_REBOOTED || exit == Some(HOST_REBOOTED))
        && reboot.is_some_and(|reboot| observation.epoch < reboot.at)
}

/// The proof that the tree of an epoch closed without it is gone.
fn settle(tx: &mut Tx<'_>, runner: RunnerRecord, observation: &Observation) {
    let clean = observation.exit.as_ref().is_none_or(|exit| exit.leftovers.is_empty());
    if !runner.settled && observation.state.is_ended() && clean && observation.rev >= runner.rev {
        let exit = observation.exit.as_ref().map(|exit| Arc::new(bounded_exit(exit)));
        let exit = exit.or_else(|| runner.exit.clone());
        settled_late(tx, RunnerRecord { settled: true, exit, rev: observation.rev, ..runner });
    }
}

fn advance(tx: &mut Tx<'_>, mut runner: RunnerRecord, observation: &Observation) {
    let (from, to) = (runner.state, observation.state);
    if from != to && !from.may_become(to) {
        return;
    }
    runner.rev = observation.rev;
    if observation.pid != 0 {
        runner.pid = observation.pid;
    }
    if observation.fence != Fence::Unknown {
        runner.fence = observation.fence;
    }
    runner.started_at = observation.started_at.or(runner.started_at);
    let reason = bounded(&observation.reason);
    // Reports are coalesced: a short life is first heard of at its end, and it began all the same.
    let began = from == RunnerState::Starting && to != from && runner.started_at.is_some();
    if began {
        tx.runner_event(EventKind::RunnerStarted, &runner, "");
    }
    if to.is_ended() {
        let exit = observation.exit.as_ref().map(bounded_exit);
        let reason = match &exit {
            Some(exit) if reason.is_empty() => exit.reason.clone(),
            _ => reason,
        };
        return end_as_reported(tx, runner, End { state: to, exit, reason, settled: true });
    }
    runner.state = to;
    runner.reason = reason;
    let kind = match (from, to) {
        (RunnerState::Starting, RunnerState::Running | RunnerState::Paused) if !began => {
            Some(EventKind::RunnerStarted)
        }
        (RunnerState::Running, RunnerState::Paused) => Some(EventKind::RunnerPaused),
        (RunnerState::Paused, RunnerState::Running) => Some(EventKind::RunnerResumed),
        _ => None,
    };
    if let Some(kind) = kind {
        tx.runner_event(kind, &runner, &runner.reason);
    }
    tx.put_runner(runner);
}

/// Names of leftover processes come from outside; so many are worth keeping.
const LEFTOVERS_KEPT: usize = 32;

fn bounded_exit(exit: &Exit) -> Exit {
    let leftovers = exit.leftovers.iter().take(LEFTOVERS_KEPT).map(|text| bounded(text)).collect();
    Exit { reason: bounded(&exit.reason), leftovers, ..exit.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Lab;
    use crate::{Command, ShownState};

    fn placed() -> (Lab, HostId, RunnerId, Epoch) {
        let mut lab = Lab::new();
        let host = lab.host("a", 4);
        lab.create_project("web", 1).unwrap();
        let runner = lab.launch("web", 1)[0];
        let epoch = lab.assign(runner, host).unwrap();
        (lab, host, runner, epoch)
    }

    #[test]
    fn a_life_from_start_to_exit() {
        let (mut lab, host, runner, epoch) = placed();
        lab.report(host, vec![lab.observed(runner, epoch, 1, RunnerState::Running)]).unwrap();
        lab.report(host, vec![lab.observed(runner, epoch, 2, RunnerState::Paused)]).unwrap();
        lab.report(host, vec![lab.observed(runner, epoch, 3, RunnerState::Running)]).unwrap();
        let mut exited = lab.observed(runner, epoch, 4, RunnerState::Terminated);
        exited.exit = Some(Exit { code: Some(3), reason: "exited".into(), ..Exit::default() });
        let acknowledged = lab.report(host, vec![exited]).unwrap();
        assert_eq!(acknowledged, [ObservedKey { runner, epoch, rev: 4 }]);
        let record = lab.state.runner(runner).unwrap();
        assert_eq!((record.exit.as_ref().unwrap().code, record.reason.as_str()), (Some(3), "exited"));
        assert_eq!(lab.state.host_load(host).runners, 0);
        for kind in [
            EventKind::RunnerStarted,
            EventKind::RunnerPaused,
            EventKind::RunnerResumed,
            EventKind::RunnerStopped,
        ] {
            assert_eq!(lab.events_of(kind), 1, "{kind}");
        }
    }

    #[test]
    fn a_life_heard_of_at_its_end_has_begun_and_one_without_a_start_has_not() {
        let (mut lab, host, runner, epoch) = placed();
        let mut exited = lab.observed(runner, epoch, 3, RunnerState::Terminated);
        exited.exit = Some(Exit { code: Some(0), reason: "exited".into(), ..Exit::default() });
        lab.report(host, vec![exited]).unwrap();
        assert_eq!(lab.events_of(EventKind::RunnerStarted), 1);
        let other = lab.launch("web", 1)[0];
        let epoch = lab.assign(other, host).unwrap();
        let mut failed = lab.observed(other, epoch, 2, RunnerState::Failed);
        failed.started_at = None;
        failed.exit = Some(Exit { reason: "workdir_missing".into(), ..Exit::default() });
        lab.report(host, vec![failed]).unwrap();
        assert_eq!((lab.events_of(EventKind::RunnerStarted), lab.events_of(EventKind::RunnerFailed)), (1, 1));
    }

    #[test]
    fn p2_stale_ones_change_nothing_but_are_acknowledged() {
        let (mut lab, host, runner, epoch) = placed();
        lab.report(host, vec![lab.observed(runner, epoch, 5, RunnerState::Running)]).unwrap();
        let before = lab.state.runner(runner).unwrap().clone();
        let old = Epoch { incarnation: 1, index: epoch.index - 1 };
        let unknown = lab.fresh_runner_id();
        let stale = vec![
            lab.observed(runner, epoch, 4, RunnerState::Terminated),
            lab.observed(runner, epoch, 5, RunnerState::Terminated),
            lab.observed(runner, old, 9, RunnerState::Terminated),
            lab.observed(unknown, old, 9, RunnerState::Terminated),
        ];
        assert_eq!(lab.report(host, stale).unwrap().len(), 4);
        assert_eq!(*lab.state.runner(runner).unwrap(), before);
    }

    #[test]
    fn p15_rank_never_falls_within_an_epoch() {
        let (mut lab, host, runner, epoch) = placed();
        lab.report(host, vec![lab.observed(runner, epoch, 1, RunnerState::Stopping)]).unwrap();
        lab.report(host, vec![lab.observed(runner, epoch, 2, RunnerState::Running)]).unwrap();
        assert_eq!(lab.state.runner(runner).unwrap().state, RunnerState::Stopping);
    }

    #[test]
    fn p18_a_report_of_another_host_or_connection_is_refused() {
        let (mut lab, host, runner, epoch) = placed();
        let observations = vec![lab.observed(runner, epoch, 1, RunnerState::Running)];
        let host_epoch = lab.state.host(host).unwrap().host_epoch.unwrap();
        let mut report = Report { host, host_epoch, connection: 99, observations };
        let refused = lab.as_host(host, Command::Report(report.clone())).unwrap_err();
        assert_eq!(refused.code, Code::StaleConnection);
        report.host_epoch.index -= 1;
        let refused = lab.as_host(host, Command::Report(report.clone())).unwrap_err();
        assert_eq!(refused.code, Code::Fenced);
        let other = lab.host("b", 1);
        let refused = lab.as_host(other, Command::Report(report)).unwrap_err();
        assert_eq!(refused.code, Code::NotAllowed);
    }

    #[test]
    fn the_end_frees_a_quota_place_for_the_longest_waiting() {
        let (mut lab, host, runner, epoch) = placed();
        let waiting = lab.launch("web", 2);
        lab.report(host, vec![lab.observed(runner, epoch, 1, RunnerState::Failed)]).unwrap();
        assert!(lab.state.runner(waiting[0]).unwrap().admitted);
        assert!(!lab.state.runner(waiting[1]).unwrap().admitted);
    }

    #[test]
    fn p15_leftovers_leave_the_runner_unsettled() {
        let (mut lab, host, runner, epoch) = placed();
        let mut exited = lab.observed(runner, epoch, 1, RunnerState::Terminated);
        exited.exit = Some(Exit { leftovers: vec!["12 sleep".into()], ..Exit::default() });
        lab.report(host, vec![exited]).unwrap();
        let record = lab.state.runner(runner).unwrap();
        assert_eq!((record.shown_state(), record.settled), (ShownState::Terminated, false));
        assert_eq!(lab.state.host_load(host).runners, 1, "it still takes room");
        lab.report(host, vec![lab.observed(runner, epoch, 2, RunnerState::Terminated)]).unwrap();
        assert!(lab.state.runner(runner).unwrap().settled);
    }
}
