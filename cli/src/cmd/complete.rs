//! Names that the shell offers while one types: asked of the cluster, quickly or not at all.

use std::ffi::OsStr;
use std::time::Duration;

use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use stratavore_proto::v1::RunnerFilter;
use stratavore_settings::context::Contexts;

use super::{
    App, hosts as host_command, projects as project_command, runners as runner_command,
    status as status_command,
};
use crate::args::{Globals, grammar};
use crate::context::contexts_file;
use crate::errors::Result;
use crate::keys as key_names;

/// Longer than this and the person has typed on.
const PATIENCE: Duration = Duration::from_millis(300);

/// Names of projects.
pub(crate) fn projects() -> ArgValueCompleter {
    offer(async |app| {
        let projects = project_command::list(app, "", true).await?;
        Ok(projects.into_iter().map(|project| (project.name, project.path)).collect())
    })
}

/// Names of live runners.
pub(crate) fn runners() -> ArgValueCompleter {
    offer(async |app| {
        let (runners, _) = runner_command::pages(app, &RunnerFilter::default(), true).await?;
        Ok(runners.into_iter().map(|runner| (runner.name, runner.id)).collect())
    })
}

/// Names of hosts.
pub(crate) fn hosts() -> ArgValueCompleter {
    offer(async |app| {
        let hosts = host_command::get(app, false, true).await?;
        Ok(hosts.into_iter().map(|host| (host.name, host.id)).collect())
    })
}

/// Ids of nodes.
pub(crate) fn nodes() -> ArgValueCompleter {
    offer(async |app| {
        let status = status_command::ask(app.client()?, true, PATIENCE).await?;
        Ok(status.nodes.into_iter().map(|node| (node.id.to_string(), node.address)).collect())
    })
}

/// Names of contexts.
pub(crate) fn contexts() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| {
        let names = contexts_file(&Globals::default())
            .ok()
            .and_then(|file| Contexts::load(&file).ok())
            .map(|contexts| contexts.names().into_iter().map(|name| (name, String::new())).collect())
            .unwrap_or_default();
        candidates(typed, names)
    })
}

/// Names of keys.
pub(crate) fn keys() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| {
        candidates(typed, key_names::names().map(|name| (name.to_owned(), String::new())).collect())
    })
}

type Names = Vec<(String, String)>;

fn offer(ask: impl AsyncFn(&App) -> Result<Names> + Send + Sync + 'static) -> ArgValueCompleter {
    ArgValueCompleter::new(move |typed: &OsStr| candidates(typed, asked(&ask).unwrap_or_default()))
}

/// What the cluster answers in time; `None` in silence otherwise.
fn asked(ask: &impl AsyncFn(&App) -> Result<Names>) -> Option<Names> {
    let app = App::new(typed_globals());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let names = runtime.block_on(async { tokio::time::timeout(PATIENCE, ask(&app)).await });
    runtime.shutdown_background();
    names.ok()?.ok()
}

/// `--context` and `--cluster` as far as they have been typed; else the environment's.
fn typed_globals() -> Globals {
    let words: Vec<String> = std::env::args().skip_while(|word| word != "--").skip(1).collect();
    let value = |flag: &str| {
        let at = words.iter().position(|word| word == flag)?;
        words.get(at + 1).cloned()
    };
    let from = |flag: &str, variable: &str| value(flag).or_else(|| std::env::var(variable).ok());
    Globals {
        context: from("--context", "STRATAVORE_CONTEXT"),
        cluster: from("--cluster", "STRATAVORE_CLUSTER")
            .map(|list| list.split(',').map(str::to_owned).collect())
            .unwrap_or_default(),
        config: value("--config").map(Into::into),
        ..Default::default()
    }
}

fn candidates(typed: &OsStr, names: Names) -> Vec<CompletionCandidate> {
    let Some(typed) = typed.to_str() else { return Vec::new() };
    let matching = names.into_iter().filter(|(name, _)| name.starts_with(typed));
    matching
        .map(|(name, help)| CompletionCandidate::new(name).help((!help.is_empty()).then(|| help.into())))
        .collect()
}

/// Projects are offered beside the commands: `stratavore PROJECT`.
pub(crate) fn with_projects() -> clap::Command {
    let names = std::env::args_os().nth(1).is_some_and(|word| word == "--") && first_word_is_typed();
    let mut grammar = grammar();
    if names {
        let app_names = asked(&async |app: &App| {
            let projects = project_command::list(app, "", true).await?;
            Ok(projects.into_iter().map(|project| (project.name, project.path)).collect())
        });
        for (name, path) in app_names.unwrap_or_default() {
            if grammar.find_subcommand(&name).is_none() {
                // The grammar wants names for ever; this process ends with the completion.
                let name: &'static str = name.leak();
                grammar = grammar.subcommand(clap::Command::new(name).about(path.leak() as &'static str));
            }
        }
    }
    grammar
}

/// Whether the word being completed is the one after the program's name.
fn first_word_is_typed() -> bool {
    std::env::args_os().skip_while(|word| word != "--").skip(1).count() == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_begins_as_typed_is_offered() {
        let names = vec![("demo-1".to_owned(), "x".to_owned()), ("other".to_owned(), String::new())];
        let offered = candidates(OsStr::new("de"), names);
        assert_eq!(offered.len(), 1);
        assert_eq!(offered[0].get_value(), "demo-1");
    }
}
