//! P24: a node whose state differs from the majority's serves nothing until it has taken a peer's. Its log and its votes
//! go on. Where no majority says who is right there is an alarm and nothing else.

use std::convert::Infallible;
use std::time::Duration;

use stratavore_model::NodeId;
use stratavore_raft::{DigestReport, Handle};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::link::hub::{Cut, Hub};

/// Digests are cheap to compare, and rows do not rot by the second.
const PERIOD: Duration = Duration::from_secs(60);

/// While quarantined: between two attempts to take a peer's state.
const RETRY: Duration = Duration::from_secs(2);

/// The slow scrub reads every row from disk.
const SCRUB_EVERY: u32 = 60;

/// Whether this node is quarantined, for whoever serves.
#[derive(Debug, Clone)]
pub(crate) struct Quarantine {
    why: watch::Sender<Option<String>>,
}

impl Quarantine {
    pub(crate) fn new() -> Self {
        Self { why: watch::Sender::new(None) }
    }

    /// Why this node serves nothing now; none while it does.
    pub(crate) fn why(&self) -> Option<String> {
        self.why.borrow().clone()
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
    /// Serve nothing; the state can be taken from any of these.
    Quarantine {
        why: String,
        from: Vec<NodeId>,
    },
    Alarm(String),
}

fn verdict(me: NodeId, damage: Option<String>, report: &DigestReport) -> Verdict {
    let from: Vec<NodeId> = report.agree.iter().copied().filter(|node| *node != me).collect();
    let differs = || format!("its digest at index {} differs from the majority's", report.index);
    match damage {
        Some(why) if from.is_empty() => Verdict::Alarm(format!("{why}; no other node can give its state")),
        Some(why) => Verdict::Quarantine { why, from },
        None if report.differ.contains(&me) => Verdict::Quarantine { why: differs(), from },
        None if report.disputed => {
            Verdict::Alarm(format!("digests at index {} differ and no majority agrees", report.index))
        }
        None => Verdict::Sound,
    }
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
        let mut looks = 0_u32;
        loop {
            let pause = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                pause = self.look(looks) => pause,
            };
            looks = looks.wrapping_add(1);
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn look(&self, looks: u32) -> Duration {
        if looks % SCRUB_EVERY == SCRUB_EVERY - 1
            && let Err(error) = self.raft.scrub().await
        {
            tracing::warn!(%error, "the state could not be read through");
        }
        let alone = self.raft.membership().members.len() <= 1;
        if alone && self.raft.state_damage().is_none() {
            return PERIOD;
        }
        let report = self.raft.compare_digests().await;
        match verdict(self.node, self.raft.state_damage(), &report) {
            Verdict::Sound => {
                self.lift();
                PERIOD
            }
            Verdict::Alarm(what) => {
                tracing::error!(%what, "states differ");
                PERIOD
            }
            Verdict::Quarantine { why, from } => {
                self.enter(&why).await;
                self.rebuild(&from).await;
                RETRY
            }
        }
    }

    async fn enter(&self, why: &str) {
        if self.quarantine.why().is_none() {
            tracing::error!(%why, "quarantined: no reads, no agents, no leadership until the state is rebuilt");
        }
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

    async fn rebuild(&self, from: &[NodeId]) {
        for peer in from {
            match self.raft.rebuild_state_from(*peer).await {
                Ok(index) => {
                    tracing::warn!(index, %peer, "the state was rebuilt from a peer");
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

    #[test]
    fn p24_only_the_minority_is_quarantined_and_rebuilds_from_the_majority() {
        let found = report(&[1, 2], &[3], false);
        assert_eq!(verdict(NodeId(1), None, &found), Verdict::Sound);
        let Verdict::Quarantine { from, .. } = verdict(NodeId(3), None, &found) else { panic!("served on") };
        assert_eq!(from, [NodeId(1), NodeId(2)]);
    }

    #[test]
    fn p24_without_a_majority_there_is_an_alarm_only() {
        assert!(matches!(verdict(NodeId(1), None, &report(&[], &[], true)), Verdict::Alarm(_)));
    }

    #[test]
    fn p24_damage_found_at_home_needs_a_peer() {
        let damage = || Some("rows differ".to_owned());
        let with_peers = verdict(NodeId(3), damage(), &report(&[1, 2], &[3], false));
        assert!(matches!(with_peers, Verdict::Quarantine { .. }));
        assert!(matches!(verdict(NodeId(1), damage(), &report(&[1], &[], false)), Verdict::Alarm(_)));
    }

    #[test]
    fn p24_a_quarantined_node_says_why_it_serves_nothing() {
        let quarantine = Quarantine::new();
        assert_eq!(quarantine.check(), Ok(()));
        quarantine.why.send_replace(Some("rows differ".to_owned()));
        assert!(quarantine.check().unwrap_err().contains("rows differ"));
    }
}
