//! One file configures three programs: each reads its own sections and passes over those of the others.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_saphyr::{Error, Spanned};

/// Top-level sections of all programs. A name that is neither here nor in the caller's type is a mistake.
pub const SECTIONS: [&str; 7] = ["agent", "cli", "daemon", "lease", "log", "metrics", "raft"];

/// True for a section that another program reads and the caller, who knows `own`, does not.
pub(crate) fn is_foreign(section: &str, own: &BTreeSet<String>) -> bool {
    !own.contains(section) && SECTIONS.contains(&section)
}

/// `text` with the lines of foreign sections emptied, and of own ones without content (which no struct would read).
/// Lines keep their numbers. Taken out of the text because variables would be put into sections that are merely
/// ignored, and the password of one program need not be set for another.
pub(crate) fn own_part(text: &str, own: &BTreeSet<String>) -> Result<String, Error> {
    // Variables stay as they are here.
    let Headings(headings) =
        serde_saphyr::from_str_with_options(text, serde_saphyr::options! { with_snippet: false })?;
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
    for (index, heading) in headings.iter().enumerate() {
        let is_empty = heading.is_empty && own.contains(&heading.name);
        // A file that is one line of flow style has no lines to take out.
        if heading.column != 1 || !(is_empty || is_foreign(&heading.name, own)) {
            continue;
        }
        let end = headings.get(index + 1).map_or(lines.len(), |next| next.line - 1);
        for line in lines.iter_mut().take(end).skip(heading.line - 1) {
            *line = "\n";
        }
    }
    Ok(lines.concat())
}

/// The top-level keys of a file, in order.
struct Headings(Vec<Heading>);

struct Heading {
    name: String,
    /// Both count from 1.
    line: usize,
    column: usize,
    is_empty: bool,
}

impl<'de> Deserialize<'de> for Headings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(HeadingsVisitor)
    }
}

struct HeadingsVisitor;

impl<'de> Visitor<'de> for HeadingsVisitor {
    type Value = Headings;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of sections")
    }

    fn visit_unit<E>(self) -> Result<Headings, E> {
        Ok(Headings(Vec::new()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headings, A::Error> {
        let mut headings = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let is_empty = map.next_value::<Value>()?.is_null();
            let position = |number: u64| usize::try_from(number).unwrap_or(usize::MAX).max(1);
            let (line, column) = (position(key.referenced.line()), position(key.referenced.column()));
            headings.push(Heading { name: key.value, line, column, is_empty });
        }
        Ok(Headings(headings))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_and_empty_sections_leave_empty_lines() {
        let own = BTreeSet::from(["daemon".to_owned(), "log".to_owned()]);
        let text =
            "# top\nagent:\n  x: |\n    daemon: no\ndaemon:\n  y: 1\nlog:\n  # level: info\ncli: {z: 2}\n";
        assert_eq!(own_part(text, &own).unwrap(), "# top\n\n\n\ndaemon:\n  y: 1\n\n\n\n");
        assert_eq!(own_part("", &own).unwrap(), "");
        assert_eq!(own_part("other:\n", &own).unwrap(), "other:\n");
    }
}
