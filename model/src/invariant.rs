//! What holds in every state, whatever entries led to it. Slow: reads everything.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::event::{EventKind, RecordedEvent};
use crate::host::{HostRecord, HostState, LeaseBound};
use crate::id::{Epoch, HostId, ProjectName, RunnerId, RunnerName};
use crate::identity::Actor;
use crate::runner::{Lost, OnDisconnect, RestartPolicy, RunnerRecord, RunnerState, Want};
use crate::state::State;
use crate::time::Millis;
use crate::token::TokenState;

/// A broken invariant, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Everything that is wrong with a state; empty for every state that entries can lead to.
#[must_use]
pub fn check(state: &State) -> Vec<Violation> {
    let mut found = Vec::new();
    derived_data_is_exact(state, &mut found);
    runner_rows_make_sense(state, &mut found);
    live_names_are_unique(state, &mut found);
    nobody_waits_beside_a_free_quota_place(state, &mut found);
    keys_belong_to_someone(state, &mut found);
    tokens_admit_one_key(state, &mut found);
    events_are_counted_in_order(state, &mut found);
    host_rows_make_sense(state, &mut found);
    covered_epochs_are_over(state, &mut found);
    members_apply_what_the_cluster_does(state, &mut found);
    found
}

/// I3 and I4, which hold at the entries that place or admit: a quota may be lowered and a host shrink below its use.
#[must_use]
pub fn check_placed(state: &State, host: HostId) -> Vec<Violation> {
    let mut found = Vec::new();
    let Some(record) = state.host(host) else { return found };
    let load = state.host_load(host);
    if load.slots > record.slots {
        found.push(Violation(format!("host {host} carries {} of {} slots", load.slots, record.slots)));
    }
    for runner in state.runners_on(host) {
        let (cpu, memory) = (runner.spec.cpu_milli, runner.spec.memory_bytes);
        if (cpu > 0 && load.cpu_milli > record.cpu_milli)
            || (memory > 0 && load.memory_bytes > record.memory_bytes)
        {
            found.push(Violation(format!("host {host} carries {load}, more than it has")));
        }
    }
    found
}

fn derived_data_is_exact(state: &State, found: &mut Vec<Violation>) {
    if !state.index_is_exact() {
        found.push(Violation("the indexes differ from those rebuilt from rows".into()));
    }
    if state.digest() != state.recomputed_digest() {
        found.push(Violation("the digest differs from the recomputed one (P24)".into()));
    }
}

fn runner_rows_make_sense(state: &State, found: &mut Vec<Violation>) {
    for runner in state.runners() {
        for (holds, what) in runner_rules(state, runner) {
            if !holds {
                found.push(Violation(format!("runner {}: {what}: {runner:?}", runner.id)));
            }
        }
    }
}

fn runner_rules(state: &State, runner: &RunnerRecord) -> [(bool, &'static str); 16] {
    let (placed, ended) = (runner.state.is_placed(), runner.state.is_ended());
    let pending = runner.state == RunnerState::Pending;
    let host = runner.host.and_then(|host| state.host(host));
    let on_host = host.is_some();
    let waits = runner.retry.as_ref().is_some_and(|retry| retry.not_before > Millis(0));
    let unplaced = runner.on_disconnect == OnDisconnect::Keep && runner.hold_ms == 0;
    [
        (state.project(&runner.project).is_some(), "has no project"),
        (!placed || (on_host && runner.epoch.is_some()), "is placed without host or epoch"),
        (!pending || (runner.host.is_none() && runner.epoch.is_none()), "is pending with a host or epoch"),
        (runner.epoch.is_some() == runner.host.is_some(), "has an epoch without host or the reverse"),
        (runner.lost.is_none() || placed, "is lost without being placed"),
        (!pending || runner.want == Want::Run, "is pending and wanted to stop"),
        (!placed || runner.admitted, "is placed without a quota place"),
        (!ended || (!runner.admitted && runner.ended_at.is_some()), "has ended and holds a quota place"),
        (ended || (runner.settled && runner.exit.is_none()), "lives and has an end"),
        (!placed || runner.hold_ms > 0, "is placed without a hold (P9)"),
        (!pending || unplaced, "is pending under a policy of its last placement (P9)"),
        (
            runner.lost != Some(Lost::HostRebooted) || host.is_some_and(|host| host.rebooted.is_some()),
            "waits for a reboot that nobody confirms (P8)",
        ),
        (
            runner.lost != Some(Lost::HostRemoved) || host.is_some_and(|h| h.state == HostState::Removed),
            "is lost with a host that is there (P18)",
        ),
        (
            (runner.spec.restart != RestartPolicy::Never) == runner.retry.is_some(),
            "has half a restart policy",
        ),
        (pending || !waits, "waits for a restart and is not pending"),
        (!runner.restart_wanted || (placed && runner.want != Want::Run), "waits for a restart unasked"),
    ]
}

fn host_rows_make_sense(state: &State, found: &mut Vec<Violation>) {
    for host in state.hosts() {
        for (holds, what) in host_rules(state, host) {
            if !holds {
                found.push(Violation(format!("host {}: {what}: {host:?}", host.id)));
            }
        }
    }
}

fn host_rules(state: &State, host: &HostRecord) -> [(bool, &'static str); 6] {
    let holds = host.host_epoch.is_some();
    let removed = host.state == HostState::Removed;
    let alone = state.hosts_present() == 1;
    [
        (host.fenced.is_none() || !holds, "holds a host epoch beside one that has ended (P3)"),
        (
            host.covered.is_empty() || !holds,
            "holds a host epoch, and what was covered is not shown dead (P3)",
        ),
        (!removed || !holds, "is removed and holds a host epoch (P18)"),
        (!host.unlisted || !holds, "holds a host epoch and has not listed (P30)"),
        (!host.draining || host.cordoned, "is emptied and takes new runners"),
        (removed || alone || host.lease.bound != LeaseBound::Unbounded, "is unbounded beside others (P13)"),
    ]
}

/// P7, P8: what a fence covered never lives, and its runner goes on under a higher epoch only.
fn covered_epochs_are_over(state: &State, found: &mut Vec<Violation>) {
    for host in state.hosts() {
        for (id, epoch) in &host.covered {
            let runner = state.runner(*id).filter(|runner| runner.is_live());
            if runner.is_some_and(|runner| runner.epoch.is_some_and(|present| present <= *epoch)) {
                found.push(Violation(format!("runner {id} lives under {epoch}, which a fence covered (I1)")));
            }
        }
    }
}

fn members_apply_what_the_cluster_does(state: &State, found: &mut Vec<Violation>) {
    let version = state.cluster().map_or(0, |cluster| cluster.version);
    for node in state.nodes().filter(|node| !node.removed && node.max_version < version) {
        found.push(Violation(format!("node {} cannot apply cluster version {version} (P22)", node.id)));
    }
}

/// What holds over every step: an epoch is left only when it has ended, with an event that says so, or when its host
/// lists a higher one after a recovery; one whose end is not proven is not left at all (P8, P15).
#[must_use]
pub fn check_step(before: &State, after: &State, events: &[RecordedEvent]) -> Vec<Violation> {
    let said = |kinds: &[EventKind], runner: RunnerId, epoch: Option<Epoch>| {
        events.iter().any(|e| kinds.contains(&e.kind) && e.runner == Some(runner) && e.epoch == epoch)
    };
    let mut found = Vec::new();
    for old in before.runners().filter(|runner| runner.occupies().is_some()) {
        let Some(new) = after.runner(old.id) else {
            found.push(Violation(format!("runner {} is gone while it took room", old.id)));
            continue;
        };
        let adopted = new.epoch > old.epoch && said(&[EventKind::RunnerRecovered], old.id, new.epoch);
        if new.epoch == old.epoch || adopted {
            continue;
        }
        let ended = said(&[EventKind::RunnerStopped, EventKind::RunnerFailed], old.id, old.epoch);
        // One whose end was reported with leftovers is left when its host has shown them gone, if its policy says so.
        let proven = !old.settled && new.restarts > old.restarts && old.retry.is_some();
        if !((old.is_live() && ended) || (!old.is_live() && proven)) || new.epoch.is_some() {
            found.push(Violation(format!("runner {} left {:?} without its end: {new:?}", old.id, old.epoch)));
        }
        let fenced = said(&[EventKind::RunnerFenced], old.id, old.epoch);
        let kept = crate::query::effective_policy(before, old) == OnDisconnect::Keep;
        if fenced && kept {
            found.push(Violation(format!("runner {} was fenced and is to be kept (P9)", old.id)));
        }
    }
    found
}

fn live_names_are_unique(state: &State, found: &mut Vec<Violation>) {
    let mut names: BTreeSet<&RunnerName> = BTreeSet::new();
    for runner in state.runners().filter(|runner| runner.is_live()) {
        if !names.insert(&runner.name) {
            found.push(Violation(format!("two live runners are called {}", runner.name)));
        }
    }
    let mut hosts = BTreeSet::new();
    for host in state.hosts().filter(|host| host.state != HostState::Removed) {
        if !hosts.insert(&host.name) {
            found.push(Violation(format!("two hosts are called {}", host.name)));
        }
    }
}

fn nobody_waits_beside_a_free_quota_place(state: &State, found: &mut Vec<Violation>) {
    let mut uses: BTreeMap<&ProjectName, (u32, bool)> = BTreeMap::new();
    for runner in state.runners().filter(|runner| runner.is_live()) {
        let (admitted, waits) = uses.entry(&runner.project).or_default();
        *admitted += u32::from(runner.admitted);
        *waits |= !runner.admitted;
    }
    for (name, (admitted, waits)) in uses {
        let max = state.project(name).map_or(0, |project| project.max_runners);
        if waits && admitted < max {
            found.push(Violation(format!("project {name} uses {admitted} of {max} and someone waits")));
        }
    }
}

fn keys_belong_to_someone(state: &State, found: &mut Vec<Violation>) {
    for key in state.keys() {
        // A removed host's row may be trimmed; its key is not.
        let known = match &key.identity {
            Actor::System => false,
            // One that is reserved has no row yet.
            Actor::Node(id) => state.cluster().is_some_and(|cluster| *id < cluster.next_node),
            Actor::Host(id) => key.removed || state.host(*id).is_some(),
            Actor::User(name) => state.user(name).is_some(),
        };
        if !known {
            found.push(Violation(format!("a key belongs to {}, who is not there", key.identity)));
        }
    }
    for host in state.hosts() {
        let removed = host.state == HostState::Removed;
        let mut keys = state.keys_of(&Actor::Host(host.id));
        if removed && keys.any(|key| !key.removed) {
            found.push(Violation(format!("host {} is removed and has a valid key (P18)", host.id)));
        }
        if host.state == HostState::Ready && host.host_epoch.is_none() {
            found.push(Violation(format!("host {} is ready without host epoch (P3)", host.id)));
        }
    }
}

fn tokens_admit_one_key(state: &State, found: &mut Vec<Violation>) {
    let mut admitted = BTreeSet::new();
    for key in state.keys() {
        if let Some(token) = key.token
            && !admitted.insert(token)
        {
            found.push(Violation(format!("token {token} admitted two keys (I9)")));
        }
    }
    for token in state.tokens() {
        let used = matches!(token.state, TokenState::Used { .. });
        if used != admitted.contains(&token.id) {
            found.push(Violation(format!("token {} and the keys it admitted disagree", token.id)));
        }
    }
}

fn events_are_counted_in_order(state: &State, found: &mut Vec<Violation>) {
    let mut last = None;
    for segment in state.segments() {
        if segment.first > segment.last || last >= Some(segment.first) || segment.count == 0 {
            found.push(Violation(format!("segment {segment:?} is empty or out of order")));
        }
        last = Some(segment.last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Lab;
    use crate::row::Row;

    #[test]
    fn a_foul_row_is_found() {
        let mut lab = Lab::new();
        lab.create_project("web", 1).unwrap();
        let runners = lab.launch("web", 2);
        assert_eq!(check(&lab.state), []);
        let waiting = lab.state.runner(runners[1]).unwrap().clone();
        let foul = RunnerRecord { admitted: true, lost: Some(Lost::NotListed), ..waiting };
        let rows = lab.state.rows().filter(|row| row.key() != Row::Runner(foul.clone()).key());
        let state = State::from_rows(rows.chain([Row::Runner(foul.clone())]).collect::<Vec<_>>());
        assert_eq!(check(&state).len(), 1);
        let mut stale = lab.state.clone();
        stale.put(Row::Runner(foul));
        assert!(check(&stale).iter().any(|v| v.0.contains("digest")), "{:?}", check(&stale));
    }

    fn found(rows: Vec<Row>) -> String {
        let words: Vec<_> = check(&State::from_rows(rows)).into_iter().map(|violation| violation.0).collect();
        words.join("\n")
    }

    /// The rows of a state, but for one host's or runner's, which come as `change` leaves them.
    fn with(state: &State, change: impl Fn(&mut Row)) -> Vec<Row> {
        let mut rows: Vec<_> = state.rows().collect();
        rows.iter_mut().for_each(change);
        rows
    }

    #[test]
    fn p3_p7_a_covered_epoch_that_lives_is_found() {
        let mut lab = Lab::new();
        lab.create_project("web", 3).unwrap();
        let (a, _) = lab.two_hosts(4);
        let (runner, epoch) = lab.placed(a, OnDisconnect::Stop, true);
        assert_eq!(found(lab.state.rows().collect()), "");
        let rows = with(&lab.state, |row| {
            if let Row::Host(host) = row
                && host.id == a
            {
                host.covered.insert(runner, epoch);
            }
        });
        let words = found(rows);
        assert!(words.contains("which a fence covered (I1)"), "{words}");
        assert!(words.contains("what was covered is not shown dead (P3)"), "{words}");
    }

    #[test]
    fn foul_hosts_and_members_are_found() {
        let mut lab = Lab::new();
        lab.two_hosts(4);
        type Change = fn(&mut HostRecord);
        let cases: [(Change, &str); 5] = [
            (|host| host.fenced = host.host_epoch, "beside one that has ended (P3)"),
            (|host| host.state = HostState::Removed, "is removed and holds a host epoch (P18)"),
            (|host| host.unlisted = true, "has not listed (P30)"),
            (|host| host.draining = true, "is emptied and takes new runners"),
            (|host| host.lease.bound = LeaseBound::Unbounded, "is unbounded beside others (P13)"),
        ];
        for (change, expected) in cases {
            let words = found(with(&lab.state, |row| {
                if let Row::Host(host) = row {
                    change(host)
                }
            }));
            assert!(words.contains(expected), "{expected}: {words}");
        }
        let words = found(with(&lab.state, |row| {
            if let Row::Node(node) = row {
                node.max_version = 1
            }
        }));
        let expected = format!("cannot apply cluster version {} (P22)", crate::COMMAND_VERSION);
        assert!(words.contains(&expected), "{words}");
    }

    #[test]
    fn p8_leaving_an_epoch_without_its_end_is_found() {
        let mut lab = Lab::new();
        lab.create_project("web", 3).unwrap();
        let (a, _) = lab.two_hosts(4);
        let (runner, _) = lab.placed(a, OnDisconnect::Keep, true);
        let before = lab.state.clone();
        let left = |row: &mut Row| {
            if let Row::Runner(record) = row {
                record.epoch = record.epoch.map(|epoch| Epoch { index: epoch.index + 1, ..epoch });
            }
        };
        let after = State::from_rows(with(&before, left));
        let words = check_step(&before, &after, &[]);
        assert!(words.len() == 1 && words[0].0.contains("without its end"), "{words:?}");
        let gone = State::from_rows(before.rows().filter(|row| !matches!(row, Row::Runner(_))));
        assert!(check_step(&before, &gone, &[])[0].0.contains("is gone while it took room"));
        lab.remove_host("a").unwrap();
        let mut event =
            lab.changes.events().iter().find(|e| e.kind == EventKind::RunnerFailed).cloned().unwrap();
        let mut requeued = lab.state.runner(runner).unwrap().clone();
        requeued.epoch = None;
        let rows = with(&before, |row| {
            if let Row::Runner(record) = row {
                *record = requeued.clone()
            }
        });
        let after = State::from_rows(rows);
        assert_eq!(check_step(&before, &after, std::slice::from_ref(&event)), []);
        let failed = event.clone();
        event.kind = EventKind::RunnerFenced;
        assert!(check_step(&before, &after, &[failed, event])[0].0.contains("is to be kept (P9)"));
    }
}
