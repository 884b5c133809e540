//! Events.

use stratavore_model::event::RecordedEvent;
use stratavore_proto::v1;

use crate::convert::id;

pub(crate) fn to_proto(event: &RecordedEvent) -> v1::Event {
    v1::Event {
        id: Some(id::event_id(event.id)),
        time_unix_ms: id::millis(event.at),
        r#type: event.kind.as_str().to_owned(),
        project: event.project.as_ref().map(ToString::to_string).unwrap_or_default(),
        runner: event.runner.map(|runner| runner.to_string()).unwrap_or_default(),
        epoch: event.epoch.map(id::epoch),
        host: host(event),
        reason: event.reason.clone(),
        actor: event.actor.to_string(),
    }
}

fn host(event: &RecordedEvent) -> String {
    match (&event.host_name, event.host) {
        (Some(name), _) => name.to_string(),
        (None, Some(host)) => host.to_string(),
        (None, None) => String::new(),
    }
}
