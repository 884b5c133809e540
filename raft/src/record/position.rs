//! Log ids, votes, memberships and log entries <-> protobuf.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use prost::Message;
use stratavore_proto::raft as pb;

use super::RecordError;
use crate::types::{Command, LogEntry, LogId, Member, Membership, StoredMembership, Vote, log_id};

pub(crate) fn log_id_to_pb(id: &LogId) -> pb::LogId {
    pb::LogId { term: id.committed_leader_id().term, index: id.index() }
}

pub(crate) fn log_id_from_pb(id: pb::LogId) -> LogId {
    log_id(id.term, id.index)
}

pub(crate) fn vote_to_pb(vote: &Vote) -> pb::Vote {
    let leader = vote.leader_id();
    pb::Vote { term: leader.term, node_id: leader.voted_for, committed: vote.is_committed() }
}

pub(crate) fn vote_from_pb(vote: pb::Vote) -> Vote {
    if vote.committed {
        Vote::new_committed(vote.term, vote.node_id)
    } else {
        Vote::new(vote.term, vote.node_id)
    }
}

/// A vote that a message must carry.
pub(crate) fn required_vote(vote: Option<pb::Vote>) -> Result<Vote, RecordError> {
    vote.map(vote_from_pb).ok_or(RecordError::Missing("vote"))
}

pub(crate) fn membership_to_pb(membership: &Membership) -> pb::Membership {
    pb::Membership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|voters| pb::VoterSet { node_ids: voters.iter().copied().collect() })
            .collect(),
        nodes: membership
            .nodes()
            .map(|(id, member)| (*id, pb::Member { raft_address: member.raft_address.clone() }))
            .collect(),
    }
}

pub(crate) fn membership_from_pb(membership: pb::Membership) -> Result<Membership, RecordError> {
    let configs: Vec<BTreeSet<u64>> =
        membership.configs.into_iter().map(|voters| voters.node_ids.into_iter().collect()).collect();
    let nodes: BTreeMap<u64, Member> = membership
        .nodes
        .into_iter()
        .map(|(id, member)| (id, Member { raft_address: member.raft_address }))
        .collect();
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(|_| RecordError::Invalid("membership"))
}

pub(crate) fn stored_membership_to_pb(stored: &StoredMembership) -> pb::StoredMembership {
    pb::StoredMembership {
        log_id: stored.log_id().as_ref().map(log_id_to_pb),
        membership: Some(membership_to_pb(stored.membership())),
    }
}

pub(crate) fn stored_membership_from_pb(
    stored: pb::StoredMembership,
) -> Result<StoredMembership, RecordError> {
    let membership = stored.membership.ok_or(RecordError::Missing("membership"))?;
    Ok(StoredMembership::new(stored.log_id.map(log_id_from_pb), membership_from_pb(membership)?))
}

pub(crate) fn entry_to_pb(entry: &LogEntry) -> pb::LogEntry {
    use pb::log_entry::Payload;
    let payload = match &entry.payload {
        EntryPayload::Blank => Payload::Blank(pb::Blank {}),
        EntryPayload::Normal(command) => Payload::Command(command.bytes.clone()),
        EntryPayload::Membership(membership) => Payload::Membership(membership_to_pb(membership)),
    };
    pb::LogEntry { id: Some(log_id_to_pb(&entry.log_id)), payload: Some(payload) }
}

pub(crate) fn entry_from_pb(entry: pb::LogEntry) -> Result<LogEntry, RecordError> {
    use pb::log_entry::Payload;
    let id = log_id_from_pb(entry.id.ok_or(RecordError::Missing("log id"))?);
    Ok(match entry.payload.ok_or(RecordError::Unknown("log payload"))? {
        Payload::Blank(_) => LogEntry::new_blank(id),
        Payload::Command(bytes) => LogEntry::new_normal(id, Command::from_bytes(bytes)),
        Payload::Membership(membership) => LogEntry::new_membership(id, membership_from_pb(membership)?),
    })
}

/// Decodes one message from bytes that passed their checksum.
pub(crate) fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, RecordError> {
    M::decode(Bytes::copy_from_slice(bytes)).map_err(|error| RecordError::Decode(error.to_string()))
}
