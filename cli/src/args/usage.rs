//! A wrong command line in the three lines of every other error, and the third fix of the smart launch: a mistyped
//! command is never taken for a project.

use std::ffi::OsString;
use std::fmt::Write as _;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::errors::{Exit, Failure};
use crate::filter;

/// Commands of the surface that arrive with later releases; no project is meant by them.
const LATER: [&str; 22] = [
    "sessions",
    "resume",
    "resources",
    "tokens",
    "budget",
    "reconcile",
    "test",
    "health",
    "daemon",
    "move",
    "fork",
    "inbox",
    "salvage",
    "audit",
    "top",
    "chaos",
    "mcp",
    "export",
    "snapshot",
    "drain",
    "declare-dead",
    "config",
];

/// How many letters may differ between what was typed and the command that was meant.
const TYPO_DISTANCE_MAX: usize = 2;

/// clap's error as ours. `None` for help and version, which are printed and end with success.
pub(crate) fn failure(error: &clap::Error) -> Option<Failure> {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => return None,
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => return None,
        _ => {}
    }
    let text = error.to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or("the command line is wrong");
    let first = first.strip_prefix("error: ").unwrap_or(first);
    // The third line says where help is.
    let is_detail = |line: &&str| !line.starts_with("Usage:") && !line.starts_with("For more information");
    let rest: Vec<&str> = lines.take_while(is_detail).collect();
    let details = rest.join(" ");
    let (what, why) = match (error.kind(), first.split_once("': ")) {
        // clap puts what is wrong with a value behind it.
        (ErrorKind::ValueValidation, Some((what, why))) if details.is_empty() => (format!("{what}'"), why),
        _ => (first.to_owned(), details.trim_matches(['[', ']'])),
    };
    let mut failure = Failure::usage(what);
    if !why.is_empty() {
        failure = failure.cause(why);
    } else if let Some(usage) = text.lines().find_map(|line| line.trim().strip_prefix("Usage: ")) {
        failure = failure.cause(format!("the usage is {usage}"));
    }
    Some(failure.next(format!("{} --help", command_path(error))))
}

/// The error with the usage of the command it is about; clap leaves that out where a value is wrong.
pub(crate) fn placed(mut error: clap::Error, line: &[OsString]) -> clap::Error {
    if error.get(ContextKind::Usage).is_some() {
        return error;
    }
    let mut grammar = super::grammar();
    grammar.build();
    let words = line.iter().skip(1).filter_map(|word| word.to_str());
    let found = words.fold(&grammar, |command, word| command.find_subcommand(word).unwrap_or(command));
    let usage = found.clone().render_usage();
    error.insert(ContextKind::Usage, ContextValue::StyledStr(usage));
    error
}

/// The command the error is about, as it would be typed.
fn command_path(error: &clap::Error) -> String {
    let usage = match error.get(ContextKind::Usage) {
        Some(ContextValue::StyledStr(usage)) => usage.to_string(),
        _ => String::new(),
    };
    let words = usage.split_whitespace().skip_while(|word| *word != "stratavore").skip(1);
    let names = words.take_while(|word| {
        word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-')
    });
    names.fold("stratavore".to_owned(), |mut path, name| {
        path.push(' ');
        path.push_str(name);
        path
    })
}

/// The failure that a bare `stratavore NAME` deserves when there is no such project but a command that looks
/// like it, or one that comes later. `None`: it may well be a project that is missing.
pub(crate) fn mistyped_command(name: &str) -> Option<Failure> {
    if LATER.contains(&name) {
        let failure = Failure::usage(format!("there is no command \"{name}\" yet"));
        return Some(failure.cause("it arrives with a later release, and there is no project of that name"));
    }
    let mut near: Vec<(usize, String)> = super::command_names()
        .into_iter()
        .map(|command| (strsim::damerau_levenshtein(name, &command), command))
        .filter(|(distance, command)| *distance <= TYPO_DISTANCE_MAX && *distance < command.len())
        .collect();
    near.sort();
    let (_, first) = near.first()?;
    let mut cause = format!("a similar command exists: {first}");
    for (_, other) in near.iter().skip(1).take(2) {
        // Writing into a String cannot fail.
        write!(cause, ", {other}").ok();
    }
    let error = format!("unrecognized command or project \"{}\"", filter::one_line(name));
    Some(Failure::usage(error).cause(cause).next(format!("stratavore {first}")))
}

/// Refuses a project name that bare `stratavore NAME` could never reach.
///
/// # Errors
/// A usage failure when the name is a command's.
pub(crate) fn refuse_reserved(name: &str) -> Result<(), Failure> {
    if !super::command_names().iter().any(|command| command == name) {
        return Ok(());
    }
    Err(Failure::new(Exit::Usage, format!("\"{name}\" cannot be the name of a project"))
        .cause(format!("stratavore {name} is a command"))
        .next(format!("stratavore new {name}-project")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(line: &str) -> String {
        let words = std::iter::once("stratavore").chain(line.split_whitespace()).map(OsString::from);
        failure(&super::super::parse(words).unwrap_err()).unwrap().render()
    }

    #[test]
    fn a_wrong_option_is_three_lines_with_a_suggestion() {
        let text = rendered("launch demo --cuont 2");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert_eq!(lines[0], "error: unexpected argument '--cuont' found");
        assert!(lines[1].starts_with("cause: tip: a similar argument exists: '--count'"), "{text}");
        assert_eq!(lines[2], "next: stratavore launch --help");
    }

    #[test]
    fn a_wrong_value_names_the_possible_ones() {
        let text = rendered("runners -o yaml");
        assert!(text.contains("cause: possible values: table, json\n"), "{text}");
    }

    #[test]
    fn what_is_wrong_with_a_value_is_the_cause() {
        let text = rendered("quotas set demo max-runners 0");
        assert!(text.starts_with("error: invalid value '0' for '<VALUE>'\ncause: 0 is not in "), "{text}");
        assert!(text.ends_with("next: stratavore quotas set --help\n"), "{text}");
    }

    #[test]
    fn a_missing_argument_is_named() {
        let text = rendered("describe");
        assert!(text.contains("<RUNNER>"), "{text}");
        assert!(text.ends_with("next: stratavore describe --help\n"), "{text}");
    }

    #[test]
    fn a_mistyped_command_is_recognised() {
        for (typed, meant) in
            [("runers", "runners"), ("lauch", "launch"), ("stauts", "status"), ("hosst", "host")]
        {
            let text = mistyped_command(typed).unwrap().render();
            assert!(text.contains(&format!("next: stratavore {meant}\n")), "{typed}: {text}");
        }
        assert!(mistyped_command("my-web-shop").is_none());
        assert!(mistyped_command("demo").is_none());
    }

    #[test]
    fn commands_of_later_releases_are_said_to_be_that() {
        let failure = mistyped_command("sessions").unwrap();
        assert_eq!(failure.exit(), Exit::Usage);
        assert!(failure.render().contains("later release"));
    }

    #[test]
    fn commands_cannot_be_projects() {
        assert_eq!(refuse_reserved("status").unwrap_err().exit(), Exit::Usage);
        assert_eq!(refuse_reserved("ps").unwrap_err().exit(), Exit::Usage);
        assert!(refuse_reserved("demo").is_ok());
    }
}
