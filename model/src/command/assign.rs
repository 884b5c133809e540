//! The planner's placements, checked again against the newest state.

use crate::command::{Success, Verdict};
use crate::event::EventKind;
use crate::fit::{Need, misfit};
use crate::id::{Epoch, HostId, RunnerId};
use crate::lease::{placed_hold, placed_policy};
use crate::reply::{Code, RefusedPlacement, Rejected, Reply};
use crate::restart::RESTART_BACKOFF;
use crate::runner::{QUOTA_REACHED, RunnerRecord, RunnerState};
use crate::tx::Tx;

/// Placements of one entry.
pub const PLACEMENTS_MAX: usize = 1024;

/// One runner on one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    pub runner: RunnerId,
    pub host: HostId,
}

/// Places runners; the log index becomes their epoch (P2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assign {
    pub placements: Vec<Placement>,
}

impl Assign {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        if self.placements.len() > PLACEMENTS_MAX {
            let message = format!("{} placements are more than {PLACEMENTS_MAX}", self.placements.len());
            return Err(Rejected::new(Code::TooMany, message, "send several entries"));
        }
        let (mut placed, mut refused) = (Vec::new(), Vec::new());
        for placement in &self.placements {
            let Placement { runner, host } = *placement;
            match place(tx, placement) {
                Ok(epoch) => placed.push((runner, epoch)),
                Err(reason) => refused.push(RefusedPlacement { runner, host, reason }),
            }
        }
        Ok(Success::done(Reply::Assigned { placed, refused }))
    }
}

/// The plan was made from an older state: everything is asked again.
fn place(tx: &mut Tx<'_>, placement: &Placement) -> Result<Epoch, String> {
    let state = tx.state();
    let runner = state.runner(placement.runner).ok_or("there is no such runner")?;
    let host = state.host(placement.host).ok_or("there is no such host")?;
    if runner.state != RunnerState::Pending {
        return Err(format!("it is {}, not pending", runner.state.as_str()));
    }
    if !runner.admitted {
        return Err(QUOTA_REACHED.into());
    }
    // P2: nobody can have planned it, and it would get the epoch of the placement that ended in this very entry.
    if runner.queued.index == tx.position.index {
        return Err("it became pending in this entry".into());
    }
    if runner.backs_off(tx.now()).is_some() {
        return Err(RESTART_BACKOFF.into());
    }
    let raised_at = state.cluster().map_or(0, |cluster| cluster.raised_at_index);
    // A restart has moved it in the queue; what it ran as before the recovery may live all the same.
    let may_live = runner.queued.index <= raised_at || (raised_at > 0 && runner.restarts > 0);
    if may_live && state.unlisted_hosts().len() > 0 {
        return Err("hosts that may have it have not reported since the recovery".into());
    }
    if let Some(misfit) = misfit(host, &state.host_load(host.id), &Need::of(runner)) {
        return Err(misfit.as_str().into());
    }
    let epoch = tx.epoch();
    let runner = RunnerRecord {
        state: RunnerState::Starting,
        epoch: Some(epoch),
        host: Some(placement.host),
        on_disconnect: placed_policy(&runner.spec, host),
        hold_ms: placed_hold(state, &runner.spec),
        reason: String::new(),
        retry: runner.retry.clone().map(|retry| retry.placed(tx.now())),
        ..runner.clone()
    };
    tx.runner_event(EventKind::RunnerPlaced, &runner, "");
    tx.put_runner(runner);
    Ok(epoch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Command;
    use crate::lab::Lab;

    #[test]
    fn the_entry_is_the_epoch_and_a_runner_is_placed_once() {
        let mut lab = Lab::new();
        let host = lab.host("a", 4);
        lab.create_project("web", 5).unwrap();
        let runner = lab.launch("web", 1)[0];
        let epoch = lab.assign(runner, host).unwrap();
        assert_eq!(epoch, Epoch { incarnation: 1, index: lab.index });
        assert_eq!(lab.assign(runner, host).unwrap_err(), "it is starting, not pending");
        assert_eq!(lab.state.host_load(host).slots, 1);
    }

    #[test]
    fn p9_policy_and_hold_are_fixed_by_the_placement_between_lease_and_longest_hold() {
        let mut lab = Lab::new();
        let host = lab.host("a", 9);
        lab.create_project("web", 9).unwrap();
        let placed = |lab: &mut Lab, hold_ms: u64| {
            let mut launch = lab.launch_command("web", 1);
            launch.spec.on_disconnect = crate::OnDisconnect::Stop;
            launch.spec.hold_ms = hold_ms;
            let runner = launch.ids[0];
            lab.user(Command::Launch(launch))?;
            lab.assign(runner, host).unwrap();
            let record = lab.state.runner(runner).unwrap();
            Ok::<_, Rejected>((record.on_disconnect, record.hold_ms))
        };
        assert_eq!(placed(&mut lab, 0), Ok((crate::OnDisconnect::Stop, 120_000)));
        assert_eq!(placed(&mut lab, 15_000), Ok((crate::OnDisconnect::Stop, 15_000)));
        assert_eq!(placed(&mut lab, 600_000), Ok((crate::OnDisconnect::Stop, 600_000)));
        for hold_ms in [14_999, 600_001] {
            let refused = placed(&mut lab, hold_ms).unwrap_err();
            assert_eq!((refused.code, refused.field.as_deref()), (Code::BadArgument, Some("spec.hold_ms")));
        }
    }

    #[test]
    fn p9_a_hold_is_never_below_a_lease_whatever_the_cluster_was_founded_with() {
        let Command::InitCluster(mut init) = crate::lab::init() else { panic!("not the first command") };
        init.lease.hold_ms = 1000;
        let mut lab = Lab::empty();
        lab.system(Command::InitCluster(init)).unwrap();
        let host = lab.host("a", 4);
        lab.create_project("web", 3).unwrap();
        let (runner, _) = lab.placed(host, crate::OnDisconnect::Stop, false);
        assert_eq!(lab.state.runner(runner).unwrap().hold_ms, 15_000);
    }

    #[test]
    fn every_predicate_is_asked_again() {
        let mut lab = Lab::new();
        let full = lab.host("full", 1);
        let away = lab.join_host("away", 4);
        let cordoned = lab.host("cordoned", 4);
        lab.cordon("cordoned", true).unwrap();
        lab.create_project("web", 2).unwrap();
        let runners = lab.launch("web", 3);
        lab.assign(runners[0], full).unwrap();
        assert_eq!(lab.assign(runners[1], full).unwrap_err(), "slots");
        assert_eq!(lab.assign(runners[1], away).unwrap_err(), "not_ready");
        assert_eq!(lab.assign(runners[1], cordoned).unwrap_err(), "cordoned");
        assert_eq!(lab.assign(runners[2], cordoned).unwrap_err(), QUOTA_REACHED);
    }

    #[test]
    fn one_bad_placement_does_not_spoil_the_others() {
        let mut lab = Lab::new();
        let host = lab.host("a", 1);
        lab.create_project("web", 5).unwrap();
        let runners = lab.launch("web", 2);
        let placements = runners.iter().map(|&runner| Placement { runner, host }).collect();
        let reply = lab.system(Command::Assign(Assign { placements })).unwrap();
        let Reply::Assigned { placed, refused } = reply else { panic!("{reply:?}") };
        assert_eq!((placed.len(), refused.len()), (1, 1));
        assert_eq!(refused[0].reason, "slots");
    }

    #[test]
    fn a_plan_of_an_old_term_is_refused_whole() {
        let mut lab = Lab::new();
        let host = lab.host("a", 1);
        lab.create_project("web", 5).unwrap();
        let runner = lab.launch("web", 1)[0];
        lab.entry_term = Some(lab.term - 1);
        assert!(lab.assign(runner, host).unwrap_err().contains("term"));
    }
}
