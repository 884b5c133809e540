//! `EventService`: the event log from any point on, then live. Level-triggered: after every change of the applied
//! index the log is read on from the cursor, so nothing can be missed or doubled.

use stratavore_model::{EventId, RecordedEvent, Rejected};
use stratavore_proto::v1::event_service_server::EventService;
use stratavore_proto::v1::{EventGap, SubscribeEventsRequest, SubscribeEventsResponse};
use stratavore_raft::{EventError, Handle};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::api::auth::{self, Read};
use crate::api::status::ApiError;
use crate::api::{Api, STREAM_QUEUE};
use crate::convert::{event, id};
use crate::tasks::TaskKind;

/// Events per message.
const PAGE: usize = 500;

/// Type patterns of one subscription: more than there are types.
const TYPES_MAX: usize = 64;

type Sender = mpsc::Sender<Result<SubscribeEventsResponse, Status>>;

#[tonic::async_trait]
impl EventService for Api {
    type SubscribeEventsStream = ReceiverStream<Result<SubscribeEventsResponse, Status>>;

    async fn subscribe_events(
        &self,
        request: Request<SubscribeEventsRequest>,
    ) -> Result<Response<Self::SubscribeEventsStream>, Status> {
        auth::require::<Read>(request.extensions())?;
        let request = request.into_inner();
        self.confirmed().await?;
        let filter = Filter::new(&request).map_err(ApiError::from)?;
        let cursor = match (request.after, request.follow) {
            (Some(after), _) => Some(id::event_id_of(after)),
            (None, true) => self.raft.newest_event().map_err(ApiError::from)?,
            (None, false) => None,
        };
        let (out, stream) = mpsc::channel(STREAM_QUEUE);
        let (raft, follow) = (self.raft.clone(), request.follow);
        let subscription = Subscription { raft, filter, cursor, follow, out: out.clone() };
        self.fill(TaskKind::Subscription, out, subscription.run());
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// What a subscriber wants to see.
struct Filter {
    project: String,
    types: Vec<String>,
}

impl Filter {
    fn new(request: &SubscribeEventsRequest) -> Result<Self, Rejected> {
        if request.types.len() > TYPES_MAX {
            let message = format!("{} types, at most {TYPES_MAX} are possible", request.types.len());
            return Err(Rejected::bad_argument("types", message, "use a prefix such as runner.*"));
        }
        Ok(Self { project: request.project.clone(), types: request.types.clone() })
    }

    fn passes(&self, event: &RecordedEvent) -> bool {
        let project = event.project.as_ref().map_or("", |project| project.as_str());
        let kind = event.kind.as_str();
        let matches = |pattern: &String| match pattern.strip_suffix(".*") {
            Some(prefix) => kind.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.')),
            None => kind == pattern,
        };
        (self.project.is_empty() || self.project == project)
            && (self.types.is_empty() || self.types.iter().any(matches))
    }
}

struct Subscription {
    raft: Handle,
    filter: Filter,
    cursor: Option<EventId>,
    follow: bool,
    out: Sender,
}

impl Subscription {
    async fn run(mut self) {
        let mut applied = self.raft.applied();
        loop {
            applied.mark_unchanged();
            match self.page().await {
                Ok(true) => continue,
                Ok(false) if !self.follow => return,
                Ok(false) => {}
                Err(error) => {
                    self.out.send(Err(error.into())).await.ok();
                    return;
                }
            }
            if applied.changed().await.is_err() {
                return;
            }
        }
    }

    /// Sends the next page. False when the log has no more for now.
    async fn page(&mut self) -> Result<bool, ApiError> {
        let events = match self.raft.events_after(self.cursor, PAGE) {
            Ok(events) => events,
            Err(EventError::Trimmed { oldest }) => {
                self.gap(oldest).await;
                return Ok(true);
            }
            Err(error) => return Err(error.into()),
        };
        let Some(last) = events.last() else { return Ok(false) };
        self.cursor = Some(last.id);
        let shown: Vec<_> =
            events.iter().filter(|event| self.filter.passes(event)).map(event::to_proto).collect();
        if !shown.is_empty() {
            self.out.send(Ok(SubscribeEventsResponse { events: shown, gap: None })).await.ok();
        }
        Ok(true)
    }

    /// P16: what was trimmed is said, then the stream goes on with the oldest event that is kept.
    async fn gap(&mut self, oldest: EventId) {
        let gap = EventGap { from: self.cursor.map(id::event_id), to: Some(id::event_id(oldest)) };
        self.out.send(Ok(SubscribeEventsResponse { events: Vec::new(), gap: Some(gap) })).await.ok();
        // Without any kept event `oldest` is the newest one deleted.
        self.cursor = match self.raft.oldest_event() {
            Ok(Some(kept)) => before(kept),
            Ok(None) | Err(_) => Some(oldest),
        };
    }
}

/// The greatest id below `id`, so that reading after it begins with `id` itself.
fn before(id: EventId) -> Option<EventId> {
    let EventId { incarnation, index, ordinal } = id;
    match (ordinal.checked_sub(1), index.checked_sub(1)) {
        (Some(ordinal), _) => Some(EventId { incarnation, index, ordinal }),
        (None, Some(index)) => Some(EventId { incarnation, index, ordinal: u32::MAX }),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stratavore_model::{Actor, EventKind, Millis};

    fn event(kind: EventKind, project: Option<&str>) -> RecordedEvent {
        RecordedEvent {
            id: EventId { incarnation: 1, index: 1, ordinal: 0 },
            at: Millis(0),
            actor: Actor::System,
            kind,
            project: project.map(|name| name.parse().unwrap()),
            runner: None,
            epoch: None,
            host: None,
            host_name: None,
            reason: String::new(),
        }
    }

    fn filter(project: &str, types: &[&str]) -> Filter {
        let types = types.iter().map(|text| (*text).to_owned()).collect();
        Filter::new(&SubscribeEventsRequest { project: project.into(), types, ..Default::default() }).unwrap()
    }

    #[test]
    fn types_match_exactly_or_by_prefix() {
        let started = event(EventKind::RunnerStarted, Some("p"));
        assert!(filter("", &[]).passes(&started));
        assert!(filter("p", &["runner.started"]).passes(&started));
        assert!(filter("", &["host.*", "runner.*"]).passes(&started));
        assert!(!filter("", &["run.*"]).passes(&started));
        assert!(!filter("", &["runner.stopped"]).passes(&started));
        assert!(!filter("q", &[]).passes(&started));
        assert!(!filter("q", &[]).passes(&event(EventKind::HostReady, None)));
    }

    #[test]
    fn nothing_lies_between_an_id_and_the_one_before_it() {
        let id = |index, ordinal| EventId { incarnation: 1, index, ordinal };
        assert_eq!(before(id(5, 3)), Some(id(5, 2)));
        assert_eq!(before(id(5, 0)), Some(id(4, u32::MAX)));
        assert_eq!(before(id(0, 0)), None);
    }
}
