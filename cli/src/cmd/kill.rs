//! `kill`: stops runners with their whole process trees, and waits until the trees are gone.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use stratavore_proto::v1::{KillRunnersRequest, Runner, RunnerFilter, RunnerState};

use super::watch::Changes;
use super::{App, OK, sure};
use crate::args::KillArgs;
use crate::client;
use crate::errors::{Exit, Failure, Result};
use crate::view;

/// The ladder takes under ten seconds; the rest is for the way there and back.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What is meant by the words of the command line.
#[derive(Debug, PartialEq, Eq)]
enum Targets {
    Named(Vec<String>),
    Project(String),
    All,
}

impl Targets {
    fn of(args: &KillArgs) -> Result<Self> {
        match (args.targets.as_slice(), args.project.as_deref()) {
            ([], None | Some("")) => Err(Failure::usage("no runner is named")
                .cause("kill takes runners, --project PROJECT or all")
                .next("stratavore kill --help")),
            ([], Some(project)) => Ok(Self::Project(project.to_owned())),
            // `kill PROJECT --project`, as older documents write it.
            ([project], Some("")) => Ok(Self::Project(project.clone())),
            ([all], None) if all == "all" => Ok(Self::All),
            (named, None) => Ok(Self::Named(named.to_vec())),
            (_, Some(_)) => Err(Failure::usage("runners and --project exclude each other")
                .cause("a bulk kill takes every live runner of the project")
                .next("stratavore kill --help")),
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Named(names) => names.join(", "),
            Self::Project(project) => format!("every runner of {project}"),
            Self::All => "every runner".to_owned(),
        }
    }
}

/// Kills and waits.
///
/// # Errors
/// Exit 8 when a tree is not gone in time; else the cluster's refusal.
pub(crate) async fn run(app: &App, args: KillArgs) -> Result<ExitCode> {
    let targets = Targets::of(&args)?;
    confirm(app, &args, &targets)?;
    let deadline = tokio::time::Instant::now() + app.globals.timeout.unwrap_or(TIMEOUT);
    let doing = format!("kill {}", targets.words());
    let answer = app
        .client()?
        .mutate(&doing, args.request_id, async |channel, request_id| {
            let mut request = KillRunnersRequest { request_id, force: args.force, ..Default::default() };
            match &targets {
                Targets::Named(names) => request.runners.clone_from(names),
                Targets::Project(project) => request.project.clone_from(project),
                Targets::All => request.all = true,
            }
            client::runners(channel).kill_runners(request).await
        })
        .await?;
    if args.force && answer.runners.iter().any(was_lost) {
        view::tell("a lost runner's record is closed; its process dies when its host returns");
    }
    let mut waiting = Waiting::new(answer.runners);
    if !waiting.is_over() {
        let gone = tokio::time::timeout_at(deadline, wait(app, &mut waiting)).await;
        if let Ok(result) = gone {
            result?;
        }
    }
    waiting.verdict(&doing)?;
    view::runner::print(app.output(), &waiting.runners(), false)?;
    OK
}

fn was_lost(runner: &Runner) -> bool {
    runner.state() == RunnerState::Lost || runner.state_under_lost() != RunnerState::Unspecified
}

/// Asks before a bulk kill, when there is somebody to ask.
fn confirm(app: &App, args: &KillArgs, targets: &Targets) -> Result<()> {
    match targets {
        Targets::Named(_) => Ok(()),
        Targets::Project(_) | Targets::All => {
            sure(app, args.yes, &format!("Kill {}? [y/N] ", targets.words()))
        }
    }
}

async fn wait(app: &App, waiting: &mut Waiting) -> Result<()> {
    let filter = RunnerFilter { runners: waiting.ids(), include_ended: true, ..Default::default() };
    let mut changes = Changes::new(app, filter);
    while !waiting.is_over() {
        let change = changes.next().await?;
        for runner in change.runners {
            waiting.saw(runner);
        }
        for id in change.removed {
            waiting.removed(&id);
        }
    }
    Ok(())
}

/// The runners that were asked to stop, as they were last seen.
#[derive(Debug)]
struct Waiting(BTreeMap<String, (usize, Runner)>);

impl Waiting {
    fn new(runners: Vec<Runner>) -> Self {
        Self(runners.into_iter().enumerate().map(|(at, runner)| (runner.id.clone(), (at, runner))).collect())
    }

    fn ids(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn saw(&mut self, runner: Runner) {
        if let Some((_, known)) = self.0.get_mut(&runner.id) {
            *known = runner;
        }
    }

    /// An ended record that left the state has been gone for long.
    fn removed(&mut self, id: &str) {
        if let Some((_, runner)) = self.0.get_mut(id) {
            runner.set_state(RunnerState::Terminated);
        }
    }

    fn is_over(&self) -> bool {
        self.0.values().all(|(_, runner)| view::runner::is_ended(runner))
    }

    fn runners(&self) -> Vec<Runner> {
        let mut ordered: Vec<&(usize, Runner)> = self.0.values().collect();
        ordered.sort_by_key(|(at, _)| *at);
        ordered.into_iter().map(|(_, runner)| runner.clone()).collect()
    }

    /// Success only when every tree is gone.
    fn verdict(&self, doing: &str) -> Result<()> {
        let mut why = Vec::new();
        let mut lost = false;
        for runner in self.runners() {
            let leftovers = runner.exit.as_ref().map(|exit| exit.leftovers.join(", ")).unwrap_or_default();
            if !view::runner::is_ended(&runner) {
                let state = view::runner::state_word(runner.state());
                why.push(format!("{} is still {state} {}", runner.name, runner.reason).trim_end().to_owned());
                lost |= runner.state() == RunnerState::Lost;
            } else if !leftovers.is_empty() {
                why.push(format!(
                    "{} left processes behind that could not be ended: {leftovers}",
                    runner.name
                ));
            }
        }
        if why.is_empty() {
            return Ok(());
        }
        let next = if lost {
            "stratavore hosts; a lost runner stops when its host returns, --force closes its record now"
        } else {
            "repeat with --force or a longer --timeout"
        };
        Err(Failure::new(Exit::Timeout, format!("cannot {doing} in time")).cause(why.join("; ")).next(next))
    }
}

#[cfg(test)]
mod tests {
    use stratavore_proto::v1;

    use super::*;

    fn args(targets: &[&str], project: Option<&str>) -> KillArgs {
        KillArgs {
            targets: targets.iter().map(|t| (*t).to_owned()).collect(),
            project: project.map(str::to_owned),
            force: false,
            yes: false,
            request_id: None,
        }
    }

    #[test]
    fn all_three_spellings_of_a_bulk_kill() {
        assert_eq!(Targets::of(&args(&[], Some("demo"))).unwrap(), Targets::Project("demo".to_owned()));
        assert_eq!(Targets::of(&args(&["demo"], Some(""))).unwrap(), Targets::Project("demo".to_owned()));
        assert_eq!(Targets::of(&args(&["all"], None)).unwrap(), Targets::All);
        assert_eq!(
            Targets::of(&args(&["a", "b"], None)).unwrap(),
            Targets::Named(vec!["a".to_owned(), "b".to_owned()])
        );
        for wrong in [args(&[], Some("")), args(&["a"], Some("demo")), args(&["a", "b"], Some(""))] {
            assert_eq!(Targets::of(&wrong).unwrap_err().exit(), Exit::Usage);
        }
    }

    fn runner(id: &str, state: RunnerState) -> Runner {
        Runner { id: id.to_owned(), name: id.to_owned(), state: state.into(), ..Default::default() }
    }

    #[test]
    fn it_is_over_when_every_tree_is_gone() {
        let mut waiting =
            Waiting::new(vec![runner("b", RunnerState::Running), runner("a", RunnerState::Stopping)]);
        assert!(!waiting.is_over());
        waiting.saw(runner("a", RunnerState::Terminated));
        assert_eq!(waiting.verdict("kill b, a").unwrap_err().exit(), Exit::Timeout);
        waiting.removed("b");
        assert!(waiting.is_over() && waiting.verdict("x").is_ok());
        assert_eq!(waiting.runners().iter().map(|r| r.id.as_str()).collect::<Vec<_>>(), ["b", "a"]);
    }

    #[test]
    fn leftovers_are_named_and_no_success() {
        let mut left = runner("a", RunnerState::Terminated);
        left.exit = Some(v1::Exit { leftovers: vec!["77 sleeper".to_owned()], ..Default::default() });
        let failure = Waiting::new(vec![left]).verdict("kill a").unwrap_err();
        assert_eq!(failure.exit(), Exit::Timeout);
        assert!(failure.render().contains("77 sleeper"), "{}", failure.render());
    }
}
