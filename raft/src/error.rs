//! What can go wrong at this crate's boundary. Refusals of commands are not errors: they are replies.

use std::io;
use std::path::PathBuf;

use stratavore_model::NodeId;

/// Why a data directory was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Stored data is damaged; nothing was changed.
    #[error("{} is damaged: {detail}; {way_out}", file.display())]
    Corrupt { file: PathBuf, detail: String, way_out: String },
    /// Another process has the databases open.
    #[error("{} is in use by another process; stop it first", dir.display())]
    Locked { dir: PathBuf },
    /// The directory belongs to another node or cluster.
    #[error("{} belongs to {found}, not to {expected}; use this node's own data directory", dir.display())]
    Foreign { dir: PathBuf, expected: String, found: String },
    /// The log lost what this node had acknowledged (P19): it must not vote again under this id.
    #[error(
        "{} has less than this node acknowledged: it has {have}, the high-water mark says {mark}; {way_out}",
        dir.display()
    )]
    BelowHighWaterMark { dir: PathBuf, have: String, mark: String, way_out: String },
    /// A newer program wrote the directory.
    #[error(
        "{} has storage format {found}, this program reads up to {known}; run the newer version",
        dir.display()
    )]
    UnknownFormat { dir: PathBuf, found: u32, known: u32 },
    /// The cluster was finalized to a version that this program does not know (P22).
    #[error(
        "{} is of a cluster with version {found}, this program knows up to {known}: after `cluster finalize` there \
         is no way back; run the newer version",
        dir.display()
    )]
    NewerCluster { dir: PathBuf, found: u32, known: u32 },
    /// There is no cluster in the directory yet.
    #[error("{} holds no cluster; run `stratavored init` or `stratavored join` first", dir.display())]
    NotInitialized { dir: PathBuf },
    /// `bootstrap` found something already there.
    #[error("{} already holds a cluster; choose an empty directory", dir.display())]
    AlreadyInitialized { dir: PathBuf },
    /// Others may have what this node lost (P19).
    #[error(
        "{} is of a cluster with {voters} voters: the others may have what this node lost, and one that goes on alone \
         gives up what only they have",
        dir.display()
    )]
    OtherVoters { dir: PathBuf, voters: usize },
    /// There is nothing that a forced recovery could go on with.
    #[error("nothing was recovered: {0}")]
    NotRecoverable(String),
    /// The timings contradict each other.
    #[error("the raft timings are not valid: {0}")]
    Timings(String),
    /// The consensus core did not start.
    #[error("consensus did not start: {0}")]
    Core(String),
    /// The disk or the operating system refused.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl OpenError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// Why a proposal has no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing was written; ask the leader.
    #[error("this node does not lead{}", leader.map_or_else(String::new, |id| format!("; node {id} does")))]
    NotLeader { leader: Option<NodeId> },
    /// The entry may or may not take effect: look it up, or retry with the same request id.
    #[error("the outcome is unknown: {0}; retry with the same request id")]
    Unknown(String),
    /// The node is stopping or its storage failed; nothing more will be accepted.
    #[error("this node has stopped: {0}")]
    Stopped(String),
    /// The leader cannot take the entry; nothing was written, and trying again does not help.
    #[error("{0}")]
    Refused(String),
    /// Above [`crate::ENTRY_BYTES_MAX`] (P23); nothing was written.
    #[error("the command has {bytes} bytes, at most {max} are allowed")]
    TooLarge { bytes: usize, max: usize },
}

/// Why a linearizable read was not confirmed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Ask the leader.
    #[error("this node does not lead{}", leader.map_or_else(String::new, |id| format!("; node {id} does")))]
    NotLeader { leader: Option<NodeId> },
    /// No quorum answered in time.
    #[error("no quorum confirmed the read in time: {0}")]
    Unavailable(String),
    /// The node is stopping or its storage failed.
    #[error("this node has stopped: {0}")]
    Stopped(String),
}

/// Why leadership was not handed over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// Ask the leader.
    #[error("this node does not lead{}", leader.map_or_else(String::new, |id| format!("; node {id} does")))]
    NotLeader { leader: Option<NodeId> },
    /// Nothing was changed: nobody can take over.
    #[error("leadership was not handed over: {0}")]
    Refused(String),
    /// It was given away and nobody was seen to take it.
    #[error("the hand-over failed: {0}")]
    Failed(String),
}

/// Why a backup was not made or not restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The state could not be confirmed as current.
    #[error("no backup was made: {0}")]
    Read(#[from] ReadError),
    /// The file is no backup, or not a whole one; or the state to back up is damaged.
    #[error("{} cannot be used: {detail}", path.display())]
    Damaged { path: PathBuf, detail: String },
    /// A newer program made it (P22).
    #[error("{} was made by a newer version; use that one to restore it", path.display())]
    Newer { path: PathBuf },
    /// It is of another cluster.
    #[error("{} is a backup of cluster {found}, not of {expected}", path.display())]
    OtherCluster { path: PathBuf, expected: String, found: String },
    /// It cannot be restored as it was asked for.
    #[error("{0}")]
    Refused(String),
    /// The data directory was refused, or the restored node did not start.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The disk or the operating system refused.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl BackupError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// Why state was not checked or rebuilt; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The peer is unknown, unreachable, or its state is damaged too: take another one.
    #[error("{0}")]
    Peer(String),
    /// This node does not get as far as the peer was: it is cut off.
    #[error(
        "this node does not reach entry {at}, where the peer's state is; look at its connection to the leader"
    )]
    Behind { at: u64 },
    /// The node is stopping.
    #[error("this node has stopped: {0}")]
    Stopped(String),
    /// The disk refused, or the log behind the peer's state is gone.
    #[error("the state was not rebuilt: {0}")]
    Storage(#[from] io::Error),
}

/// Why stored events could not be read.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// The events after the given one are partly gone: the oldest kept one is named.
    #[error("events up to {oldest} have been deleted by retention; ask again from {oldest}")]
    Trimmed { oldest: stratavore_model::EventId },
    /// The state database cannot be read.
    #[error("the event log cannot be read: {0}")]
    Storage(#[from] io::Error),
}

/// Why the membership was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// Ask the leader.
    #[error("this node does not lead{}", leader.map_or_else(String::new, |id| format!("; node {id} does")))]
    NotLeader { leader: Option<NodeId> },
    /// Another change is in flight, or the membership is not what the caller saw (P21).
    #[error("the membership was not changed: {0}")]
    Conflict(String),
    /// The outcome is unknown, or the node stopped.
    #[error("the membership change failed: {0}")]
    Failed(String),
}
