//! All printing of results. Stdout is data: tables for people, versioned JSON for programs; stderr is talk.

pub(crate) mod cluster;
pub(crate) mod event;
pub(crate) mod host;
pub(crate) mod json;
pub(crate) mod project;
pub(crate) mod runner;
pub(crate) mod style;
pub(crate) mod table;
pub(crate) mod time;
pub(crate) mod token;

use std::io::Write;

use serde::Serialize;

use crate::args::Output;
use crate::errors::Result;
use crate::program;
use table::Table;

/// Prints `text` to stdout, colours only where they are shown.
///
/// # Errors
/// When stdout is closed.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut stdout = anstream::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

/// Tells a person something on stderr, one line.
pub(crate) fn tell(text: &str) {
    // Talk that nobody can read is no reason to fail.
    let mut stderr = anstream::stderr().lock();
    drop(writeln!(stderr, "{}", program::hinted(text)));
}

/// Prints a list: as a table, or as `{"apiVersion", "kind", "items"}`.
///
/// # Errors
/// When stdout is closed.
pub(crate) fn list<T: Serialize>(
    output: Output,
    kind: &'static str,
    items: Vec<T>,
    table: impl FnOnce() -> Table,
) -> Result<()> {
    match output {
        Output::Table => print(&table().render(table::stdout_columns())),
        Output::Json => json::print(&json::List::new(kind, items)),
    }
}
