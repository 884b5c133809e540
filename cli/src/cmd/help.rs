//! `help`: of a command, or about a topic.

use std::process::ExitCode;

use super::OK;
use crate::args::{self, HelpArgs};
use crate::errors::{Exit, Failure, Result};
use crate::view;
use crate::view::table::Table;

/// Prints the help.
///
/// # Errors
/// An unknown topic.
pub(crate) fn run(args: &HelpArgs) -> Result<ExitCode> {
    if args.topic == ["exit-codes"] {
        view::print(&exit_codes().render(None))?;
        return OK;
    }
    let mut command = args::grammar();
    command.build();
    let mut found = &mut command;
    for word in &args.topic {
        found = found.find_subcommand_mut(word).ok_or_else(|| {
            Failure::new(Exit::NotFound, format!("there is no help about \"{}\"", args.topic.join(" ")))
                .cause("it is neither a command nor a topic (exit-codes)")
                .next("stratavore help")
        })?;
    }
    view::print(&found.render_long_help().ansi().to_string())?;
    OK
}

fn exit_codes() -> Table {
    let mut table = Table::new(&["CODE", "MEANING"]);
    for (exit, meaning) in Exit::TABLE {
        table.row(vec![exit.code().to_string().into(), meaning.into()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_explained() {
        let text = anstream::adapter::strip_str(&exit_codes().render(None)).to_string();
        for code in ["0", "1", "2", "3", "4", "5", "6", "7", "8", "130"] {
            assert!(text.lines().any(|line| line.split_whitespace().next() == Some(code)), "{code}: {text}");
        }
    }
}
