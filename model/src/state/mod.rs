//! All replicated rows, with what is derived from them. [`State::put`] and [`State::remove`] are the only ways in.

mod digest;
mod index;

use std::collections::BTreeMap;

use uuid::Uuid;

use self::digest::{Digest, Following};
use self::index::Index;
use crate::cluster::{ClockRecord, ClusterRecord, NodeRecord};
use crate::dedup::DedupRecord;
use crate::event::SegmentRecord;
use crate::host::{HostLoad, HostRecord};
use crate::id::{EventId, HostId, HostName, NodeId, ProjectName, RunnerId, RunnerName, TokenId, UserName};
use crate::identity::{Actor, KeyRecord, SpkiHash, UserRecord};
use crate::project::ProjectRecord;
use crate::restart::BACKOFF_MAX_MS;
use crate::row::{Row, RowKey};
use crate::runner::{RunnerRecord, ShownState};
use crate::time::Millis;
use crate::token::TokenRecord;

/// The replicated state at one log index.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    cluster: Option<Box<ClusterRecord>>,
    clock: Option<ClockRecord>,
    nodes: BTreeMap<NodeId, NodeRecord>,
    users: BTreeMap<UserName, UserRecord>,
    hosts: BTreeMap<HostId, HostRecord>,
    keys: BTreeMap<SpkiHash, KeyRecord>,
    tokens: BTreeMap<TokenId, TokenRecord>,
    projects: BTreeMap<ProjectName, ProjectRecord>,
    runners: BTreeMap<RunnerId, RunnerRecord>,
    dedup: BTreeMap<(Actor, Uuid), DedupRecord>,
    segments: BTreeMap<EventId, SegmentRecord>,
    index: Index,
    following: Following,
}

/// What the event log holds (P26).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EventTotals {
    pub count: u64,
    /// Canonical bytes.
    pub bytes: u64,
}

impl State {
    /// Nothing yet, before the first entry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Rebuilt from persisted rows, in any order; indexes and digest are derived.
    #[must_use]
    pub fn from_rows(rows: impl IntoIterator<Item = Row>) -> Self {
        let mut state = Self::new();
        for row in rows {
            state.following.enter(&row);
            if let Some(old) = state.put(row) {
                state.following.leave(&old);
            }
        }
        state
    }

    /// Every row, table by table in key order.
    pub fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        (self.cluster.iter().map(|row| Row::Cluster(row.clone())))
            .chain(self.clock.iter().map(|row| Row::Clock(*row)))
            .chain(self.nodes.values().map(|row| Row::Node(row.clone())))
            .chain(self.users.values().map(|row| Row::User(row.clone())))
            .chain(self.hosts.values().map(|row| Row::Host(row.clone())))
            .chain(self.keys.values().map(|row| Row::Key(row.clone())))
            .chain(self.tokens.values().map(|row| Row::Token(row.clone())))
            .chain(self.projects.values().map(|row| Row::Project(row.clone())))
            .chain(self.runners.values().map(|row| Row::Runner(row.clone())))
            .chain(self.dedup.values().map(|row| Row::Dedup(row.clone())))
            .chain(self.segments.values().map(|row| Row::Segment(*row)))
    }

    /// P24: a set hash over all rows, kept up to date with every entry. Equal states have equal digests.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.following.value(|key| self.get(key))
    }

    /// Brings the digest up to date, which makes [`Self::digest`] cheap: to be called behind every batch of entries.
    pub fn settle_digest(&mut self) {
        self.following = self.following.settled(|key| self.get(key));
    }

    /// The same from the rows themselves, for the scrub.
    #[must_use]
    pub fn recomputed_digest(&self) -> [u8; 32] {
        let mut digest = Digest::default();
        for row in self.rows() {
            digest.add(&row);
        }
        digest.value()
    }

    /// What was fixed at init; none before it.
    #[must_use]
    pub fn cluster(&self) -> Option<&ClusterRecord> {
        self.cluster.as_deref()
    }

    /// P1: the number of the present incarnation; 0 before init.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.cluster.as_ref().map_or(0, |cluster| cluster.incarnation.n)
    }

    /// The replicated clock.
    #[must_use]
    pub fn clock(&self) -> ClockRecord {
        self.clock.unwrap_or_default()
    }

    /// State time (P4).
    #[must_use]
    pub fn now(&self) -> Millis {
        self.clock().now
    }

    /// Control-plane nodes, removed ones included.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeRecord> {
        self.nodes.values()
    }

    /// A node.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&NodeRecord> {
        self.nodes.get(&id)
    }

    /// Users, removed ones included.
    pub fn users(&self) -> impl ExactSizeIterator<Item = &UserRecord> {
        self.users.values()
    }

    /// A user.
    #[must_use]
    pub fn user(&self, name: &UserName) -> Option<&UserRecord> {
        self.users.get(name)
    }

    /// Hosts by id, removed ones included until they are trimmed.
    pub fn hosts(&self) -> impl ExactSizeIterator<Item = &HostRecord> {
        self.hosts.values()
    }

    /// A host.
    #[must_use]
    pub fn host(&self, id: HostId) -> Option<&HostRecord> {
        self.hosts.get(&id)
    }

    /// The host of this name that is not removed.
    #[must_use]
    pub fn host_named(&self, name: &HostName) -> Option<&HostRecord> {
        self.index.hosts_by_name.get(name).and_then(|id| self.hosts.get(id))
    }

    /// What a host carries; nothing for an unknown one.
    #[must_use]
    pub fn host_load(&self, id: HostId) -> HostLoad {
        self.index.loads.get(&id).copied().unwrap_or_default()
    }

    /// Hosts that take new runners (ready, not cordoned), the one with the most free slots first.
    pub fn placeable(&self) -> impl Iterator<Item = (&HostRecord, HostLoad)> {
        let hosts = self.index.placeable.iter().rev();
        hosts.filter_map(|(_, id)| Some((self.hosts.get(id)?, self.host_load(*id))))
    }

    /// Free slots of all hosts that take new runners.
    #[must_use]
    pub const fn free_slots(&self) -> u64 {
        self.index.free_slots
    }

    /// Slots that the queue asks for.
    #[must_use]
    pub const fn queued_slots(&self) -> u64 {
        self.index.queued_slots
    }

    /// Hosts that have not listed their runners since the incarnation was raised (P30).
    pub fn unlisted_hosts(&self) -> impl ExactSizeIterator<Item = HostId> + '_ {
        self.index.unlisted.iter().copied()
    }

    /// Hosts that are not removed.
    #[must_use]
    pub fn hosts_present(&self) -> usize {
        self.index.hosts_by_name.len()
    }

    /// Registered keys, removed ones included.
    pub fn keys(&self) -> impl Iterator<Item = &KeyRecord> {
        self.keys.values()
    }

    /// A registered key.
    #[must_use]
    pub fn key(&self, spki: &SpkiHash) -> Option<&KeyRecord> {
        self.keys.get(spki)
    }

    /// The keys of an identity, removed ones included.
    pub fn keys_of<'a>(&'a self, identity: &Actor) -> impl Iterator<Item = &'a KeyRecord> + use<'a> {
        let range = (identity.clone(), [0; 32])..=(identity.clone(), [0xff; 32]);
        self.index.keys_by_identity.range(range).filter_map(|(_, spki)| self.keys.get(spki))
    }

    /// Join tokens, used ones included until they are trimmed.
    pub fn tokens(&self) -> impl ExactSizeIterator<Item = &TokenRecord> {
        self.tokens.values()
    }

    /// A join token.
    #[must_use]
    pub fn token(&self, id: TokenId) -> Option<&TokenRecord> {
        self.tokens.get(&id)
    }

    /// Projects by name.
    pub fn projects(&self) -> impl ExactSizeIterator<Item = &ProjectRecord> {
        self.projects.values()
    }

    /// A project.
    #[must_use]
    pub fn project(&self, name: &ProjectName) -> Option<&ProjectRecord> {
        self.projects.get(name)
    }

    /// Runners of a project that count against its quota.
    #[must_use]
    pub fn admitted(&self, project: &ProjectName) -> u32 {
        self.index.projects.get(project).map_or(0, |project| project.admitted)
    }

    /// Runners of a project that are not ended, those that wait for quota included.
    #[must_use]
    pub fn live(&self, project: &ProjectName) -> usize {
        self.index.projects.get(project).map_or(0, |project| project.live.len())
    }

    /// Runners by id, ended ones until they are trimmed.
    pub fn runners(&self) -> impl ExactSizeIterator<Item = &RunnerRecord> {
        self.runners.values()
    }

    /// Runners from this id on, by id.
    pub fn runners_from(&self, first: RunnerId) -> impl Iterator<Item = &RunnerRecord> {
        self.runners.range(first..).map(|(_, runner)| runner)
    }

    /// Runners that are not ended.
    #[must_use]
    pub fn live_runners(&self) -> usize {
        self.runners.len() - self.index.ended
    }

    /// A runner.
    #[must_use]
    pub fn runner(&self, id: RunnerId) -> Option<&RunnerRecord> {
        self.runners.get(&id)
    }

    /// All runners of this name; at most one of them is live.
    pub fn runners_named<'a>(
        &'a self,
        name: &RunnerName,
    ) -> impl Iterator<Item = &'a RunnerRecord> + use<'a> {
        let ids = self.index.runners_by_name.get(name).into_iter().flatten();
        ids.filter_map(|id| self.runners.get(id))
    }

    /// The live runner of this name.
    #[must_use]
    pub fn live_runner_named(&self, name: &RunnerName) -> Option<&RunnerRecord> {
        self.index.live_by_name.get(name).and_then(|id| self.runners.get(id))
    }

    /// Runners of a project that are not ended, by id.
    pub fn runners_of<'a>(
        &'a self,
        project: &ProjectName,
    ) -> impl Iterator<Item = &'a RunnerRecord> + use<'a> {
        let ids = self.index.projects.get(project).into_iter().flat_map(|project| &project.live);
        ids.filter_map(|id| self.runners.get(id))
    }

    /// Runners that take room on a host: placed there, or closed without proof that their tree is gone.
    pub fn runners_on(&self, host: HostId) -> impl Iterator<Item = &RunnerRecord> {
        let ids = self.index.runners_by_host.get(&host).into_iter().flatten();
        ids.filter_map(|id| self.runners.get(id))
    }

    /// Pending runners with a quota place, oldest first.
    pub fn queue(&self) -> impl ExactSizeIterator<Item = RunnerId> + '_ {
        self.index.queue.iter().map(|(_, id)| *id)
    }

    /// Runners of the queue that wait before they are started again, and until when: at state time `now` those whose
    /// wait is not over, the next one first.
    pub fn backing_off(&self, now: Millis) -> impl Iterator<Item = (Millis, RunnerId)> + '_ {
        let later =
            self.index.backing_off.range((now.plus(1), RunnerId::from_random([0; RunnerId::LENGTH]))..);
        let bound = now.plus(BACKOFF_MAX_MS);
        later.take_while(move |(until, _)| *until <= bound).copied()
    }

    /// Per project with a queue: its placed runners, and its queue, oldest first.
    pub fn queues(&self) -> impl Iterator<Item = (&ProjectName, u32, impl Iterator<Item = RunnerId>)> {
        self.index.projects.iter().filter(|(_, uses)| !uses.queued.is_empty()).map(|(name, uses)| {
            // Whoever is admitted is queued or placed.
            let placed = uses.admitted.saturating_sub(uses.queued.len() as u32);
            (name, placed, uses.queued.iter().map(|(_, id)| *id))
        })
    }

    /// Pending runners of a project that wait for quota, oldest first.
    pub fn waiting<'a>(&'a self, project: &ProjectName) -> impl Iterator<Item = RunnerId> + use<'a> {
        let waiting = self.index.projects.get(project).into_iter().flat_map(|project| &project.waiting);
        waiting.map(|(_, id)| *id)
    }

    /// Runners launched, stopped or restarted under a request id, in the order of the launch.
    pub fn runners_by_request(&self, request: Uuid) -> impl Iterator<Item = &RunnerRecord> {
        let ids = self.index.runners_by_request.get(&request).into_iter().flatten();
        ids.filter_map(|(_, id)| self.runners.get(id))
    }

    /// Ended runners whose process tree is proven gone, the one ended first in front.
    pub fn ended(&self) -> impl ExactSizeIterator<Item = (Millis, RunnerId)> + '_ {
        self.index.ended_settled.iter().copied()
    }

    /// How many runners show this state.
    #[must_use]
    pub const fn count(&self, state: ShownState) -> u32 {
        self.index.counts[state as usize]
    }

    /// A remembered request.
    #[must_use]
    pub fn dedup(&self, actor: &Actor, request: Uuid) -> Option<&DedupRecord> {
        self.dedup.get(&(actor.clone(), request))
    }

    /// Rows of the dedup window.
    #[must_use]
    pub fn dedup_rows(&self) -> usize {
        self.dedup.len()
    }

    /// The row that leaves the dedup window next.
    #[must_use]
    pub fn oldest_dedup(&self) -> Option<&DedupRecord> {
        let (_, actor, request) = self.index.dedup_order.first()?;
        self.dedup.get(&(actor.clone(), *request))
    }

    /// Runs of the event log, oldest first.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &SegmentRecord> {
        self.segments.values()
    }

    /// The segment that is cut next; none while there is only the one that is being filled.
    #[must_use]
    pub fn oldest_full_segment(&self) -> Option<SegmentRecord> {
        let mut segments = self.segments();
        segments.next().copied().filter(|_| segments.next().is_some())
    }

    /// How much the event log holds.
    #[must_use]
    pub const fn event_totals(&self) -> EventTotals {
        self.index.events
    }
}

/// The write side. Rows and indexes move together; the digest is moved at commit, once per row.
impl State {
    pub(crate) fn put(&mut self, row: Row) -> Option<Row> {
        let old = self.remove(&row.key());
        self.index_row(&row, true);
        match row {
            Row::Cluster(row) => self.cluster = Some(row),
            Row::Clock(row) => self.clock = Some(row),
            Row::Node(row) => drop(self.nodes.insert(row.id, row)),
            Row::User(row) => drop(self.users.insert(row.name.clone(), row)),
            Row::Host(row) => {
                let id = row.id;
                self.hosts.insert(id, row);
                self.index.enter_host(self.hosts.get(&id));
            }
            Row::Key(row) => drop(self.keys.insert(row.spki, row)),
            Row::Token(row) => drop(self.tokens.insert(row.id, row)),
            Row::Project(row) => drop(self.projects.insert(row.name.clone(), row)),
            Row::Runner(row) => drop(self.runners.insert(row.id, row)),
            Row::Dedup(row) => drop(self.dedup.insert((row.actor.clone(), row.request_id), row)),
            Row::Segment(row) => drop(self.segments.insert(row.first, row)),
        }
        old
    }

    pub(crate) fn remove(&mut self, key: &RowKey) -> Option<Row> {
        let old = match key {
            RowKey::Cluster => self.cluster.take().map(Row::Cluster),
            RowKey::Clock => self.clock.take().map(Row::Clock),
            RowKey::Node(id) => self.nodes.remove(id).map(Row::Node),
            RowKey::User(name) => self.users.remove(name).map(Row::User),
            RowKey::Host(id) => {
                self.index.leave_host(self.hosts.get(id));
                self.hosts.remove(id).map(Row::Host)
            }
            RowKey::Key(spki) => self.keys.remove(spki).map(Row::Key),
            RowKey::Token(id) => self.tokens.remove(id).map(Row::Token),
            RowKey::Project(name) => self.projects.remove(name).map(Row::Project),
            RowKey::Runner(id) => self.runners.remove(id).map(Row::Runner),
            RowKey::Dedup(actor, id) => self.dedup.remove(&(actor.clone(), *id)).map(Row::Dedup),
            RowKey::Segment(first) => self.segments.remove(first).map(Row::Segment),
        };
        if let Some(row) = &old {
            self.index_row(row, false);
        }
        old
    }

    pub(crate) fn get(&self, key: &RowKey) -> Option<Row> {
        match key {
            RowKey::Cluster => self.cluster.clone().map(Row::Cluster),
            RowKey::Clock => self.clock.map(Row::Clock),
            RowKey::Node(id) => self.nodes.get(id).cloned().map(Row::Node),
            RowKey::User(name) => self.users.get(name).cloned().map(Row::User),
            RowKey::Host(id) => self.hosts.get(id).cloned().map(Row::Host),
            RowKey::Key(spki) => self.keys.get(spki).cloned().map(Row::Key),
            RowKey::Token(id) => self.tokens.get(id).cloned().map(Row::Token),
            RowKey::Project(name) => self.projects.get(name).cloned().map(Row::Project),
            RowKey::Runner(id) => self.runners.get(id).cloned().map(Row::Runner),
            RowKey::Dedup(actor, id) => self.dedup.get(&(actor.clone(), *id)).cloned().map(Row::Dedup),
            RowKey::Segment(first) => self.segments.get(first).copied().map(Row::Segment),
        }
    }

    /// The digest has to follow one changed row.
    pub(crate) fn digest_moved(&mut self, key: &RowKey, before: Option<Row>, now: Option<&Row>) {
        self.following.changed(key, before, now);
    }

    /// Whether the derived indexes equal those rebuilt from the rows.
    pub(crate) fn index_is_exact(&self) -> bool {
        Self::from_rows(self.rows()).index == self.index
    }

    fn index_row(&mut self, row: &Row, enter: bool) {
        match row {
            Row::Runner(runner) => {
                // A runner's change moves its host's free room.
                let host = runner.occupies().and_then(|id| self.hosts.get(&id));
                self.index.leave_host(host);
                if enter {
                    self.index.enter_runner(runner)
                } else {
                    self.index.leave_runner(runner)
                }
                self.index.enter_host(host);
            }
            Row::Key(key) => self.index.key(key, enter),
            Row::Dedup(dedup) => self.index.dedup(dedup, enter),
            Row::Segment(segment) => self.index.segment(segment, enter),
            Row::Cluster(_)
            | Row::Clock(_)
            | Row::Node(_)
            | Row::User(_)
            | Row::Host(_)
            | Row::Token(_)
            | Row::Project(_) => {}
        }
    }
}
