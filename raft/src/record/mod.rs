//! Replicated records and raft positions <-> protobuf, one file per family. The only place where a `model`
//! type meets a generated one (the API's own conversions live in `node`).
//!
//! Loading is strict: an absent part, an unknown number or an unset choice is an error and stops the node,
//! since skipping what a newer version wrote would make nodes differ (P22).

mod cluster;
mod dedup;
mod entry;
mod event;
mod fence;
mod host;
mod parts;
pub(crate) mod position;
mod project;
#[cfg(test)]
mod replay;
#[cfg(test)]
mod roundtrip;
mod row;
mod runner;
mod token;

use bytes::Bytes;
use prost::Message;
use stratavore_model as model;
use stratavore_proto::raft as pb;

/// Why stored or received bytes are not a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{0} is not valid")]
    Invalid(&'static str),
    /// A newer program wrote it: the node must stop, never skip (P22).
    #[error("this build does not know the {0} (written by a newer version)")]
    Unknown(&'static str),
    #[error("the bytes do not decode: {0}")]
    Decode(String),
}

impl From<RecordError> for std::io::Error {
    fn from(error: RecordError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// A model type and its stored form.
pub(crate) trait Stored: Sized {
    type Pb;
    fn store(&self) -> Self::Pb;
    fn load(stored: Self::Pb) -> Result<Self, RecordError>;
}

/// A part that every writer sets.
pub(crate) fn required<T: Stored>(what: &'static str, part: Option<T::Pb>) -> Result<T, RecordError> {
    T::load(part.ok_or(RecordError::Missing(what))?)
}

/// A part that may be absent.
pub(crate) fn optional<T: Stored>(part: Option<T::Pb>) -> Result<Option<T>, RecordError> {
    part.map(T::load).transpose()
}

pub(crate) fn store_all<T: Stored>(items: &[T]) -> Vec<T::Pb> {
    items.iter().map(T::store).collect()
}

pub(crate) fn load_all<T: Stored>(items: Vec<T::Pb>) -> Result<Vec<T>, RecordError> {
    items.into_iter().map(T::load).collect()
}

/// The bytes of a proposal.
pub(crate) fn encode_entry(entry: &model::Entry) -> Bytes {
    entry.store().encode_to_vec().into()
}

pub(crate) fn decode_entry(bytes: Bytes) -> Result<model::Entry, RecordError> {
    model::Entry::load(pb::Entry::decode(bytes).map_err(|error| RecordError::Decode(error.to_string()))?)
}

pub(crate) fn encode_row(row: &model::Row) -> Vec<u8> {
    row.store().encode_to_vec()
}

pub(crate) fn decode_row(bytes: &[u8]) -> Result<model::Row, RecordError> {
    model::Row::load(position::decode(bytes)?)
}

pub(crate) fn encode_event(event: &model::RecordedEvent) -> Vec<u8> {
    event.store().encode_to_vec()
}

pub(crate) fn decode_event(bytes: &[u8]) -> Result<model::RecordedEvent, RecordError> {
    model::RecordedEvent::load(position::decode(bytes)?)
}
