//! The one way in: checks that hold for every entry, then the command's own file.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::changes::Changes;
use crate::command::{BATCH_MAX, COMMAND_VERSION, Command, Success, Verdict};
use crate::dedup::{self, DedupRecord, StoredReply, v7_time};
use crate::entry::{Entry, LogPosition};
use crate::event::EventKind;
use crate::host::HostState;
use crate::identity::Actor;
use crate::reply::{Code, Outcome, Rejected, Reply};
use crate::row::Row;
use crate::state::State;
use crate::tx::{Counters, Tx};

/// Applies one committed entry. Deterministic; never panics out: a panic inside becomes the refusal `internal_error`
/// with a `system.alert`, and nothing else of the entry remains (P23). A refusal changes nothing at all.
pub fn apply(state: &mut State, changes: &mut Changes, at: LogPosition, entry: &Entry) -> Outcome {
    let mut counters = Counters::default();
    let Command::Batch(entries) = &entry.command else {
        return guarded(state, changes, at, entry, &mut counters, transact);
    };
    if entries.len() > BATCH_MAX {
        let message = format!("{} entries are more than {BATCH_MAX}", entries.len());
        let rejected = Rejected::new(Code::TooMany, message, "send several batches");
        return Outcome { reply: Reply::Rejected(rejected), events: Vec::new() };
    }
    let mut events = Vec::new();
    let mut replies = Vec::with_capacity(entries.len());
    for one in entries {
        let outcome = guarded(state, changes, at, one, &mut counters, transact);
        replies.push(outcome.reply);
        events.extend(outcome.events);
    }
    Outcome { reply: Reply::Batch(replies), events }
}

type Transact = fn(&mut State, &mut Changes, LogPosition, &Entry, &mut Counters) -> Outcome;

fn guarded(
    state: &mut State,
    changes: &mut Changes,
    at: LogPosition,
    entry: &Entry,
    counters: &mut Counters,
    transact: Transact,
) -> Outcome {
    // Sound: `Tx` undoes its writes while unwinding, and touches changes and counters only in and after its commit.
    let attempt = catch_unwind(AssertUnwindSafe(|| transact(state, changes, at, entry, counters)));
    attempt.unwrap_or_else(|_| {
        let mut tx = Tx::begin(state, at, entry, *counters);
        let reason = format!("{} by {} hit a defect and was refused", entry.command.name(), entry.actor);
        tx.event(EventKind::SystemAlert, &reason);
        let (events, after) = tx.commit(changes);
        *counters = after;
        Outcome { reply: Reply::Rejected(Rejected::internal_error()), events }
    })
}

fn transact(
    state: &mut State,
    changes: &mut Changes,
    at: LogPosition,
    entry: &Entry,
    counters: &mut Counters,
) -> Outcome {
    let mut tx = Tx::begin(state, at, entry, *counters);
    match decide(&mut tx, entry) {
        Ok(Decision::Replayed(reply)) => Outcome { reply, events: Vec::new() },
        Ok(Decision::Done(reply)) => {
            let (events, after) = tx.commit(changes);
            *counters = after;
            Outcome { reply, events }
        }
        Err(rejected) => Outcome { reply: Reply::Rejected(rejected), events: Vec::new() },
    }
}

enum Decision {
    Done(Reply),
    /// P25: answered from the window, nothing happened.
    Replayed(Reply),
}

fn decide(tx: &mut Tx<'_>, entry: &Entry) -> Result<Decision, Rejected> {
    check_term(tx, entry)?;
    check_actor(tx, entry)?;
    check_version(tx, &entry.command)?;
    let remembered = entry.request_id.zip(entry.command.payload_hash());
    if let Some((request_id, payload)) = remembered {
        if let Some(row) = tx.state().dedup(&entry.actor, request_id) {
            return replay(tx, row, &payload).map(Decision::Replayed);
        }
        check_request_id(tx, request_id)?;
    }
    let Success { reply, stored } = dispatch(tx, &entry.command)?;
    if let Some((request_id, payload)) = remembered {
        let (actor, at) = (entry.actor.clone(), tx.now());
        tx.put(Row::Dedup(DedupRecord { actor, request_id, payload, at, reply: stored }));
    }
    Ok(Decision::Done(reply))
}

/// P7: what a leader loop proposed counts only in the term in which it was decided.
fn check_term(tx: &Tx<'_>, entry: &Entry) -> Result<(), Rejected> {
    match entry.term {
        Some(term) if term != tx.position.term => {
            let message = format!("decided in term {term}, appended in term {}", tx.position.term);
            Err(Rejected::new(Code::StaleTerm, message, "the new leader decides again by itself"))
        }
        None if entry.command.needs_term() => {
            let message = format!("{} names no term", entry.command.name());
            Err(Rejected::new(Code::StaleTerm, message, "only the leader decides this"))
        }
        _ => Ok(()),
    }
}

/// P22: what not every member can apply is not applied by anyone.
fn check_version(tx: &Tx<'_>, command: &Command) -> Result<(), Rejected> {
    let version = tx.state().cluster().map_or(COMMAND_VERSION, |cluster| cluster.version);
    if command.since() <= version {
        return Ok(());
    }
    let (name, since) = (command.name(), command.since());
    let message = format!("{name} needs cluster version {since}, and this cluster is at {version}");
    let next = "update every node, then run `stratavore cluster finalize`";
    Err(Rejected::new(Code::NotFinalized, message, next))
}

fn check_actor(tx: &Tx<'_>, entry: &Entry) -> Result<(), Rejected> {
    let state = tx.state();
    match (state.cluster().is_some(), &entry.command) {
        (false, Command::InitCluster(_)) => return Ok(()),
        (false, _) => {
            let next = "found it with `stratavored init`";
            return Err(Rejected::new(Code::NotInitialized, "there is no cluster here yet", next));
        }
        (true, _) => {}
    }
    let present = match &entry.actor {
        Actor::System => true,
        Actor::Node(id) => state.node(*id).is_some_and(|node| !node.removed),
        Actor::Host(id) => state.host(*id).is_some_and(|host| host.state != HostState::Removed),
        Actor::User(name) => state.user(name).is_some_and(|user| !user.removed),
    };
    if !present {
        let message = format!("{} is not registered, or was removed", entry.actor);
        return Err(Rejected::new(Code::IdentityRemoved, message, "join again with a new token"));
    }
    if may(&entry.actor, &entry.command) {
        return Ok(());
    }
    let message = format!("{} may not {}", entry.actor, entry.command.name());
    Err(Rejected::new(Code::NotAllowed, message, "use a user's identity"))
}

/// Who may what. Users may everything that is theirs to ask for; a host speaks about itself only (P18).
fn may(actor: &Actor, command: &Command) -> bool {
    match command {
        Command::InitCluster(_)
        | Command::RaiseIncarnation(_)
        | Command::Assign(_)
        | Command::HostUnreachable(_)
        | Command::HostReachable(_)
        | Command::FenceHost(_)
        | Command::LeaseBounded(_)
        | Command::ConfirmReboot(_)
        | Command::ForgoList(_)
        | Command::CutKeys(_)
        | Command::Trim(_) => *actor == Actor::System,
        Command::NoteNode(note) => *actor == Actor::Node(note.node),
        Command::Report(report) => *actor == Actor::Host(report.host),
        Command::HostConnect(connect) => *actor == Actor::Host(connect.host),
        Command::RedeemToken(_) => matches!(actor, Actor::Node(_) | Actor::System),
        Command::RegisterKey(_) => *actor != Actor::System,
        Command::SetNodeAddress(set) => {
            *actor == Actor::Node(set.node) || matches!(actor, Actor::User(_) | Actor::System)
        }
        Command::CreateProject(_)
        | Command::SetQuota(_)
        | Command::Launch(_)
        | Command::Kill(_)
        | Command::Restart(_)
        | Command::CordonHost(_)
        | Command::LabelHost(_)
        | Command::RemoveHost(_)
        | Command::CreateToken(_)
        | Command::RevokeToken(_)
        | Command::DeclareRunnerDead(_)
        | Command::DeclareHostDead(_)
        | Command::DrainHost(_)
        | Command::RemoveNode(_)
        | Command::Finalize(_)
        | Command::ReserveNode(_)
        | Command::AdoptRunner(_)
        | Command::ResetClock(_) => matches!(actor, Actor::User(_) | Actor::System),
        // A node asks for it by itself before a planned stop of the last ones (P13).
        Command::SetMaintenance(_) => !matches!(actor, Actor::Host(_)),
        // Only its entries act, and each is asked by itself; a nested one may nothing.
        Command::Batch(_) => false,
    }
}

/// P25: ids out of the window cannot be told from ones that were answered and forgotten.
fn check_request_id(tx: &Tx<'_>, request_id: uuid::Uuid) -> Result<(), Rejected> {
    let clock = tx.state().clock();
    if tx.state().dedup_rows() >= dedup::ROWS_MAX {
        let message = "too many requests are remembered at the moment";
        return Err(Rejected::new(Code::TooMany, message, "retry in a minute"));
    }
    let Some(minted) = v7_time(&request_id) else { return Ok(()) };
    if minted < clock.dedup_floor || minted < clock.now.minus(dedup::WINDOW_MS) {
        let message = "the request id is older than what is remembered: its outcome is unknown";
        let next = "look whether it happened, and if not repeat it with a new request id";
        return Err(Rejected::new(Code::RequestIdExpired, message, next).field("request_id"));
    }
    if minted > clock.now.plus(dedup::WINDOW_MS) {
        let message = "the request id was made more than 24 hours in the cluster's future";
        return Err(Rejected::bad_argument("request_id", message, "set this machine's clock"));
    }
    Ok(())
}

fn replay(tx: &Tx<'_>, row: &DedupRecord, payload: &[u8; 32]) -> Result<Reply, Rejected> {
    if row.payload != *payload {
        let message = format!("request id {} was used for another request", row.request_id);
        let next = "make a new request id for every new request";
        return Err(Rejected::new(Code::RequestIdConflict, message, next).field("request_id"));
    }
    // Of many runners the row keeps none; their own rows name the request while they exist.
    let kept = |runners: &[crate::RunnerId], count: u32| {
        if runners.len() as u64 == u64::from(count) {
            return runners.to_vec();
        }
        tx.state().runners_by_request(row.request_id).map(|runner| runner.id).collect()
    };
    Ok(match &row.reply {
        StoredReply::Done => Reply::Done,
        StoredReply::Project(name) => Reply::Project(name.clone()),
        StoredReply::Launched { runners, count, queued } => {
            Reply::Launched { runners: kept(runners, *count), queued: queued.clone() }
        }
        StoredReply::Stopping { runners, count } => Reply::Stopping { runners: kept(runners, *count) },
        StoredReply::Restarted(id) => Reply::Restarted(*id),
        StoredReply::Host(id) => Reply::Host(*id),
        StoredReply::Token(id) => Reply::Token(*id),
    })
}

fn dispatch(tx: &mut Tx<'_>, command: &Command) -> Verdict {
    match command {
        Command::InitCluster(command) => command.apply(tx),
        Command::RaiseIncarnation(command) => command.apply(tx),
        Command::CreateProject(command) => command.apply(tx),
        Command::SetQuota(command) => command.apply(tx),
        Command::Launch(command) => command.apply(tx),
        Command::Assign(command) => command.apply(tx),
        Command::Report(command) => command.apply(tx),
        Command::HostConnect(command) => command.apply(tx),
        Command::HostUnreachable(command) => command.apply(tx),
        Command::HostReachable(command) => command.apply(tx),
        Command::Kill(command) => command.apply(tx),
        Command::Restart(command) => command.apply(tx),
        Command::CordonHost(command) => command.apply(tx),
        Command::LabelHost(command) => command.apply(tx),
        Command::RemoveHost(command) => command.apply(tx),
        Command::CreateToken(command) => command.apply(tx),
        Command::RevokeToken(command) => command.apply(tx),
        Command::RedeemToken(command) => command.apply(tx),
        Command::RegisterKey(command) => command.apply(tx),
        Command::SetNodeAddress(command) => command.apply(tx),
        Command::Trim(command) => command.apply(tx),
        Command::ResetClock(command) => command.apply(tx),
        Command::FenceHost(command) => command.apply(tx),
        Command::LeaseBounded(command) => command.apply(tx),
        Command::ConfirmReboot(command) => command.apply(tx),
        Command::ForgoList(command) => command.apply(tx),
        Command::DeclareRunnerDead(command) => command.apply(tx),
        Command::DeclareHostDead(command) => command.apply(tx),
        Command::DrainHost(command) => command.apply(tx),
        Command::RemoveNode(command) => command.apply(tx),
        Command::Finalize(command) => command.apply(tx),
        Command::SetMaintenance(command) => command.apply(tx),
        Command::ReserveNode(command) => command.apply(tx),
        Command::CutKeys(command) => command.apply(tx),
        Command::AdoptRunner(command) => command.apply(tx),
        Command::NoteNode(command) => command.apply(tx),
        // `may` lets none through; its entries are applied one by one.
        Command::Batch(_) => Err(Rejected::new(Code::NotAllowed, "a batch holds no batch", "")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RunnerId;
    use crate::command::{Kill, Launch, Selector, SetQuota};
    use crate::lab::{Lab, admin, written};
    use crate::time::DAY_MS;
    use uuid::Uuid;

    fn quota(project: &str, max_runners: u32) -> Command {
        Command::SetQuota(SetQuota { project: project.parse().unwrap(), max_runners })
    }

    fn entry(lab: &Lab, command: Command) -> Entry {
        Entry { actor: admin(), request_id: None, at: lab.now, term: None, command }
    }

    fn panicking(
        state: &mut State,
        _: &mut Changes,
        at: LogPosition,
        entry: &Entry,
        counters: &mut Counters,
    ) -> Outcome {
        let mut tx = Tx::begin(state, at, entry, *counters);
        // Half of a command's work, over every index, and then the defect.
        let kill = Kill { selector: Selector::All, force: true };
        assert!(dispatch(&mut tx, &Command::Kill(kill)).is_ok());
        dispatch(&mut tx, &quota("web", 99)).ok();
        panic!("the defect that P23 is about");
    }

    #[test]
    fn p23_a_panic_leaves_nothing_but_the_alarm() {
        let mut lab = Lab::new();
        let host = lab.host("a", 4);
        lab.create_project("web", 2).unwrap();
        let runners = lab.launch("web", 3);
        lab.assign(runners[0], host).unwrap();
        lab.pass(1000);
        let mut expected = lab.state.clone();
        let entry = entry(&lab, quota("web", 99));
        let (mut changes, mut counters) = (Changes::new(), Counters::default());
        let at = LogPosition { index: lab.index + 1, term: lab.term };
        let outcome = guarded(&mut lab.state, &mut changes, at, &entry, &mut counters, panicking);
        assert_eq!(outcome.reply.rejected().unwrap().code, Code::InternalError);
        assert!(matches!(&outcome.events[..], [event] if event.kind == EventKind::SystemAlert));
        // Nothing but the clock and the count of that one event differs.
        let touched: Vec<_> = changes.rows().map(|change| change.table).collect();
        assert_eq!(touched, [crate::Table::Clock, crate::Table::Segment]);
        let mut tx = Tx::begin(&mut expected, at, &entry, Counters::default());
        tx.event(EventKind::SystemAlert, &outcome.events[0].reason);
        tx.commit(&mut Changes::new());
        assert_eq!(lab.state, expected);
        assert_eq!(lab.state.digest(), lab.state.recomputed_digest());
    }

    #[test]
    fn a_refusal_changes_nothing_not_even_the_clock() {
        let mut lab = Lab::new();
        lab.pass(1000);
        let (before, _) = (lab.state.clone(), lab.changes.take());
        let entry = entry(&lab, quota("nope", 1));
        lab.apply_entry(&entry);
        assert_eq!(lab.state, before);
        assert!(lab.changes.is_empty());
    }

    #[test]
    fn p4_the_clock_never_goes_back() {
        let mut lab = Lab::new();
        lab.create_project("web", 1).unwrap();
        let before = lab.state.now();
        lab.now = before.minus(DAY_MS);
        lab.set_quota("web", 2).unwrap();
        assert_eq!(lab.state.now(), before);
    }

    #[test]
    fn p25_a_retry_gets_the_first_answer_though_its_ids_differ() {
        let mut lab = Lab::new();
        lab.create_project("web", 5).unwrap();
        let request = lab.v7(0);
        let first = lab.launch_with_request("web", request).unwrap();
        assert_eq!(lab.launch_with_request("web", request).unwrap(), first);
        assert_eq!(lab.state.runners().len(), 1);
        let mut other = lab.launch_command("web", 1);
        other.no_queue = true;
        let refused = lab.apply(admin(), Some(request), Command::Launch(other)).reply;
        assert_eq!(refused.rejected().unwrap().code, Code::RequestIdConflict);
        // Another person's request of the same id is another request.
        let token = lab.token(crate::Role::User);
        lab.join_user(token, "bob").unwrap();
        let launch = Command::Launch(lab.launch_command("web", 1));
        lab.apply(Actor::User("bob".parse().unwrap()), Some(request), launch);
        assert_eq!(lab.state.runners().len(), 2);
    }

    #[test]
    fn p25_a_big_launch_is_answered_again_from_the_runners_themselves() {
        let mut lab = Lab::new();
        lab.create_project("web", 500).unwrap();
        let request = Uuid::from_u128(4 << 76 | 2 << 62 | 12345);
        let launch = Command::Launch(lab.launch_command("web", 100));
        let first = lab.apply(admin(), Some(request), launch).reply;
        let retry: Launch = lab.launch_command("web", 100);
        assert_eq!(lab.apply(admin(), Some(request), Command::Launch(retry)).reply, first);
        let Reply::Launched { runners, .. } = first else { panic!("{first:?}") };
        assert_eq!(runners.len(), 100);
        // Later kills of some of them do not take them out of the answer.
        lab.kill(&runners[..3], false).unwrap();
        let retry: Launch = lab.launch_command("web", 100);
        let again = lab.apply(admin(), Some(request), Command::Launch(retry)).reply;
        assert!(matches!(again, Reply::Launched { runners: same, .. } if same == runners));
    }

    #[test]
    fn a_refused_request_may_be_tried_again() {
        let mut lab = Lab::new();
        let request = lab.v7(0);
        let refused = lab.launch_with_request("web", request).unwrap_err();
        assert_eq!(refused.code, Code::ProjectNotFound);
        lab.create_project("web", 5).unwrap();
        lab.launch_with_request("web", request).unwrap();
    }

    #[test]
    fn p25_ids_far_from_the_state_time_are_refused() {
        let mut lab = Lab::new();
        lab.create_project("web", 5).unwrap();
        let old = lab.v7(DAY_MS + 1);
        assert_eq!(lab.launch_with_request("web", old).unwrap_err().code, Code::RequestIdExpired);
        let now = lab.now;
        lab.pass(DAY_MS + 1);
        let future = lab.v7(0);
        lab.now = now;
        assert_eq!(lab.launch_with_request("web", future).unwrap_err().code, Code::BadArgument);
    }

    #[test]
    fn p25_a_dedup_row_is_small() {
        let mut lab = Lab::new();
        lab.create_project("web", 500).unwrap();
        for count in [1, dedup::RUNNERS_KEPT, 400] {
            let request = lab.v7(0);
            let launch = Command::Launch(lab.launch_command("web", count));
            lab.apply(admin(), Some(request), launch);
            let stored = lab.state.dedup(&admin(), request).unwrap().reply.clone();
            let StoredReply::Launched { runners, .. } = stored else { panic!("{stored:?}") };
            // As text, the longest form that anyone stores them in.
            assert!(runners.len() * (RunnerId::LENGTH + 2) <= 256);
        }
    }

    #[test]
    fn a_batch_answers_each_and_numbers_events_through() {
        let mut lab = Lab::new();
        let good = CreateProjects::named("web", &lab);
        let twice = good.clone();
        let nested = entry(&lab, Command::Batch(vec![good.clone()]));
        let other = CreateProjects::named("other", &lab);
        let batch = entry(&lab, Command::Batch(vec![good, twice, nested, other]));
        let outcome = lab.apply_entry(&batch);
        let Reply::Batch(replies) = &outcome.reply else { panic!("{outcome:?}") };
        let codes: Vec<_> = replies.iter().map(|reply| reply.rejected().map(|r| r.code)).collect();
        assert_eq!(codes, [None, Some(Code::ProjectExists), Some(Code::NotAllowed), None]);
        let ordinals: Vec<_> = outcome.events.iter().map(|event| event.id.ordinal).collect();
        assert_eq!(ordinals, [0, 1]);
    }

    struct CreateProjects;

    impl CreateProjects {
        fn named(name: &str, lab: &Lab) -> Entry {
            let create = crate::command::CreateProject {
                name: name.parse().unwrap(),
                path: "/srv".into(),
                command: vec![],
                max_runners: 1,
            };
            entry(lab, Command::CreateProject(create))
        }
    }

    #[test]
    fn p18_strangers_and_removed_identities_may_nothing() {
        let mut lab = Lab::new();
        let stranger = Actor::User("mallory".parse().unwrap());
        let refused = lab.apply(stranger, None, quota("web", 1)).reply;
        assert_eq!(refused.rejected().unwrap().code, Code::IdentityRemoved);
        let host = lab.host("a", 1);
        assert_eq!(lab.as_host(host, quota("web", 1)).unwrap_err().code, Code::NotAllowed);
        assert_eq!(lab.as_node(quota("web", 1)).unwrap_err().code, Code::NotAllowed);
    }

    #[test]
    fn the_changes_written_are_the_state() {
        let mut lab = Lab::new();
        let host = lab.host("a", 4);
        lab.create_project("web", 2).unwrap();
        let runners = lab.launch("web", 3);
        lab.assign(runners[0], host).unwrap();
        lab.kill(&runners[1..2], false).unwrap();
        assert_eq!(State::from_rows(written(&lab.changes)), lab.state);
    }
}
