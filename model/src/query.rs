//! Pure reads used by the API, by dispatch and by commands that name things as people do.

use std::collections::BTreeSet;

use crate::command::is_reserved;
use crate::host::{HostRecord, HostState};
use crate::id::{Epoch, HostId, ID_ALPHABET, ProjectName, RunnerId};
use crate::identity::{Actor, SpkiHash};
pub use crate::lease::{
    Coverable, GrantTerms, coverable, effective_policy, grant_terms, hold_ms, reboot_waiting,
};
use crate::limits::bounded;
use crate::reply::{Code, Covered, Rejected, called};
use crate::runner::{RunnerRecord, ShownState, Want};
use crate::state::State;

/// Candidates named in a refusal; more would not be read.
const CANDIDATES_SHOWN: usize = 5;

/// The runner that `text` means: an id, the name of a live runner, the newest ended one of that name, or a prefix that
/// only one id has.
///
/// # Errors
/// `runner_not_found`, or `runner_ambiguous` with the candidates.
pub fn resolve_runner<'a>(state: &'a State, text: &str) -> Result<&'a RunnerRecord, Rejected> {
    if let Some(runner) = text.parse().ok().and_then(|id| state.runner(id)) {
        return Ok(runner);
    }
    if let Ok(name) = text.parse() {
        let newest = || state.runners_named(&name).max_by_key(|runner| (runner.created_at, runner.id));
        if let Some(runner) = state.live_runner_named(&name).or_else(newest) {
            return Ok(runner);
        }
    }
    by_prefix(state, text)
}

fn by_prefix<'a>(state: &'a State, prefix: &str) -> Result<&'a RunnerRecord, Rejected> {
    let found = || {
        let first = first_with_prefix(prefix)?;
        let runners = state.runners_from(first);
        let found: Vec<_> = runners
            .take_while(|runner| runner.id.as_str().starts_with(prefix))
            .take(CANDIDATES_SHOWN + 1)
            .collect();
        Some(found)
    };
    match found().unwrap_or_default().as_slice() {
        [] => Err(Rejected::new(
            Code::RunnerNotFound,
            format!("there is no runner {:?}", bounded(prefix)),
            "list them with `stratavore runners --all`",
        )
        .field("runner")),
        [runner] => Ok(runner),
        several => {
            let names: Vec<_> =
                several.iter().take(CANDIDATES_SHOWN).map(|r| format!("{} ({})", r.id, r.name)).collect();
            let more = if several.len() > CANDIDATES_SHOWN { " and more" } else { "" };
            Err(Rejected::new(
                Code::RunnerAmbiguous,
                format!("{prefix:?} could be {}{more}", names.join(", ")),
                "give more characters of the id",
            )
            .field("runner"))
        }
    }
}

/// The smallest id with this prefix.
fn first_with_prefix(prefix: &str) -> Option<RunnerId> {
    if prefix.is_empty() || prefix.len() > RunnerId::LENGTH {
        return None;
    }
    let padded = format!("{prefix:0<width$}", width = RunnerId::LENGTH);
    debug_assert_eq!(ID_ALPHABET[0], b'0');
    padded.parse().ok()
}

/// The host that `text` means: the name of one that is not removed, or an id.
///
/// # Errors
/// `host_not_found`; `host_removed` for the id of a removed one.
pub fn resolve_host<'a>(state: &'a State, text: &str) -> Result<&'a HostRecord, Rejected> {
    let by_name = text.parse().ok().and_then(|name| state.host_named(&name));
    let host = by_name.or_else(|| text.parse().ok().and_then(|id| state.host(id)));
    match host {
        None => {
            let message = format!("there is no host {:?}", bounded(text));
            Err(Rejected::new(Code::HostNotFound, message, "list them with `stratavore hosts`").field("host"))
        }
        Some(host) if host.state == HostState::Removed => {
            let message = format!("host {} was removed", called(&host.name, host.id));
            Err(Rejected::new(Code::HostRemoved, message, "choose another host").field("host"))
        }
        Some(host) => Ok(host),
    }
}

/// What a host shall do with one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DesiredWant {
    Run,
    /// `reason` is to be recorded as the exit's reason.
    Stop {
        force: bool,
        reason: String,
    },
    /// Nothing of it may remain.
    Gone,
}

/// One line of a host's desired set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredRunner {
    pub runner: RunnerId,
    pub epoch: Epoch,
    pub want: DesiredWant,
}

/// Everything that a host shall do, as of the applied index that the state was read at (P14, P16). A host that is not
/// there or was removed shall run nothing.
#[must_use]
pub fn desired(state: &State, host: HostId) -> Vec<DesiredRunner> {
    if state.host(host).is_none_or(|host| host.state == HostState::Removed) {
        return Vec::new();
    }
    state.runners_on(host).filter_map(desired_line).collect()
}

/// What a fence covered and the host has not shown dead: it has to be ended before the host is heard again (P3).
pub fn covered(state: &State, host: HostId) -> impl Iterator<Item = Covered> + '_ {
    let covered = state.host(host).into_iter().flat_map(|host| &host.covered);
    covered.map(|(runner, epoch)| Covered { runner: *runner, epoch: *epoch })
}

/// The host that a runner concerns now and the line about it; none for a runner that takes no room on any host.
#[must_use]
pub fn desired_of(state: &State, runner: RunnerId) -> Option<(HostId, DesiredRunner)> {
    let runner = state.runner(runner)?;
    Some((runner.occupies()?, desired_line(runner)?))
}

fn desired_line(runner: &RunnerRecord) -> Option<DesiredRunner> {
    let want = match (runner.state.is_ended(), runner.want) {
        (true, _) => DesiredWant::Gone,
        (false, Want::Run) => DesiredWant::Run,
        (false, Want::Stop { force }) => {
            let reason = if runner.restart_wanted { "restarted" } else { "killed" };
            DesiredWant::Stop { force, reason: reason.into() }
        }
    };
    Some(DesiredRunner { runner: runner.id, epoch: runner.epoch?, want })
}

/// Which runners; all conditions must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunnerFilter {
    /// Ids, unique id prefixes or names; empty = any. Ended ones count when named.
    pub runners: Vec<String>,
    pub project: Option<ProjectName>,
    /// Empty = any.
    pub states: Vec<ShownState>,
    pub include_ended: bool,
}

/// A filter whose names have been looked up.
#[derive(Debug, Clone)]
pub struct ResolvedFilter {
    ids: Option<BTreeSet<RunnerId>>,
    project: Option<ProjectName>,
    states: Vec<ShownState>,
    include_ended: bool,
}

impl RunnerFilter {
    /// Looks the names up.
    ///
    /// # Errors
    /// As [`resolve_runner`]; `project_not_found`.
    pub fn resolve(&self, state: &State) -> Result<ResolvedFilter, Rejected> {
        if let Some(project) = &self.project {
            known_project(state, project)?;
        }
        let ids = self.runners.iter().map(|text| resolve_runner(state, text).map(|runner| runner.id));
        let ids = ids.collect::<Result<BTreeSet<_>, _>>()?;
        let ended_asked =
            self.states.iter().any(|s| matches!(s, ShownState::Terminated | ShownState::Failed));
        Ok(ResolvedFilter {
            include_ended: self.include_ended || ended_asked || !ids.is_empty(),
            ids: (!ids.is_empty()).then_some(ids),
            project: self.project.clone(),
            states: self.states.clone(),
        })
    }
}

impl ResolvedFilter {
    /// Whether the filter lets a runner through.
    #[must_use]
    pub fn matches(&self, runner: &RunnerRecord) -> bool {
        (self.include_ended || runner.is_live())
            && self.ids.as_ref().is_none_or(|ids| ids.contains(&runner.id))
            && self.project.as_ref().is_none_or(|project| *project == runner.project)
            && (self.states.is_empty() || self.states.contains(&runner.shown_state()))
    }

    /// One page by id: at most `limit` runners after `after`.
    #[must_use]
    pub fn page<'a>(&self, state: &'a State, after: Option<RunnerId>, limit: usize) -> Vec<&'a RunnerRecord> {
        let later = |id: RunnerId| after.is_none_or(|after| id > after);
        if let Some(ids) = &self.ids {
            let named = ids.iter().filter(|id| later(**id)).filter_map(|id| state.runner(*id));
            return named.filter(|runner| self.matches(runner)).take(limit).collect();
        }
        if let (Some(project), false) = (&self.project, self.include_ended) {
            let of_project = state.runners_of(project).filter(|runner| later(runner.id));
            return of_project.filter(|runner| self.matches(runner)).take(limit).collect();
        }
        let first = after.unwrap_or_else(|| RunnerId::from_random([0; RunnerId::LENGTH]));
        let all = state.runners_from(first).filter(|runner| later(runner.id));
        all.filter(|runner| self.matches(runner)).take(limit).collect()
    }
}

/// # Errors
/// `project_not_found`.
pub(crate) fn known_project<'a>(
    state: &'a State,
    project: &ProjectName,
) -> Result<&'a crate::ProjectRecord, Rejected> {
    state.project(project).ok_or_else(|| {
        let message = format!("there is no project {project}");
        let next =
            format!("create it with `stratavore new {project}`, or list them with `stratavore projects`");
        Rejected::new(Code::ProjectNotFound, message, next).field("project")
    })
}

/// What the registry says about a key that presents itself as an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    Admitted,
    /// It was registered once: cut it and say so.
    Removed,
    /// Never registered, or for another identity.
    Unknown,
}

/// Asked in every handshake and, on open connections, after every change.
#[must_use]
pub fn admission(state: &State, spki: &SpkiHash, identity: &Actor) -> Admission {
    match state.key(spki) {
        Some(key) if key.identity != *identity => Admission::Unknown,
        Some(key) if key.removed => Admission::Removed,
        // Of a node that only a restore will bring to life: until then it is nobody's.
        Some(key) if is_reserved(state, key) => Admission::Unknown,
        Some(_) => Admission::Admitted,
        None => Admission::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Launch;
    use crate::lab::Lab;
    use crate::{Command, RunnerState};

    fn launch_as(lab: &mut Lab, id: &str, name: &str) -> RunnerId {
        let mut launch: Launch = lab.launch_command("web", 1);
        launch.ids = vec![id.parse().unwrap()];
        launch.name = Some(name.parse().unwrap());
        lab.user(Command::Launch(launch)).unwrap();
        id.parse().unwrap()
    }

    #[test]
    fn runners_are_found_by_id_name_and_unique_prefix() {
        let mut lab = Lab::new();
        lab.create_project("web", 9).unwrap();
        let first = launch_as(&mut lab, "abcdefgh00", "shell");
        let second = launch_as(&mut lab, "abcdefgh11", "vim");
        let find = |lab: &Lab, text: &str| resolve_runner(lab_state(lab), text).map(|runner| runner.id);
        assert_eq!(find(&lab, "abcdefgh00"), Ok(first));
        assert_eq!(find(&lab, "vim"), Ok(second));
        assert_eq!(find(&lab, "abcdefgh1"), Ok(second));
        let ambiguous = find(&lab, "abc").unwrap_err();
        assert_eq!(ambiguous.code, Code::RunnerAmbiguous);
        assert!(ambiguous.message.contains("abcdefgh00 (shell)"), "{ambiguous:?}");
        for unknown in ["", "b", "abcdefgh000", "ABC", "nobody", "a\u{e4}"] {
            assert_eq!(find(&lab, unknown).unwrap_err().code, Code::RunnerNotFound, "{unknown:?}");
        }
    }

    fn lab_state(lab: &Lab) -> &State {
        &lab.state
    }

    #[test]
    fn a_name_means_the_live_one_then_the_newest() {
        let mut lab = Lab::new();
        lab.create_project("web", 9).unwrap();
        let first = launch_as(&mut lab, "abcdefgh00", "shell");
        lab.kill(&[first], false).unwrap();
        lab.pass(1000);
        let second = launch_as(&mut lab, "0000000000", "shell");
        assert_eq!(resolve_runner(&lab.state, "shell").unwrap().id, second);
        lab.kill(&[second], false).unwrap();
        assert_eq!(resolve_runner(&lab.state, "shell").unwrap().id, second);
    }

    #[test]
    fn filters_combine_and_page() {
        let mut lab = Lab::new();
        let host = lab.host("a", 9);
        lab.create_project("web", 9).unwrap();
        lab.create_project("api", 9).unwrap();
        let web = lab.launch("web", 4);
        lab.launch("api", 2);
        lab.assign(web[0], host).unwrap();
        lab.kill(&web[1..2], false).unwrap();
        let count = |lab: &Lab, filter: &RunnerFilter| {
            filter.resolve(&lab.state).unwrap().page(&lab.state, None, 100).len()
        };
        let any = RunnerFilter::default;
        assert_eq!(count(&lab, &any()), 5);
        assert_eq!(count(&lab, &RunnerFilter { include_ended: true, ..any() }), 6);
        let project = Some("web".parse().unwrap());
        assert_eq!(count(&lab, &RunnerFilter { project: project.clone(), ..any() }), 3);
        let states = vec![ShownState::Starting, ShownState::Terminated];
        assert_eq!(count(&lab, &RunnerFilter { project, states, ..any() }), 2);
        let named = RunnerFilter { runners: vec![web[1].to_string()], ..any() };
        assert_eq!(count(&lab, &named), 1, "a named one shows though it has ended");
        let unknown = RunnerFilter { project: Some("nope".parse().unwrap()), ..any() };
        assert_eq!(unknown.resolve(&lab.state).unwrap_err().code, Code::ProjectNotFound);

        let all = RunnerFilter { include_ended: true, ..any() }.resolve(&lab.state).unwrap();
        let (mut after, mut seen) = (None, Vec::new());
        loop {
            let page = all.page(&lab.state, after, 4);
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            seen.extend(page.iter().map(|runner| runner.id));
        }
        assert_eq!(seen, lab.state.runners().map(|runner| runner.id).collect::<Vec<_>>());
    }

    #[test]
    fn a_desired_set_follows_wishes_and_ends() {
        let mut lab = Lab::new();
        let host = lab.host("a", 9);
        lab.create_project("web", 9).unwrap();
        let runners = lab.launch("web", 3);
        let epochs: Vec<_> = runners.iter().map(|id| lab.assign(*id, host).unwrap()).collect();
        lab.kill(&runners[1..2], false).unwrap();
        let ended = lab.observed(runners[2], epochs[2], 1, RunnerState::Terminated);
        lab.report(host, vec![ended]).unwrap();
        let wants: Vec<_> = runners.iter().map(|id| desired_of(&lab.state, *id).map(|d| d.1.want)).collect();
        let stop = DesiredWant::Stop { force: false, reason: "killed".into() };
        assert_eq!(wants, [Some(DesiredWant::Run), Some(stop), None]);
        assert_eq!(desired(&lab.state, host).len(), 2);
        let nobody = lab.fresh_host_id();
        assert!(desired(&lab.state, nobody).is_empty());
    }

    #[test]
    fn hosts_are_found_by_name_and_id_until_they_are_removed() {
        let mut lab = Lab::new();
        let host = lab.host("a", 9);
        assert_eq!(resolve_host(&lab.state, "a").unwrap().id, host);
        assert_eq!(resolve_host(&lab.state, host.as_str()).unwrap().id, host);
        lab.remove_host("a").unwrap();
        assert_eq!(resolve_host(&lab.state, "a").unwrap_err().code, Code::HostNotFound);
        assert_eq!(resolve_host(&lab.state, host.as_str()).unwrap_err().code, Code::HostRemoved);
    }
}
