//! P24: a node whose state differs from the majority's serves nothing until it has taken a peer's. Its log and its votes
//! go on. Where no majority says who is right there is an alarm and nothing else.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use stratavore_model::NodeId;
use stratavore_model::command::NodeNote;
use stratavore_raft::{DigestReport, Handle};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::link::hub::{Cut, Hub};
use crate::notes::Notes;

/// Digests are cheap to compare, and rows do not rot by the second.
const PERIOD: Duration = Duration::from_secs(60);

/// While quarantined, or not compared yet: until the next attempt.
const RETRY: Duration = Duration::from_secs(2);

/// The slow scrub reads every row from disk.
const SCRUB_EVERY: u32 = 60;

/// Whether this node is quarantined, for whoever serves.
#[derive(Debug, Clone)]
pub(crate) struct Quarantine {
    why: watch::Sender<Option<String>>,
    rebuilds: Arc<AtomicU64>,
    /// States differ and nobody knows who is right.
    dispute: watch::Sender<Option<String>>,
}

impl Quarantine {
    /// `damage` is what the start found: known before the first request is served.
    pub(crate) fn new(damage: Option<String>) -> Self {
        Self { why: watch::Sender::new(damage), rebuilds: Arc::default(), dispute: watch::Sender::new(None) }
    }

    /// Why this node serves nothing now; none while it does.
    pub(crate) fn why(&self) -> Option<String> {
        self.why.borrow().clone()
    }

    /// Resolves when this node is quarantined, with the reason.
    pub(crate) async fn entered(&self) -> String {
        let mut why = self.why.subscribe();
        match why.wait_for(Option::is_some).await.map(|why| why.clone()) {
            Ok(Some(why)) => why,
            // The sender is part of `self`.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// What an administrator has to settle, since no majority does.
    pub(crate) fn dispute(&self) -> Option<String> {
        self.dispute.borrow().clone()
    }

    /// How often this process took a peer's state.
    pub(crate) fn rebuilds(&self) -> u64 {
        self.rebuilds.load(Ordering::Relaxed)
    }

    /// # Errors
    /// The reason, for a caller.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.why()
            .map_or(Ok(()), |why| Err(format!("this node is quarantined and rebuilds its state: {why}")))
    }
}

/// What a look says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Sound,
    /// There was nothing to compare with yet.
    Unknown,
    /// Serve nothing; the state can be taken from any of these, best first.
    Quarantine {
        why: String,
        from: Vec<NodeId>,
    },
    Alarm(String),
}

/// What one look sees.
struct Seen {
    me: NodeId,
    /// All other members.
    peers: BTreeSet<NodeId>,
    /// No other node has a vote: without this one nothing is served at all.
    sole_voter: bool,
    damage: Option<String>,
    report: DigestReport,
}

impl Seen {
    fn verdict(&self) -> Verdict {
        let report = &self.report;
        if let Some(why) = self.damage.clone() {
            return self.damaged(why);
        }
        if report.differ.contains(&self.me) {
            let why = format!("its digest at index {} differs from the majority's", report.index);
            return Verdict::Quarantine { why, from: self.sources().collect() };
        }
        if report.disputed {
            return Verdict::Alarm(format!(
                "digests at index {} differ and no majority agrees",
                report.index
            ));
        }
        if report.agree.contains(&self.me) { Verdict::Sound } else { Verdict::Unknown }
    }

    /// The rows are not those that this node wrote, whatever others have. Any peer's state is better: one whose own rows
    /// are damaged cannot give them away, because they do not have their digest.
    fn damaged(&self, why: String) -> Verdict {
        if self.sole_voter && self.report.differ.is_empty() {
            return Verdict::Alarm(format!("{why}; no other node can give its state"));
        }
        let others = self.peers.iter().copied().filter(|peer| !self.report.agree.contains(peer));
        Verdict::Quarantine { why, from: self.sources().chain(others).collect() }
    }

    /// Whose state the majority has.
    fn sources(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.report.agree.iter().copied().filter(|node| *node != self.me)
    }
}

fn begin(notes: &mut Notes, why: &str) {
    tracing::error!(%why, "quarantined: no reads, no agents, no leadership until the state is rebuilt");
    notes.add(NodeNote::Quarantined, why.to_owned());
}

/// The loop of one node.
pub(crate) struct Guard {
    pub(crate) node: NodeId,
    pub(crate) raft: Handle,
    pub(crate) hub: Hub,
    pub(crate) quarantine: Quarantine,
}

impl Guard {
    /// Runs until cancelled.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), Infallible> {
        let mut notes = Notes::new(self.node, self.raft.clone());
        if let Some(why) = self.quarantine.why() {
            begin(&mut notes, &why);
            self.enter(&why).await;
        }
        let mut looks = 0_u32;
        loop {
            let pause = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                pause = self.look(looks, &mut notes) => pause,
            };
            // The hurried looks in between do not bring the scrub forward.
            looks = looks.wrapping_add(u32::from(pause == PERIOD));
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn look(&self, looks: u32, notes: &mut Notes) -> Duration {
        let pause = self.compare(looks, notes).await;
        notes.tell().await;
        pause
    }

    async fn compare(&self, looks: u32, notes: &mut Notes) -> Duration {
        if looks % SCRUB_EVERY == SCRUB_EVERY - 1
            && let Err(error) = self.raft.scrub().await
        {
            tracing::warn!(%error, "the state could not be read through");
        }
        let view = self.raft.membership();
        let damage = self.raft.state_damage();
        if view.members.len() <= 1 && damage.is_none() {
            return PERIOD;
        }
        let sole_voter = view.voters().all(|voter| voter == self.node);
        let report = self.raft.compare_digests().await;
        let peers = view.members.iter().map(|member| member.node).filter(|node| *node != self.node).collect();
        let seen = Seen { me: self.node, peers, sole_voter, damage, report };
        match seen.verdict() {
            Verdict::Sound => {
                self.quarantine.dispute.send_replace(None);
                self.lift();
                PERIOD
            }
            Verdict::Unknown => RETRY,
            Verdict::Alarm(what) => {
                tracing::error!(%what, "states differ");
                self.quarantine.dispute.send_replace(Some(what));
                PERIOD
            }
            Verdict::Quarantine { why, from } => {
                self.quarantine.dispute.send_replace(None);
                if self.quarantine.why().is_none() {
                    begin(notes, &why);
                }
                self.enter(&why).await;
                self.rebuild(&from, notes).await;
                RETRY
            }
        }
    }

    async fn enter(&self, why: &str) {
        self.quarantine.why.send_replace(Some(why.to_owned()));
        self.raft.set_may_lead(false);
        let leads = self.raft.leadership().borrow().me;
        if leads && let Err(error) = self.raft.transfer_leadership(None).await {
            tracing::warn!(%error, "a quarantined node still leads");
        }
        for session in self.hub.all() {
            session.cut(Cut::Quarantined);
        }
    }

    async fn rebuild(&self, from: &[NodeId], notes: &mut Notes) {
        for peer in from {
            match self.raft.rebuild_state_from(*peer).await {
                Ok(index) => {
                    self.quarantine.rebuilds.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(index, %peer, "the state was rebuilt from a peer");
                    notes.add(NodeNote::Rebuilt, format!("it has the state of node {peer} at index {index}"));
                    return;
                }
                Err(error) => tracing::warn!(%peer, %error, "no state from this peer"),
            }
        }
    }

    /// The next comparison after a rebuild finds the states equal.
    fn lift(&self) {
        if self.quarantine.why.send_replace(None).is_some() {
            self.raft.set_may_lead(true);
            tracing::info!("the quarantine is over");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(agree: &[u64], differ: &[u64], disputed: bool) -> DigestReport {
        let nodes = |ids: &[u64]| ids.iter().map(|id| NodeId(*id)).collect();
        DigestReport {
            index: 9,
            majority: (!agree.is_empty()).then_some([1; 32]),
            agree: nodes(agree),
            differ: nodes(differ),
            silent: nodes(&[]),
            disputed,
        }
    }

    fn seen(me: u64, voters: &[u64], damage: Option<&str>, report: DigestReport) -> Seen {
        let peers = voters.iter().filter(|voter| **voter != me).map(|voter| NodeId(*voter)).collect();
        Seen { me: NodeId(me), peers, sole_voter: voters == [me], damage: damage.map(str::to_owned), report }
    }

    #[test]
    fn p24_only_the_minority_is_quarantined_and_rebuilds_from_the_majority() {
        let at = |me| seen(me, &[1, 2, 3], None, report(&[1, 2], &[3], false)).verdict();
        assert_eq!(at(1), Verdict::Sound);
        let Verdict::Quarantine { from, .. } = at(3) else { panic!("served on") };
        assert_eq!(from, [NodeId(1), NodeId(2)]);
    }

    #[test]
    fn p24_without_a_majority_there_is_an_alarm_only() {
        let verdict = seen(1, &[1, 2, 3], None, report(&[], &[], true)).verdict();
        assert!(matches!(verdict, Verdict::Alarm(_)));
    }

    #[test]
    fn p24_silence_is_no_verdict() {
        assert_eq!(seen(1, &[1, 2, 3], None, report(&[], &[], false)).verdict(), Verdict::Unknown);
    }

    #[test]
    fn p24_damage_found_at_home_takes_any_peers_state_the_majoritys_first() {
        let from = |report| match seen(3, &[1, 2, 3], Some("rows differ"), report).verdict() {
            Verdict::Quarantine { from, .. } => from,
            other => panic!("{other:?}"),
        };
        assert_eq!(from(report(&[2, 3], &[1], false)), [NodeId(2), NodeId(1)]);
        assert_eq!(from(report(&[], &[], true)), [NodeId(1), NodeId(2)]);
        assert_eq!(from(report(&[], &[], false)), [NodeId(1), NodeId(2)]);
    }

    #[test]
    fn p24_the_only_voter_serves_on_with_an_alarm() {
        let verdict = seen(1, &[1], Some("rows differ"), report(&[1], &[], false)).verdict();
        assert!(matches!(verdict, Verdict::Alarm(_)));
    }

    #[test]
    fn p24_a_quarantined_node_says_why_it_serves_nothing() {
        assert_eq!(Quarantine::new(None).check(), Ok(()));
        let found_at_the_start = Quarantine::new(Some("rows differ".to_owned()));
        assert!(found_at_the_start.check().unwrap_err().contains("rows differ"));
    }
}
