//! P24: digests of equal positions are compared between nodes; whoever differs from a majority of voters is
//! quarantined by the program and rebuilds its state.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use model::NodeId;
use stratavore_model as model;
use stratavore_proto::raft as pb;

use crate::handle::Handle;
use crate::state_store::StateStore;

/// Every node records its digest at each multiple of this, so that there is an equal position to compare at.
const RECORD_EVERY: u64 = 16;

/// Recorded digests: a node may be 16 k entries behind the others and still be compared.
const RECORDED_MAX: usize = 1024;

/// A peer that needs longer is silent this time.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) type Digest = [u8; 32];

pub(crate) fn is_recorded(index: u64) -> bool {
    index.is_multiple_of(RECORD_EVERY)
}

/// The digests of the last recorded positions, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Digests {
    recorded: Mutex<VecDeque<(u64, Digest)>>,
}

impl Digests {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(u64, Digest)>> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn record(&self, digests: Vec<(u64, Digest)>) {
        if digests.is_empty() {
            return;
        }
        let mut recorded = self.lock();
        recorded.extend(digests);
        let excess = recorded.len().saturating_sub(RECORDED_MAX);
        recorded.drain(..excess);
    }

    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    fn at(&self, index: u64) -> Option<Digest> {
        let recorded = self.lock();
        let at = recorded.binary_search_by_key(&index, |(index, _)| *index).ok()?;
        recorded.get(at).map(|(_, digest)| *digest)
    }

    fn newest(&self) -> u64 {
        self.lock().back().map_or(0, |(index, _)| *index)
    }
}

/// How far a node is, and its digest where it was asked for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    applied: u64,
    recorded: u64,
    digest: Option<Digest>,
}

/// This node's answer; `index` 0 asks only how far it is.
pub(crate) fn look(store: &StateStore, index: u64) -> Look {
    let (applied, current) = {
        let image = store.image();
        (crate::state_store::applied_of(&image), image.state.digest())
    };
    let digest = if index == applied { Some(current) } else { store.digests().at(index) };
    Look { applied, recorded: store.digests().newest(), digest: digest.filter(|_| index > 0) }
}

impl Look {
    pub(crate) fn to_pb(self) -> pb::DigestResponse {
        pb::DigestResponse {
            applied: self.applied,
            recorded: self.recorded,
            digest: self.digest.map(|digest| Bytes::copy_from_slice(&digest)),
        }
    }

    fn from_pb(response: &pb::DigestResponse) -> Self {
        let digest = response.digest.as_ref().and_then(|digest| Digest::try_from(digest.as_ref()).ok());
        Self { applied: response.applied, recorded: response.recorded, digest }
    }
}

/// What a comparison found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DigestReport {
    /// The position at which states were compared; 0 when there is no common one yet.
    pub index: u64,
    /// What a majority of voters has; none when no majority agrees.
    pub majority: Option<[u8; 32]>,
    /// Nodes with the majority's digest.
    pub agree: BTreeSet<NodeId>,
    /// Nodes with another one: each must be quarantined (P24).
    pub differ: BTreeSet<NodeId>,
    /// Nodes that did not answer or were elsewhere.
    pub silent: BTreeSet<NodeId>,
    /// Answers differ and no majority says who is right: alarm only.
    pub disputed: bool,
}

/// Judges answers at one index: only voters make a majority, but any node can differ from it.
fn judge(index: u64, voters: &BTreeSet<NodeId>, answers: &BTreeMap<NodeId, Option<Digest>>) -> DigestReport {
    let mut counts: BTreeMap<Digest, usize> = BTreeMap::new();
    let given = || answers.iter().filter_map(|(node, digest)| Some((*node, (*digest)?)));
    for (_, digest) in given().filter(|(node, _)| voters.contains(node)) {
        *counts.entry(digest).or_default() += 1;
    }
    let majority = counts.iter().find(|(_, count)| **count > voters.len() / 2).map(|(digest, _)| *digest);
    let with = |same: bool| {
        let wanted = majority;
        given()
            .filter(move |(_, digest)| wanted.is_some_and(|m| (m == *digest) == same))
            .map(|(node, _)| node)
    };
    let distinct: BTreeSet<Digest> = given().map(|(_, digest)| digest).collect();
    DigestReport {
        index,
        majority,
        agree: with(true).collect(),
        differ: with(false).collect(),
        silent: answers.iter().filter(|(_, digest)| digest.is_none()).map(|(node, _)| *node).collect(),
        disputed: majority.is_none() && distinct.len() > 1,
    }
}

/// The position to compare at: where everybody is when all are equally far, else the newest recorded one that a
/// majority has reached.
fn common_index(looks: &BTreeMap<NodeId, Look>, members: usize) -> u64 {
    let mut applied = looks.values().map(|look| look.applied);
    let first = applied.next().unwrap_or(0);
    if applied.all(|other| other == first) {
        return first;
    }
    let mut recorded: Vec<u64> = looks.values().map(|look| look.recorded).collect();
    recorded.sort_unstable_by(|a, b| b.cmp(a));
    recorded.get(members / 2).copied().unwrap_or(0)
}

impl Handle {
    /// The digest of this node's state at `index`, if it is where the state is now or a recorded position.
    #[must_use]
    pub fn digest_at(&self, index: u64) -> Option<[u8; 32]> {
        look(&self.shared.state, index).digest
    }

    /// Compares this node's state with its peers' at an equal position (P24). Any node may ask; a node that finds
    /// itself in `differ` must quarantine itself and call [`Self::rebuild_state_from`] with one of `agree`.
    pub async fn compare_digests(&self) -> DigestReport {
        let view = self.membership();
        let me = self.core().id();
        let voters: BTreeSet<NodeId> = view.voters().collect();
        let peers: Vec<NodeId> = view.members.iter().map(|m| m.node).filter(|node| *node != me).collect();
        let mut looks: BTreeMap<NodeId, Look> = self.ask_digests(&peers, 0).await;
        looks.insert(me, look(&self.shared.state, 0));
        let index = common_index(&looks, view.members.len());
        let mut answers: BTreeMap<NodeId, Option<Digest>> = peers.iter().map(|peer| (*peer, None)).collect();
        if index > 0 {
            let found = self.ask_digests(&peers, index).await;
            answers.extend(found.into_iter().map(|(node, look)| (node, look.digest)));
            answers.insert(me, self.digest_at(index));
        }
        judge(index, &voters, &answers)
    }

    async fn ask_digests(&self, peers: &[NodeId], index: u64) -> BTreeMap<NodeId, Look> {
        let ask = |peer: NodeId| async move {
            let member = self.member(peer)?;
            let mut client = self.shared.forwarder.network().client(peer.0, &member.raft_address);
            let call = client.digest(pb::DigestRequest { index });
            let answer = tokio::time::timeout(ASK_TIMEOUT, call).await.ok()?.ok()?;
            Some((peer, Look::from_pb(answer.get_ref())))
        };
        join_all(peers.iter().copied().map(ask)).await.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    fn answers(given: &[(u64, Option<u8>)]) -> BTreeMap<NodeId, Option<Digest>> {
        given.iter().map(|(node, digest)| (NodeId(*node), digest.map(|byte| [byte; 32]))).collect()
    }

    #[test]
    fn p24_a_majority_of_voters_decides_who_differs() {
        let voters = nodes(&[1, 2, 3]);
        let report = judge(32, &voters, &answers(&[(1, Some(7)), (2, Some(8)), (3, Some(7)), (4, Some(9))]));
        assert_eq!(report.majority, Some([7; 32]));
        assert_eq!((report.agree, report.differ), (nodes(&[1, 3]), nodes(&[2, 4])));
        assert!(!report.disputed);

        // Learners do not make a majority, a silent voter counts against one.
        let report = judge(32, &voters, &answers(&[(1, Some(7)), (2, None), (3, Some(8)), (4, Some(7))]));
        assert_eq!(report.majority, None);
        assert!(report.disputed && report.differ.is_empty());
        assert_eq!(report.silent, nodes(&[2]));

        let report = judge(32, &voters, &answers(&[(1, Some(7)), (2, None), (3, None)]));
        assert!(!report.disputed, "one answer is no dispute");
    }

    #[test]
    fn a_node_that_is_far_behind_does_not_hold_up_the_others() {
        let at = |applied, recorded| Look { applied, recorded, digest: None };
        let looks = |all: &[Look]| all.iter().enumerate().map(|(n, l)| (NodeId(n as u64), *l)).collect();
        assert_eq!(common_index(&looks(&[at(70, 64), at(70, 64), at(70, 64)]), 3), 70);
        assert_eq!(common_index(&looks(&[at(70, 64), at(71, 64), at(9, 0)]), 3), 64);
        assert_eq!(common_index(&looks(&[at(70, 64), at(90, 80), at(85, 80)]), 3), 80);
    }

    #[test]
    fn what_is_recorded_is_bounded_and_found() {
        let digests = Digests::default();
        for n in 1..=3000_u64 {
            digests.record(vec![(n * RECORD_EVERY, [n.to_le_bytes()[0]; 32])]);
        }
        assert_eq!(digests.lock().len(), RECORDED_MAX);
        assert_eq!(digests.newest(), 48_000);
        assert_eq!(digests.at(48_000), Some([3000_u64.to_le_bytes()[0]; 32]));
        assert_eq!((digests.at(16), digests.at(47_999)), (None, None));
    }
}
