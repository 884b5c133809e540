//! `events`: what happened, then what happens. A lost stream goes on after the last event printed.

use std::process::ExitCode;
use std::time::Duration;

use stratavore_proto::v1::{EventId, SubscribeEventsRequest, SubscribeEventsResponse};

use super::{App, OK, status};
use crate::args::{EventsArgs, value::EventPosition};
use crate::client::{self, Once};
use crate::errors::{Failure, Result};
use crate::view;

/// Pause before a lost stream is opened again.
const REOPEN_PAUSE: Duration = Duration::from_millis(200);

/// Prints events until interrupted, or until there are no more.
///
/// # Errors
/// The cluster's refusal.
pub(crate) async fn run(app: &App, args: EventsArgs) -> Result<ExitCode> {
    let mut after = begin(app, &args).await?;
    let mut opened = false;
    loop {
        let mut stream = app
            .client()?
            .open("subscribe to events", opened, async |channel| {
                let request = SubscribeEventsRequest {
                    after,
                    follow: !args.no_follow,
                    project: args.project.clone().unwrap_or_default(),
                    types: args.types.clone(),
                };
                client::events(channel).subscribe_events(request).await
            })
            .await?;
        opened = true;
        let status = loop {
            match stream.message().await {
                Ok(Some(answer)) => after = print(app, answer)?.or(after),
                Ok(None) if args.no_follow => return OK,
                Ok(None) => break tonic::Status::unavailable("the node ended the stream"),
                Err(status) => break status,
            }
        };
        match app.client()?.failed(status) {
            Once::Refused(status) if status.code() != tonic::Code::Unavailable => {
                return Err(Failure::from_status(&status, "subscribe to events"));
            }
            Once::Fatal(failure) => return Err(failure),
            _ => tokio::time::sleep(REOPEN_PAUSE).await,
        }
    }
}

/// Where to begin. "From now" is pinned to a position, so that a stream lost before its first event misses nothing.
async fn begin(app: &App, args: &EventsArgs) -> Result<Option<EventId>> {
    match args.since {
        Some(EventPosition::Event { incarnation, index, ordinal }) => {
            Ok(Some(EventId { incarnation, index, ordinal }))
        }
        Some(EventPosition::Index(index)) => {
            let incarnation = status::get(app, false).await?.incarnation;
            Ok(Some(EventId { incarnation, index, ordinal: u32::MAX }))
        }
        None if args.no_follow => Ok(None),
        None => {
            let status = status::get(app, false).await?;
            let index = status.info.unwrap_or_default().applied_index;
            Ok(Some(EventId { incarnation: status.incarnation, index, ordinal: u32::MAX }))
        }
    }
}

fn print(app: &App, answer: SubscribeEventsResponse) -> Result<Option<EventId>> {
    if let Some(gap) = answer.gap {
        let text = |id: Option<EventId>| view::event::id_text(&id.unwrap_or_default());
        view::tell(&format!("gap: events from {} to {} were trimmed", text(gap.from), text(gap.to)));
    }
    for event in &answer.events {
        view::event::print(app.output(), event)?;
    }
    Ok(answer.events.last().and_then(|event| event.id).or_else(|| answer.gap.and_then(|gap| gap.to)))
}
