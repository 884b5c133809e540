//! Certificate renewal: another key for an identity that has one.

use super::init_cluster::register;
use crate::cluster::NodeRecord;
use crate::command::{Success, Verdict};
use crate::host::HostRecord;
use crate::identity::{Actor, KeyRecord, SpkiHash};
use crate::reply::{Code, Rejected, Reply};
use crate::row::Row;
use crate::tx::Tx;

/// Registers a further key of the entry's actor. The two newest stay valid, older ones are cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterKey {
    /// The key it authenticated with.
    pub present: SpkiHash,
    pub new: SpkiHash,
}

impl RegisterKey {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        let identity = tx.actor.clone();
        let valid = |key: &KeyRecord| key.identity == identity && !key.removed;
        if !tx.state().key(&self.present).is_some_and(valid) {
            let message = format!("the present key is not a valid one of {identity}");
            return Err(Rejected::new(Code::IdentityRemoved, message, "join again with a new token"));
        }
        if tx.state().key(&self.new).is_some_and(valid) {
            return Ok(Success::done(Reply::Done));
        }
        let older = tx.state().keys_of(&identity).filter(|key| key.spki != self.present && !key.removed);
        let older: Vec<_> = older.cloned().collect();
        for key in older {
            tx.put(Row::Key(KeyRecord { removed: true, ..key }));
        }
        register(tx, self.new, identity.clone(), None)?;
        match identity {
            Actor::Host(id) => {
                if let Some(host) = tx.state().host(id).cloned() {
                    tx.put_host(HostRecord { spki: self.new, ..host });
                }
            }
            Actor::Node(id) => {
                if let Some(node) = tx.state().node(id).cloned() {
                    tx.put(Row::Node(NodeRecord { spki: self.new, ..node }));
                }
            }
            Actor::User(_) | Actor::System => {}
        }
        Ok(Success::done(Reply::Done))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Lab;
    use crate::query::{Admission, admission};
    use crate::{Code, Command};

    #[test]
    fn the_two_newest_keys_are_valid() {
        let mut lab = Lab::new();
        let host = lab.host("a", 4);
        let first = lab.state.host(host).unwrap().spki;
        let renew = |present, new| Command::RegisterKey(RegisterKey { present, new });
        lab.as_host(host, renew(first, [81; 32])).unwrap();
        lab.as_host(host, renew(first, [81; 32])).unwrap();
        lab.as_host(host, renew([81; 32], [82; 32])).unwrap();
        let ask = |spki: &SpkiHash| admission(&lab.state, spki, &Actor::Host(host));
        assert_eq!(ask(&first), Admission::Removed);
        assert_eq!(ask(&[81; 32]), Admission::Admitted);
        assert_eq!(ask(&[82; 32]), Admission::Admitted);
        assert_eq!(lab.state.host(host).unwrap().spki, [82; 32]);
        let refused = lab.as_host(host, renew(first, [83; 32])).unwrap_err();
        assert_eq!(refused.code, Code::IdentityRemoved);
    }

    #[test]
    fn nobody_takes_anothers_key() {
        let mut lab = Lab::new();
        let (a, b) = (lab.host("a", 4), lab.host("b", 4));
        let of = |lab: &Lab, id| lab.state.host(id).unwrap().spki;
        let (present, new) = (of(&lab, a), of(&lab, b));
        let refused = lab.as_host(a, Command::RegisterKey(RegisterKey { present, new })).unwrap_err();
        assert_eq!(refused.code, Code::IdTaken);
        let swapped = RegisterKey { present: new, new: [84; 32] };
        let refused = lab.as_host(a, Command::RegisterKey(swapped)).unwrap_err();
        assert_eq!(refused.code, Code::IdentityRemoved);
    }
}
