//! Plain aligned columns: no borders, two blanks between, the last column cut at the terminal's edge.

use std::io::IsTerminal;

use anstyle::Style;

use super::style::{HEAD, PLAIN, paint};
use crate::filter;
use crate::term::raw;

/// One field: its text without any control character, and its colour.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// Text in a colour.
    pub(crate) fn styled(style: Style, text: impl AsRef<str>) -> Self {
        Self { text: filter::one_line(text.as_ref()), style }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::styled(PLAIN, text)
    }
}

/// Rows under heads.
#[derive(Debug, Default)]
pub(crate) struct Table {
    heads: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// An empty table.
    pub(crate) fn new(heads: &[&'static str]) -> Self {
        Self { heads: heads.to_vec(), rows: Vec::new() }
    }

    /// Appends a row; it has as many cells as there are heads.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.heads.len(), "a row as wide as its heads");
        self.rows.push(cells);
    }

    /// The table as lines; `columns` cuts the last column (never below ten characters).
    pub(crate) fn render(&self, columns: Option<usize>) -> String {
        let heads: Vec<Cell> = self.heads.iter().map(|head| Cell::styled(HEAD, head)).collect();
        let lines: Vec<&Vec<Cell>> = std::iter::once(&heads).chain(&self.rows).collect();
        let widths: Vec<usize> = (0..self.heads.len())
            .map(|column| lines.iter().map(|line| width(&line[column].text)).max().unwrap_or(0))
            .collect();
        let before_last: usize = widths.iter().rev().skip(1).map(|w| w + 2).sum();
        let last_max = columns.map_or(usize::MAX, |columns| columns.saturating_sub(before_last).max(10));
        let mut out = String::new();
        for line in lines {
            for (column, cell) in line.iter().enumerate() {
                if column + 1 == line.len() {
                    out.push_str(&paint(cell.style, &cut(&cell.text, last_max)));
                } else {
                    out.push_str(&paint(cell.style, &cell.text));
                    let pad = widths[column] + 2 - width(&cell.text);
                    out.extend(std::iter::repeat_n(' ', pad));
                }
            }
            out.truncate(out.trim_end_matches(' ').len());
            out.push('\n');
        }
        out
    }
}

/// Label and value per line, for one thing in detail.
pub(crate) fn fields(rows: &[(&str, Cell)]) -> String {
    let label_width = rows.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
    let mut out = String::new();
    for (label, cell) in rows.iter().filter(|(_, cell)| !cell.text.is_empty()) {
        out.push_str(&paint(HEAD, label));
        out.extend(std::iter::repeat_n(' ', label_width + 2 - label.len()));
        out.push_str(&paint(cell.style, &cell.text));
        out.push('\n');
    }
    out
}

/// Columns of the terminal at stdout; `None` when it is none, and nothing is cut.
pub(crate) fn stdout_columns() -> Option<usize> {
    if !std::io::stdout().is_terminal() {
        return None;
    }
    raw::window_size().map(|size| size.cols as usize)
}

/// Terminal cells, close enough: everything East Asian or pictorial counts as two.
fn width(text: &str) -> usize {
    text.chars().map(|c| if matches!(c as u32, 0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff | 0xff00..=0xff60 | 0x1f300..=0x1faff) { 2 } else { 1 }).sum()
}

fn cut(text: &str, max: usize) -> String {
    if width(text) <= max {
        return text.to_owned();
    }
    let mut out: String = text.chars().take(max.saturating_sub(1)).collect();
    while width(&out) >= max {
        out.pop();
    }
    out.push('…');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(&["NAME", "STATE", "COMMAND"]);
        table.row(vec!["a-long-name".into(), "up".into(), "sleep 1000000".into()]);
        table.row(vec!["b".into(), "down".into(), "".into()]);
        table
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn columns_are_aligned_and_lines_have_no_trailing_blanks() {
        let expected = "NAME         STATE  COMMAND\na-long-name  up     sleep 1000000\nb            down\n";
        assert_eq!(plain(&sample().render(None)), expected);
    }

    #[test]
    fn the_last_column_is_cut_at_the_edge() {
        assert!(plain(&sample().render(Some(32))).contains("sleep 10000…\n"));
    }

    #[test]
    fn hostile_cells_stay_in_their_line() {
        let mut table = Table::new(&["X"]);
        table.row(vec!["a\nb\x1b]0;t\x07c".into()]);
        assert_eq!(plain(&table.render(None)), "X\na b]0;tc\n");
    }

    #[test]
    fn empty_fields_are_left_out() {
        assert_eq!(
            plain(&fields(&[("id", "x".into()), ("host", "".into()), ("name", "y".into())])),
            "id    x\nname  y\n"
        );
    }
}
