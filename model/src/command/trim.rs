//! Keeps everything bounded (P25, P26). The only command that forgets.

use std::collections::BTreeSet;

use crate::cluster::ClockRecord;
use crate::command::{Success, Verdict};
use crate::dedup::{WINDOW_MS, WINDOW_ROWS, v7_time};
use crate::host::{HostRecord, HostState};
use crate::reply::Reply;
use crate::row::RowKey;
use crate::time::{DAY_MS, Millis};
use crate::token::{TokenRecord, TokenState};
use crate::tx::Tx;

/// How much of the event log embedded mode keeps; whichever bound is reached first. 0 = that bound is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventRetention {
    pub age_ms: u64,
    pub count: u64,
    pub bytes: u64,
}

/// Proposed by the leader every minute or so, and when a bound is near.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trim {
    /// Monotonic time since this leader's last trim (0 for its first): deletion by age gets on by at most 24 times
    /// as much (P4).
    pub elapsed_ms: u64,
    pub events: EventRetention,
}

/// Rows that one trim removes of each kind: an entry's write stays small, the next trim goes on.
const REMOVED_MAX: usize = 10_000;

/// Ended runners are listed so long …
const ENDED_MS: u64 = 7 * DAY_MS;

/// … or until so many have ended after them.
const ENDED_KEPT: usize = 10_000;

/// Used, revoked and expired tokens are listed so long.
const TOKEN_MS: u64 = DAY_MS;

/// Removed hosts are listed so long; their keys stay for ever.
const HOST_MS: u64 = 7 * DAY_MS;

/// P4: history deleted per unit of real time.
const AGE_PER_ELAPSED: u64 = 24;

impl Trim {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        let clock = tx.state().clock();
        let step = self.elapsed_ms.saturating_mul(AGE_PER_ELAPSED);
        let age = clock.now.min(clock.age.plus(step)).max(clock.age);
        tx.put_clock(ClockRecord { age, ..clock });
        trim_dedup(tx, age, WINDOW_ROWS);
        trim_runners(tx, age);
        trim_tokens(tx, age);
        trim_hosts(tx, age);
        self.trim_events(tx, age);
        Ok(Success::done(Reply::Done))
    }

    fn trim_events(&self, tx: &mut Tx<'_>, age: Millis) {
        let over = |bound: u64, value: u64| bound != 0 && value > bound;
        for _ in 0..REMOVED_MAX {
            let totals = tx.state().event_totals();
            let Some(oldest) = tx.state().oldest_full_segment() else { return };
            let old = self.events.age_ms != 0 && oldest.newest < age.minus(self.events.age_ms);
            if !(old || over(self.events.count, totals.count) || over(self.events.bytes, totals.bytes)) {
                return;
            }
            tx.cut_segment(oldest);
        }
    }
}

/// P25: the window ends at 24 h or 1 M rows, and only here does its floor rise.
fn trim_dedup(tx: &mut Tx<'_>, age: Millis, rows_kept: usize) {
    let window = age.minus(WINDOW_MS);
    let mut floor = tx.state().clock().dedup_floor.max(window);
    for _ in 0..REMOVED_MAX {
        let Some(row) = tx.state().oldest_dedup() else { break };
        if row.ordered_by() >= window && tx.state().dedup_rows() <= rows_kept {
            break;
        }
        // Whoever has an id from before this cannot be told from one who was answered.
        floor = floor.max(v7_time(&row.request_id).map_or(Millis(0), |minted| minted.plus(1)));
        let key = RowKey::Dedup(row.actor.clone(), row.request_id);
        tx.remove(key);
    }
    let clock = tx.state().clock();
    tx.put_clock(ClockRecord { dedup_floor: floor, ..clock });
}

fn trim_runners(tx: &mut Tx<'_>, age: Millis) {
    let surplus = tx.state().ended().len().saturating_sub(ENDED_KEPT);
    let oldest = tx.state().ended().take(REMOVED_MAX).enumerate();
    let gone = oldest.take_while(|(at, (ended, _))| *at < surplus || *ended < age.minus(ENDED_MS));
    let gone: Vec<_> = gone.map(|(_, (_, id))| id).collect();
    for id in gone {
        tx.remove(RowKey::Runner(id));
    }
}

fn trim_tokens(tx: &mut Tx<'_>, age: Millis) {
    let over = |token: &&TokenRecord| {
        let since = match token.state {
            TokenState::Unused => token.expires_at,
            TokenState::Used { at, .. } | TokenState::Revoked { at } => at,
        };
        since < age.minus(TOKEN_MS)
    };
    let gone: Vec<_> = tx.state().tokens().filter(over).map(|token| token.id).collect();
    for id in gone {
        tx.remove(RowKey::Token(id));
    }
}

/// A removed host's row goes when no runner names it any more.
fn trim_hosts(tx: &mut Tx<'_>, age: Millis) {
    let old = |host: &&HostRecord| host.state == HostState::Removed && host.since < age.minus(HOST_MS);
    let old: BTreeSet<_> = tx.state().hosts().filter(old).map(|host| host.id).collect();
    if old.is_empty() {
        return;
    }
    let named: BTreeSet<_> =
        tx.state().runners().flat_map(|runner| [runner.host, runner.pinned]).flatten().collect();
    for id in old.difference(&named) {
        tx.remove(RowKey::Host(*id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Lab;
    use crate::tx::Counters;
    use crate::{Actor, Code, Command, Entry, LogPosition, Role, RunnerState};

    const HOUR: u64 = DAY_MS / 24;

    fn trim(lab: &mut Lab, elapsed_ms: u64) {
        let events = EventRetention { age_ms: 0, count: 0, bytes: 0 };
        lab.system(Command::Trim(Trim { elapsed_ms, events })).unwrap();
    }

    #[test]
    fn p26_ended_runners_leave_after_a_week_and_live_ones_never() {
        let mut lab = Lab::new();
        lab.create_project("web", 5).unwrap();
        let runners = lab.launch("web", 2);
        lab.kill(&runners[..1], false).unwrap();
        lab.pass(ENDED_MS);
        trim(&mut lab, ENDED_MS);
        assert!(lab.state.runner(runners[0]).is_some());
        lab.pass(1000);
        trim(&mut lab, 1000);
        assert!(lab.state.runner(runners[0]).is_none());
        assert_eq!(lab.state.runner(runners[1]).unwrap().state, RunnerState::Pending);
    }

    #[test]
    fn p4_a_wrong_clock_does_not_make_everything_old() {
        let mut lab = Lab::new();
        lab.create_project("web", 5).unwrap();
        let runners = lab.launch("web", 1);
        lab.kill(&runners, false).unwrap();
        lab.pass(365 * DAY_MS);
        // An hour really passed: a day may be forgotten, not a year.
        trim(&mut lab, HOUR);
        assert!(lab.state.runner(runners[0]).is_some());
    }

    #[test]
    fn p25_the_window_forgets_after_a_day_and_says_so() {
        let mut lab = Lab::new();
        lab.create_project("web", 5).unwrap();
        let id = lab.v7(0);
        lab.launch_with_request("web", id).unwrap();
        assert_eq!(lab.state.dedup_rows(), 1);
        lab.pass(WINDOW_MS + HOUR);
        trim(&mut lab, WINDOW_MS + HOUR);
        assert_eq!(lab.state.dedup_rows(), 0);
        let refused = lab.launch_with_request("web", id).unwrap_err();
        assert_eq!(refused.code, Code::RequestIdExpired);
        let id = lab.v7(0);
        lab.launch_with_request("web", id).unwrap();
    }

    #[test]
    fn p25_the_window_forgets_the_oldest_of_too_many_and_no_younger_ones() {
        let mut lab = Lab::new();
        lab.create_project("web", 50).unwrap();
        let ids: Vec<_> = (0..6).map(|_| minute_later(&mut lab)).collect();
        let entry = Entry {
            actor: Actor::System,
            request_id: None,
            at: lab.now,
            term: None,
            command: Command::Trim(Trim {
                elapsed_ms: 0,
                events: EventRetention { age_ms: 0, count: 0, bytes: 0 },
            }),
        };
        let at = LogPosition { index: lab.index + 1, term: lab.term };
        let mut tx = Tx::begin(&mut lab.state, at, &entry, Counters::default());
        let age = tx.now();
        trim_dedup(&mut tx, age, 4);
        tx.commit(&mut lab.changes);
        lab.index += 1;
        for (at, id) in ids.into_iter().enumerate() {
            let outcome = lab.launch_with_request("web", id).map_err(|rejected| rejected.code);
            assert_eq!(outcome.is_ok(), at >= 2, "request {at}: {outcome:?}");
        }
        assert_eq!(lab.state.runners().len(), 6);
    }

    fn minute_later(lab: &mut Lab) -> uuid::Uuid {
        lab.pass(60_000);
        let id = lab.v7(0);
        lab.launch_with_request("web", id).unwrap();
        id
    }

    #[test]
    fn p26_events_are_cut_in_whole_segments_from_the_oldest() {
        let mut lab = Lab::new();
        lab.create_project("web", 5).unwrap();
        for _ in 0..2000 {
            lab.set_quota("web", 7).unwrap();
        }
        let before = lab.state.event_totals().count;
        let events = EventRetention { age_ms: 0, count: 500, bytes: 0 };
        lab.system(Command::Trim(Trim { elapsed_ms: 0, events })).unwrap();
        let after = lab.state.event_totals().count;
        assert_eq!(before - after, 1024);
        let line = lab.changes.trim_events_before().unwrap();
        let kept = lab.changes.events().iter().filter(|event| event.id >= line).count() as u64;
        assert_eq!(kept, after);
    }

    #[test]
    fn tokens_and_removed_hosts_leave() {
        let mut lab = Lab::new();
        lab.host("a", 4);
        lab.token(Role::User);
        lab.remove_host("a").unwrap();
        assert_eq!((lab.state.tokens().len(), lab.state.hosts().len()), (2, 1));
        lab.pass(HOST_MS + HOUR);
        trim(&mut lab, HOST_MS + HOUR);
        assert_eq!((lab.state.tokens().len(), lab.state.hosts().len()), (0, 0));
        assert_eq!(lab.state.keys().filter(|key| key.removed).count(), 1, "the key stays cut");
    }
}
