//! `stratavore cluster clock reset` (P4).

use serde::Serialize;

use super::raise_incarnation::void_unused_tokens;
use crate::cluster::{ClockRecord, ClusterRecord};
use crate::command::{Success, Verdict};
use crate::dedup::WINDOW_MS;
use crate::event::EventKind;
use crate::reply::{Rejected, Reply};
use crate::row::Row;
use crate::time::Millis;
use crate::tx::Tx;

/// Lowers the state's time after a wrong clock drove it ahead; unused tokens are void then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResetClock {
    pub to: Millis,
}

impl ResetClock {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        let clock = tx.state().clock();
        if self.to >= clock.now {
            let message = format!("{} is not before the cluster's time, {}", self.to, clock.now);
            return Err(Rejected::bad_argument("to", message, "the clock moves forward by itself"));
        }
        let reason = format!("the cluster's time was lowered from {} to {}", clock.now, self.to);
        tx.put_clock(ClockRecord {
            now: self.to,
            age: clock.age.min(self.to),
            // Otherwise every fresh request id would count as forgotten.
            dedup_floor: clock.dedup_floor.min(self.to.minus(WINDOW_MS)),
        });
        end_maintenance(tx, self.to);
        tx.event(EventKind::SystemAlert, &reason);
        void_unused_tokens(tx);
        Ok(Success::done(Reply::Done))
    }
}

/// P4: what was over must not come back with the time that it was to end at.
fn end_maintenance(tx: &mut Tx<'_>, now: Millis) {
    let Some(cluster) = tx.state().cluster().filter(|cluster| cluster.maintenance.is_some()).cloned() else {
        return;
    };
    let maintenance = cluster.maintenance.map(|maintenance| maintenance.over(now));
    tx.put(Row::Cluster(Box::new(ClusterRecord { maintenance, ..cluster })));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Lab;
    use crate::{Code, Command, DAY_MS, Role};

    #[test]
    fn p4_goes_back_and_voids_tokens() {
        let mut lab = Lab::new();
        let right = lab.state.now();
        lab.pass(400 * DAY_MS);
        let token = lab.token(Role::User);
        lab.now = right;
        let reset = Command::ResetClock(ResetClock { to: right });
        lab.user(reset.clone()).unwrap();
        assert_eq!(lab.state.now(), right);
        assert_eq!(lab.join_user(token, "bob").unwrap_err().code, Code::TokenRevoked);
        assert_eq!(lab.user(reset).unwrap_err().code, Code::BadArgument);
    }
}
