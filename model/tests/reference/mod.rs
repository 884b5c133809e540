//! The same rules a second time, written the naive way: vectors, full scans, everything recomputed. No index, no rows,
//! no undo. What both agree on after hundreds of random commands is very likely what was meant.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod compare;
mod fences;
mod restarts;

use stratavore_model::{Code, HostId, HostState, LeaseBound, Lost, RestartPolicy, RunnerId, RunnerState};

#[derive(Debug, Clone)]
pub(crate) struct Project {
    pub(crate) name: String,
    pub(crate) max: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct Runner {
    pub(crate) id: RunnerId,
    pub(crate) project: usize,
    pub(crate) slots: u32,
    /// Order in the queue.
    pub(crate) ticket: u64,
    pub(crate) state: RunnerState,
    pub(crate) lost: Option<Lost>,
    /// Wanted to stop; true = by force.
    pub(crate) stop: Option<bool>,
    pub(crate) again: bool,
    pub(crate) admitted: bool,
    pub(crate) host: Option<usize>,
    /// Log index of the placement.
    pub(crate) epoch: Option<u64>,
    pub(crate) rev: u64,
    pub(crate) settled: bool,
    pub(crate) restarts: u32,
    /// Asked for `stop`.
    pub(crate) restartable: bool,
    pub(crate) hold_asked: u64,
    /// What its placement fixed.
    pub(crate) keep: bool,
    pub(crate) hold: u64,
    pub(crate) policy: RestartPolicy,
    /// Restarts in a row by the policy.
    pub(crate) attempts: u32,
    pub(crate) not_before: u64,
    pub(crate) placed_at: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub(crate) id: HostId,
    pub(crate) name: String,
    pub(crate) slots: u32,
    pub(crate) state: HostState,
    pub(crate) cordoned: bool,
    pub(crate) epoch: Option<u64>,
    /// Every boot so far, the present one last.
    pub(crate) boots: Vec<u32>,
    pub(crate) connection: u64,
    pub(crate) weak: bool,
    pub(crate) bound: LeaseBound,
    pub(crate) widened: u64,
    pub(crate) fenced: Option<u64>,
    pub(crate) covered: Vec<(RunnerId, u64)>,
    /// The host epoch before the boot, and the entry that brought the boot.
    pub(crate) rebooted: Option<(u64, u64)>,
    pub(crate) draining: bool,
    pub(crate) cloned: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) runner: RunnerId,
    pub(crate) epoch: u64,
    pub(crate) rev: u64,
    pub(crate) state: RunnerState,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Reference {
    pub(crate) projects: Vec<Project>,
    pub(crate) runners: Vec<Runner>,
    pub(crate) hosts: Vec<Host>,
    /// Until when, and how much longer holds are.
    maintenance: Option<(u64, u64)>,
    tickets: u64,
}

fn ended(state: RunnerState) -> bool {
    matches!(state, RunnerState::Terminated | RunnerState::Failed)
}

fn placed(runner: &Runner) -> bool {
    !ended(runner.state) && runner.state != RunnerState::Pending
}

impl Reference {
    fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    fn admitted(&self, project: usize) -> u32 {
        self.runners.iter().filter(|r| r.project == project && r.admitted).count() as u32
    }

    pub(crate) fn used(&self, host: usize) -> u32 {
        let on = |r: &&Runner| r.host == Some(host) && (placed(r) || !r.settled);
        self.runners.iter().filter(on).map(|r| r.slots).sum()
    }

    fn open(&self, host: usize) -> bool {
        self.hosts[host].state == HostState::Ready && !self.hosts[host].cordoned
    }

    fn free(&self, host: usize) -> u32 {
        self.hosts[host].slots.saturating_sub(self.used(host))
    }

    /// Gives every free quota place to whoever waits longest.
    fn fill_quotas(&mut self) {
        for project in 0..self.projects.len() {
            while self.admitted(project) < self.projects[project].max {
                let waits =
                    |r: &&mut Runner| r.project == project && r.state == RunnerState::Pending && !r.admitted;
                let Some(next) = self.runners.iter_mut().filter(waits).min_by_key(|r| r.ticket) else {
                    break;
                };
                next.admitted = true;
            }
        }
    }

    pub(crate) fn create_project(&mut self, name: &str, max: u32) -> Result<(), Code> {
        if self.projects.iter().any(|p| p.name == name) {
            return Err(Code::ProjectExists);
        }
        self.projects.push(Project { name: name.into(), max });
        Ok(())
    }

    pub(crate) fn set_quota(&mut self, project: usize, max: u32) -> Result<(), Code> {
        self.projects[project].max = max;
        self.fill_quotas();
        Ok(())
    }

    pub(crate) fn launch(
        &mut self,
        project: usize,
        ids: &[RunnerId],
        slots: u32,
        no_queue: bool,
        (restartable, hold_asked, policy): (bool, u64, RestartPolicy),
    ) -> Result<(), Code> {
        if policy != RestartPolicy::Never && !restartable {
            return Err(Code::BadArgument);
        }
        if no_queue {
            let wanted = ids.len() as u32;
            if self.admitted(project) + wanted > self.projects[project].max {
                return Err(Code::QuotaReached);
            }
            let open: Vec<_> = (0..self.hosts.len()).filter(|h| self.open(*h)).collect();
            let queue = self.runners.iter().filter(|r| r.state == RunnerState::Pending && r.admitted);
            let queued: u32 = queue.map(|r| r.slots).sum();
            let free: u32 = open.iter().map(|h| self.free(*h)).sum();
            if open.is_empty() {
                return Err(Code::NoHost);
            }
            if queued + wanted * slots > free || !open.iter().any(|h| self.free(*h) >= slots) {
                return Err(Code::NoCapacity);
            }
        }
        for id in ids {
            let ticket = self.ticket();
            self.runners.push(Runner {
                id: *id,
                project,
                slots,
                ticket,
                state: RunnerState::Pending,
                lost: None,
                stop: None,
                again: false,
                admitted: false,
                host: None,
                epoch: None,
                rev: 0,
                settled: true,
                restarts: 0,
                restartable,
                hold_asked,
                keep: true,
                hold: 0,
                policy,
                attempts: 0,
                not_before: 0,
                placed_at: 0,
            });
        }
        self.fill_quotas();
        Ok(())
    }

    pub(crate) fn assign(&mut self, runner: usize, host: usize, (index, now): (u64, u64)) -> bool {
        let fits = self.open(host) && self.free(host) >= self.runners[runner].slots;
        let weak = self.hosts[host].weak;
        let runner = &mut self.runners[runner];
        let ok = fits && runner.state == RunnerState::Pending && runner.admitted && now >= runner.not_before;
        if ok {
            if runner.policy != RestartPolicy::Never {
                (runner.not_before, runner.placed_at) = (0, now);
            }
            (runner.state, runner.host, runner.epoch) = (RunnerState::Starting, Some(host), Some(index));
            runner.keep = !runner.restartable || weak;
            runner.hold = if runner.hold_asked == 0 { 120_000 } else { runner.hold_asked };
        }
        ok
    }

    fn end(&mut self, at: usize, state: RunnerState, settled: bool) {
        let ticket = self.ticket();
        let runner = &mut self.runners[at];
        (runner.state, runner.lost, runner.admitted, runner.settled) = (state, None, false, settled);
        let not_before = std::mem::take(&mut runner.not_before);
        if runner.again && settled {
            (runner.state, runner.host, runner.epoch) = (RunnerState::Pending, None, None);
            (runner.stop, runner.rev, runner.ticket) = (None, 0, ticket);
            runner.restarts += 1;
            runner.not_before = not_before;
            // It gives its own place up for itself, before anyone who waits.
            let project = runner.project;
            if self.admitted(project) < self.projects[project].max {
                self.runners[at].admitted = true;
            }
        }
        self.runners[at].again = false;
        self.fill_quotas();
    }

    fn observe(&mut self, host: usize, seen: Seen, now: u64) {
        let Some(at) = self.runners.iter().position(|r| r.id == seen.runner) else { return };
        let runner = &mut self.runners[at];
        if runner.epoch != Some(seen.epoch) || runner.host != Some(host) {
            return;
        }
        if ended(runner.state) {
            if ended(seen.state) && seen.rev >= runner.rev && !runner.settled {
                (runner.settled, runner.rev) = (true, seen.rev);
            }
            return;
        }
        if seen.rev < runner.rev {
            return;
        }
        runner.lost = None;
        let order = |state: RunnerState| match state {
            RunnerState::Pending => 0,
            RunnerState::Starting => 1,
            RunnerState::Running | RunnerState::Paused => 2,
            RunnerState::Stopping => 3,
            RunnerState::Terminated | RunnerState::Failed => 4,
        };
        if (seen.rev == runner.rev && runner.rev > 0) || order(seen.state) < order(runner.state) {
            return;
        }
        runner.rev = seen.rev;
        if ended(seen.state) { self.end_by_itself(at, seen.state, now) } else { runner.state = seen.state }
    }

    pub(crate) fn report(&mut self, host: usize, seen: Seen, now: u64) -> Result<(), Code> {
        match self.hosts[host].state {
            HostState::Removed => return Err(Code::IdentityRemoved),
            _ if self.hosts[host].epoch.is_none() => return Err(Code::Fenced),
            _ => {}
        }
        self.observe(host, seen, now);
        Ok(())
    }

    pub(crate) fn connect(
        &mut self,
        host: usize,
        boot: u32,
        connection: u64,
        upto: u64,
        list: &[Seen],
        (index, now, weak): (u64, u64, bool),
    ) -> Result<(), Code> {
        let present_hosts = self.present();
        let widening = self.widening(now);
        let record = &mut self.hosts[host];
        if record.state == HostState::Removed {
            return Err(Code::IdentityRemoved);
        }
        let (present, before) = (record.boots.last().copied(), record.boots.iter().rev().nth(1).copied());
        if present == Some(boot) && connection < record.connection {
            return Err(Code::StaleConnection);
        }
        if before == Some(boot) {
            (record.cordoned, record.cloned) = (true, true);
            return Err(Code::DuplicateHost);
        }
        if list.iter().any(|seen| !ended(seen.state) && record.covered.contains(&(seen.runner, seen.epoch))) {
            return Err(Code::CoveredAlive);
        }
        let rebooted = present.is_some_and(|present| present != boot);
        let fresh = present != Some(boot);
        let old = record.epoch.or(record.fenced);
        if rebooted {
            record.rebooted = old.map(|old| (old, index)).or(record.rebooted);
        }
        if fresh {
            record.boots.push(boot);
            record.epoch = None;
        }
        if record.epoch.is_none() {
            (record.epoch, record.fenced) = (Some(index), None);
            record.covered.clear();
            record.bound = match (present_hosts, fresh) {
                (1, _) => LeaseBound::Unbounded,
                (_, true) => LeaseBound::Bounded,
                (_, false) => record.bound,
            };
            record.widened = if fresh { widening } else { record.widened.max(widening) };
        }
        (record.state, record.connection, record.weak) = (HostState::Ready, connection, weak);
        for seen in list {
            self.observe(host, *seen, now);
        }
        // By id, as the command does: after a reboot that is the order in which restarts queue again.
        let mut absent: Vec<_> = (0..self.runners.len()).collect();
        absent.sort_by_key(|at| self.runners[*at].id);
        for at in absent {
            self.judge(host, at, upto, list, rebooted);
        }
        self.forget_reboot(host);
        Ok(())
    }

    fn judge(&mut self, host: usize, at: usize, upto: u64, list: &[Seen], rebooted: bool) {
        let runner = &mut self.runners[at];
        let Some(epoch) = runner.epoch.filter(|_| runner.host == Some(host)) else { return };
        let listed = list.iter().any(|seen| seen.runner == runner.id && seen.epoch == epoch);
        match (ended(runner.state), epoch <= upto, rebooted) {
            (true, ..) => {}
            (false, false, _) if runner.lost == Some(Lost::HostUnreachable) => runner.lost = None,
            (false, false, _) => {}
            (false, true, _) if listed => {}
            (false, true, true) => self.reboot(at),
            (false, true, false) => runner.lost = runner.lost.or(Some(Lost::NotListed)),
        }
    }

    pub(crate) fn unreachable(&mut self, host: usize) -> Result<(), Code> {
        if self.hosts[host].state == HostState::Ready {
            self.hosts[host].state = HostState::Unreachable;
            for runner in self.runners.iter_mut().filter(|r| r.host == Some(host) && placed(r)) {
                runner.lost = runner.lost.or(Some(Lost::HostUnreachable));
            }
        }
        Ok(())
    }

    pub(crate) fn reachable(&mut self, host: usize) -> Result<(), Code> {
        if self.hosts[host].state == HostState::Unreachable {
            self.hosts[host].state = HostState::Ready;
            for runner in self.runners.iter_mut().filter(|r| r.host == Some(host)) {
                runner.lost = runner.lost.filter(|lost| *lost != Lost::HostUnreachable);
            }
        }
        Ok(())
    }

    pub(crate) fn kill(&mut self, at: usize, force: bool) -> Result<(), Code> {
        let runner = &mut self.runners[at];
        match runner.state {
            state if ended(state) => return Err(Code::RunnerEnded),
            RunnerState::Pending => self.end(at, RunnerState::Terminated, true),
            _ if force && runner.lost.is_some() => {
                runner.again = false;
                self.end(at, RunnerState::Failed, false);
            }
            _ => {
                runner.stop = Some(force || runner.stop == Some(true));
                runner.again = false;
            }
        }
        Ok(())
    }

    pub(crate) fn kill_project(&mut self, project: usize) -> Result<(), Code> {
        let mut live: Vec<_> = (0..self.runners.len()).collect();
        live.retain(|at| self.runners[*at].project == project && !ended(self.runners[*at].state));
        // By id, as the command does: whoever is admitted on the way is killed in its turn too.
        live.sort_by_key(|at| self.runners[*at].id);
        for at in live {
            self.kill(at, false)?;
        }
        Ok(())
    }

    pub(crate) fn restart(&mut self, at: usize) -> Result<(), Code> {
        let ticket = self.ticket();
        let runner = &mut self.runners[at];
        if runner.lost.is_some() {
            return Err(Code::HostDisconnected);
        }
        if !ended(runner.state) || runner.settled {
            (runner.attempts, runner.not_before) = (0, 0);
        }
        match runner.state {
            RunnerState::Pending => {}
            RunnerState::Terminated | RunnerState::Failed => {
                if !runner.settled {
                    return Err(Code::RunnerUnsettled);
                }
                (runner.state, runner.host, runner.epoch) = (RunnerState::Pending, None, None);
                (runner.stop, runner.rev, runner.ticket) = (None, 0, ticket);
                runner.restarts += 1;
                self.fill_quotas();
            }
            _ => {
                runner.stop = Some(runner.stop == Some(true));
                runner.again = true;
            }
        }
        Ok(())
    }

    pub(crate) fn cordon(&mut self, host: usize, cordoned: bool) -> Result<(), Code> {
        if self.hosts[host].state == HostState::Removed {
            return Err(Code::HostRemoved);
        }
        self.hosts[host].cordoned = cordoned;
        self.hosts[host].draining &= cordoned;
        self.hosts[host].cloned &= cordoned;
        Ok(())
    }

    pub(crate) fn remove_host(&mut self, host: usize, force: bool) -> Result<(), Code> {
        if self.hosts[host].state == HostState::Removed {
            return Err(Code::HostRemoved);
        }
        let on: Vec<_> = (0..self.runners.len())
            .filter(|at| self.runners[*at].host == Some(host))
            .filter(|at| placed(&self.runners[*at]) || !self.runners[*at].settled)
            .collect();
        if !force && on.iter().any(|at| placed(&self.runners[*at])) {
            return Err(Code::HostHasRunners);
        }
        for at in on {
            if ended(self.runners[at].state) {
                self.runners[at].settled = true;
            } else if self.may_be_fenced(at) || self.waits_for_reboot(at) {
                self.runners[at].lost = self.runners[at].lost.or(Some(Lost::HostRemoved));
            } else {
                self.runners[at].again = false;
                self.end(at, RunnerState::Failed, true);
            }
        }
        let record = &mut self.hosts[host];
        record.fenced = record.epoch.or(record.fenced);
        (record.state, record.epoch, record.draining) = (HostState::Removed, None, false);
        self.follow_host_count();
        Ok(())
    }
}
