//! Bare `stratavore PROJECT`: attaches to the project's live runner, launches one when there is none, and never
//! takes a mistyped command for a project.

use std::io::{BufRead, Write};
use std::process::ExitCode;

use stratavore_proto::v1;

use super::{App, attach, launch, new, runners};
use crate::args::{NewArgs, SmartArgs, usage};
use crate::errors::{Exit, Failure, Result};
use crate::term;
use crate::view;

/// Attaches or launches.
///
/// # Errors
/// A mistyped command as a usage failure; else the failure of the attach or launch.
pub(crate) async fn run(app: &App, args: SmartArgs) -> Result<ExitCode> {
    let project = args.launch.project.clone();
    match attempt(app, args).await {
        Err(failure) if is_unknown(&failure) => Err(usage::mistyped_command(&project).unwrap_or(failure)),
        other => other,
    }
}

/// There is no such project, or nobody to ask: then a name that looks like a command was meant as one.
fn is_unknown(failure: &Failure) -> bool {
    failure.reason() == "project_not_found"
        || failure.reason() == "bad_name"
        || matches!(failure.exit(), Exit::Unreachable)
        || failure.is_no_context()
}

async fn attempt(app: &App, args: SmartArgs) -> Result<ExitCode> {
    let attached = launch::attaches(app, &args.launch);
    if attached && !args.new {
        let live = runners::live_of(app, &args.launch.project).await?;
        match live.as_slice() {
            [] => {}
            [only] => return attach::to(app, &only.name).await,
            several => {
                if let Some(runner) = pick(several)? {
                    return attach::to(app, &runner.name).await;
                }
            }
        }
    }
    match launch::commit(app, &args.launch).await {
        Ok(answer) => launch::finish(app, &args.launch, answer, attached).await,
        Err(failure) if failure.reason() == "project_not_found" => {
            let project = &args.launch.project;
            if usage::mistyped_command(project).is_some() || app.globals.no_input || !term::is_interactive() {
                return Err(failure.next(format!("stratavore new {project}")));
            }
            if !agreed(&format!(
                "There is no project \"{project}\". Create it for the current directory? [y/N] "
            ))? {
                return Err(failure.next(format!("stratavore new {project}")));
            }
            let create = NewArgs {
                name: project.clone(),
                path: None,
                max_runners: None,
                request_id: None,
                command: Vec::new(),
            };
            new::run(app, create).await?;
            let answer = launch::commit(app, &args.launch).await?;
            launch::finish(app, &args.launch, answer, attached).await
        }
        Err(failure) => Err(failure),
    }
}

/// Lets the person choose; `None` launches another one.
fn pick(several: &[v1::Runner]) -> Result<Option<&v1::Runner>> {
    for (number, runner) in several.iter().enumerate() {
        let age = view::time::age(runner.created_at_unix_ms);
        let command = view::runner::command_text(runner);
        let state = view::runner::state_word(runner.state());
        view::tell(&crate::filter::one_line(&format!(
            "{:>3}  {}  {state}  {age}  {command}",
            number + 1,
            runner.name
        )));
    }
    let answer = ask(&format!("Attach to which one? [1-{}, n = launch another] ", several.len()))?;
    if answer == "n" {
        return Ok(None);
    }
    let chosen = if answer.is_empty() { Some(1) } else { answer.parse::<usize>().ok() };
    let chosen = chosen.and_then(|number| several.get(number.checked_sub(1)?));
    chosen.map(Some).ok_or_else(|| {
        Failure::usage(format!("\"{answer}\" is none of them"))
            .cause("a number from the list was expected")
            .next("stratavore attach NAME")
    })
}

/// Asks for yes or no; no by default.
///
/// # Errors
/// When the terminal is gone.
pub(crate) fn agreed(question: &str) -> Result<bool> {
    Ok(matches!(ask(question)?.to_ascii_lowercase().as_str(), "y" | "yes"))
}

fn ask(question: &str) -> Result<String> {
    let mut stderr = std::io::stderr().lock();
    stderr.write_all(question.as_bytes())?;
    stderr.flush()?;
    let mut line = String::new();
    if std::io::stdin().lock().read_line(&mut line)? == 0 {
        return Err(Failure::interrupted());
    }
    Ok(line.trim().to_owned())
}
