//! Leases, fences, reboots and vouched ends, the naive way.

use stratavore_model::{Code, HostRecord, HostState, LeaseBound, Lost, RunnerId, RunnerState};

use super::{Reference, ended, placed};

impl Reference {
    pub(super) fn present(&self) -> usize {
        self.hosts.iter().filter(|host| host.state != HostState::Removed).count()
    }

    pub(crate) fn follow_host_count(&mut self) {
        let present = self.present();
        for host in self.hosts.iter_mut().filter(|host| host.state != HostState::Removed) {
            if present == 1 && host.fenced.is_none() {
                host.bound = LeaseBound::Unbounded;
            }
            if present == 2 && host.bound == LeaseBound::Unbounded {
                host.bound = LeaseBound::Bounding;
            }
        }
    }

    pub(super) fn widening(&self, now: u64) -> u64 {
        self.maintenance.filter(|(until, _)| now < *until).map_or(0, |(_, hold)| hold)
    }

    pub(super) fn waits_for_reboot(&self, at: usize) -> bool {
        let runner = &self.runners[at];
        let Some((_, boot)) = runner.host.and_then(|host| self.hosts[host].rebooted) else { return false };
        runner.epoch.is_some_and(|epoch| epoch < boot)
            && (runner.lost == Some(Lost::HostRebooted) || !runner.settled)
    }

    pub(super) fn may_be_fenced(&self, at: usize) -> bool {
        let runner = &self.runners[at];
        let Some(host) = runner.host.map(|host| &self.hosts[host]) else { return false };
        let stops = runner.state == RunnerState::Starting || !runner.keep;
        host.bound == LeaseBound::Bounded && !host.weak && stops
    }

    fn hold(&self, at: usize) -> u64 {
        let runner = &self.runners[at];
        let own = if runner.state == RunnerState::Starting { 15_000 } else { runner.hold };
        own + runner.host.map_or(0, |host| self.hosts[host].widened)
    }

    fn by_id(&self, which: impl Fn(usize) -> bool) -> Vec<usize> {
        let mut found: Vec<_> = (0..self.runners.len()).filter(|at| which(*at)).collect();
        found.sort_by_key(|at| self.runners[*at].id);
        found
    }

    fn on(&self, host: usize) -> Vec<usize> {
        self.by_id(|at| {
            let runner = &self.runners[at];
            runner.host == Some(host) && (placed(runner) || !runner.settled)
        })
    }

    pub(crate) fn waiting_on(&self, host: usize) -> Vec<usize> {
        self.on(host).into_iter().filter(|at| self.waits_for_reboot(*at)).collect()
    }

    pub(super) fn forget_reboot(&mut self, host: usize) {
        if self.waiting_on(host).is_empty() {
            self.hosts[host].rebooted = None;
        }
    }

    pub(super) fn reboot(&mut self, at: usize) {
        let runner = &mut self.runners[at];
        if runner.again || (!runner.keep && runner.stop.is_none()) {
            runner.lost = Some(Lost::HostRebooted);
        } else {
            self.end(at, RunnerState::Failed, false);
        }
    }

    fn close(&mut self, at: usize, again: bool) {
        let runner = &mut self.runners[at];
        if ended(runner.state) {
            runner.settled = true;
        } else {
            runner.again |= again && runner.stop.is_none();
            self.end(at, RunnerState::Failed, true);
        }
    }

    fn end_epoch(&mut self, host: usize, covered: &[usize]) {
        for at in covered {
            let (id, epoch) = (self.runners[*at].id, self.runners[*at].epoch.unwrap());
            let list = &mut self.hosts[host].covered;
            list.retain(|(other, _)| *other != id);
            list.push((id, epoch));
        }
        if let Some(epoch) = self.hosts[host].epoch {
            (self.hosts[host].epoch, self.hosts[host].fenced) = (None, Some(epoch));
        }
        if self.hosts[host].state == HostState::Ready {
            self.unreachable(host).unwrap();
        }
    }

    pub(crate) fn fence(
        &mut self,
        host: usize,
        epoch: u64,
        waited: u64,
        list: &[RunnerId],
    ) -> Result<(), Code> {
        if list.is_empty() {
            return Err(Code::TooMany);
        }
        let record = &self.hosts[host];
        if record.epoch.or(record.fenced) != Some(epoch) {
            return Err(Code::Fenced);
        }
        if record.bound != LeaseBound::Bounded {
            return Err(Code::LeaseUnbounded);
        }
        let mut covered = Vec::new();
        for id in list {
            let at = self.runners.iter().position(|runner| runner.id == *id).unwrap();
            let there = self.on(host).contains(&at) && !self.waits_for_reboot(at);
            let passed = u128::from(waited) * 100 >= u128::from(self.hold(at)) * 101;
            if there && self.may_be_fenced(at) && passed && !covered.contains(&at) {
                covered.push(at);
            }
        }
        if covered.is_empty() {
            return Err(Code::NotCoverable);
        }
        self.end_epoch(host, &covered);
        for at in covered {
            let again = self.runners[at].state == RunnerState::Starting || !self.runners[at].keep;
            self.close(at, again);
        }
        Ok(())
    }

    pub(crate) fn lease_bounded(&mut self, host: usize, now: u64) -> Result<(), Code> {
        let widening = self.widening(now);
        let record = &mut self.hosts[host];
        if record.bound == LeaseBound::Unbounded {
            return Err(Code::LeaseUnbounded);
        }
        record.bound = LeaseBound::Bounded;
        record.widened = if widening == 0 { 0 } else { record.widened.max(widening) };
        Ok(())
    }

    pub(crate) fn confirm_reboot(&mut self, host: usize, waited: u64) -> Result<(), Code> {
        let waiting = self.waiting_on(host);
        if waiting.is_empty() {
            return Err(Code::TooMany);
        }
        for at in waiting {
            let hold = self.hold(at).max(self.runners[at].hold);
            let unsure = self.hosts[host].cloned && self.runners[at].keep;
            if !unsure && u128::from(waited) * 100 >= u128::from(hold) * 101 {
                let again = !self.runners[at].keep;
                self.close(at, again);
            }
        }
        self.forget_reboot(host);
        Ok(())
    }

    pub(crate) fn declare_runner_dead(&mut self, at: usize) -> Result<(), Code> {
        let runner = &self.runners[at];
        if placed(runner) && runner.lost.is_none() {
            return Err(Code::HostReachable);
        }
        if !placed(runner) && runner.settled {
            return Err(Code::RunnerEnded);
        }
        let again = !runner.keep;
        self.close(at, again);
        Ok(())
    }

    pub(crate) fn declare_host_dead(&mut self, host: usize) -> Result<(), Code> {
        match self.hosts[host].state {
            HostState::Removed => return Err(Code::HostRemoved),
            HostState::Ready => return Err(Code::HostReachable),
            HostState::Joined | HostState::Unreachable => {}
        }
        let on = self.on(host);
        self.end_epoch(host, &on);
        self.hosts[host].rebooted = None;
        for at in on {
            let again = !self.runners[at].keep;
            self.close(at, again);
        }
        Ok(())
    }

    pub(crate) fn drain(&mut self, host: usize) -> Result<(), Code> {
        if self.hosts[host].state == HostState::Removed {
            return Err(Code::HostRemoved);
        }
        (self.hosts[host].cordoned, self.hosts[host].draining) = (true, true);
        for at in self.on(host) {
            let runner = &mut self.runners[at];
            if placed(runner) && runner.stop.is_none() && runner.restartable {
                (runner.stop, runner.again) = (Some(false), true);
            }
        }
        Ok(())
    }

    pub(crate) fn maintain(&mut self, for_ms: u64, now: u64) {
        if for_ms == 0 {
            self.maintenance = self.maintenance.map(|(until, hold)| (until.min(now), hold));
            return;
        }
        self.maintenance = Some((now + for_ms, for_ms));
        for host in self.hosts.iter_mut().filter(|host| host.epoch.is_some()) {
            host.widened = host.widened.max(for_ms);
        }
    }

    pub(super) fn compare_lease(&self, at: usize, theirs: &HostRecord) {
        let mine = &self.hosts[at];
        let lease = (theirs.lease.bound, theirs.lease.widened_ms);
        assert_eq!(lease, (mine.bound, mine.widened), "host {}", mine.name);
        assert_eq!(theirs.fenced.map(|epoch| epoch.index), mine.fenced, "host {}", mine.name);
        assert_eq!((theirs.draining, theirs.cloned), (mine.draining, mine.cloned), "host {}", mine.name);
        let rebooted = theirs.rebooted.map(|reboot| (reboot.old.index, reboot.at.index));
        assert_eq!(rebooted, mine.rebooted, "host {}", mine.name);
        let mut covered = mine.covered.clone();
        covered.sort_unstable();
        let theirs: Vec<_> = theirs.covered.iter().map(|(id, epoch)| (*id, epoch.index)).collect();
        assert_eq!(theirs, covered, "host {}", mine.name);
    }
}
