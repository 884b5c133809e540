//! `screen`: a runner's grid as text.

use std::process::ExitCode;

use serde::Serialize;
use stratavore_proto::v1::{GetScreenRequest, GetScreenResponse};

use super::{App, OK};
use crate::args::{Output, RunnerArg};
use crate::client;
use crate::errors::Result;
use crate::filter;
use crate::view;
use crate::view::json::{self, Object, known};

#[derive(Debug, Serialize)]
struct ScreenJson {
    rows: Vec<String>,
    height: u32,
    width: u32,
    cursor_row: u32,
    cursor_col: u32,
    cursor_hidden: bool,
    alternate: bool,
    title: Option<String>,
}

/// Prints the screen.
///
/// # Errors
/// A runner without a terminal, or the cluster's refusal.
pub(crate) async fn run(app: &App, args: RunnerArg) -> Result<ExitCode> {
    let doing = format!("read the screen of {}", args.runner);
    let screen = app
        .client()?
        .read(&doing, async |channel| {
            client::terminal(channel).get_screen(GetScreenRequest { runner: args.runner.clone() }).await
        })
        .await?;
    match app.output() {
        Output::Json => json::print(&Object::new("Screen", shape(screen)))?,
        Output::Table => view::print(&text(&screen))?,
    }
    OK
}

/// The rows down to the last one that is not blank.
fn text(screen: &GetScreenResponse) -> String {
    let used = screen.rows.iter().rposition(|row| !row.trim_end().is_empty()).map_or(0, |last| last + 1);
    let rows = screen.rows.iter().take(used);
    rows.map(|row| filter::one_line(row) + "\n").collect()
}

fn shape(screen: GetScreenResponse) -> ScreenJson {
    let size = screen.size.unwrap_or_default();
    ScreenJson {
        rows: screen.rows,
        height: size.rows,
        width: size.cols,
        cursor_row: screen.cursor_row,
        cursor_col: screen.cursor_col,
        cursor_hidden: screen.cursor_hidden,
        alternate: screen.alternate,
        title: known(&screen.title),
    }
}

#[cfg(test)]
mod tests {
    use stratavore_proto::v1::WindowSize;

    use super::*;

    #[test]
    fn blank_rows_below_are_cut_and_those_between_are_kept() {
        let rows = ["a", "", "b  ", "", ""].map(str::to_owned).to_vec();
        assert_eq!(text(&GetScreenResponse { rows, ..Default::default() }), "a\n\nb\n");
    }

    #[test]
    fn a_screen_as_json() {
        let screen = GetScreenResponse {
            rows: vec!["x".to_owned()],
            size: Some(WindowSize { rows: 40, cols: 120 }),
            cursor_col: 1,
            ..Default::default()
        };
        assert_eq!(
            serde_json::to_string(&Object::new("Screen", shape(screen))).unwrap(),
            r#"{"apiVersion":"stratavore.v1","kind":"Screen","rows":["x"],"height":40,"width":120,"cursor_row":0,"cursor_col":1,"cursor_hidden":false,"alternate":false,"title":null}"#
        );
    }
}
