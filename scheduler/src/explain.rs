//! Why a runner is where it is, or why it is still pending.

use stratavore_model::restart::{RESTART_BACKOFF, RESTART_LIMIT, RESTARTS_MAX, count_words};
use stratavore_model::{
    HostId, HostLoad, HostRecord, Millis, Need, RunnerId, RunnerRecord, RunnerState, ShownState, misfits,
};

use crate::filter::describe;
use crate::queue::Queue;
use crate::score::score;
use crate::view::View;

/// The planner's view of one runner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// One sentence.
    pub summary: String,
    /// Every host that is not removed, best first.
    pub hosts: Vec<HostVerdict>,
    /// From 1; 0 = not queued. Of those that wait for quota: among the waiting of its project.
    pub queue_position: u32,
}

/// What one host would say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostVerdict {
    pub host: HostId,
    pub name: String,
    pub feasible: bool,
    /// What it fails, or for a feasible one what its score is made of.
    pub reasons: Vec<String>,
    pub score: i64,
}

/// Explains a runner from the predicates that the planner uses; none for an unknown runner.
#[must_use]
pub fn explain(view: &View<'_>, runner: RunnerId, now: Millis) -> Option<Explanation> {
    let runner = view.state.runner(runner)?;
    let need = Need::of(runner);
    let mut hosts: Vec<_> =
        view.hosts.iter().map(|(host, load)| verdict(view, host, load, runner, &need)).collect();
    hosts.sort_by(|a, b| (b.feasible, b.score).cmp(&(a.feasible, a.score)).then_with(|| a.host.cmp(&b.host)));
    let queue_position = position(view, runner, now);
    let summary = summary(view, runner, &hosts, now);
    Some(Explanation { summary, hosts, queue_position })
}

fn verdict(
    view: &View<'_>,
    host: &HostRecord,
    load: &HostLoad,
    runner: &RunnerRecord,
    need: &Need<'_>,
) -> HostVerdict {
    let misfits = misfits(host, load, need);
    let score = score(view.policy, host, load);
    let mut reasons: Vec<_> = misfits.iter().map(|misfit| describe(*misfit, host, load, need)).collect();
    if misfits.is_empty() {
        let free = host.slots.saturating_sub(load.slots);
        let plural = if load.runners == 1 { "" } else { "s" };
        reasons.push(format!("{free} of {} slots free, {} runner{plural}", host.slots, load.runners));
    }
    if runner.state.is_placed() && runner.host == Some(host.id) {
        reasons.insert(0, "runs here".into());
    }
    HostVerdict { host: host.id, name: host.name.to_string(), feasible: misfits.is_empty(), reasons, score }
}

fn position(view: &View<'_>, runner: &RunnerRecord, now: Millis) -> u32 {
    if runner.state != RunnerState::Pending {
        return 0;
    }
    let found = if runner.admitted {
        let mut queue = Queue::of(view.state, now);
        let ids = std::iter::from_fn(|| {
            let next = queue.next()?;
            queue.done(&next, true);
            Some(next.runner.id)
        });
        ids.take(view.state.queue().len()).position(|id| id == runner.id)
    } else {
        view.state.waiting(&runner.project).position(|id| id == runner.id)
    };
    found.map_or(0, |at| u32::try_from(at).unwrap_or(u32::MAX).saturating_add(1))
}

fn summary(view: &View<'_>, runner: &RunnerRecord, hosts: &[HostVerdict], now: Millis) -> String {
    match runner.shown_state() {
        ShownState::Pending => pending(view, runner, hosts, now),
        ShownState::Terminated | ShownState::Failed => ended(runner),
        ShownState::Lost => format!("its host {} does not say how it is", host_name(view, runner)),
        ShownState::Stopping => format!("it is being stopped on host {}", host_name(view, runner)),
        ShownState::Starting | ShownState::Running | ShownState::Paused => {
            let epoch = runner.epoch.map(|epoch| epoch.to_string()).unwrap_or_default();
            let host = host_name(view, runner);
            let again = restarted(runner);
            format!("it is {} on host {host} since placement {epoch}{again}", runner.state.as_str())
        }
    }
}

fn ended(runner: &RunnerRecord) -> String {
    let reason = if runner.reason.is_empty() { "no reason given" } else { &runner.reason };
    let mut text = format!("it has ended ({}): {reason}", runner.state.as_str());
    if let (RESTART_LIMIT, Some(exit)) = (reason, &runner.exit) {
        text.push_str(&format!(
            ": {RESTARTS_MAX} restarts in a row did not help, and the last start {}",
            exit.words()
        ));
    }
    text
}

/// What its restart policy has done lately.
fn restarted(runner: &RunnerRecord) -> String {
    let Some(retry) = runner.retry.as_ref().filter(|retry| retry.attempts > 0) else { return String::new() };
    let count = count_words(runner.spec.restart, retry.attempts);
    let how = retry.last.as_ref().map(|last| last.exit.words()).unwrap_or_default();
    format!("; {count} by its policy, the start before {how}")
}

/// Why one waits for its next start, and how long.
fn backs_off(runner: &RunnerRecord, now: Millis) -> Option<String> {
    let until = runner.backs_off(now)?;
    let retry = runner.retry.as_ref()?;
    let count = count_words(runner.spec.restart, retry.attempts);
    let how = retry.last.as_ref().map(|last| last.exit.words()).unwrap_or_default();
    let seconds = until.since(now).div_ceil(1000);
    Some(format!(
        "{RESTART_BACKOFF}: its last start {how}; {count} comes in {seconds} s (`stratavore restart {}` starts it now)",
        runner.name
    ))
}

fn host_name(view: &View<'_>, runner: &RunnerRecord) -> String {
    let host = runner.host.and_then(|id| view.state.host(id));
    host.map_or_else(|| "that is gone".into(), |host| host.name.to_string())
}

/// Hosts named in a sentence.
const NAMED_MAX: usize = 3;

/// P30: why something from before a recovery waits, and for whom.
fn recovery(view: &View<'_>) -> String {
    let missing = view.state.unlisted_hosts().len();
    let hosts = view.state.unlisted_hosts().take(NAMED_MAX).filter_map(|id| view.state.host(id));
    let names: Vec<_> = hosts.map(|host| host.name.as_str()).collect();
    let more = if missing > NAMED_MAX { ", …" } else { "" };
    format!(
        "recovery: it may run on one of the hosts that have not said since what they run: {}{more} \
         (bring them back, or vouch for their end with `stratavore hosts declare-dead HOST`)",
        names.join(", ")
    )
}

fn pending(view: &View<'_>, runner: &RunnerRecord, hosts: &[HostVerdict], now: Millis) -> String {
    let project = &runner.project;
    if !runner.admitted {
        let max = view.state.project(project).map_or(0, |project| project.max_runners);
        let admitted = view.state.admitted(project);
        return format!(
            "quota_reached: project {project} has {admitted} of {max} runners \
             (raise it with `stratavore quotas set {project} max-runners N`)"
        );
    }
    if let Some(why) = backs_off(runner, now) {
        return why;
    }
    if view.is_held(runner) {
        return recovery(view);
    }
    if hosts.is_empty() {
        return "no_host: no host has joined (`stratavore token create --role host`)".into();
    }
    let feasible = hosts.iter().filter(|host| host.feasible).count();
    if feasible > 0 {
        return format!("{feasible} of {} hosts will do", hosts.len());
    }
    let need = Need::of(runner);
    let full = |(host, load): &(&HostRecord, HostLoad)| {
        misfits(host, load, &need).into_iter().all(stratavore_model::Misfit::is_resource)
    };
    let full = view.hosts.iter().filter(|host| full(host)).count();
    if full > 0 {
        format!("no_capacity: {full} of {} hosts would do and are full", hosts.len())
    } else {
        format!("no_host: none of {} hosts will do", hosts.len())
    }
}
