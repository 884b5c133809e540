//! What holds in every state, whatever entries led to it. Slow: reads everything.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::host::HostState;
use crate::id::{HostId, ProjectName, RunnerName};
use crate::identity::Actor;
use crate::runner::{RunnerRecord, RunnerState, Want};
use crate::state::State;
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

fn runner_rules(state: &State, runner: &RunnerRecord) -> [(bool, &'static str); 10] {
    let (placed, ended) = (runner.state.is_placed(), runner.state.is_ended());
    let pending = runner.state == RunnerState::Pending;
    let on_host = runner.host.is_some_and(|host| state.host(host).is_some());
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
        (!runner.restart_wanted || (placed && runner.want != Want::Run), "waits for a restart unasked"),
    ]
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
            Actor::Node(id) => state.node(*id).is_some(),
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
        let foul = RunnerRecord { admitted: true, lost: Some(crate::Lost::NotListed), ..waiting };
        let rows = lab.state.rows().filter(|row| row.key() != Row::Runner(foul.clone()).key());
        let state = State::from_rows(rows.chain([Row::Runner(foul.clone())]).collect::<Vec<_>>());
        assert_eq!(check(&state).len(), 1);
        let mut stale = lab.state.clone();
        stale.put(Row::Runner(foul));
        assert!(check(&stale).iter().any(|v| v.0.contains("digest")), "{:?}", check(&stale));
    }
}
