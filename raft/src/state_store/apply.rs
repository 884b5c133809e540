//! Applying committed entries: the model decides, one batch records it, then readers see it.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use model::{Changes, LogPosition, RowKey};
use openraft::EntryPayload;
use rocksdb::WriteBatch;
use stratavore_model as model;

use super::{AppliedBatch, Image, StateStore};
use crate::db::{ROWS, family, to_io};
use crate::digests::is_recorded;
use crate::events;
use crate::metrics::Counters;
use crate::record::{decode_entry, encode_row};
use crate::state_db::{StateDb, put_applied, put_digest, put_membership, row_key};
use crate::sync_point;
use crate::types::{Command, LogEntry, LogId, Response, StoredMembership};

/// What a run of entries did to an image.
#[derive(Default)]
struct Advance {
    changes: Changes,
    indexes: Vec<u64>,
    responses: Vec<Response>,
    membership: Option<StoredMembership>,
    recorded: Vec<(u64, [u8; 32])>,
    /// Where the image is now, and its digest; none when there was no entry.
    at: Option<(LogId, [u8; 32])>,
}

impl StateStore {
    /// Applies entries in order and persists what they did in one batch. Any error ends the node: an
    /// entry is never skipped.
    pub(crate) fn apply<'a>(&self, entries: impl Iterator<Item = &'a LogEntry>) -> io::Result<Vec<Response>> {
        let _writing = self.writing();
        let advance = {
            let mut image = self.image_mut();
            self.advance(&mut image, entries)?
        };
        let Advance { changes, indexes, responses, membership, recorded, at } = advance;
        if let Some((applied, digest)) = at {
            persist(&self.db(), &applied, &digest, membership.as_ref(), &changes)
                .inspect_err(|error| self.inner.fatal.storage("writing applied state", error))?;
            self.inner.digests.record(recorded);
            self.announce(&applied, changes);
            if self.inner.replies.wanted() {
                let answers = indexes.into_iter().zip(&responses);
                let answers = answers.filter_map(|(index, response)| Some((index, response.reply.clone()?)));
                self.inner.replies.applied(applied.index(), answers);
            } else {
                self.inner.replies.applied(applied.index(), []);
            }
        }
        Counters::add(&self.inner.counters.applied_entries, responses.len() as u64);
        Counters::add(&self.inner.counters.apply_batches, 1);
        Ok(responses)
    }

    /// Applies entries to an image and database that are not in use yet.
    pub(super) fn replay(&self, image: &mut Image, db: &StateDb, entries: &[LogEntry]) -> io::Result<()> {
        let advance = self.advance(image, entries.iter())?;
        match advance.at {
            Some((applied, digest)) => {
                persist(db, &applied, &digest, advance.membership.as_ref(), &advance.changes)
            }
            None => Ok(()),
        }
    }

    fn advance<'a>(
        &self,
        image: &mut Image,
        entries: impl Iterator<Item = &'a LogEntry>,
    ) -> io::Result<Advance> {
        let mut advance = Advance::default();
        for entry in entries {
            let index = entry.log_id.index();
            advance.indexes.push(index);
            advance.responses.push(match &entry.payload {
                EntryPayload::Blank => Response::default(),
                EntryPayload::Normal(command) => {
                    self.apply_command(&mut image.state, &mut advance.changes, &entry.log_id, command)?
                }
                EntryPayload::Membership(new) => {
                    image.membership = StoredMembership::new(Some(entry.log_id), new.clone());
                    advance.membership = Some(image.membership.clone());
                    Response::default()
                }
            });
            image.applied = Some(entry.log_id);
            if is_recorded(index) {
                advance.recorded.push((index, image.state.digest()));
            }
        }
        image.state.settle_digest();
        advance.at =
            image.applied.filter(|_| !advance.indexes.is_empty()).map(|id| (id, image.state.digest()));
        Ok(advance)
    }

    fn apply_command(
        &self,
        state: &mut model::State,
        changes: &mut Changes,
        id: &LogId,
        command: &Command,
    ) -> io::Result<Response> {
        let decoded;
        let entry = match &command.decoded {
            Some(entry) => entry.as_ref(),
            None => {
                // An unknown command stops the node: skipping it would make nodes differ (P22).
                decoded = decode_entry(command.bytes.clone()).inspect_err(|error| {
                    self.inner.fatal.report(format!("log entry {} cannot be applied: {error}", id.index()));
                })?;
                &decoded
            }
        };
        let at = LogPosition { index: id.index(), term: id.committed_leader_id().term };
        // A panic inside is discarded by the model's overlay and comes back as a refusal (P23). One that gets
        // past that may have left half a change in memory: the process must go, what is on disk is whole.
        let attempt = catch_unwind(AssertUnwindSafe(|| (self.inner.apply)(state, changes, at, entry)));
        let outcome = attempt.map_err(|_| {
            let message =
                format!("{} at log entry {} panicked past its guard", entry.command.name(), at.index);
            self.inner.fatal.report(message.clone());
            io::Error::other(message)
        })?;
        if outcome.reply.rejected().is_some_and(|refusal| refusal.code == model::Code::InternalError) {
            Counters::add(&self.inner.counters.apply_panics, 1);
            tracing::error!(
                index = id.index(),
                command = entry.command.name(),
                "a command panicked in apply"
            );
        }
        Ok(Response { reply: Some(outcome.reply) })
    }

    fn announce(&self, applied: &LogId, changes: Changes) {
        let (rows, events, _) = changes.into_parts();
        let mut batch = AppliedBatch { index: applied.index(), events, ..AppliedBatch::default() };
        for key in rows.into_keys() {
            match key {
                RowKey::Runner(id) => batch.runners.push(id),
                RowKey::Host(id) => batch.hosts.push(id),
                _ => {}
            }
        }
        self.inner.applied.send_replace(applied.index());
        // Nobody listening is fine: watchers read the whole state when they start.
        drop(self.inner.changes.send(Arc::new(batch)));
    }
}

/// Rows, events, position and digest in one batch: state may be behind after a crash, never torn.
fn persist(
    store: &StateDb,
    applied: &LogId,
    digest: &[u8; 32],
    membership: Option<&StoredMembership>,
    changes: &Changes,
) -> io::Result<()> {
    let db = store.db()?;
    let rows = family(db, ROWS)?;
    let mut batch = WriteBatch::default();
    for (key, row) in changes.row_refs() {
        match row {
            Some(row) => batch.put_cf(rows, row_key(key), encode_row(row)),
            None => batch.delete_cf(rows, row_key(key)),
        }
    }
    events::write(db, &mut batch, changes)?;
    put_applied(db, &mut batch, applied)?;
    put_digest(db, &mut batch, digest)?;
    if let Some(membership) = membership {
        put_membership(db, &mut batch, membership)?;
    }
    sync_point::reached();
    // In the write-ahead log, not synced: what a power loss takes is applied again from the raft log.
    db.write(batch).map_err(to_io)?;
    sync_point::reached();
    Ok(())
}
