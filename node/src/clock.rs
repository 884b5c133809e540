//! P4: the time that this node stamps while it leads. Every node asks the voters for their clocks, so that whoever begins
//! to lead knows already whether its own can be believed. A leader whose clock is off their median lets another node lead,
//! and stamps the median as long as none can. No safety decision depends on any of it.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::join_all;
use stratavore_model::command::NodeNote;
use stratavore_model::{Millis, NodeId};
use stratavore_proto::v1::ClockRequest;
use stratavore_proto::v1::peer_service_client::PeerServiceClient;
use stratavore_raft::Handle;
use tokio_util::sync::CancellationToken;

use crate::convert::id;
use crate::notes::Notes;
use crate::peer::channels::Channels;

/// P4: farther than this from the voters' median a clock is off.
pub(crate) const OFF_MS: u64 = 5_000;

/// P4: a median of fewer says nothing.
const KNOWN_MIN: usize = 3;

/// A voter's clock counts as known for this long after its last answer: clocks drift by milliseconds a minute.
const KNOWN_FOR: Duration = Duration::from_secs(600);

/// Between two rounds of questions.
const PERIOD: Duration = Duration::from_secs(5);

/// Until the next round while fewer voters than needed have answered.
const RETRY: Duration = Duration::from_millis(500);

/// An answer that takes longer says too little about the time; a dead voter must not hold the round up.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// What a voter's clock showed, and when that was by this node's monotonic clock.
#[derive(Debug, Clone, Copy)]
struct Heard {
    wall: Millis,
    at: Instant,
}

/// What is known of the voters' clocks. No I/O, no clock.
#[derive(Debug)]
struct Clocks {
    me: NodeId,
    voters: BTreeSet<NodeId>,
    heard: BTreeMap<NodeId, Heard>,
}

impl Clocks {
    fn new(me: NodeId) -> Self {
        Self { me, voters: BTreeSet::new(), heard: BTreeMap::new() }
    }

    fn learn(&mut self, node: NodeId, wall: Millis, at: Instant) {
        self.heard.insert(node, Heard { wall, at });
    }

    fn set_voters(&mut self, voters: BTreeSet<NodeId>) {
        self.heard.retain(|node, _| voters.contains(node));
        self.voters = voters;
    }

    /// What the clocks of the known voters show now; this node's own is `own`.
    fn shown(&self, own: Millis, now: Instant) -> Vec<(NodeId, Millis)> {
        let shown = |voter: &NodeId| {
            if *voter == self.me {
                return Some((*voter, own));
            }
            let heard = self.heard.get(voter)?;
            let since = now.saturating_duration_since(heard.at);
            let passed = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
            (since < KNOWN_FOR).then(|| (*voter, Millis(heard.wall.0.saturating_add(passed))))
        };
        self.voters.iter().filter_map(shown).collect()
    }

    /// The median of the voters' clocks, once three or more are known. Of an even number the lower one: a time that is
    /// behind does no harm, one that is ahead stays.
    fn median(&self, own: Millis, now: Instant) -> Option<Millis> {
        let mut times: Vec<Millis> = self.shown(own, now).into_iter().map(|(_, shown)| shown).collect();
        if times.len() < KNOWN_MIN {
            return None;
        }
        times.sort_unstable();
        times.get((times.len() - 1) / 2).copied()
    }

    /// How far this node's clock is ahead of the median, or behind it when negative; none while nobody can say.
    fn ahead_ms(&self, own: Millis, now: Instant) -> Option<i64> {
        self.median(own, now).map(|median| signed(own).saturating_sub(signed(median)))
    }

    /// What a leader stamps; the state's own time stays monotone in apply.
    fn stamp(&self, own: Millis, now: Instant) -> Millis {
        match self.median(own, now) {
            Some(median) if own.0.abs_diff(median.0) > OFF_MS => median,
            _ => own,
        }
    }

    /// Other voters whose clocks are right, by the median.
    fn right(&self, own: Millis, now: Instant) -> Vec<NodeId> {
        let Some(median) = self.median(own, now) else { return Vec::new() };
        let right =
            |(node, shown): &(NodeId, Millis)| *node != self.me && shown.0.abs_diff(median.0) <= OFF_MS;
        self.shown(own, now).iter().filter(|clock| right(clock)).map(|(node, _)| *node).collect()
    }
}

fn signed(at: Millis) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

pub(crate) fn is_off(ahead_ms: i64) -> bool {
    ahead_ms.unsigned_abs() > OFF_MS
}

/// The time for people: "3600 s ahead of" or "behind".
pub(crate) fn described(ahead_ms: i64) -> String {
    let side = if ahead_ms < 0 { "behind" } else { "ahead of" };
    format!("{} s {side}", ahead_ms.unsigned_abs() / 1000)
}

/// This node's clock among the others'. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    clocks: Arc<Mutex<Clocks>>,
}

impl Clock {
    pub(crate) fn new(me: NodeId) -> Self {
        Self { clocks: Arc::new(Mutex::new(Clocks::new(me))) }
    }

    fn lock(&self) -> MutexGuard<'_, Clocks> {
        self.clocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time as far as it can be believed.
    pub(crate) fn now(&self) -> Millis {
        self.lock().stamp(id::now(), Instant::now())
    }

    /// How far this node's clock is ahead of the voters' median; none while nobody can say.
    pub(crate) fn ahead_ms(&self) -> Option<i64> {
        self.lock().ahead_ms(id::now(), Instant::now())
    }
}

/// The loop that asks, and that lets another node lead.
pub(crate) struct ClockWatch {
    pub(crate) node: NodeId,
    pub(crate) raft: Handle,
    pub(crate) channels: Channels,
    pub(crate) clock: Clock,
}

impl ClockWatch {
    /// Runs until cancelled.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), Infallible> {
        let mut leadership = self.raft.leadership();
        let mut was_off = false;
        let mut notes = Notes::new(self.node, self.raft.clone());
        loop {
            leadership.mark_unchanged();
            let round = async {
                let known = self.ask().await;
                was_off = self.judge(was_off, &mut notes).await;
                notes.tell().await;
                if known { PERIOD } else { RETRY }
            };
            let pause = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                pause = round => pause,
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                // An error means that raft has ended, which ends the process.
                Ok(()) = leadership.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Asks every other voter. False while too few have answered although there are enough.
    async fn ask(&self) -> bool {
        let voters: BTreeSet<NodeId> = self.raft.membership().voters().collect();
        let others: Vec<NodeId> = voters.iter().copied().filter(|voter| *voter != self.node).collect();
        let enough = voters.len() >= KNOWN_MIN;
        self.clock.lock().set_voters(voters);
        if !enough {
            return true;
        }
        let answers = join_all(others.into_iter().map(|voter| self.clock_of(voter))).await;
        let mut clocks = self.clock.lock();
        for (voter, wall, at) in answers.into_iter().flatten() {
            clocks.learn(voter, wall, at);
        }
        clocks.shown(id::now(), Instant::now()).len() >= KNOWN_MIN
    }

    async fn clock_of(&self, voter: NodeId) -> Option<(NodeId, Millis, Instant)> {
        let mut client = PeerServiceClient::new(self.channels.channel(voter).ok()?);
        let asked = Instant::now();
        let answer = tokio::time::timeout(ANSWER_WITHIN, client.clock(ClockRequest {})).await.ok()?.ok()?;
        let wall = u64::try_from(answer.into_inner().unix_ms).ok()?;
        // It was read between question and answer.
        Some((voter, Millis(wall), asked + asked.elapsed() / 2))
    }

    /// Says what has changed, and hands leadership over while this clock is off. Whether it is.
    async fn judge(&self, was_off: bool, notes: &mut Notes) -> bool {
        let off = self.clock.ahead_ms().filter(|ahead| is_off(*ahead));
        match off {
            Some(ahead) if !was_off => {
                let by = described(ahead);
                tracing::error!(clock = %by, "this machine's clock is off the other voters': set it");
                notes.add(NodeNote::ClockOff, format!("its clock is {by} the others'"));
            }
            None if was_off => tracing::info!("this machine's clock is right again"),
            _ => {}
        }
        if off.is_some() && self.raft.leadership().borrow().me {
            self.hand_over().await;
        }
        off.is_some()
    }

    async fn hand_over(&self) {
        let able = self.clock.lock().right(id::now(), Instant::now());
        for voter in able {
            match self.raft.transfer_leadership(Some(voter)).await {
                Ok(leader) => {
                    tracing::warn!(%leader, "another node leads, because this one's clock is off");
                    return;
                }
                Err(error) => tracing::info!(%voter, %error, "it cannot lead instead of this node"),
            }
            if !self.raft.leadership().borrow().me {
                return;
            }
        }
        tracing::warn!("no other voter can lead: this node stamps the voters' median");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIGHT: u64 = 1_800_000_000_000;
    const HOUR: u64 = 3_600_000;

    /// Node 1's view of voters 1 to `voters`, of which the others showed `others` at `at`.
    fn clocks(voters: u64, others: &[u64], at: Instant) -> Clocks {
        let mut clocks = Clocks::new(NodeId(1));
        clocks.set_voters((1..=voters).map(NodeId).collect());
        for (node, wall) in (2..).zip(others) {
            clocks.learn(NodeId(node), Millis(*wall), at);
        }
        clocks
    }

    #[test]
    fn p4_a_clock_an_hour_off_stamps_the_median_and_another_node_may_lead() {
        let now = Instant::now();
        for own in [RIGHT + HOUR, RIGHT - HOUR] {
            let clocks = clocks(3, &[RIGHT - 300, RIGHT + 200], now);
            let median = if own > RIGHT { RIGHT + 200 } else { RIGHT - 300 };
            assert_eq!(clocks.stamp(Millis(own), now), Millis(median));
            assert!(is_off(clocks.ahead_ms(Millis(own), now).unwrap()));
            assert_eq!(clocks.right(Millis(own), now), [NodeId(2), NodeId(3)]);
        }
    }

    #[test]
    fn p4_a_clock_within_five_seconds_is_believed() {
        let now = Instant::now();
        let clocks = clocks(3, &[RIGHT, RIGHT], now);
        assert_eq!(clocks.stamp(Millis(RIGHT + OFF_MS), now), Millis(RIGHT + OFF_MS));
        assert_eq!(clocks.stamp(Millis(RIGHT + OFF_MS + 1), now), Millis(RIGHT));
    }

    #[test]
    fn p4_fewer_than_three_known_voters_judge_nobody() {
        let now = Instant::now();
        let own = Millis(RIGHT + HOUR);
        for clocks in [clocks(2, &[RIGHT], now), clocks(3, &[RIGHT], now), clocks(1, &[], now)] {
            assert_eq!((clocks.stamp(own, now), clocks.ahead_ms(own, now)), (own, None));
        }
        // What was heard long ago is not known any more.
        let late = now + KNOWN_FOR;
        assert_eq!(clocks(3, &[RIGHT, RIGHT], now).ahead_ms(own, late), None);
    }

    #[test]
    fn p4_the_other_one_that_is_off_is_not_asked_to_lead() {
        let now = Instant::now();
        let clocks = clocks(5, &[RIGHT, RIGHT + 2 * HOUR, RIGHT, RIGHT], now);
        assert_eq!(clocks.right(Millis(RIGHT + HOUR), now), [2, 4, 5].map(NodeId));
    }

    #[test]
    fn p4_what_was_heard_goes_on_and_a_step_of_the_own_clock_is_seen_at_once() {
        let heard = Instant::now();
        let clocks = clocks(3, &[RIGHT, RIGHT], heard);
        let later = heard + Duration::from_secs(60);
        assert_eq!(clocks.ahead_ms(Millis(RIGHT + 60_000), later), Some(0));
        assert_eq!(clocks.stamp(Millis(RIGHT + 60_000 + HOUR), later), Millis(RIGHT + 60_000));
    }

    #[test]
    fn p4_a_node_without_a_vote_measures_itself_and_weighs_nothing() {
        let now = Instant::now();
        let mut clocks = clocks(4, &[RIGHT, RIGHT, RIGHT], now);
        clocks.set_voters([2, 3, 4].map(NodeId).into());
        assert_eq!(clocks.ahead_ms(Millis(RIGHT - HOUR), now), Some(-3_600_000));
        assert_eq!(described(-3_600_000), "3600 s behind");
    }
}
