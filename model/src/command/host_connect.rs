//! An agent connected: its facts and the full list of what is on the host.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::report::{Seen, check_count, known_host, observe};
use crate::command::{Observation, Success, Verdict};
use crate::event::EventKind;
use crate::host::{HostFacts, HostLease, HostRecord, HostState, LeaseBound, Reboot};
use crate::id::{Epoch, HostId, NodeId, ProjectName};
use crate::identity::Actor;
use crate::lease::{placed_hold, placed_policy, reboot_waiting};
use crate::lifecycle::{end_by_reboot, lose, recover};
use crate::limits::{SLOTS_MAX, TEXT_BYTES_MAX};
use crate::project::{MAX_RUNNERS_LIMIT, ProjectRecord};
use crate::reply::{Code, ObservedKey, Rejected, Reply};
use crate::row::Row;
use crate::runner::{Lost, OnDisconnect, RunnerRecord, RunnerSpec, RunnerState, Want};
use crate::tx::Tx;

/// The hello of an agent, as its gateway proposes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostConnect {
    pub host: HostId,
    pub boot_id: String,
    pub facts: HostFacts,
    pub agent_version: String,
    pub gateway: NodeId,
    /// Counted up by the agent, kept on its disk.
    pub connection: u64,
    /// Highest state index the agent has seen (P14); none = nothing yet.
    pub seen: Option<Epoch>,
    /// Everything on the host: live ones, and ended ones that were not acknowledged yet.
    pub observations: Vec<Observation>,
}

impl HostConnect {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        check_count(self.observations.len())?;
        self.check_texts()?;
        let host = known_host(tx, self.host)?;
        let same_boot = host.boot_id == self.boot_id;
        if same_boot && self.connection < host.connection {
            let message = format!("connection {} is not the newest, {}", self.connection, host.connection);
            return Err(Rejected::new(Code::StaleConnection, message, "close it"));
        }
        if !same_boot && !host.boot_id.is_empty() && host.previous_boot_id == self.boot_id {
            return Ok(Success::done(cloned(tx, host)));
        }
        self.check_covered(&host)?;
        let rebooted = !same_boot && !host.boot_id.is_empty();
        let first_or_back = host.state != HostState::Ready || rebooted;
        let host = match host.host_epoch {
            Some(_) if same_boot => host,
            _ => new_host_epoch(tx, host, rebooted),
        };
        let host_epoch = host.host_epoch.unwrap_or_else(|| tx.epoch());
        let host = self.updated(tx, host, rebooted);
        if first_or_back {
            tx.host_event(EventKind::HostReady, &host, if rebooted { "host_rebooted" } else { "" });
        }
        tx.put_host(host);
        let acknowledged = self.take_list(tx);
        self.judge_absent(tx, rebooted);
        forget_settled_reboot(tx, self.host);
        Ok(Success::done(Reply::Connected { host_epoch, acknowledged }))
    }

    /// P3: after a fence nothing that it covered may be left. The host has to end it first; its own deadlines did, or are
    /// broken.
    fn check_covered(&self, host: &HostRecord) -> Result<(), Rejected> {
        let alive = |o: &&Observation| !o.state.is_ended() && host.covered.get(&o.runner) == Some(&o.epoch);
        let alive: Vec<_> = self.observations.iter().filter(alive).collect();
        let Some(first) = alive.first() else { return Ok(()) };
        let message = format!(
            "host {} still lists {} runners that were fenced, the first is {} {}",
            host.name,
            alive.len(),
            first.runner,
            first.epoch
        );
        Err(Rejected::new(Code::CoveredAlive, message, "end them, then connect again"))
    }

    fn check_texts(&self) -> Result<(), Rejected> {
        let texts = [&self.boot_id, &self.agent_version];
        let long = |text: &&String| text.len() > TEXT_BYTES_MAX;
        let facts = self.facts.features.iter().collect::<Vec<_>>();
        if texts.iter().chain(&facts).any(long) || facts.len() > FEATURES_MAX || self.boot_id.is_empty() {
            let message = "a hello needs a boot id, and short facts";
            return Err(Rejected::bad_argument("facts", message, "update the agent"));
        }
        if self.facts.slots > SLOTS_MAX {
            let message = format!("{} slots are more than {SLOTS_MAX}", self.facts.slots);
            return Err(Rejected::bad_argument("facts.slots", message, "configure fewer slots"));
        }
        Ok(())
    }

    fn updated(&self, tx: &Tx<'_>, host: HostRecord, rebooted: bool) -> HostRecord {
        let since = if host.state == HostState::Ready { host.since } else { tx.now() };
        HostRecord {
            state: HostState::Ready,
            slots: if self.facts.slots == 0 { host.slots } else { self.facts.slots },
            cpu_milli: self.facts.cpu_milli,
            memory_bytes: self.facts.memory_bytes,
            features: self.facts.features.clone(),
            fence: self.facts.fence,
            previous_boot_id: if rebooted { host.boot_id } else { host.previous_boot_id },
            boot_id: self.boot_id.clone(),
            connection: self.connection,
            gateway: Some(self.gateway),
            since,
            agent_version: self.agent_version.clone(),
            ..host
        }
    }

    fn take_list(&self, tx: &mut Tx<'_>) -> Vec<ObservedKey> {
        let mut acknowledged = Vec::with_capacity(self.observations.len());
        for observation in &self.observations {
            adopt_newer(tx, self.host, observation);
            if observe(tx, self.host, observation) == Seen::Stranger {
                quarantine(tx, self.host, observation);
            }
            acknowledged.push(observation.key());
        }
        acknowledged
    }

    /// P14: absence speaks only about epochs that the host had seen. After a reboot nothing of the old boot lives;
    /// within a boot an absent runner is lost, never ended.
    fn judge_absent(&self, tx: &mut Tx<'_>, rebooted: bool) {
        let listed: BTreeSet<_> = self.observations.iter().map(|o| (o.runner, o.epoch)).collect();
        let absent = tx.state().runners_on(self.host).filter(|runner| {
            runner
                .epoch
                .is_some_and(|epoch| Some(epoch) <= self.seen && !listed.contains(&(runner.id, epoch)))
        });
        let absent: Vec<_> = absent.cloned().collect();
        for runner in absent {
            match (rebooted, runner.is_live()) {
                (false, true) => lose(tx, runner, Lost::NotListed),
                (_, false) => {}
                (true, true) => end_by_reboot(tx, runner),
            }
        }
        // Those that the list had not seen yet are only waiting to be sent.
        let unseen = tx
            .state()
            .runners_on(self.host)
            .filter(|runner| runner.lost == Some(Lost::HostUnreachable) && runner.epoch > self.seen);
        let unseen: Vec<_> = unseen.cloned().collect();
        for runner in unseen {
            recover(tx, runner);
        }
    }
}

/// Feature words of a host.
const FEATURES_MAX: usize = 64;

/// Project in which runners show up that a host has and the cluster does not know.
pub(super) const ORPHANED: &str = "orphaned";

/// P3: the host is ready from this entry on. What a lease starts with is P13: the only host's is unbounded; one that
/// comes back after a fence kept its deadlines; of one that was forgotten in a recovery nothing is known; a fresh boot
/// has nothing that could lack a deadline.
fn new_host_epoch(tx: &Tx<'_>, host: HostRecord, rebooted: bool) -> HostRecord {
    let cluster = tx.state().cluster();
    let fresh = rebooted || host.boot_id.is_empty();
    let bound = match () {
        () if tx.state().hosts_present() == 1 => LeaseBound::Unbounded,
        () if host.unlisted => LeaseBound::Bounding,
        () if fresh => LeaseBound::Bounded,
        () => host.lease.bound,
    };
    let kept = if fresh && !host.unlisted { 0 } else { host.lease.widened_ms };
    let widened_ms = kept.max(cluster.map_or(0, |cluster| cluster.widening(tx.now())));
    let ttl_ms = cluster.map_or(host.lease.ttl_ms, |cluster| cluster.lease.ttl_ms);
    let at = tx.epoch();
    let old = host.host_epoch.or(host.fenced);
    HostRecord {
        host_epoch: Some(at),
        fenced: None,
        covered: BTreeMap::new(),
        rebooted: old.filter(|_| rebooted).map(|old| Reboot { old, at }).or(host.rebooted),
        lease: HostLease { ttl_ms, bound, widened_ms },
        unlisted: false,
        ..host
    }
}

/// A reboot that ended nothing needs no confirming.
fn forget_settled_reboot(tx: &mut Tx<'_>, host: HostId) {
    let host = tx.state().host(host).filter(|host| host.rebooted.is_some()).cloned();
    if let Some(host) = host.filter(|host| reboot_waiting(tx.state(), host.id).is_empty()) {
        tx.put_host(HostRecord { rebooted: None, ..host });
    }
}

/// P8: two machines take turns under one identity; neither may get anything more.
fn cloned(tx: &mut Tx<'_>, host: HostRecord) -> Reply {
    let message =
        format!("host {} has come back to an earlier boot: two machines share its identity", host.name);
    tx.host_event(EventKind::SystemAlert, &host, &message);
    if !host.cordoned {
        tx.host_event(EventKind::HostCordoned, &host, "duplicate_host");
    }
    tx.put_host(HostRecord { cordoned: true, cloned: true, ..host });
    let next = "give the copy an empty data directory and let it join with a new token";
    Reply::Rejected(Rejected::new(Code::DuplicateHost, message, next))
}

/// P30: after a recovery hosts may have placements that are newer than what was saved.
fn adopt_newer(tx: &mut Tx<'_>, host: HostId, observation: &Observation) {
    let state = tx.state();
    let (Some(runner), Some(host)) = (state.runner(observation.runner), state.host(host)) else { return };
    let newer = Some(observation.epoch) > runner.epoch;
    // What has ended here was started again in the history that is lost.
    let over = !runner.is_live() && observation.state.is_ended();
    if !newer || observation.epoch.incarnation >= tx.epoch().incarnation || over {
        return;
    }
    let free = state.live_runner_named(&runner.name).is_none_or(|other| other.id == runner.id);
    let name = format!("{ORPHANED}-{}", runner.id).parse().ok().filter(|_| !free);
    let runner = RunnerRecord {
        name: name.unwrap_or_else(|| runner.name.clone()),
        state: RunnerState::Starting,
        lost: None,
        want: if runner.is_live() { runner.want } else { Want::Run },
        admitted: true,
        epoch: Some(observation.epoch),
        host: Some(host.id),
        on_disconnect: placed_policy(&runner.spec, host),
        hold_ms: placed_hold(state, &runner.spec),
        rev: 0,
        exit: None,
        ended_at: None,
        settled: true,
        reason: String::new(),
        retry: runner.retry.clone().map(|retry| retry.placed(tx.now())),
        ..runner.clone()
    };
    tx.runner_event(EventKind::RunnerRecovered, &runner, "listed by its host");
    tx.put_runner(runner);
}

/// P14: a live runner that the cluster knows nothing about is shown, kept, and can be killed by an operator.
fn quarantine(tx: &mut Tx<'_>, host: HostId, observation: &Observation) {
    let (Ok(project), Ok(name)) =
        (ORPHANED.parse::<ProjectName>(), format!("{ORPHANED}-{}", observation.runner).parse())
    else {
        return;
    };
    if tx.state().live_runner_named(&name).is_some() || observation.state == RunnerState::Pending {
        return;
    }
    let created_at = tx.now();
    let spec = RunnerSpec { slots: 1, workdir: "/".into(), ..RunnerSpec::default() };
    let hold_ms = placed_hold(tx.state(), &spec);
    if tx.state().project(&project).is_none() {
        tx.put(Row::Project(ProjectRecord {
            name: project.clone(),
            path: "/".into(),
            command: Vec::new(),
            max_runners: MAX_RUNNERS_LIMIT,
            created_at,
            names_given: 0,
        }));
    }
    let runner = RunnerRecord {
        id: observation.runner,
        name,
        project,
        spec: Arc::new(spec),
        state: observation.state,
        lost: None,
        want: Want::Run,
        restart_wanted: false,
        admitted: true,
        queued: tx.next_place(),
        epoch: Some(observation.epoch),
        host: Some(host),
        on_disconnect: OnDisconnect::Keep,
        hold_ms,
        pinned: Some(host),
        rev: observation.rev,
        pid: observation.pid,
        fence: observation.fence,
        exit: None,
        reason: ORPHANED.into(),
        created_at,
        started_at: observation.started_at,
        ended_at: None,
        created_by: Actor::System,
        request_id: None,
        ordinal: 0,
        stop_request_id: None,
        restarts: 0,
        settled: true,
        retry: None,
    };
    tx.runner_event(EventKind::SystemAlert, &runner, "a host has a runner that the cluster does not know");
    tx.put_runner(runner);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::{HOLD_WAITED, Lab};
    use crate::{Command, RunnerId, ShownState, query};

    fn running() -> (Lab, HostId, RunnerId, Epoch) {
        let mut lab = Lab::new();
        let host = lab.host("a", 4);
        lab.create_project("web", 3).unwrap();
        let runner = lab.launch("web", 1)[0];
        let epoch = lab.assign(runner, host).unwrap();
        lab.report(host, vec![lab.observed(runner, epoch, 1, RunnerState::Running)]).unwrap();
        (lab, host, runner, epoch)
    }

    fn shown(lab: &Lab, runner: RunnerId) -> ShownState {
        lab.state.runner(runner).unwrap().shown_state()
    }

    #[test]
    fn p3_a_reconnect_keeps_the_host_epoch_and_a_reboot_does_not() {
        let (mut lab, host, runner, epoch) = running();
        let first = lab.state.host(host).unwrap().host_epoch;
        let listed = lab.observed(runner, epoch, 1, RunnerState::Running);
        lab.connect(host, "boot-a", 2, vec![listed]);
        assert_eq!(lab.state.host(host).unwrap().host_epoch, first);
        lab.connect(host, "boot-b", 3, vec![]);
        assert!(lab.state.host(host).unwrap().host_epoch > first);
    }

    #[test]
    fn p14_absence_under_the_same_boot_is_lost_and_a_later_report_recovers() {
        let (mut lab, host, runner, epoch) = running();
        lab.connect(host, "boot-a", 2, vec![]);
        assert_eq!(shown(&lab, runner), ShownState::Lost);
        lab.report(host, vec![lab.observed(runner, epoch, 1, RunnerState::Running)]).unwrap();
        assert_eq!(shown(&lab, runner), ShownState::Running);
        assert_eq!(lab.events_of(EventKind::RunnerRecovered), 1);
    }

    #[test]
    fn p14_absence_says_nothing_about_what_the_host_had_not_seen() {
        let (mut lab, host, _, _) = running();
        let later = lab.launch("web", 1)[0];
        let epoch = lab.assign(later, host).unwrap();
        let seen = Epoch { index: epoch.index - 1, ..epoch };
        lab.connect_seen(host, "boot-a", 2, Some(seen), vec![]);
        assert_eq!(shown(&lab, later), ShownState::Starting);
        lab.connect_seen(host, "boot-b", 3, Some(seen), vec![]);
        assert_eq!(shown(&lab, later), ShownState::Starting, "it cannot have been started in the old boot");
    }

    #[test]
    fn a_reboot_fails_what_ran_and_keeps_true_exits() {
        let (mut lab, host, runner, _) = running();
        let exited = lab.launch("web", 1)[0];
        let epoch = lab.assign(exited, host).unwrap();
        lab.connect(host, "boot-b", 2, vec![lab.observed(exited, epoch, 7, RunnerState::Terminated)]);
        let record = lab.state.runner(runner).unwrap();
        assert_eq!((record.state, record.reason.as_str()), (RunnerState::Failed, "host_rebooted"));
        assert_eq!(shown(&lab, exited), ShownState::Terminated);
        assert_eq!(lab.state.host_load(host).runners, 1, "a boot id alone is no proof");
    }

    #[test]
    fn a_reboot_is_the_proof_that_a_closed_record_waited_for() {
        let (mut lab, host, runner, epoch) = running();
        lab.unreachable(host).unwrap();
        lab.kill(&[runner], true).unwrap();
        lab.connect(host, "boot-a", 2, vec![]);
        assert!(!lab.state.runner(runner).unwrap().settled, "absence proves nothing");
        let unseen = Epoch { index: epoch.index - 1, ..epoch };
        lab.connect_seen(host, "boot-a", 3, Some(unseen), vec![]);
        assert_eq!(lab.state.host_load(host).runners, 1);
        lab.connect(host, "boot-b", 4, vec![]);
        assert!(!lab.state.runner(runner).unwrap().settled, "it may be a copy of the machine");
        lab.confirm_reboot(host, HOLD_WAITED).unwrap();
        assert!(lab.state.runner(runner).unwrap().settled);
        assert_eq!(lab.state.host_load(host).runners, 0);
    }

    #[test]
    fn p3_a_fenced_host_is_heard_again_only_when_nothing_covered_lives() {
        let mut lab = Lab::new();
        lab.create_project("web", 3).unwrap();
        let (a, b) = lab.two_hosts(4);
        let (runner, epoch) = lab.placed(a, OnDisconnect::Stop, true);
        lab.fence(a, HOLD_WAITED, &[runner]).unwrap();
        let alive = vec![lab.observed(runner, epoch, 1, RunnerState::Running)];
        let connect = Command::HostConnect(lab.connect_command(a, "boot-a", 2, None, alive));
        let refused = lab.as_host(a, connect.clone()).unwrap_err();
        assert_eq!(refused.code, Code::CoveredAlive);
        let named: Vec<_> = query::covered(&lab.state, a).map(|one| (one.runner, one.epoch)).collect();
        assert_eq!(named, [(runner, epoch)]);
        // Also when it lives elsewhere by now.
        lab.assign(runner, b).unwrap();
        assert_eq!(lab.as_host(a, connect).unwrap_err().code, Code::CoveredAlive);
        let before = lab.state.host(a).unwrap().fenced;
        let dead = vec![lab.observed(runner, epoch, 2, RunnerState::Failed)];
        lab.connect(a, "boot-a", 3, dead);
        let host = lab.state.host(a).unwrap();
        assert!(host.host_epoch > before && host.fenced.is_none() && host.covered.is_empty());
        assert_eq!(shown(&lab, runner), ShownState::Starting, "its new life goes on");
    }

    #[test]
    fn p3_a_new_host_epoch_is_the_entry_that_gave_it() {
        let mut lab = Lab::new();
        lab.create_project("web", 3).unwrap();
        let (a, _) = lab.two_hosts(4);
        let (runner, _) = lab.placed(a, OnDisconnect::Stop, true);
        lab.fence(a, HOLD_WAITED, &[runner]).unwrap();
        lab.connect(a, "boot-a", 2, vec![]);
        let index = lab.state.host(a).unwrap().host_epoch.unwrap().index;
        assert_eq!(index, lab.index);
        // What was not settled under the old one is settled under the new one only.
        assert_eq!(lab.fence(a, HOLD_WAITED, &[runner]).unwrap_err().code, Code::NotCoverable);
    }

    #[test]
    fn p14_an_older_connection_is_refused() {
        let (mut lab, host, ..) = running();
        lab.connect(host, "boot-a", 5, vec![]);
        let connect = Command::HostConnect(lab.connect_command(host, "boot-a", 4, None, vec![]));
        assert_eq!(lab.as_host(host, connect).unwrap_err().code, Code::StaleConnection);
    }

    #[test]
    fn p8_two_boots_taking_turns_are_a_cloned_machine() {
        let (mut lab, host, ..) = running();
        lab.connect(host, "boot-b", 2, vec![]);
        let connect = Command::HostConnect(lab.connect_command(host, "boot-a", 3, None, vec![]));
        assert_eq!(lab.as_host(host, connect).unwrap_err().code, Code::DuplicateHost);
        assert!(lab.state.host(host).unwrap().cordoned);
        assert_eq!(lab.events_of(EventKind::SystemAlert), 1);
    }

    #[test]
    fn p14_a_stranger_is_shown_and_can_be_killed() {
        let mut lab = Lab::new();
        let host = lab.host("a", 4);
        let stranger = lab.fresh_runner_id();
        let epoch = Epoch { incarnation: 1, index: 2 };
        lab.connect(host, "boot-a", 2, vec![lab.observed(stranger, epoch, 4, RunnerState::Running)]);
        assert_eq!(lab.state.runner(stranger).unwrap().reason, "orphaned");
        lab.kill(&[stranger], false).unwrap();
        assert_eq!(shown(&lab, stranger), ShownState::Stopping);
    }

    #[test]
    fn a_hello_with_a_foul_fact_is_refused() {
        let mut lab = Lab::new();
        let host = lab.join_host("a", 4);
        let mut connect = lab.connect_command(host, "", 1, None, vec![]);
        assert!(lab.as_host(host, Command::HostConnect(connect.clone())).is_err());
        connect.boot_id = "boot".into();
        connect.facts.slots = SLOTS_MAX + 1;
        assert!(lab.as_host(host, Command::HostConnect(connect)).is_err());
    }
}
