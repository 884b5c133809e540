//! The few colours there are. Whether they are shown is decided where text is written (terminal, NO_COLOR).

use anstyle::{AnsiColor, Style};
use stratavore_proto::v1::RunnerState;

/// Column heads.
pub(crate) const HEAD: Style = Style::new().dimmed();
/// All is well.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// On its way, or in need of a look.
pub(crate) const CARE: Style = AnsiColor::Yellow.on_default();
/// Broken.
pub(crate) const BAD: Style = AnsiColor::Red.on_default();
/// Over, or beside the point.
pub(crate) const QUIET: Style = Style::new().dimmed();
/// No colour.
pub(crate) const PLAIN: Style = Style::new();

/// The colour of a runner's state.
pub(crate) fn of_state(state: RunnerState) -> Style {
    match state {
        RunnerState::Running => GOOD,
        RunnerState::Pending | RunnerState::Starting | RunnerState::Paused | RunnerState::Stopping => CARE,
        RunnerState::Failed | RunnerState::Lost => BAD,
        RunnerState::Terminated => QUIET,
        RunnerState::Unspecified => PLAIN,
    }
}

/// `text` in a style.
pub(crate) fn paint(style: Style, text: &str) -> String {
    if style == PLAIN || text.is_empty() { text.to_owned() } else { format!("{style}{text}{style:#}") }
}

/// The three lines of an error with their labels in colour.
pub(crate) fn error_lines(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 32);
    for line in text.lines() {
        let (label, style) = match line.split_once(": ") {
            Some(("error", _)) => ("error:", BAD),
            Some(("cause", _)) => ("cause:", CARE),
            Some(("next", _)) => ("next:", GOOD),
            _ => ("", PLAIN),
        };
        out.push_str(&paint(style, label));
        out.push_str(&line[label.len()..]);
        out.push('\n');
    }
    out
}
