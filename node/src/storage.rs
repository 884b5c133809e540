//! Storage errors -> exit codes and next steps. The messages themselves name file and way out.

use stratavore_raft::OpenError;

use crate::exit::{Code, Failure, chain};

/// What an operator sees when the databases cannot be opened.
pub(crate) fn failure(error: &OpenError) -> Failure {
    let message = chain(error);
    match error {
        OpenError::Corrupt { .. } => Failure::new(
            Code::Corrupt,
            message,
            "keep a copy of the directory, then do what the message says",
        ),
        OpenError::BelowHighWaterMark { dir, .. } => Failure::new(
            Code::BelowHighWaterMark,
            message,
            format!(
                "a cluster of one node: `stratavored recover --accept-loss --data-dir {}`; else join again under a new id",
                dir.display()
            ),
        ),
        OpenError::OtherVoters { dir, .. } => Failure::new(
            Code::Conflict,
            message,
            format!(
                "remove this node through another one with `stratavore cluster remove` and join again with an empty \
                 directory; only if most voters are gone for good, take the one that got furthest: \
                 `stratavored recover --accept-loss --lost-quorum --data-dir {}`",
                dir.display()
            ),
        ),
        OpenError::NotRecoverable(_) => {
            Failure::new(Code::Usage, message, "choose another node's directory, or restore a backup")
        }
        OpenError::Locked { .. } | OpenError::Foreign { .. } | OpenError::AlreadyInitialized { .. } => {
            Failure::new(Code::Conflict, message, "give each node its own --data-dir")
        }
        OpenError::UnknownFormat { .. }
        | OpenError::NewerCluster { .. }
        | OpenError::NotInitialized { .. }
        | OpenError::Timings(_) => Failure::new(Code::Usage, message, ""),
        OpenError::Core(_) => Failure::new(Code::Fatal, message, "start it again; report it if it stays"),
        OpenError::Io { .. } => {
            Failure::new(Code::Fatal, message, "check that the disk has room and the directory is writable")
        }
    }
}
