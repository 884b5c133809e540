//! The types openraft is instantiated with. Nothing of this file leaves the crate.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use openraft::alias;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use stratavore_model as model;

openraft::declare_raft_types!(
    /// One leader per term (`leader_id_std`), so that a term names its leader: P7 rests on it.
    pub(crate) TypeConfig:
        D = Command,
        R = Response,
        NodeId = u64,
        Node = Member,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
);

pub(crate) type LogId = alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = alias::VoteOf<TypeConfig>;
pub(crate) type LogEntry = alias::EntryOf<TypeConfig>;
pub(crate) type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type CommittedLeaderId = alias::CommittedLeaderIdOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<u64, Member>;

/// A log id from its two numbers.
pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term), index)
}

/// What the configuration says about a node: where its raft port is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) raft_address: String,
}

/// A replicated command: the bytes that are stored and sent, and the decoded entry where it is at hand
/// (on the node that proposed it). Apply decodes what came from disk or from a peer.
#[derive(Clone, PartialEq)]
pub(crate) struct Command {
    pub(crate) bytes: Bytes,
    pub(crate) decoded: Option<Arc<model::Entry>>,
}

impl Command {
    pub(crate) fn from_bytes(bytes: Bytes) -> Self {
        Self { bytes, decoded: None }
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Commands carry hashes and environment values: never print them.
        write!(f, "Command({} bytes)", self.bytes.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} bytes", self.bytes.len())
    }
}

// openraft asks for serde; our formats go through `record` and `codec` instead.
impl Serialize for Command {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.bytes)
    }
}

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::<u8>::deserialize(deserializer).map(|bytes| Self::from_bytes(bytes.into()))
    }
}

/// What apply answers to the proposer: nothing for blank and membership entries.
#[derive(Clone, Debug, Default)]
pub(crate) struct Response {
    pub(crate) reply: Option<model::Reply>,
}

// openraft asks for serde here too, but a response never leaves the process.
impl Serialize for Response {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("a response does not travel"))
    }
}

impl<'de> Deserialize<'de> for Response {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("a response does not travel"))
    }
}
