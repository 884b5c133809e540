//! A snapshot on the wire: header, chunks of rows, trailer with count and checksum.

use std::io;
use std::sync::Arc;

use crc32fast::Hasher;
use futures::Stream;
use rocksdb::{IteratorMode, WriteBatch};
use stratavore_proto::raft as pb;
use stratavore_proto::raft::snapshot_request::Part;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::db::{EVENTS, FORMAT, ROWS, family, to_io};
use crate::events;
use crate::layout::Layout;
use crate::record::position::{
    log_id_from_pb, log_id_to_pb, required_vote, stored_membership_from_pb, stored_membership_to_pb,
    vote_to_pb,
};
use crate::record::{RecordError, Stored, decode_event};
use crate::snapshot::SnapshotDir;
use crate::state_db::{
    Identity, StateDb, position_name, put_applied, put_identity, put_membership, put_trimmed,
};
use crate::state_machine::SnapshotData;
use crate::state_store::StateStore;
use crate::types::{SnapshotMeta, Vote};

/// Rows of one chunk; well below tonic's message limit with one large row on top.
const CHUNK_BYTES: usize = 1 << 20;

/// Chunks read ahead of the network: a few megabytes per transfer.
const CHUNKS_AHEAD: usize = 4;

const TABLES: [(pb::SnapshotTable, &str); 2] =
    [(pb::SnapshotTable::Rows, ROWS), (pb::SnapshotTable::Events, EVENTS)];

fn family_of(table: i32) -> Result<&'static str, RecordError> {
    let known = TABLES.into_iter().find(|(known, _)| *known as i32 == table);
    known.map(|(_, family)| family).ok_or(RecordError::Unknown("snapshot table"))
}

/// Count and checksum over all rows, the same on both ends.
#[derive(Default)]
struct Tally {
    rows: u64,
    hasher: Hasher,
}

impl Tally {
    fn add(&mut self, row: &pb::SnapshotRow) {
        self.rows += 1;
        self.hasher.update(&row.table.to_le_bytes());
        for part in [&row.key, &row.value] {
            self.hasher.update(&(part.len() as u64).to_le_bytes());
            self.hasher.update(part);
        }
    }

    fn trailer(self) -> pb::SnapshotTrailer {
        pb::SnapshotTrailer { rows: self.rows, checksum: self.hasher.finalize() }
    }
}

/// Reads a snapshot in the background. A failed read breaks the stream off before its trailer, which the
/// receiver refuses.
pub(crate) fn send(
    vote: Vote,
    meta: SnapshotMeta,
    snapshot: SnapshotData,
) -> impl Stream<Item = pb::SnapshotRequest> + Send + 'static {
    let (parts, receiver) = mpsc::channel(CHUNKS_AHEAD);
    tokio::task::spawn_blocking(move || {
        let push = |part: Part| {
            parts
                .blocking_send(pb::SnapshotRequest { part: Some(part) })
                .map_err(|_| io::ErrorKind::BrokenPipe.into())
        };
        if let Err(error) = read_parts(&vote, &meta, &snapshot, push) {
            tracing::warn!(%error, "a snapshot could not be sent");
        }
    });
    ReceiverStream::new(receiver)
}

/// Reads a snapshot part by part.
pub(crate) fn read_parts(
    vote: &Vote,
    meta: &SnapshotMeta,
    snapshot: &SnapshotDir,
    mut push: impl FnMut(Part) -> io::Result<()>,
) -> io::Result<()> {
    let store = StateDb::open_snapshot(snapshot.path())?;
    push(Part::Header(pb::SnapshotHeader {
        vote: Some(vote_to_pb(vote)),
        last: meta.last_log_id.as_ref().map(log_id_to_pb),
        membership: Some(stored_membership_to_pb(&meta.last_membership)),
        row_format: FORMAT,
        trimmed_upto: store.trimmed_upto()?.map(|id| id.store()),
        digest: store.digest()?.map(|digest| bytes::Bytes::copy_from_slice(&digest)),
    }))?;
    let mut tally = Tally::default();
    let mut chunk = pb::SnapshotChunk::default();
    let mut bytes = 0;
    let db = store.db()?;
    for (table, name) in TABLES {
        for item in db.iterator_cf(family(db, name)?, IteratorMode::Start) {
            let (key, value) = item.map_err(to_io)?;
            bytes += key.len() + value.len();
            let row = pb::SnapshotRow {
                table: table as i32,
                key: key.into_vec().into(),
                value: value.into_vec().into(),
            };
            tally.add(&row);
            chunk.rows.push(row);
            if bytes >= CHUNK_BYTES {
                push(Part::Chunk(std::mem::take(&mut chunk)))?;
                bytes = 0;
            }
        }
    }
    if !chunk.rows.is_empty() {
        push(Part::Chunk(chunk))?;
    }
    push(Part::Trailer(tally.trailer()))
}

/// A snapshot that arrived whole, in a directory of its own.
pub(crate) struct Received {
    pub(crate) vote: Vote,
    pub(crate) meta: SnapshotMeta,
    pub(crate) snapshot: SnapshotData,
}

/// Receives a snapshot into a fresh directory; nothing of it shows until it is installed.
pub(crate) async fn receive(
    store: &StateStore,
    mut parts: Streaming<pb::SnapshotRequest>,
) -> Result<Received, Status> {
    let Some(Part::Header(header)) = next(&mut parts).await? else {
        return Err(Status::invalid_argument("a snapshot begins with its header"));
    };
    let mut writer = Writer::begin(store.layout(), store.identity(), header)?;
    loop {
        match next(&mut parts).await? {
            Some(Part::Chunk(chunk)) => writer = writer.chunk(chunk).await?,
            Some(Part::Trailer(trailer)) => return writer.finish(trailer).await,
            Some(Part::Header(_)) => return Err(Status::invalid_argument("a second snapshot header")),
            None => return Err(Status::invalid_argument("the snapshot broke off before its trailer")),
        }
    }
}

async fn next(parts: &mut Streaming<pb::SnapshotRequest>) -> Result<Option<Part>, Status> {
    match parts.message().await? {
        None => Ok(None),
        Some(request) => {
            request.part.map(Some).ok_or_else(|| Status::invalid_argument("an empty part of a snapshot"))
        }
    }
}

/// Fills a fresh database with the parts of a snapshot.
pub(crate) struct Writer {
    digest: Option<bytes::Bytes>,
    vote: Vote,
    meta: SnapshotMeta,
    db: StateDb,
    /// Removes the directory when the transfer fails.
    dir: SnapshotData,
    tally: Tally,
}

fn refused(error: impl ToString) -> Status {
    Status::internal(error.to_string())
}

impl Writer {
    pub(crate) fn begin(
        layout: &Layout,
        identity: &Identity,
        header: pb::SnapshotHeader,
    ) -> Result<Self, Status> {
        let bad = |error: RecordError| Status::invalid_argument(error.to_string());
        if header.row_format > FORMAT {
            return Err(Status::failed_precondition(format!(
                "the snapshot has row format {}, this node reads up to {FORMAT}",
                header.row_format
            )));
        }
        let vote = required_vote(header.vote).map_err(bad)?;
        let last = header.last.map(log_id_from_pb);
        let membership = header.membership.ok_or(RecordError::Missing("membership")).map_err(bad)?;
        let meta = SnapshotMeta {
            last_log_id: last,
            last_membership: stored_membership_from_pb(membership).map_err(bad)?,
        };
        let last = last.ok_or_else(|| Status::invalid_argument("a snapshot of nothing applied"))?;
        let path = layout.state().join(format!("incoming-{}", position_name(Some(&last))));
        if path.exists() {
            std::fs::remove_dir_all(&path).map_err(refused)?;
        }
        let db = StateDb::open(&path, true).map_err(refused)?;
        let dir: SnapshotData = Arc::new(SnapshotDir::temporary(path));
        let write = || -> io::Result<()> {
            let raw = db.db()?;
            let mut batch = WriteBatch::default();
            put_applied(raw, &mut batch, &last)?;
            put_membership(raw, &mut batch, &meta.last_membership)?;
            put_identity(raw, &mut batch, identity)?;
            if let Some(trimmed) = header.trimmed_upto {
                put_trimmed(raw, &mut batch, &Stored::load(trimmed)?)?;
            }
            raw.write(batch).map_err(to_io)
        };
        write().map_err(refused)?;
        Ok(Self { digest: header.digest, vote, meta, db, dir, tally: Tally::default() })
    }

    async fn chunk(self, chunk: pb::SnapshotChunk) -> Result<Self, Status> {
        blocking(move || {
            let mut this = self;
            this.write(&chunk)?;
            Ok(this)
        })
        .await
    }

    pub(crate) fn write(&mut self, chunk: &pb::SnapshotChunk) -> io::Result<()> {
        let db = self.db.db()?;
        let mut batch = WriteBatch::default();
        for row in &chunk.rows {
            self.tally.add(row);
            match family_of(row.table)? {
                EVENTS => events::put_event(db, &mut batch, &decode_event(&row.value)?)?,
                name => batch.put_cf(family(db, name)?, &row.key, &row.value),
            }
        }
        db.write(batch).map_err(to_io)
    }

    async fn finish(self, trailer: pb::SnapshotTrailer) -> Result<Received, Status> {
        blocking(move || self.close(&trailer)).await
    }

    /// Checks that everything arrived, and that the rows are those that the sender had applied (P24).
    pub(crate) fn close(self, trailer: &pb::SnapshotTrailer) -> io::Result<Received> {
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_string());
        if self.tally.trailer() != *trailer {
            return Err(wrong("the snapshot's checksum does not match"));
        }
        if let Some(digest) = &self.digest
            && self.db.load()?.digest() != digest.as_ref()
        {
            return Err(wrong("the snapshot's rows do not have its digest: the sender's state was altered"));
        }
        self.db.db()?.flush_wal(true).map_err(to_io)?;
        drop(self.db);
        Ok(Received { vote: self.vote, meta: self.meta, snapshot: self.dir })
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(refused)?.map_err(refused)
}
