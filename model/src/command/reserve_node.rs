//! `stratavore cluster snapshot`: a place for the node that will restore the backup (P18, P30).

use super::init_cluster::register;
use crate::cluster::ClusterRecord;
use crate::command::{Success, Verdict};
use crate::event::EventKind;
use crate::id::NodeId;
use crate::identity::{Actor, KeyRecord, SpkiHash};
use crate::reply::{Code, Rejected, Reply};
use crate::row::Row;
use crate::state::State;
use crate::tx::Tx;

/// Backups whose node agents follow by themselves: a month of daily ones. Older ones restore too, and each host has to
/// be told.
pub const RESERVED_MAX: usize = 32;

/// Registers a key, whose other half goes into a backup and nowhere else, under the next node id. Agents accept only
/// registered nodes (P18), and a backup's own key is the only one that they know before and that nobody else holds: a
/// removed node has the CA's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReserveNode {
    pub spki: SpkiHash,
}

impl ReserveNode {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        let Some(cluster) = tx.state().cluster().cloned() else {
            return Err(Rejected::new(Code::NotInitialized, "there is no cluster here yet", ""));
        };
        if let Some(Actor::Node(id)) = reserved(tx.state(), &self.spki).map(|key| &key.identity) {
            return Ok(Success::done(Reply::Node(*id)));
        }
        let id = cluster.next_node;
        let next_node = NodeId(id.0.saturating_add(1));
        tx.put(Row::Cluster(Box::new(ClusterRecord { next_node, ..cluster })));
        register(tx, self.spki, Actor::Node(id), None)?;
        tx.event(EventKind::NodeReserved, &format!("node {id}, for whoever restores the backup"));
        cut_oldest(tx);
        Ok(Success::done(Reply::Node(id)))
    }
}

/// Whether a key waits for a restore: it is some node's, and there is no such node.
pub(crate) fn is_reserved(state: &State, key: &KeyRecord) -> bool {
    matches!(key.identity, Actor::Node(id) if !key.removed && state.node(id).is_none())
}

/// The key, if it is reserved.
pub(crate) fn reserved<'a>(state: &'a State, spki: &SpkiHash) -> Option<&'a KeyRecord> {
    state.key(spki).filter(|key| is_reserved(state, key))
}

fn cut_oldest(tx: &mut Tx<'_>) {
    let reserved = tx.state().keys().filter(|key| is_reserved(tx.state(), key));
    let mut reserved: Vec<_> = reserved.cloned().collect();
    reserved.sort_by(|a, b| a.identity.cmp(&b.identity));
    let surplus = reserved.len().saturating_sub(RESERVED_MAX);
    for key in reserved.into_iter().take(surplus) {
        tx.put(Row::Key(KeyRecord { removed: true, ..key }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::NodeAddresses;
    use crate::command::{Joiner, RaiseIncarnation, RedeemToken};
    use crate::lab::{Lab, founded_at};
    use crate::query::{Admission, admission};
    use crate::{COMMAND_VERSION, Command, Role};

    fn reserve(lab: &mut Lab, spki: SpkiHash) -> Result<Reply, Rejected> {
        lab.user(Command::ReserveNode(ReserveNode { spki }))
    }

    fn redeem(lab: &mut Lab, spki: SpkiHash) -> Result<Reply, Rejected> {
        let token = lab.token(Role::Node);
        let max_version = COMMAND_VERSION;
        let joiner = Joiner::Node { addresses: NodeAddresses::default(), version: "1".into(), max_version };
        let redeem = RedeemToken { spki, ..lab.redeem_command(token, joiner) };
        lab.system(Command::RedeemToken(redeem))
    }

    #[test]
    fn p18_a_reserved_key_is_nobodys_until_a_restore_takes_its_place() {
        let mut lab = Lab::new();
        assert_eq!(reserve(&mut lab, [50; 32]), Ok(Reply::Node(NodeId(2))));
        assert_eq!(reserve(&mut lab, [50; 32]), Ok(Reply::Node(NodeId(2))), "a retry gets the same");
        let node = Actor::Node(NodeId(2));
        assert_eq!(admission(&lab.state, &[50; 32], &node), Admission::Unknown);
        assert_eq!(lab.state.nodes().count(), 1, "nobody counts it as a member");
        let other = redeem(&mut lab, [51; 32]).unwrap();
        assert!(matches!(other, Reply::Redeemed { identity: Actor::Node(NodeId(3)), .. }), "{other:?}");
        let raise = RaiseIncarnation { n: 2, nonce: [9; 16], reason: "restore".into() };
        lab.system(Command::RaiseIncarnation(raise)).unwrap();
        let restored = redeem(&mut lab, [50; 32]).unwrap();
        assert!(matches!(restored, Reply::Redeemed { identity: Actor::Node(NodeId(2)), .. }), "{restored:?}");
        assert_eq!(admission(&lab.state, &[50; 32], &node), Admission::Admitted);
        assert_eq!(reserve(&mut lab, [50; 32]).unwrap_err().code, Code::IdTaken);
        assert_eq!(reserve(&mut lab, [52; 32]), Ok(Reply::Node(NodeId(4))), "ids are never given twice");
    }

    #[test]
    fn the_newest_backups_count() {
        let mut lab = Lab::new();
        let key = |n: usize| [u8::try_from(n + 100).unwrap(); 32];
        for n in 0..=RESERVED_MAX {
            reserve(&mut lab, key(n)).unwrap();
        }
        let removed = |n: usize| lab.state.key(&key(n)).unwrap().removed;
        assert!(removed(0) && !removed(1) && !removed(RESERVED_MAX));
        assert_eq!(redeem(&mut lab.clone(), key(0)).unwrap_err().code, Code::IdTaken);
    }

    #[test]
    fn p22_an_older_cluster_waits_for_it() {
        let mut lab = founded_at(2);
        assert_eq!(reserve(&mut lab, [50; 32]).unwrap_err().code, Code::NotFinalized);
    }
}
