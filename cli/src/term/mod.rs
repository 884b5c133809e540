//! The terminal this program runs in.

pub(crate) mod detach;
mod graphics;
pub(crate) mod input;
pub(crate) mod pane;
pub(crate) mod queries;
pub(crate) mod raw;

use std::io::IsTerminal;

/// Whether a person sits at both ends: only then may a question be asked.
pub(crate) fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}
