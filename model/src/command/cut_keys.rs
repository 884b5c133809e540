//! `stratavored restore --removed-keys FILE` (P30).

use super::RemoveHost;
use crate::command::{Success, Verdict};
use crate::event::EventKind;
use crate::host::HostState;
use crate::id::HostId;
use crate::identity::{Actor, KeyRecord, SpkiHash};
use crate::reply::{Code, Rejected, Reply};
use crate::row::Row;
use crate::tx::Tx;

/// Keys of one entry: some 60 bytes each.
pub const CUT_KEYS_MAX: usize = 8192;

/// Keys that were removed in history that a backup does not have: they stay removed. A host that has no other is
/// removed with them, as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutKeys {
    pub keys: Vec<(SpkiHash, Actor)>,
}

impl CutKeys {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        if self.keys.len() > CUT_KEYS_MAX {
            let message = format!("{} keys are more than {CUT_KEYS_MAX}", self.keys.len());
            return Err(Rejected::new(Code::TooMany, message, "send several entries"));
        }
        let mut cut = 0;
        for (spki, identity) in &self.keys {
            let known = tx.state().key(spki).cloned();
            let Some(key) = known.or_else(|| unknown(tx, *spki, identity)).filter(|key| !key.removed) else {
                continue;
            };
            let host = host_of(&key.identity);
            tx.put(Row::Key(KeyRecord { removed: true, ..key }));
            cut += 1;
            if let Some(host) = host {
                remove_if_keyless(tx, host)?;
            }
        }
        tx.event(EventKind::KeysCut, &format!("{cut} of {}", self.keys.len()));
        Ok(Success::done(Reply::Done))
    }
}

/// A key that came and went after the backup, kept so that it is never taken again. Only of somebody who is known here:
/// without an identity it admits nobody.
fn unknown(tx: &Tx<'_>, spki: SpkiHash, identity: &Actor) -> Option<KeyRecord> {
    let state = tx.state();
    let known = match identity {
        Actor::System => false,
        Actor::Node(id) => state.node(*id).is_some(),
        Actor::Host(id) => state.host(*id).is_some(),
        Actor::User(name) => state.user(name).is_some(),
    };
    let registered_at = tx.now();
    let identity = identity.clone();
    known.then_some(KeyRecord { spki, identity, registered_at, token: None, removed: false })
}

const fn host_of(identity: &Actor) -> Option<HostId> {
    match identity {
        Actor::Host(id) => Some(*id),
        _ => None,
    }
}

/// P18: whoever removed all its keys had removed the host.
fn remove_if_keyless(tx: &mut Tx<'_>, host: HostId) -> Result<(), Rejected> {
    let present = tx.state().host(host).is_some_and(|host| host.state != HostState::Removed);
    if present && tx.state().keys_of(&Actor::Host(host)).all(|key| key.removed) {
        RemoveHost { host: host.to_string(), force: true }.apply(tx)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::RegisterKey;
    use crate::lab::Lab;
    use crate::query::{Admission, admission};
    use crate::{Command, OnDisconnect, RunnerState};

    fn cut(lab: &mut Lab, keys: Vec<(SpkiHash, Actor)>) -> Result<Reply, Rejected> {
        lab.system(Command::CutKeys(CutKeys { keys }))
    }

    #[test]
    fn p30_a_host_whose_keys_were_removed_after_the_backup_is_removed_again() {
        let mut lab = Lab::new();
        lab.create_project("web", 3).unwrap();
        let (a, b) = lab.two_hosts(4);
        let (kept, _) = lab.placed(a, OnDisconnect::Keep, true);
        let spki = lab.state.host(a).unwrap().spki;
        cut(&mut lab, vec![(spki, Actor::Host(a))]).unwrap();
        assert_eq!(lab.state.host(a).unwrap().state, HostState::Removed);
        assert_eq!(admission(&lab.state, &spki, &Actor::Host(a)), Admission::Removed);
        let record = lab.state.runner(kept).unwrap();
        assert_eq!((record.state, record.reason.as_str()), (RunnerState::Failed, "lost_with_host"));
        assert_ne!(lab.state.host(b).unwrap().state, HostState::Removed);
        cut(&mut lab, vec![(spki, Actor::Host(a))]).unwrap();
    }

    #[test]
    fn p30_an_old_key_of_a_host_is_cut_and_the_host_stays() {
        let mut lab = Lab::new();
        let a = lab.host("a", 4);
        let old = lab.state.host(a).unwrap().spki;
        lab.as_host(a, Command::RegisterKey(RegisterKey { present: old, new: [77; 32] })).unwrap();
        cut(&mut lab, vec![(old, Actor::Host(a)), ([78; 32], Actor::Host(a))]).unwrap();
        assert_eq!(admission(&lab.state, &old, &Actor::Host(a)), Admission::Removed);
        assert_eq!(
            admission(&lab.state, &[78; 32], &Actor::Host(a)),
            Admission::Removed,
            "not in the backup"
        );
        assert_eq!(admission(&lab.state, &[77; 32], &Actor::Host(a)), Admission::Admitted);
    }

    #[test]
    fn keys_of_nobody_are_passed_over_and_only_a_restore_may_cut() {
        let mut lab = Lab::new();
        let nobody = Actor::Host("0000000000".parse().unwrap());
        cut(&mut lab, vec![([79; 32], nobody)]).unwrap();
        assert!(lab.state.key(&[79; 32]).is_none());
        let refused = lab.user(Command::CutKeys(CutKeys { keys: vec![] })).unwrap_err();
        assert_eq!(refused.code, Code::NotAllowed);
        let many = vec![([79; 32], Actor::System); CUT_KEYS_MAX + 1];
        assert_eq!(cut(&mut lab, many).unwrap_err().code, Code::TooMany);
    }
}
