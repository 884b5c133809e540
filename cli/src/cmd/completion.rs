//! `completion SHELL`: what a shell must source; the completing itself is done by this program (see `complete`).

use std::process::ExitCode;

use clap_complete::env::Shells;

use super::OK;
use crate::args::{CompletionArgs, Shell};
use crate::errors::{Exit, Failure, Result};
use crate::{program, view};

/// Prints the registration script.
///
/// # Errors
/// When stdout is closed.
pub(crate) fn run(args: &CompletionArgs) -> Result<ExitCode> {
    let name = match args.shell {
        Shell::Bash => "bash",
        Shell::Zsh => "zsh",
        Shell::Fish => "fish",
        Shell::Powershell => "powershell",
        Shell::Elvish => "elvish",
    };
    let failure = || Failure::new(Exit::Generic, format!("cannot write the completion for {name}"));
    let shells = Shells::builtins();
    let shell = shells.completer(name).ok_or_else(failure)?;
    let mut script = Vec::new();
    shell.write_registration("COMPLETE", "stratavore", "stratavore", program::called(), &mut script)?;
    view::print(&String::from_utf8(script).map_err(|error| failure().cause(error.to_string()))?)?;
    OK
}
