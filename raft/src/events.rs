//! The event log in the state database: written in the batch of the change, read by range, cut in apply.

use std::io;

use model::{Changes, EventId, RecordedEvent, RunnerId};
use rocksdb::{DB, Direction, IteratorMode, WriteBatch};
use stratavore_model as model;

use crate::db::{EVENTS, RUNNER_EVENTS, family, to_io};
use crate::error::EventError;
use crate::record::{decode_event, encode_event};
use crate::state_db::{StateDb, put_trimmed};

/// Events of one read: a page of a subscription, below a megabyte.
pub const EVENTS_READ_MAX: usize = 1024;

/// Bytes of an event's key: incarnation, index, ordinal, big endian, so that keys order as ids do.
const KEY_BYTES: usize = 20;

pub(crate) fn event_key(id: EventId) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[..8].copy_from_slice(&id.incarnation.to_be_bytes());
    key[8..16].copy_from_slice(&id.index.to_be_bytes());
    key[16..].copy_from_slice(&id.ordinal.to_be_bytes());
    key
}

fn event_id(key: &[u8]) -> io::Result<EventId> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "an event key has the wrong length");
    let key: &[u8; KEY_BYTES] = key.try_into().map_err(|_| wrong())?;
    let (incarnation, rest) = key.split_first_chunk().ok_or_else(wrong)?;
    let (index, rest) = rest.split_first_chunk().ok_or_else(wrong)?;
    let ordinal = rest.try_into().map_err(|_| wrong())?;
    Ok(EventId {
        incarnation: u64::from_be_bytes(*incarnation),
        index: u64::from_be_bytes(*index),
        ordinal: u32::from_be_bytes(ordinal),
    })
}

fn runner_key(runner: RunnerId, event: &[u8]) -> Vec<u8> {
    [runner.as_str().as_bytes(), event].concat()
}

/// Adds one event and its place in its runner's history.
pub(crate) fn put_event(db: &DB, batch: &mut WriteBatch, event: &RecordedEvent) -> io::Result<()> {
    let key = event_key(event.id);
    batch.put_cf(family(db, EVENTS)?, key, encode_event(event));
    if let Some(runner) = event.runner {
        batch.put_cf(family(db, RUNNER_EVENTS)?, runner_key(runner, &key), []);
    }
    Ok(())
}

/// Adds the new events of a batch and cuts what it trims, new ones included.
pub(crate) fn write(db: &DB, batch: &mut WriteBatch, changes: &Changes) -> io::Result<()> {
    for event in changes.events() {
        put_event(db, batch, event)?;
    }
    let Some(before) = changes.trim_events_before() else {
        return Ok(());
    };
    let mut newest = None;
    for item in db.iterator_cf(family(db, EVENTS)?, IteratorMode::Start) {
        let (key, value) = item.map_err(to_io)?;
        let id = event_id(&key)?;
        if id >= before {
            break;
        }
        forget(db, batch, &decode_event(&value)?)?;
        newest = Some(id);
    }
    for event in changes.events().iter().filter(|event| event.id < before) {
        forget(db, batch, event)?;
        newest = newest.max(Some(event.id));
    }
    // Deletions come behind the puts of the same batch, so they win.
    batch.delete_range_cf(family(db, EVENTS)?, [0; KEY_BYTES], event_key(before));
    match newest {
        Some(newest) => put_trimmed(db, batch, &newest),
        None => Ok(()),
    }
}

fn forget(db: &DB, batch: &mut WriteBatch, event: &RecordedEvent) -> io::Result<()> {
    if let Some(runner) = event.runner {
        batch.delete_cf(family(db, RUNNER_EVENTS)?, runner_key(runner, &event_key(event.id)));
    }
    Ok(())
}

/// Events behind `after` (all kept ones for none), oldest first, at most `limit` and [`EVENTS_READ_MAX`].
pub(crate) fn read_after(
    store: &StateDb,
    after: Option<EventId>,
    limit: usize,
) -> Result<Vec<RecordedEvent>, EventError> {
    let db = store.db()?;
    if let (Some(after), Some(trimmed)) = (after, store.trimmed_upto()?)
        && after < trimmed
    {
        return Err(EventError::Trimmed { oldest: oldest(store)?.unwrap_or(trimmed) });
    }
    // The successor of a key is the key with a zero byte behind it.
    let start = after.map(|after| [event_key(after).as_slice(), &[0]].concat()).unwrap_or_default();
    let items = db.iterator_cf(family(db, EVENTS)?, IteratorMode::From(&start, Direction::Forward));
    let mut events = Vec::new();
    for item in items.take(limit.min(EVENTS_READ_MAX)) {
        let (_, value) = item.map_err(to_io)?;
        events.push(decode_event(&value).map_err(io::Error::from)?);
    }
    Ok(events)
}

/// The oldest kept event.
pub(crate) fn oldest(store: &StateDb) -> io::Result<Option<EventId>> {
    first_of(store, IteratorMode::Start)
}

/// The newest event.
pub(crate) fn newest(store: &StateDb) -> io::Result<Option<EventId>> {
    first_of(store, IteratorMode::End)
}

fn first_of(store: &StateDb, mode: IteratorMode<'_>) -> io::Result<Option<EventId>> {
    let db = store.db()?;
    let first = db.iterator_cf(family(db, EVENTS)?, mode).next().transpose().map_err(to_io)?;
    first.map(|(key, _)| event_id(&key)).transpose()
}

/// The newest events of a runner, newest first, at most `limit` and [`EVENTS_READ_MAX`].
pub(crate) fn of_runner(
    store: &StateDb,
    runner: RunnerId,
    limit: usize,
) -> Result<Vec<RecordedEvent>, EventError> {
    let db = store.db()?;
    let prefix = runner.as_str().as_bytes();
    let end = runner_key(runner, &[0xff; KEY_BYTES]);
    let items = db.iterator_cf(family(db, RUNNER_EVENTS)?, IteratorMode::From(&end, Direction::Reverse));
    let mut events = Vec::new();
    for item in items.take(limit.min(EVENTS_READ_MAX)) {
        let (key, _) = item.map_err(to_io)?;
        let Some(event) = key.strip_prefix(prefix) else { break };
        if let Some(value) = db.get_cf(family(db, EVENTS)?, event).map_err(to_io)? {
            events.push(decode_event(&value).map_err(io::Error::from)?);
        }
    }
    Ok(events)
}
