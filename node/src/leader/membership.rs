//! Membership (P21): makes the raft configuration follow the registered nodes. Level-triggered, one change at a time:
//! look, take the first step that is due, look again.

use std::collections::BTreeSet;
use std::time::Duration;

use stratavore_model::{NodeId, State};
use stratavore_raft::{MemberInfo, MembershipError};
use tokio_util::sync::CancellationToken;

use crate::leader::Term;

/// P21: voters go 1 -> 3 -> 5; more cost every write and survive no more than two failures on one site need.
const VOTERS_MAX: usize = 5;

/// While a learner catches up or a change failed, nothing is applied that would wake the loop.
const TICK: Duration = Duration::from_millis(200);

/// Behind the wake-ups, when nothing is left to do.
const REST: Duration = Duration::from_secs(5);

/// What one look sees.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    me: NodeId,
    members: Vec<MemberInfo>,
    /// A change is under way.
    joint: bool,
    /// Nodes that shall be in the cluster, and where.
    registered: Vec<(NodeId, String)>,
    caught_up: BTreeSet<NodeId>,
}

/// The next change.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// As a learner, or a learner's new address.
    Learner {
        node: NodeId,
        address: String,
    },
    Address {
        node: NodeId,
        address: String,
    },
    Voters(BTreeSet<NodeId>),
    Drop(NodeId),
    /// This node was removed: another one has to lead before it can go.
    HandOver,
}

impl Seen {
    fn address_of(&self, node: NodeId) -> Option<&String> {
        self.registered.iter().find(|(id, _)| *id == node).map(|(_, address)| address)
    }

    fn voters(&self) -> BTreeSet<NodeId> {
        self.members.iter().filter(|member| member.voter).map(|member| member.node).collect()
    }

    fn next(&self) -> Option<Step> {
        if self.joint {
            return None;
        }
        let leaving = self.address_of(self.me).is_none();
        if leaving && self.voters().iter().any(|voter| self.address_of(*voter).is_some()) {
            return Some(Step::HandOver);
        }
        self.newcomer().or_else(|| self.moved()).or_else(|| self.vote()).or_else(|| self.gone())
    }

    fn newcomer(&self) -> Option<Step> {
        let missing = |(node, _): &&(NodeId, String)| !self.members.iter().any(|member| member.node == *node);
        let (node, address) = self.registered.iter().find(missing)?.clone();
        Some(Step::Learner { node, address })
    }

    fn moved(&self) -> Option<Step> {
        self.members.iter().find_map(|member| {
            let address = self.address_of(member.node).filter(|address| **address != member.raft_address)?;
            Some(Step::Address { node: member.node, address: address.clone() })
        })
    }

    /// The voters that there should be: an odd number, this node first, then those that vote now, then learners that
    /// have caught up. A vote is only taken from a node that leaves, or to keep the number odd.
    fn vote(&self) -> Option<Step> {
        let voters = self.voters();
        let staying = voters.iter().filter(|voter| self.address_of(**voter).is_some()).copied();
        let learners =
            self.caught_up.iter().filter(|node| !voters.contains(node) && self.address_of(**node).is_some());
        let mut able: Vec<NodeId> = staying.chain(learners.copied()).collect();
        able.sort_by_key(|node| *node != self.me);
        // The sort is stable: whoever votes now stands before the learners.
        let room = able.len().min(VOTERS_MAX);
        able.truncate(if room.is_multiple_of(2) { room.saturating_sub(1) } else { room });
        let target: BTreeSet<NodeId> = able.into_iter().collect();
        let loses = voters.iter().any(|voter| self.address_of(*voter).is_none());
        let due = !target.is_empty() && target != voters && (loses || target.len() > voters.len());
        due.then_some(Step::Voters(target))
    }

    fn gone(&self) -> Option<Step> {
        let gone = |member: &&MemberInfo| !member.voter && self.address_of(member.node).is_none();
        self.members.iter().find(gone).map(|member| Step::Drop(member.node))
    }
}

fn registered(state: &State) -> Vec<(NodeId, String)> {
    let present = state.nodes().filter(|node| !node.removed);
    present.map(|node| (node.id, node.addresses.raft.clone())).collect()
}

/// The loop of one term.
pub(crate) struct Membership {
    term: Term,
    me: NodeId,
}

impl Membership {
    pub(crate) fn new(term: Term, me: NodeId) -> Self {
        Self { term, me }
    }

    /// Runs until the term ends.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut applied = self.term.raft.applied();
        loop {
            applied.mark_unchanged();
            let pause = tokio::select! {
                () = stop.cancelled() => return,
                pause = self.round() => pause,
            };
            tokio::select! {
                () = stop.cancelled() => return,
                changed = applied.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// One look and at most one step; how long to rest when nothing is applied meanwhile.
    async fn round(&self) -> Duration {
        let raft = &self.term.raft;
        let view = raft.membership();
        let caught_up = |member: &&MemberInfo| !member.voter && raft.is_caught_up(member.node);
        let seen = Seen {
            me: self.me,
            joint: view.joint,
            registered: raft.read(registered),
            caught_up: view.members.iter().filter(caught_up).map(|member| member.node).collect(),
            members: view.members.clone(),
        };
        let Some(step) = seen.next() else {
            let waiting = seen.joint || seen.members.iter().any(|member| !member.voter);
            return if waiting { TICK } else { REST };
        };
        tracing::info!(?step, "membership changes");
        let done = match step {
            Step::Learner { node, address } => raft.add_learner(&view, node, address).await,
            Step::Address { node, address } => raft.set_address(&view, node, address).await,
            Step::Voters(voters) => raft.set_votes(&view, voters).await,
            Step::Drop(node) => raft.remove_learner(&view, node).await,
            Step::HandOver => raft
                .transfer_leadership(None)
                .await
                .map(drop)
                .map_err(|error| MembershipError::Failed(error.to_string())),
        };
        if let Err(error) = done {
            tracing::info!(%error, "the membership is looked at again");
        }
        TICK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(voters: &[u64], learners: &[u64], registered: &[u64], caught_up: &[u64]) -> Seen {
        let address = |id: u64| format!("10.0.0.{id}:50053");
        let member = |voter| {
            move |id: &u64| MemberInfo {
                node: NodeId(*id),
                raft_address: format!("10.0.0.{id}:50053"),
                voter,
            }
        };
        Seen {
            me: NodeId(1),
            members: voters.iter().map(member(true)).chain(learners.iter().map(member(false))).collect(),
            joint: false,
            registered: registered.iter().map(|id| (NodeId(*id), address(*id))).collect(),
            caught_up: caught_up.iter().map(|id| NodeId(*id)).collect(),
        }
    }

    fn voters(ids: &[u64]) -> Option<Step> {
        Some(Step::Voters(ids.iter().map(|id| NodeId(*id)).collect()))
    }

    #[test]
    fn p21_a_registered_node_becomes_a_learner_first() {
        let step = seen(&[1], &[], &[1, 2], &[]).next();
        assert_eq!(step, Some(Step::Learner { node: NodeId(2), address: "10.0.0.2:50053".into() }));
    }

    #[test]
    fn p21_a_second_node_alone_stays_a_learner() {
        assert_eq!(seen(&[1], &[2], &[1, 2], &[2]).next(), None);
    }

    #[test]
    fn p21_learners_are_promoted_in_pairs_when_both_have_caught_up() {
        assert_eq!(seen(&[1], &[2, 3], &[1, 2, 3], &[2]).next(), None);
        assert_eq!(seen(&[1], &[2, 3], &[1, 2, 3], &[2, 3]).next(), voters(&[1, 2, 3]));
        assert_eq!(seen(&[1, 2, 3], &[4], &[1, 2, 3, 4], &[4]).next(), None);
        let five = seen(&[1, 2, 3], &[4, 5], &[1, 2, 3, 4, 5], &[4, 5]);
        assert_eq!(five.next(), voters(&[1, 2, 3, 4, 5]));
        let seven = seen(&[1, 2, 3, 4, 5], &[6, 7], &[1, 2, 3, 4, 5, 6, 7], &[6, 7]);
        assert_eq!(seven.next(), None);
    }

    #[test]
    fn p21_a_removed_voter_is_exchanged_for_a_learner_by_one_change() {
        assert_eq!(seen(&[1, 2, 3], &[4], &[1, 2, 4], &[4]).next(), voters(&[1, 2, 4]));
    }

    #[test]
    fn p21_without_a_learner_the_number_of_voters_stays_odd() {
        assert_eq!(seen(&[1, 2, 3], &[], &[1, 2], &[]).next(), voters(&[1]));
        assert_eq!(seen(&[1, 2, 3, 4, 5], &[], &[1, 2, 3, 4], &[]).next(), voters(&[1, 2, 3]));
    }

    #[test]
    fn p21_one_change_at_a_time() {
        let joint = Seen { joint: true, ..seen(&[1], &[], &[1, 2], &[]) };
        assert_eq!(joint.next(), None);
    }

    #[test]
    fn a_removed_learner_is_dropped_and_a_removed_leader_hands_over_first() {
        assert_eq!(seen(&[1], &[2], &[1], &[2]).next(), Some(Step::Drop(NodeId(2))));
        assert_eq!(seen(&[1, 2, 3], &[], &[2, 3], &[]).next(), Some(Step::HandOver));
    }

    #[test]
    fn a_node_that_moved_is_followed() {
        let mut seen = seen(&[1, 2, 3], &[], &[1, 2, 3], &[]);
        seen.registered[1].1 = "10.0.9.9:7".into();
        let step = seen.next();
        assert_eq!(step, Some(Step::Address { node: NodeId(2), address: "10.0.9.9:7".into() }));
    }
}
