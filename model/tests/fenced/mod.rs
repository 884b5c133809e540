//! The steps of fences, vouched ends and members.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use stratavore_model::command::{
    DeclareHostDead, DeclareRunnerDead, DrainHost, Finalize, ForgoList, Joiner, RemoveNode,
};
use stratavore_model::{Code, Command, HostState, Role};

use super::lab::{HOLD_NOT_WAITED, HOLD_WAITED, LEASE_WAITED};
use super::steps::Step;
use super::{Run, outcome, pick};

impl Run {
    pub(crate) fn fence(&mut self, step: &Step) {
        match *step {
            Step::Fence { host, waited, list, old } => {
                let Some(at) = self.host_where(host, |at| self.reference.used(at) > 0) else { return };
                let on = self.reference.runners.iter().filter(|r| r.host == Some(at)).enumerate();
                let named: Vec<_> =
                    on.filter(|(n, _)| (list | 1) >> (n % 64) & 1 == 1).map(|(_, r)| r.id).collect();
                let mut fence = self.lab.fence_command(self.reference.hosts[at].id, wait(waited), &named);
                fence.host_epoch.index = fence.host_epoch.index.saturating_sub(u64::from(old));
                let (epoch, waited) = (fence.host_epoch.index, fence.waited_ms);
                let theirs = outcome(self.lab.system(Command::FenceHost(fence)));
                assert_eq!(theirs, self.reference.fence(at, epoch, waited, &named));
            }
            Step::LeaseBounded { host } => {
                if let Some(at) = self.with_epoch(host) {
                    let theirs = outcome(self.lab.lease_bounded(self.reference.hosts[at].id));
                    assert_eq!(theirs, self.reference.lease_bounded(at, self.lab.now.0));
                }
            }
            Step::ConfirmReboot { host, waited } => {
                let waits = |at| !self.reference.waiting_on(at).is_empty();
                let Some(at) = self.host_where(host, waits) else { return };
                let theirs = self.lab.confirm_reboot(self.reference.hosts[at].id, wait(waited));
                let theirs = theirs.map(drop).map_err(|rejected| rejected.code);
                assert_eq!(theirs, self.reference.confirm_reboot(at, wait(waited)));
            }
            Step::ForgoList { host } => {
                let Some(at) = pick(&self.reference.hosts, host) else { return };
                let host = self.reference.hosts[at].id;
                let theirs = outcome(self.lab.system(Command::ForgoList(ForgoList { host, waited_ms: 0 })));
                let removed = self.reference.hosts[at].state == HostState::Removed;
                assert_eq!(theirs, if removed { Err(Code::HostRemoved) } else { Ok(()) });
            }
            _ => self.vouch(step),
        }
    }

    fn vouch(&mut self, step: &Step) {
        match *step {
            Step::DeclareRunnerDead { runner } => {
                let lost = |at: &usize| {
                    self.reference.runners[*at].lost.is_some() || !self.reference.runners[*at].settled
                };
                let lost: Vec<_> = (0..self.reference.runners.len()).filter(lost).collect();
                let anyone = pick(&self.reference.runners, runner);
                let Some(at) =
                    pick(&lost, runner).map(|at| lost[at]).filter(|_| !runner.is_multiple_of(4)).or(anyone)
                else {
                    return;
                };
                let runner = self.reference.runners[at].id.to_string();
                let theirs = self.lab.user(Command::DeclareRunnerDead(DeclareRunnerDead { runner }));
                assert_eq!(outcome(theirs), self.reference.declare_runner_dead(at));
            }
            Step::DeclareHostDead { host } => {
                let Some(at) = pick(&self.reference.hosts, host) else { return };
                let host = self.reference.hosts[at].id.to_string();
                let theirs = self.lab.user(Command::DeclareHostDead(DeclareHostDead { host }));
                assert_eq!(outcome(theirs), self.reference.declare_host_dead(at));
            }
            Step::Drain { host } => {
                let Some(at) = pick(&self.reference.hosts, host) else { return };
                let host = self.reference.hosts[at].id.to_string();
                let theirs = self.lab.user(Command::DrainHost(DrainHost { host }));
                assert_eq!(outcome(theirs), self.reference.drain(at));
            }
            Step::Maintain { minutes } => {
                let for_ms = u64::from(minutes) * 60_000;
                self.lab.maintenance(for_ms).unwrap();
                self.reference.maintain(for_ms, self.lab.now.0);
            }
            _ => {}
        }
    }

    /// Members have no bearing on the rest: what is expected is said here.
    pub(crate) fn members(&mut self, step: &Step) {
        let present: Vec<_> = self.lab.state.nodes().filter(|node| !node.removed).cloned().collect();
        let version = self.lab.state.cluster().unwrap().version;
        match *step {
            Step::JoinNode { max_version } => {
                let token = self.lab.token(Role::Node);
                let addresses = Default::default();
                let joiner = Joiner::Node { addresses, version: String::new(), max_version };
                let redeem = self.lab.redeem_command(token, joiner);
                let theirs = outcome(self.lab.as_node(Command::RedeemToken(redeem)));
                let expected = if max_version < version { Err(Code::VersionTooOld) } else { Ok(()) };
                assert_eq!(theirs, expected);
            }
            Step::RemoveNode { node } => {
                // The first one proposes for everybody here.
                let Some(node) = present.iter().skip(1).nth(usize::from(node) % 4).map(|node| node.id) else {
                    return;
                };
                let theirs = outcome(self.lab.user(Command::RemoveNode(RemoveNode { node })));
                assert_eq!(theirs, Ok(()));
            }
            Step::Finalize { version: wanted } => {
                let theirs = outcome(self.lab.user(Command::Finalize(Finalize { version: wanted })));
                let known = present.iter().all(|node| node.max_version >= wanted);
                let expected = match wanted {
                    _ if wanted < version => Err(Code::BadArgument),
                    _ if known => Ok(()),
                    _ => Err(Code::VersionNotSupported),
                };
                assert_eq!(theirs, expected);
            }
            _ => {}
        }
    }
}

/// Around every hold that there is.
fn wait(number: u8) -> u64 {
    let waits = [15_149, LEASE_WAITED, 30_299, 30_300, HOLD_NOT_WAITED, HOLD_WAITED, 300_000, u64::MAX];
    waits[usize::from(number) % waits.len()]
}
