//! Events: one line each, for people or as one JSON object.

use serde::Serialize;
use stratavore_proto::v1;

use super::json::known;
use super::runner::epoch_text;
use super::style::{BAD, CARE, GOOD, PLAIN, QUIET, paint};
use super::table::{Cell, Table};
use super::{json, time};
use crate::args::Output;
use crate::errors::Result;
use crate::filter;

/// The JSON shape of an event.
#[derive(Debug, Serialize)]
pub(crate) struct EventJson {
    id: String,
    index: u64,
    ordinal: u32,
    time: Option<String>,
    #[serde(rename = "type")]
    kind: String,
    project: Option<String>,
    runner: Option<String>,
    epoch: Option<String>,
    host: Option<String>,
    reason: Option<String>,
}

impl From<&v1::Event> for EventJson {
    fn from(event: &v1::Event) -> Self {
        let id = event.id.unwrap_or_default();
        Self {
            id: id_text(&id),
            index: id.index,
            ordinal: id.ordinal,
            time: time::rfc3339(event.time_unix_ms),
            kind: event.r#type.clone(),
            project: known(&event.project),
            runner: known(&event.runner),
            epoch: event.epoch.as_ref().map(epoch_text),
            host: known(&event.host),
            reason: known(&event.reason),
        }
    }
}

/// `1.42.0`.
pub(crate) fn id_text(id: &v1::EventId) -> String {
    format!("{}.{}.{}", id.incarnation, id.index, id.ordinal)
}

/// Prints one event as it comes.
///
/// # Errors
/// When stdout is closed.
pub(crate) fn print(output: Output, event: &v1::Event) -> Result<()> {
    if output == Output::Json {
        return json::print_line(&EventJson::from(event));
    }
    let id = id_text(&event.id.unwrap_or_default());
    let when = time::rfc3339(event.time_unix_ms).unwrap_or_default();
    let kind = paint(style_of(&event.r#type), &format!("{:<22}", filter::one_line(&event.r#type)));
    super::print(&format!("{when}  {id:<10}  {kind}  {}\n", filter::one_line(&subject(event))))
}

/// Events beneath a runner's description.
pub(crate) fn table(events: &[v1::Event]) -> Table {
    let mut table = Table::new(&["TIME", "EVENT", "ABOUT"]);
    for event in events {
        table.row(vec![
            time::rfc3339(event.time_unix_ms).unwrap_or_default().into(),
            Cell::styled(style_of(&event.r#type), &event.r#type),
            subject(event).into(),
        ]);
    }
    table
}

/// What it is about, in the order project, runner, host, reason, actor.
fn subject(event: &v1::Event) -> String {
    let mut words = Vec::new();
    for (label, value) in [("project", &event.project), ("runner", &event.runner), ("host", &event.host)] {
        if !value.is_empty() {
            words.push(format!("{label}={value}"));
        }
    }
    if let Some(epoch) = &event.epoch {
        words.push(format!("epoch={}", epoch_text(epoch)));
    }
    for (label, value) in [("reason", &event.reason), ("by", &event.actor)] {
        if !value.is_empty() {
            words.push(format!("{label}={value}"));
        }
    }
    words.join(" ")
}

fn style_of(kind: &str) -> anstyle::Style {
    match kind {
        "runner.started" | "runner.recovered" | "host.ready" => GOOD,
        "runner.failed" | "runner.lost" | "host.unreachable" | "system.alert" => BAD,
        "runner.queued" | "runner.stop_requested" | "host.cordoned" | "host.removed" => CARE,
        "runner.stopped" => QUIET,
        _ => PLAIN,
    }
}

#[cfg(test)]
mod tests {
    use super::super::json::tests::compact;
    use super::*;

    #[test]
    fn an_event_as_json() {
        let event = v1::Event {
            id: Some(v1::EventId { incarnation: 1, index: 42, ordinal: 3 }),
            time_unix_ms: 1_700_000_000_000,
            r#type: "runner.started".to_owned(),
            project: "demo".to_owned(),
            runner: "abcdefghjk".to_owned(),
            epoch: Some(v1::Epoch { incarnation: 1, index: 40 }),
            host: "alpha".to_owned(),
            ..Default::default()
        };
        assert_eq!(
            compact(&EventJson::from(&event)),
            concat!(
                r#"{"id":"1.42.3","index":42,"ordinal":3,"time":"2023-11-14T22:13:20.000Z","type":"runner.started","#,
                r#""project":"demo","runner":"abcdefghjk","epoch":"1.40","host":"alpha","reason":null}"#
            )
        );
    }

    #[test]
    fn for_people_it_says_what_it_is_about() {
        let event = v1::Event {
            project: "p".to_owned(),
            reason: "x".to_owned(),
            actor: "a".to_owned(),
            ..Default::default()
        };
        assert_eq!(subject(&event), "project=p reason=x by=a");
    }
}
