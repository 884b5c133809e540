//! The leader's clocks over hosts (P5, P7, P8, P13), as a pure core: it is told what happens and when, and says what to
//! answer and what to propose. Time is counted from any fixed moment and never goes back; no clock is read here.
//!
//! A clock belongs to one host epoch and runs from the later of the last renewal received in this term and the term's
//! own first commit. The whole table dies with the term.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use stratavore_model::LeaseBound;
use stratavore_model::command::{ConfirmReboot, FenceHost, ForgoList, HostUnreachable, LeaseBounded};
use stratavore_model::query::{Coverable, GrantTerms};
use stratavore_model::{COVERED_MAX, Command, Covered, Epoch, HostId, waited_enough};

/// Since when; see the module.
pub(crate) type Moment = Duration;

/// P13: a leader whose loop rested longer than this part of a lease has no right to judge by what it did not hear.
const GAP_PART: u32 = 2;

/// What the applied state says about one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HostView {
    pub(crate) host: HostId,
    /// It holds this host epoch.
    pub(crate) live: Option<Epoch>,
    /// Shown as reachable: a silence of 1.01 leases is news.
    pub(crate) ready: bool,
    /// P7: the host epoch that a fence or the removal ended; further coverage names it.
    pub(crate) fenced: Option<Epoch>,
    /// P8: the host epoch of the boot before, not yet waited for.
    pub(crate) rebooted: Option<Epoch>,
    /// P30: it has not listed what it runs since the incarnation was raised.
    pub(crate) unlisted: bool,
    pub(crate) ttl_ms: u64,
}

impl HostView {
    fn epochs(&self) -> impl Iterator<Item = Epoch> {
        [self.live, self.fenced, self.rebooted].into_iter().flatten()
    }
}

/// The applied state, as the core reads it. What costs a scan is asked for silent hosts only.
pub(crate) trait World {
    /// Every host that is not done with.
    fn hosts(&self) -> Vec<HostView>;
    /// P7: what a fence may cover.
    fn coverable(&self, host: HostId) -> Vec<Coverable>;
    /// P8: what a proven reboot would settle.
    fn reboot_waiting(&self, host: HostId) -> Vec<Coverable>;
    /// P30: the longest hold that there can be.
    fn hold_max_ms(&self) -> u64;
}

/// A renewal after the quorum round that followed it (P5), and what the state says about its host by then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Renewal {
    pub(crate) host: HostId,
    pub(crate) host_epoch: Epoch,
    /// By the agent's own clock, only compared with others of the same host epoch.
    pub(crate) b0_ns: u64,
    pub(crate) bounded: bool,
    /// When the leader received it.
    pub(crate) received: Moment,
    /// `None`: not the present host epoch or boot of a host that may have one (P3).
    pub(crate) terms: Option<GrantTerms>,
}

/// What a renewal is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Grant {
        unbounded: bool,
        bounding: bool,
        widen_ms: u64,
    },
    /// The host epoch has ended (P3).
    Fenced,
    /// P7: a fence is under way and its outcome not known; neither yes nor no may be said.
    Silence,
}

/// The table of one term.
#[derive(Debug)]
pub(crate) struct Leases {
    /// The term's own first commit.
    began: Moment,
    looked: Moment,
    clocks: BTreeMap<(HostId, Epoch), Moment>,
    /// Fences proposed in this term whose fate is not known.
    in_flight: BTreeSet<(HostId, Epoch)>,
    /// P13: the b0 of the first bounding grant of a host epoch in this phase.
    bounding: BTreeMap<(HostId, Epoch), u64>,
    /// P30: when apply was asked last to wait for a host no longer.
    forgone: BTreeMap<HostId, Moment>,
}

impl Leases {
    /// `began`: when this term's first entry was committed.
    pub(crate) fn new(began: Moment) -> Self {
        Self {
            began,
            looked: began,
            clocks: BTreeMap::new(),
            in_flight: BTreeSet::new(),
            bounding: BTreeMap::new(),
            forgone: BTreeMap::new(),
        }
    }

    /// Since when the host epoch has been silent.
    pub(crate) fn since(&self, host: HostId, host_epoch: Epoch) -> Option<Moment> {
        self.clocks.get(&(host, host_epoch)).copied()
    }

    /// Judges one renewal; with what has to be proposed because of it.
    pub(crate) fn on_renewal(&mut self, renewal: &Renewal) -> (Answer, Option<Command>) {
        let key = (renewal.host, renewal.host_epoch);
        let Some(terms) = renewal.terms.filter(|terms| terms.host_epoch == renewal.host_epoch) else {
            return (Answer::Fenced, None);
        };
        if self.in_flight.contains(&key) {
            return (Answer::Silence, None);
        }
        let clock = self.clocks.entry(key).or_insert(self.began);
        *clock = (*clock).max(renewal.received);
        let bounding = terms.lower;
        let due = self.bounded_by(key, renewal, bounding).then(|| {
            Command::LeaseBounded(LeaseBounded {
                host: renewal.host,
                host_epoch: renewal.host_epoch,
                maintenance: terms.maintenance,
            })
        });
        let unbounded = terms.bound == LeaseBound::Unbounded;
        (Answer::Grant { unbounded, bounding, widen_ms: terms.widen_ms }, due)
    }

    /// P13: whether this renewal proves that every shim holds a finite deadline. One that was sent before the first
    /// bounding grant of this phase speaks of an earlier one.
    fn bounded_by(&mut self, key: (HostId, Epoch), renewal: &Renewal, bounding: bool) -> bool {
        if !bounding {
            self.bounding.remove(&key);
            return false;
        }
        match self.bounding.get(&key) {
            None => {
                self.bounding.insert(key, renewal.b0_ns);
                false
            }
            Some(first) => renewal.bounded && renewal.b0_ns > *first,
        }
    }

    /// Looks at every clock.
    pub(crate) fn on_tick(&mut self, now: Moment, world: &impl World) -> Vec<Command> {
        let hosts = world.hosts();
        let gap = now.saturating_sub(self.looked);
        self.looked = now;
        self.follow(now, gap, &hosts);
        let mut due = Vec::new();
        for view in &hosts {
            self.look_at(now, view, world, &mut due);
        }
        due
    }

    /// Keeps clocks for what the state names, and restarts those that this leader was not there to run.
    fn follow(&mut self, now: Moment, gap: Duration, hosts: &[HostView]) {
        let named: BTreeSet<(HostId, Epoch)> =
            hosts.iter().flat_map(|view| view.epochs().map(|epoch| (view.host, epoch))).collect();
        self.clocks.retain(|key, _| named.contains(key));
        self.in_flight.retain(|key| named.contains(key));
        self.bounding.retain(|key, _| named.contains(key));
        for view in hosts {
            let away = gap > Duration::from_millis(view.ttl_ms) / GAP_PART;
            for epoch in view.epochs() {
                let clock = self.clocks.entry((view.host, epoch)).or_insert(now);
                if away {
                    *clock = now;
                }
            }
        }
        let shortest = hosts.iter().map(|view| view.ttl_ms).min();
        if shortest.is_some_and(|ttl_ms| gap > Duration::from_millis(ttl_ms) / GAP_PART) {
            tracing::warn!(gap_ms = gap.as_millis(), "this leader was away, its lease clocks start again");
            self.began = self.began.max(now);
        }
    }

    fn look_at(&mut self, now: Moment, view: &HostView, world: &impl World, due: &mut Vec<Command>) {
        let host = view.host;
        if let Some(host_epoch) = view.live.or(view.fenced) {
            let waited_ms = self.waited(now, host, host_epoch);
            let silent = waited_enough(view.ttl_ms, waited_ms);
            if silent && view.ready && view.live.is_some() {
                due.push(Command::HostUnreachable(HostUnreachable { host, host_epoch }));
            }
            let runners = if silent { passed(world.coverable(host), waited_ms) } else { Vec::new() };
            if !runners.is_empty() {
                // From here on the host hears nothing until the outcome is known.
                self.in_flight.insert((host, host_epoch));
                due.push(Command::FenceHost(FenceHost { host, host_epoch, waited_ms, runners }));
            }
        }
        if let Some(host_epoch) = view.rebooted {
            let waited_ms = self.waited(now, host, host_epoch);
            let silent = waited_enough(view.ttl_ms, waited_ms);
            let runners = if silent { passed(world.reboot_waiting(host), waited_ms) } else { Vec::new() };
            if !runners.is_empty() {
                due.push(Command::ConfirmReboot(ConfirmReboot { host, host_epoch, waited_ms, runners }));
            }
        }
        let waited_ms = millis(now.saturating_sub(self.began));
        if view.unlisted && waited_enough(world.hold_max_ms(), waited_ms) && self.may_forgo(host, now, world)
        {
            due.push(Command::ForgoList(ForgoList { host, waited_ms }));
        }
    }

    /// Apply refuses while something kept may be there (P30). An operator may settle that meanwhile, so it is asked
    /// again, as seldom as costs nothing.
    fn may_forgo(&mut self, host: HostId, now: Moment, world: &impl World) -> bool {
        let pause = Duration::from_millis(world.hold_max_ms());
        let due = self.forgone.get(&host).is_none_or(|asked| now.saturating_sub(*asked) >= pause);
        if due {
            self.forgone.insert(host, now);
        }
        due
    }

    fn waited(&self, now: Moment, host: HostId, host_epoch: Epoch) -> u64 {
        self.since(host, host_epoch).map_or(0, |since| millis(now.saturating_sub(since)))
    }

    /// What became of a proposal. `applied`: its entry, or a later one of this term, is known to be applied; anything
    /// else says nothing about the entry, which may still come (P7: unknown is not no).
    pub(crate) fn on_proposed(&mut self, command: &Command, applied: bool) {
        if let (Command::FenceHost(fence), true) = (command, applied) {
            self.in_flight.remove(&(fence.host, fence.host_epoch));
        }
    }
}

/// Those whose hold has passed, as many as one entry carries; the others follow with the next look.
fn passed(lines: Vec<Coverable>, waited_ms: u64) -> Vec<Covered> {
    let passed = lines.into_iter().filter(|line| waited_enough(line.hold_ms, waited_ms));
    passed.map(|line| Covered { runner: line.runner, epoch: line.epoch }).take(COVERED_MAX).collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL_MS: u64 = 10_000;
    const HOLD_MS: u64 = 60_000;
    const EPOCH: Epoch = Epoch { incarnation: 1, index: 5 };

    fn host() -> HostId {
        "0123456789".parse().unwrap()
    }

    fn at(ms: u64) -> Moment {
        Duration::from_millis(ms)
    }

    struct Fake {
        view: HostView,
        coverable: Vec<Coverable>,
        reboot: Vec<Coverable>,
    }

    impl Fake {
        fn new() -> Self {
            let view = HostView {
                host: host(),
                live: Some(EPOCH),
                ready: true,
                fenced: None,
                rebooted: None,
                unlisted: false,
                ttl_ms: TTL_MS,
            };
            Self { view, coverable: vec![line("abcdefgh01", HOLD_MS)], reboot: Vec::new() }
        }
    }

    fn line(runner: &str, hold_ms: u64) -> Coverable {
        Coverable { runner: runner.parse().unwrap(), epoch: Epoch { incarnation: 1, index: 9 }, hold_ms }
    }

    impl World for Fake {
        fn hosts(&self) -> Vec<HostView> {
            vec![self.view]
        }
        fn coverable(&self, _: HostId) -> Vec<Coverable> {
            self.coverable.clone()
        }
        fn reboot_waiting(&self, _: HostId) -> Vec<Coverable> {
            self.reboot.clone()
        }
        fn hold_max_ms(&self) -> u64 {
            600_000
        }
    }

    fn terms(bound: LeaseBound, lower: bool) -> GrantTerms {
        GrantTerms { host_epoch: EPOCH, ttl_ms: TTL_MS, bound, widen_ms: 0, lower, maintenance: 0 }
    }

    fn renewal(received_ms: u64) -> Renewal {
        Renewal {
            host: host(),
            host_epoch: EPOCH,
            b0_ns: received_ms * 1_000_000,
            bounded: false,
            received: at(received_ms),
            terms: Some(terms(LeaseBound::Bounded, false)),
        }
    }

    /// Ticks as the loop does, so that no gap restarts the clocks.
    fn run(leases: &mut Leases, world: &Fake, from_ms: u64, to_ms: u64) -> Vec<(u64, Command)> {
        let step = 500;
        let mut due = Vec::new();
        let mut now = from_ms;
        while now <= to_ms {
            due.extend(leases.on_tick(at(now), world).into_iter().map(|command| (now, command)));
            now += step;
        }
        due
    }

    fn fences(due: &[(u64, Command)]) -> Vec<(u64, FenceHost)> {
        let fence = |(at, command): &(u64, Command)| match command {
            Command::FenceHost(fence) => Some((*at, fence.clone())),
            _ => None,
        };
        due.iter().filter_map(fence).collect()
    }

    const GRANT: Answer = Answer::Grant { unbounded: false, bounding: false, widen_ms: 0 };

    #[test]
    fn p7_a_host_is_unreachable_after_101_percent_of_its_lease_by_this_terms_clock() {
        let world = Fake::new();
        let mut leases = Leases::new(at(1_000));
        let due = run(&mut leases, &world, 1_000, 11_000);
        assert!(due.is_empty(), "{due:?}");
        assert_eq!(leases.on_renewal(&renewal(11_050)).0, GRANT);
        assert!(run(&mut leases, &world, 11_500, 21_000).is_empty());
        let due = run(&mut leases, &world, 21_500, 21_500);
        assert!(matches!(due[..], [(21_500, Command::HostUnreachable(_))]), "{due:?}");
    }

    #[test]
    fn p7_a_fence_waits_for_101_percent_of_the_hold_and_names_what_it_covers() {
        let mut world = Fake::new();
        world.coverable.push(line("abcdefgh02", 2 * HOLD_MS));
        let mut leases = Leases::new(at(0));
        leases.on_renewal(&renewal(100));
        let due = fences(&run(&mut leases, &world, 0, 61_000));
        let (when, fence) = due.first().expect("a fence").clone();
        assert!(when >= 100 + 60_600, "{when}");
        assert!(waited_enough(HOLD_MS, fence.waited_ms));
        assert_eq!(fence.runners.len(), 1, "the longer hold has not passed");
        assert_eq!(fence.host_epoch, EPOCH);
        // The second entry names the same ended epoch, and its clock goes on.
        leases.on_proposed(&Command::FenceHost(fence), true);
        world.view = HostView { live: None, ready: false, fenced: Some(EPOCH), ..world.view };
        world.coverable.remove(0);
        let due = fences(&run(&mut leases, &world, 61_500, 121_500));
        assert_eq!(due[0].1.host_epoch, EPOCH);
        assert!(due[0].0 >= 100 + 121_200, "{}", due[0].0);
    }

    #[test]
    fn p7_no_answer_from_the_proposal_of_a_fence_to_its_application_whatever_the_error() {
        let world = Fake::new();
        let mut leases = Leases::new(at(0));
        let due = fences(&run(&mut leases, &world, 0, 61_000));
        let fence = Command::FenceHost(due[0].1.clone());
        assert_eq!(leases.on_renewal(&renewal(61_100)).0, Answer::Silence);
        leases.on_proposed(&fence, false);
        assert_eq!(leases.on_renewal(&renewal(61_200)).0, Answer::Silence);
        leases.on_proposed(&fence, true);
        assert_eq!(leases.on_renewal(&renewal(61_300)).0, GRANT);
    }

    #[test]
    fn p7_the_silence_of_an_open_fence_does_not_feed_the_clock() {
        let world = Fake::new();
        let mut leases = Leases::new(at(0));
        run(&mut leases, &world, 0, 61_000);
        leases.on_renewal(&renewal(61_100));
        assert_eq!(leases.since(host(), EPOCH), Some(at(0)));
    }

    #[test]
    fn p3_a_renewal_of_an_ended_epoch_is_told_so() {
        let mut leases = Leases::new(at(0));
        let ended = Renewal { terms: None, ..renewal(10) };
        assert_eq!(leases.on_renewal(&ended).0, Answer::Fenced);
        let other = Epoch { incarnation: 1, index: 77 };
        let newer = GrantTerms { host_epoch: other, ..terms(LeaseBound::Bounded, false) };
        assert_eq!(leases.on_renewal(&Renewal { terms: Some(newer), ..renewal(10) }).0, Answer::Fenced);
        assert_eq!(leases.since(host(), EPOCH), None);
    }

    #[test]
    fn p13_a_leader_that_was_away_restarts_all_clocks() {
        let world = Fake::new();
        let mut leases = Leases::new(at(0));
        run(&mut leases, &world, 0, 5_000);
        let due = leases.on_tick(at(500_000), &world);
        assert!(due.is_empty(), "{due:?}");
        assert_eq!(leases.since(host(), EPOCH), Some(at(500_000)));
        assert!(fences(&run(&mut leases, &world, 500_500, 560_000)).is_empty());
        assert!(!fences(&run(&mut leases, &world, 560_500, 561_000)).is_empty());
    }

    #[test]
    fn p13_an_unbounded_lease_is_bounded_only_by_a_renewal_that_answers_a_bounding_grant() {
        let mut leases = Leases::new(at(0));
        let with = |b0_ns, bounded, bound, lower| Renewal {
            b0_ns,
            bounded,
            terms: Some(terms(bound, lower)),
            ..renewal(10)
        };
        let (alone, due) = leases.on_renewal(&with(1, true, LeaseBound::Unbounded, false));
        assert_eq!(alone, Answer::Grant { unbounded: true, bounding: false, widen_ms: 0 });
        assert_eq!(due, None);
        let (first, due) = leases.on_renewal(&with(10, true, LeaseBound::Bounding, true));
        assert_eq!(first, Answer::Grant { unbounded: false, bounding: true, widen_ms: 0 });
        assert_eq!(due, None, "it was sent before the grant that it would have to answer");
        // Delayed on its way, from before the grant.
        assert_eq!(leases.on_renewal(&with(9, true, LeaseBound::Bounding, true)).1, None);
        assert_eq!(leases.on_renewal(&with(11, false, LeaseBound::Bounding, true)).1, None);
        let (_, due) = leases.on_renewal(&with(12, true, LeaseBound::Bounding, true));
        assert!(matches!(due, Some(Command::LeaseBounded(LeaseBounded { host_epoch: EPOCH, .. }))));
    }

    #[test]
    fn p13_maintenance_travels_with_the_grant() {
        let mut leases = Leases::new(at(0));
        let wide = GrantTerms { widen_ms: 1_200_000, ..terms(LeaseBound::Bounded, false) };
        let (answer, _) = leases.on_renewal(&Renewal { terms: Some(wide), ..renewal(10) });
        assert_eq!(answer, Answer::Grant { unbounded: false, bounding: false, widen_ms: 1_200_000 });
    }

    #[test]
    fn p8_a_reboot_is_confirmed_only_after_the_hold_of_the_earlier_boot() {
        let old = Epoch { incarnation: 1, index: 3 };
        let mut world = Fake::new();
        world.coverable.clear();
        world.view.rebooted = Some(old);
        world.reboot = vec![line("abcdefgh03", HOLD_MS)];
        let mut leases = Leases::new(at(0));
        let mut due = Vec::new();
        for now in (0..=60_500).step_by(500) {
            // The new boot renews all the time; that says nothing about the old one.
            leases.on_renewal(&renewal(now));
            due.extend(leases.on_tick(at(now), &world));
        }
        assert!(due.is_empty(), "{due:?}");
        let due = leases.on_tick(at(61_000), &world);
        assert!(
            matches!(&due[..], [Command::ConfirmReboot(confirm)] if confirm.host_epoch == old),
            "{due:?}"
        );
    }

    #[test]
    fn p30_a_list_is_forgone_after_the_longest_hold_and_asked_again_as_late() {
        let mut world = Fake::new();
        world.coverable.clear();
        world.view = HostView { live: None, ready: false, unlisted: true, ..world.view };
        let mut leases = Leases::new(at(0));
        assert!(run(&mut leases, &world, 0, 605_500).is_empty());
        assert_eq!(run(&mut leases, &world, 606_000, 620_000).len(), 1);
        assert_eq!(run(&mut leases, &world, 620_000, 1_205_500).len(), 0);
        assert_eq!(run(&mut leases, &world, 1_205_500, 1_210_000).len(), 1);
    }

    #[test]
    fn a_new_host_epoch_has_a_clock_of_its_own() {
        let mut world = Fake::new();
        let mut leases = Leases::new(at(0));
        run(&mut leases, &world, 0, 40_000);
        world.view.live = Some(Epoch { incarnation: 1, index: 50 });
        let due = run(&mut leases, &world, 40_500, 50_500);
        assert!(due.is_empty(), "{due:?}");
    }
}
