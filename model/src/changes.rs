//! What a batch of entries did, for one atomic write.

use std::collections::BTreeMap;

use crate::event::RecordedEvent;
use crate::id::EventId;
use crate::row::{Row, RowKey, Table};

/// One touched row: its new content, or none when it is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub table: Table,
    pub key: RowKey,
    pub row: Option<Row>,
}

/// Everything that entries applied since the last [`Changes::take`] did: persisting exactly this, with the last applied
/// log id, keeps the database equal to the state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    rows: BTreeMap<RowKey, Option<Row>>,
    events: Vec<RecordedEvent>,
    trim_events_before: Option<EventId>,
}

impl Changes {
    /// Nothing changed yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.events.is_empty() && self.trim_events_before.is_none()
    }

    /// The touched rows in key order, each once, with their newest content.
    pub fn rows(&self) -> impl Iterator<Item = Change> + '_ {
        self.rows.iter().map(|(key, row)| Change { table: key.table(), key: key.clone(), row: row.clone() })
    }

    /// As [`Self::rows`], without cloning: key and new content.
    pub fn row_refs(&self) -> impl Iterator<Item = (&RowKey, Option<&Row>)> + '_ {
        self.rows.iter().map(|(key, row)| (key, row.as_ref()))
    }

    /// New events, in order.
    #[must_use]
    pub fn events(&self) -> &[RecordedEvent] {
        &self.events
    }

    /// Events before this one are to be deleted from the event log, new ones included.
    #[must_use]
    pub const fn trim_events_before(&self) -> Option<EventId> {
        self.trim_events_before
    }

    /// Hands everything over and starts empty.
    #[must_use]
    pub fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    /// The parts, to be moved: rows by key, events, and the trim line.
    #[must_use]
    pub fn into_parts(self) -> (BTreeMap<RowKey, Option<Row>>, Vec<RecordedEvent>, Option<EventId>) {
        (self.rows, self.events, self.trim_events_before)
    }

    pub(crate) fn record_row(&mut self, key: RowKey, row: Option<Row>) {
        self.rows.insert(key, row);
    }

    pub(crate) fn record_events(&mut self, events: &[RecordedEvent]) {
        self.events.extend_from_slice(events);
    }

    pub(crate) fn record_trim(&mut self, before: EventId) {
        // Ids grow, so the newest line covers the older ones.
        self.trim_events_before = self.trim_events_before.max(Some(before));
    }
}
