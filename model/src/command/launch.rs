//! `stratavore launch`.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;

use crate::command::{Success, Verdict};
use crate::event::EventKind;
use crate::fit::{Misfit, Need, misfit};
use crate::host::{Fence, HostLoad, HostRecord};
use crate::id::{HostId, NAME_BYTES_MAX, ProjectName, RunnerId, RunnerName};
use crate::lifecycle::quota_places;
use crate::limits::{LAUNCH_BYTES_MAX, RUNNERS_LIVE_MAX, check_hold, check_restart, check_spec, spec_bytes};
use crate::project::ProjectRecord;
use crate::query::{known_project, resolve_host};
use crate::reply::{Code, Rejected};
use crate::restart::Retry;
use crate::row::Row;
use crate::runner::{OnDisconnect, QUOTA_REACHED, RunnerRecord, RunnerSpec, RunnerState, Want};
use crate::state::State;
use crate::tx::Tx;

/// Runners of one launch: the rows of one entry stay within one comfortable write batch.
pub const LAUNCH_COUNT_MAX: usize = 1000;

/// Creates runners; placing them is the planner's work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    pub project: ProjectName,
    /// One per runner wanted, made by the API node.
    pub ids: Vec<RunnerId>,
    /// None = `<project>-<n>`; with several ids `<name>-1`, `<name>-2`, ….
    pub name: Option<RunnerName>,
    pub spec: RunnerSpec,
    /// Refuse instead of queueing when quota or capacity is missing.
    pub no_queue: bool,
}

#[derive(Serialize)]
pub(super) struct WithoutIds<'a> {
    project: &'a ProjectName,
    count: usize,
    name: Option<&'a RunnerName>,
    spec: &'a RunnerSpec,
    no_queue: bool,
}

impl Launch {
    pub(super) fn without_ids(&self) -> WithoutIds<'_> {
        WithoutIds {
            project: &self.project,
            count: self.ids.len(),
            name: self.name.as_ref(),
            spec: &self.spec,
            no_queue: self.no_queue,
        }
    }
}

impl Launch {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        let project = known_project(tx.state(), &self.project)?.clone();
        self.check_ids(tx)?;
        let (spec, pinned) = self.complete_spec(tx, &project)?;
        let names = self.names(tx, project)?;
        let admitted = self.admit(tx)?;
        let queued = self.why_queued(tx, &spec, pinned, admitted)?;
        let spec = Arc::new(spec);
        for (at, (id, name)) in self.ids.iter().zip(names).enumerate() {
            let admitted = at < admitted;
            let reason = if admitted { queued.unplaced } else { QUOTA_REACHED };
            self.create(tx, *id, name, Arc::clone(&spec), pinned, admitted, (at, reason));
        }
        let runners = self.ids.clone();
        let queued = queued.shown(admitted < runners.len()).to_owned();
        Ok(Success::launched(runners, queued))
    }

    fn check_ids(&self, tx: &Tx<'_>) -> Result<(), Rejected> {
        if self.ids.is_empty() || self.ids.len() > LAUNCH_COUNT_MAX {
            let message = format!("{} runners is not between 1 and {LAUNCH_COUNT_MAX}", self.ids.len());
            return Err(Rejected::bad_argument("count", message, "launch several times"));
        }
        if tx.state().live_runners().saturating_add(self.ids.len()) > RUNNERS_LIVE_MAX {
            let message = format!("a cluster holds at most {RUNNERS_LIVE_MAX} runners that have not ended");
            return Err(Rejected::new(Code::TooMany, message, "wait until some end"));
        }
        let distinct = self.ids.iter().collect::<BTreeSet<_>>().len() == self.ids.len();
        if !distinct || self.ids.iter().any(|id| tx.state().runner(*id).is_some()) {
            return Err(Rejected::new(Code::IdTaken, "a runner id was given twice", "retry").field("ids"));
        }
        Ok(())
    }

    /// The spec with the project's defaults, checked.
    fn complete_spec(
        &self,
        tx: &Tx<'_>,
        project: &ProjectRecord,
    ) -> Result<(RunnerSpec, Option<HostId>), Rejected> {
        let mut spec = self.spec.clone();
        if spec.command.is_empty() {
            spec.command.clone_from(&project.command);
        }
        if spec.workdir.is_empty() {
            spec.workdir.clone_from(&project.path);
        }
        spec.slots = spec.slots.max(1);
        check_spec(&spec)?;
        if let Some(cluster) = tx.state().cluster() {
            check_hold(&spec, cluster)?;
            check_restart(&spec, cluster)?;
        }
        if spec_bytes(&spec).saturating_mul(self.ids.len()) > LAUNCH_BYTES_MAX {
            let message = format!("commands and environments together exceed {LAUNCH_BYTES_MAX} bytes");
            return Err(Rejected::bad_argument("count", message, "launch fewer at a time"));
        }
        let pinned = match spec.host.as_str() {
            "" => None,
            host => Some(resolve_host(tx.state(), host).map_err(|refused| refused.field("spec.host"))?.id),
        };
        Ok((spec, pinned))
    }

    /// One free name per runner; counts the project's names on.
    fn names(&self, tx: &mut Tx<'_>, mut project: ProjectRecord) -> Result<Vec<RunnerName>, Rejected> {
        let free = |tx: &Tx<'_>, name: &RunnerName| tx.state().live_runner_named(name).is_none();
        let Some(base) = &self.name else {
            let mut names = Vec::with_capacity(self.ids.len());
            while names.len() < self.ids.len() {
                project.names_given = project.names_given.saturating_add(1);
                let name = numbered(project.name.as_str(), project.names_given)?;
                if free(tx, &name) {
                    names.push(name);
                }
            }
            tx.put(Row::Project(project));
            return Ok(names);
        };
        let names = match self.ids.len() {
            1 => vec![base.clone()],
            count => (1..=count as u64).map(|n| numbered(base.as_str(), n)).collect::<Result<_, _>>()?,
        };
        match names.iter().find(|name| !free(tx, name)) {
            None => Ok(names),
            Some(taken) => {
                let message = format!("a live runner is called {taken}");
                let next = format!("attach to it with `stratavore attach {taken}`, or choose another name");
                Err(Rejected::new(Code::NameTaken, message, next).field("name"))
            }
        }
    }

    /// How many of the runners get a quota place.
    fn admit(&self, tx: &Tx<'_>) -> Result<usize, Rejected> {
        let places = quota_places(tx, &self.project) as usize;
        if self.no_queue && places < self.ids.len() {
            let (project, wanted) = (&self.project, self.ids.len());
            let max = tx.state().project(project).map_or(0, |project| project.max_runners);
            let has = tx.state().admitted(project);
            let message =
                format!("project {project} has {has} of {max} runners, and {wanted} more are asked for");
            let next = format!(
                "raise it with `stratavore quotas set {} max-runners N`, or leave out --no-queue",
                self.project
            );
            return Err(Rejected::new(Code::QuotaReached, message, next));
        }
        Ok(places.min(self.ids.len()))
    }

    fn why_queued(
        &self,
        tx: &Tx<'_>,
        spec: &RunnerSpec,
        pinned: Option<HostId>,
        admitted: usize,
    ) -> Result<Queued, Rejected> {
        let need = Need::of_spec(spec, pinned);
        let unplaced = match room(tx.state(), &need, admitted) {
            Room::Enough => "",
            Room::Full => Code::NoCapacity.as_str(),
            Room::Nowhere => Code::NoHost.as_str(),
        };
        if !self.no_queue || unplaced.is_empty() {
            return Ok(Queued { unplaced });
        }
        let (code, message) = if unplaced == Code::NoHost.as_str() {
            (Code::NoHost, "no host that is ready takes such a runner".to_owned())
        } else {
            let scarce = scarce(tx.state(), &need);
            (Code::NoCapacity, format!("no host has enough free {scarce} at the moment"))
        };
        Err(Rejected::new(code, message, "look at `stratavore hosts`, or leave out --no-queue"))
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one record, computed by different steps")]
    fn create(
        &self,
        tx: &mut Tx<'_>,
        id: RunnerId,
        name: RunnerName,
        spec: Arc<RunnerSpec>,
        pinned: Option<HostId>,
        admitted: bool,
        (at, reason): (usize, &str),
    ) {
        let retry = Retry::of(spec.restart);
        let runner = RunnerRecord {
            id,
            name,
            project: self.project.clone(),
            spec,
            state: RunnerState::Pending,
            lost: None,
            want: Want::Run,
            restart_wanted: false,
            admitted,
            queued: tx.next_place(),
            epoch: None,
            host: None,
            on_disconnect: OnDisconnect::Keep,
            hold_ms: 0,
            pinned,
            rev: 0,
            pid: 0,
            fence: Fence::Unknown,
            exit: None,
            reason: reason.to_owned(),
            created_at: tx.now(),
            started_at: None,
            ended_at: None,
            created_by: tx.actor.clone(),
            request_id: tx.request_id,
            // Bounded by LAUNCH_COUNT_MAX.
            ordinal: at as u32,
            stop_request_id: None,
            restarts: 0,
            settled: true,
            retry,
        };
        tx.runner_event(EventKind::RunnerLaunched, &runner, "");
        if !reason.is_empty() {
            tx.runner_event(EventKind::RunnerQueued, &runner, reason);
        }
        tx.put_runner(runner);
    }
}

/// Why runners wait that the quota does not hold back; empty = they do not.
struct Queued {
    unplaced: &'static str,
}

impl Queued {
    fn shown(&self, over_quota: bool) -> &'static str {
        if over_quota { QUOTA_REACHED } else { self.unplaced }
    }
}

/// `<base>-<n>`, the base cut so that the result is a name.
fn numbered(base: &str, n: u64) -> Result<RunnerName, Rejected> {
    let suffix = format!("-{n}");
    let base = &base[..base.len().min(NAME_BYTES_MAX - suffix.len())];
    format!("{base}{suffix}").parse().map_err(|error| Rejected::bad_name("name", &error))
}

enum Room {
    Enough,
    /// Suitable hosts exist and are full, or spoken for by the queue.
    Full,
    Nowhere,
}

/// Whether `count` more runners of this need find a place now. An estimate that errs towards queueing never being
/// reported when there is none; the planner decides.
fn room(state: &State, need: &Need<'_>, count: usize) -> Room {
    let asked = u64::from(need.slots).saturating_mul(count as u64).saturating_add(state.queued_slots());
    let mut hosts = state.placeable().take_while(|(host, load)| !Misfit::Slots.applies(host, load, need));
    if asked <= state.free_slots() && hosts.any(|(host, load)| misfit(host, &load, need).is_none()) {
        return Room::Enough;
    }
    let suits =
        |(host, load): (&HostRecord, HostLoad)| misfit(host, &load, need).is_none_or(Misfit::is_resource);
    if state.placeable().any(suits) { Room::Full } else { Room::Nowhere }
}

/// What the first suitable host is short of; slots, where the queue has spoken for the rest.
fn scarce(state: &State, need: &Need<'_>) -> &'static str {
    let resource =
        |(host, load): (&HostRecord, HostLoad)| misfit(host, &load, need).filter(|m| m.is_resource());
    match state.placeable().find_map(resource) {
        Some(Misfit::Cpu) => "CPU",
        Some(Misfit::Memory) => "memory",
        _ => "slots",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Lab;
    use crate::{Command, Reply};

    fn launch(lab: &mut Lab, change: impl FnOnce(&mut Launch)) -> Result<Reply, Rejected> {
        let mut launch = lab.launch_command("web", 1);
        change(&mut launch);
        lab.user(Command::Launch(launch))
    }

    #[test]
    fn names_count_on_and_skip_taken_ones() {
        let mut lab = Lab::new();
        lab.create_project("web", 9).unwrap();
        launch(&mut lab, |l| l.name = Some("web-2".parse().unwrap())).unwrap();
        let runners = lab.launch("web", 2);
        let names: Vec<_> =
            runners.iter().map(|id| lab.state.runner(*id).unwrap().name.to_string()).collect();
        assert_eq!(names, ["web-1", "web-3"]);
        let taken = launch(&mut lab, |l| l.name = Some("web-3".parse().unwrap())).unwrap_err();
        assert_eq!(taken.code, Code::NameTaken);
    }

    #[test]
    fn a_long_project_name_still_gives_runner_names() {
        assert_eq!(numbered(&"x".repeat(63), 12).unwrap().as_str().len(), 63);
    }

    #[test]
    fn the_projects_defaults_are_filled_in() {
        let mut lab = Lab::new();
        lab.create_project("web", 9).unwrap();
        let runner = lab.launch("web", 1)[0];
        let spec = &lab.state.runner(runner).unwrap().spec;
        assert_eq!((spec.workdir.as_str(), spec.slots), ("/srv/web", 1));
        assert_eq!(spec.command, ["/bin/true"]);
    }

    #[test]
    fn over_quota_waits_with_a_reason_or_is_refused() {
        let mut lab = Lab::new();
        lab.host("a", 10);
        lab.create_project("web", 1).unwrap();
        let reply = launch(&mut lab, |_| {}).unwrap();
        assert!(matches!(reply, Reply::Launched { queued, .. } if queued.is_empty()));
        let reply = launch(&mut lab, |_| {}).unwrap();
        let Reply::Launched { runners, queued } = reply else { panic!("{reply:?}") };
        assert_eq!(queued, QUOTA_REACHED);
        assert_eq!(lab.state.runner(runners[0]).unwrap().reason, QUOTA_REACHED);
        let refused = launch(&mut lab, |l| l.no_queue = true).unwrap_err();
        assert_eq!(refused.code, Code::QuotaReached);
        assert!(refused.message.contains("has 1 of 1 runners, and 1 more"), "{}", refused.message);
    }

    #[test]
    fn no_queue_tells_no_host_from_no_capacity() {
        let mut lab = Lab::new();
        lab.create_project("web", 9).unwrap();
        assert_eq!(launch(&mut lab, |l| l.no_queue = true).unwrap_err().code, Code::NoHost);
        lab.host("a", 1);
        launch(&mut lab, |l| l.no_queue = true).unwrap();
        // The one slot is spoken for by the queue.
        assert_eq!(launch(&mut lab, |l| l.no_queue = true).unwrap_err().code, Code::NoCapacity);
        let labelled = launch(&mut lab, |l| {
            l.no_queue = true;
            l.spec.labels.insert("gpu".into(), "yes".into());
        });
        assert_eq!(labelled.unwrap_err().code, Code::NoHost);
    }

    #[test]
    fn an_unknown_host_or_project_is_refused() {
        let mut lab = Lab::new();
        assert_eq!(launch(&mut lab, |_| {}).unwrap_err().code, Code::ProjectNotFound);
        lab.create_project("web", 9).unwrap();
        let refused = launch(&mut lab, |l| l.spec.host = "nowhere".into()).unwrap_err();
        assert_eq!((refused.code, refused.field.as_deref()), (Code::HostNotFound, Some("spec.host")));
    }

    #[test]
    fn a_used_id_is_refused() {
        let mut lab = Lab::new();
        lab.create_project("web", 9).unwrap();
        let used = lab.launch("web", 1)[0];
        assert_eq!(launch(&mut lab, |l| l.ids = vec![used]).unwrap_err().code, Code::IdTaken);
        let fresh = lab.fresh_runner_id();
        assert_eq!(launch(&mut lab, |l| l.ids = vec![fresh, fresh]).unwrap_err().code, Code::IdTaken);
        assert_eq!(launch(&mut lab, |l| l.ids.clear()).unwrap_err().code, Code::BadArgument);
    }
}
