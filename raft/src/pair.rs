//! Two proposals in one append and one sync: what is decided, and what follows from it unless apply says no.

use std::sync::Arc;
use std::time::Instant;

use futures::TryStreamExt;
use openraft::errors::{ClientWriteError, Fatal};
use stratavore_model::Entry;

use crate::error::ProposeError;
use crate::handle::{Applied, ENTRY_BYTES_MAX, Handle};
use crate::propose::{PROPOSE_TIMEOUT, applied_reply};
use crate::record::encode_entry;
use crate::types::{Command, TypeConfig};

impl Handle {
    /// Proposes `first` as [`Self::propose`] does, and `second` right behind it, sharing its append, sync and apply.
    /// The answer to `second` is `None` when only `first` was proposed: `second` is an optimisation that whoever
    /// proposes it must be able to do without, and is never forwarded nor repeated (P7).
    ///
    /// # Errors
    /// As [`Self::propose`], about `first` only.
    pub async fn propose_pair(
        &self,
        first: Entry,
        second: Entry,
    ) -> Result<(Applied, Option<Applied>), ProposeError> {
        let started = Instant::now();
        let commands = [command(&first), command(&second)];
        if commands.iter().any(|command| command.bytes.len() > ENTRY_BYTES_MAX) {
            return self.propose(first).await.map(|applied| (applied, None));
        }
        let permit = self.permit().await?;
        let outcome = tokio::time::timeout(PROPOSE_TIMEOUT, self.write_pair(commands)).await;
        drop(permit);
        let answers = outcome.unwrap_or_else(|_| {
            Err(ProposeError::Unknown(format!("no commit within {} s", PROPOSE_TIMEOUT.as_secs())))
        })?;
        match answers {
            Some(answers) => {
                self.shared.counters.commit.observe(started.elapsed());
                Ok(answers)
            }
            // Refused before anything was written: this node does not lead, or not yet.
            None => self.propose(first).await.map(|applied| (applied, None)),
        }
    }

    async fn write_pair(
        &self,
        commands: [Command; 2],
    ) -> Result<Option<(Applied, Option<Applied>)>, ProposeError> {
        let stopped = |fatal: Fatal<TypeConfig>| ProposeError::Stopped(self.core().stop_reason(&fatal));
        let mut answers = self.raft().client_write_many(commands).await.map_err(stopped)?;
        let first = match answers.try_next().await.map_err(stopped)? {
            Some(Ok(answer)) => applied_reply(&answer.log_id, answer.response.reply)?,
            Some(Err(ClientWriteError::ForwardToLeader(_))) => return Ok(None),
            Some(Err(error)) => return Err(ProposeError::Unknown(error.to_string())),
            None => return Err(ProposeError::Unknown("the core gave no answer".into())),
        };
        // One append is applied in one batch, so this one's answer is there as well.
        let second = match answers.try_next().await {
            Ok(Some(Ok(answer))) => applied_reply(&answer.log_id, answer.response.reply).ok(),
            _ => None,
        };
        Ok(Some((first, second)))
    }
}

fn command(entry: &Entry) -> Command {
    Command { bytes: encode_entry(entry), decoded: Some(Arc::new(entry.clone())) }
}
