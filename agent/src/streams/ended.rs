//! A viewer of what has ended: the recorded output, then how it ended. So a command that is over before anybody could
//! attach is seen as if one had been there.

use std::time::Duration;

use stratavore_proto::v1;
use stratavore_proto::v1::attach_response::Message as Tell;
use stratavore_proto::v1::host_stream_reply::Reply;

use super::{Failure, Writer, next_while_wanted};
use crate::data_dir::DataDir;
use crate::epoch::RunnerKey;
use crate::ledger::unstarted;
use crate::runner;
use crate::shim::exit;

/// Lines shown to a viewer that names no offset: what a person can scroll through.
const TAIL_LINES: u64 = 1000;

/// The end of a shim that died is on disk when the agent has read its directory: after its tries to reach it.
const END_TIMEOUT: Duration = Duration::from_secs(20);
const END_POLL: Duration = Duration::from_millis(50);

/// Serves a viewer that wants to see `key` from `offset`.
pub(super) async fn serve(
    key: &RunnerKey,
    offset: Option<u64>,
    writer: &mut Writer,
    dir: &DataDir,
) -> Result<(), Failure> {
    let Some(end) = end_of(dir, key) else { return Err(Failure::not_found(key)) };
    let ready = v1::AttachReady { epoch: Some(key.epoch().into()), ..Default::default() };
    tell(writer, Tell::Ready(ready)).await?;
    replay(key, offset, end, writer, dir).await
}

/// Serves the rest to a viewer whose shim went while it was behind.
pub(super) async fn finish(
    key: &RunnerKey,
    offset: Option<u64>,
    writer: &mut Writer,
    dir: &DataDir,
) -> Result<(), Failure> {
    let recorded = async {
        loop {
            match end_of(dir, key) {
                Some(end) => return end,
                None => tokio::time::sleep(END_POLL).await,
            }
        }
    };
    let lost = |_| Failure::refused("internal", "the runner's shim is gone and its end is not recorded yet");
    let end = tokio::time::timeout(END_TIMEOUT, recorded).await.map_err(lost)?;
    replay(key, offset, end, writer, dir).await
}

async fn replay(
    key: &RunnerKey,
    offset: Option<u64>,
    end: v1::Observation,
    writer: &mut Writer,
    dir: &DataDir,
) -> Result<(), Failure> {
    let tail_lines = offset.is_none().then_some(TAIL_LINES);
    let request = v1::ReadLogsRequest { tail_lines, ..Default::default() };
    let mut chunks = runner::read_logs(&dir.runner(key), request, None);
    while let Some(chunk) = next_while_wanted(&mut chunks, writer).await {
        let chunk = chunk.map_err(|error| {
            Failure::refused("internal", &format!("the output log cannot be read: {error}"))
        })?;
        if let Some(output) = behind(chunk, offset.unwrap_or(0)) {
            tell(writer, Tell::Output(output)).await?;
        }
    }
    tell(writer, Tell::Exit(v1::AttachExit { exit: end.exit })).await
}

async fn tell(writer: &mut Writer, message: Tell) -> Result<(), Failure> {
    writer.write(Reply::Attach(v1::AttachResponse { message: Some(message) })).await
}

fn end_of(dir: &DataDir, key: &RunnerKey) -> Option<v1::Observation> {
    unstarted(dir, key).or_else(|| exit::read(&dir.runner(key)).ok()??.observation)
}

/// The part of a chunk at or behind `from`.
fn behind(mut chunk: v1::ReadLogsResponse, from: u64) -> Option<v1::AttachOutput> {
    let skip = usize::try_from(from.saturating_sub(chunk.offset)).unwrap_or(usize::MAX);
    if skip >= chunk.data.len() {
        return None;
    }
    let data = chunk.data.split_off(skip);
    Some(v1::AttachOutput { data, offset: chunk.offset + skip as u64, stderr: chunk.stderr })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_behind_the_offset_is_shown() {
        let chunk = v1::ReadLogsResponse { data: "abcdef".into(), offset: 10, ..Default::default() };
        assert_eq!(behind(chunk.clone(), 16), None);
        let part = behind(chunk.clone(), 14).unwrap();
        assert_eq!((part.data.as_ref(), part.offset), (b"ef".as_ref(), 14));
        assert_eq!(behind(chunk, 0).unwrap().offset, 10);
    }
}
