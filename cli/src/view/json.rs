//! The versioned envelope of every JSON answer.

use serde::Serialize;

use super::print as print_text;
use crate::errors::{Exit, Failure, Result};

/// Version of the shapes; a field may be added to it, none may change or vanish.
pub(crate) const API_VERSION: &str = "stratavore.v1";

/// `{"apiVersion":"stratavore.v1","kind":"RunnerList","items":[…]}`.
#[derive(Debug, Serialize)]
pub(crate) struct List<T> {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    items: Vec<T>,
}

impl<T: Serialize> List<T> {
    /// A list of `kind`.
    pub(crate) fn new(kind: &'static str, items: Vec<T>) -> Self {
        Self { api_version: API_VERSION, kind, items }
    }
}

/// `{"apiVersion":"stratavore.v1","kind":"Status",…}`: one object with its own fields.
#[derive(Debug, Serialize)]
pub(crate) struct Object<T> {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    #[serde(flatten)]
    fields: T,
}

impl<T: Serialize> Object<T> {
    /// An object of `kind`.
    pub(crate) fn new(kind: &'static str, fields: T) -> Self {
        Self { api_version: API_VERSION, kind, fields }
    }
}

/// Prints one JSON value on lines of its own.
///
/// # Errors
/// When stdout is closed.
pub(crate) fn print<T: Serialize>(value: &T) -> Result<()> {
    print_text(&(serde_json::to_string_pretty(value).map_err(not_json)? + "\n"))
}

/// Prints one JSON value on one line.
///
/// # Errors
/// When stdout is closed.
pub(crate) fn print_line<T: Serialize>(value: &T) -> Result<()> {
    print_text(&(serde_json::to_string(value).map_err(not_json)? + "\n"))
}

fn not_json(error: serde_json::Error) -> Failure {
    Failure::new(Exit::Generic, "cannot write the answer as JSON").cause(error.to_string())
}

/// Empty text is `null`: not known yet.
pub(crate) fn known(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The value as compact JSON, to compare with a hand-written line.
    pub(crate) fn compact<T: Serialize>(value: &T) -> String {
        serde_json::to_string(value).unwrap()
    }

    #[test]
    fn lists_and_objects_are_versioned() {
        assert_eq!(
            compact(&List::new("XList", vec![1, 2])),
            r#"{"apiVersion":"stratavore.v1","kind":"XList","items":[1,2]}"#
        );
        #[derive(Serialize)]
        struct Fields {
            a: u8,
        }
        assert_eq!(
            compact(&Object::new("X", Fields { a: 1 })),
            r#"{"apiVersion":"stratavore.v1","kind":"X","a":1}"#
        );
    }
}
