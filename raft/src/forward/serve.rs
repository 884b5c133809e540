//! The leader's end of a forward stream.

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use model::NodeId;
use stratavore_model as model;
use stratavore_proto::raft as pb;
use stratavore_proto::raft::forward_outcome::Outcome;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use crate::core::Core;
use crate::error::{ProposeError, ReadError};
use crate::handle::ENTRY_BYTES_MAX;
use crate::record::{decode_entry, encode_entry};
use crate::types::Command;

/// Requests of one stream in flight: as many as one node may have waiting, and its reads. A peer that sends more is
/// read more slowly.
const IN_FLIGHT_MAX: usize = 8192;

/// Answers of one frame.
const ANSWERS_MAX: usize = 1024;

/// Frames of answers ahead of the network.
pub(crate) const ANSWERS_AHEAD: usize = 16;

type Answers = mpsc::Sender<Result<pb::ForwardResponse, Status>>;
type Pending = FuturesUnordered<BoxFuture<'static, pb::ForwardOutcome>>;

/// Serves one stream until the peer ends it. What is in flight then stays in the log; nobody asks for the answer.
pub(crate) async fn run(core: Core, mut frames: Streaming<pb::ForwardRequest>, answers: Answers) {
    let mut pending = Pending::new();
    loop {
        tokio::select! {
            frame = frames.message(), if pending.len() < IN_FLIGHT_MAX => match frame {
                Ok(Some(frame)) => begin(&core, frame, &pending),
                Ok(None) => return,
                Err(status) => return tracing::debug!(%status, "a forward stream broke off"),
            },
            Some(first) = pending.next() => {
                let mut outcomes = vec![first];
                while outcomes.len() < ANSWERS_MAX
                    && let Some(Some(more)) = pending.next().now_or_never()
                {
                    outcomes.push(more);
                }
                if answers.send(Ok(pb::ForwardResponse { outcomes })).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn begin(core: &Core, frame: pb::ForwardRequest, pending: &Pending) {
    let from = frame.node_id;
    for pb::ForwardedEntry { id, entry } in frame.entries {
        let core = core.clone();
        pending
            .push(async move { pb::ForwardOutcome { id, outcome: Some(write(&core, entry).await) } }.boxed());
    }
    for id in frame.reads {
        let core = core.clone();
        pending
            .push(async move { pb::ForwardOutcome { id, outcome: Some(read(&core, from).await) } }.boxed());
    }
}

async fn write(core: &Core, bytes: bytes::Bytes) -> Outcome {
    let command = match load(core, bytes) {
        Ok(command) => command,
        Err(reason) => return Outcome::Refused(reason),
    };
    match core.write(command).await {
        Ok(written) => Outcome::Applied(pb::ForwardApplied {
            index: written.id.index(),
            term: written.id.committed_leader_id().term,
        }),
        Err(ProposeError::NotLeader { leader }) => not_leader(leader),
        // A core that ends may have written it before.
        Err(error) => Outcome::Unknown(error.to_string()),
    }
}

/// An entry that this node cannot read must not enter the log: it would stop every node (P22).
fn load(core: &Core, bytes: bytes::Bytes) -> Result<Command, String> {
    if bytes.len() > ENTRY_BYTES_MAX {
        return Err(format!("the command has {} bytes, at most {ENTRY_BYTES_MAX} are allowed", bytes.len()));
    }
    let mut entry = decode_entry(bytes.clone()).map_err(|error| {
        format!("the leader cannot read the command: {error}; upgrade every node before using it")
    })?;
    if entry.term.is_some() {
        return Err("an entry of one term is only proposed by its leader (P7)".into());
    }
    // P4: time is the leader's.
    let bytes = match core.stamp() {
        Some(now) => {
            entry.at = now;
            encode_entry(&entry)
        }
        None => bytes,
    };
    Ok(Command { bytes, decoded: Some(std::sync::Arc::new(entry)) })
}

async fn read(core: &Core, from: u64) -> Outcome {
    let confirmed = async {
        let index = core.read_index().await?;
        // Asked behind the round: a node that was deposed long ago says nothing about anyone.
        Ok::<_, ReadError>(pb::ForwardRead { index, member: core.is_member(from).await? })
    };
    match confirmed.await {
        Ok(read) => Outcome::Read(read),
        Err(ReadError::NotLeader { leader }) => not_leader(leader),
        Err(error) => Outcome::Unavailable(error.to_string()),
    }
}

fn not_leader(leader: Option<NodeId>) -> Outcome {
    Outcome::NotLeader(pb::ForwardNotLeader { leader: leader.map(|leader| leader.0) })
}
