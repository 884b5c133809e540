//! Raft messages <-> protobuf.

use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use stratavore_proto::raft as pb;

use crate::record::RecordError;
use crate::record::position::{
    entry_from_pb, entry_to_pb, log_id_from_pb, log_id_to_pb, required_vote, vote_to_pb,
};
use crate::types::TypeConfig;

pub(super) fn append_to_pb(request: &AppendEntriesRequest<TypeConfig>) -> pb::AppendRequest {
    pb::AppendRequest {
        vote: Some(vote_to_pb(&request.vote)),
        prev: request.prev_log_id.as_ref().map(log_id_to_pb),
        entries: request.entries.iter().map(entry_to_pb).collect(),
        leader_commit: request.leader_commit.as_ref().map(log_id_to_pb),
    }
}

pub(super) fn append_from_pb(
    request: pb::AppendRequest,
) -> Result<AppendEntriesRequest<TypeConfig>, RecordError> {
    Ok(AppendEntriesRequest {
        vote: required_vote(request.vote)?,
        prev_log_id: request.prev.map(log_id_from_pb),
        entries: request.entries.into_iter().map(entry_from_pb).collect::<Result<_, _>>()?,
        leader_commit: request.leader_commit.map(log_id_from_pb),
    })
}

pub(super) fn append_result_to_pb(result: StreamAppendResult<TypeConfig>) -> pb::AppendResponse {
    use pb::append_response::Outcome;
    let outcome = match result {
        Ok(matched) => Outcome::Matched(pb::Matched { log_id: matched.as_ref().map(log_id_to_pb) }),
        Err(StreamAppendError::Conflict(at)) => Outcome::Conflict(log_id_to_pb(&at)),
        Err(StreamAppendError::HigherVote(vote)) => Outcome::HigherVote(vote_to_pb(&vote)),
    };
    pb::AppendResponse { outcome: Some(outcome) }
}

pub(super) fn append_result_from_pb(
    response: pb::AppendResponse,
) -> Result<StreamAppendResult<TypeConfig>, RecordError> {
    use pb::append_response::Outcome;
    Ok(match response.outcome.ok_or(RecordError::Unknown("append outcome"))? {
        Outcome::Matched(matched) => Ok(matched.log_id.map(log_id_from_pb)),
        Outcome::Conflict(at) => Err(StreamAppendError::Conflict(log_id_from_pb(at))),
        Outcome::HigherVote(vote) => Err(StreamAppendError::HigherVote(required_vote(Some(vote))?)),
    })
}

pub(super) fn vote_request_to_pb(request: &VoteRequest<TypeConfig>) -> pb::VoteRequest {
    pb::VoteRequest {
        vote: Some(vote_to_pb(&request.vote)),
        last: request.last_log_id.as_ref().map(log_id_to_pb),
        leadership_transfer: request.leadership_transfer,
    }
}

pub(super) fn vote_request_from_pb(request: pb::VoteRequest) -> Result<VoteRequest<TypeConfig>, RecordError> {
    let mut vote = VoteRequest::new(required_vote(request.vote)?, request.last.map(log_id_from_pb));
    vote.leadership_transfer = request.leadership_transfer;
    Ok(vote)
}

pub(super) fn vote_response_to_pb(response: &VoteResponse<TypeConfig>) -> pb::VoteResponse {
    pb::VoteResponse {
        vote: Some(vote_to_pb(&response.vote)),
        granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(log_id_to_pb),
    }
}

pub(super) fn vote_response_from_pb(
    response: pb::VoteResponse,
) -> Result<VoteResponse<TypeConfig>, RecordError> {
    let vote = required_vote(response.vote)?;
    Ok(VoteResponse::new(vote, response.last.map(log_id_from_pb), response.granted))
}

pub(super) fn transfer_to_pb(request: &TransferLeaderRequest<TypeConfig>) -> pb::TransferLeaderRequest {
    pb::TransferLeaderRequest {
        from: Some(vote_to_pb(request.from_leader())),
        to_node_id: *request.to_node_id(),
        last: request.last_log_id().map(log_id_to_pb),
    }
}

pub(super) fn transfer_from_pb(
    request: pb::TransferLeaderRequest,
) -> Result<TransferLeaderRequest<TypeConfig>, RecordError> {
    let from = required_vote(request.from)?;
    Ok(TransferLeaderRequest::new(from, request.to_node_id, request.last.map(log_id_from_pb)))
}

pub(super) fn transfer_result_to_pb(
    response: TransferLeaderResponse<TypeConfig>,
) -> pb::TransferLeaderResponse {
    use pb::transfer_leader_response::Outcome;
    let outcome = match response {
        Ok(()) => Outcome::Accepted(pb::TransferAccepted {}),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => Outcome::VoteChanged(pb::VoteChanged {
            expected: Some(vote_to_pb(&expected)),
            actual: Some(vote_to_pb(&actual)),
        }),
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            Outcome::LogNotFlushed(pb::LogNotFlushed {
                expected: expected.as_ref().map(log_id_to_pb),
                actual: actual.as_ref().map(log_id_to_pb),
            })
        }
    };
    pb::TransferLeaderResponse { outcome: Some(outcome) }
}

pub(super) fn transfer_result_from_pb(
    response: pb::TransferLeaderResponse,
) -> Result<TransferLeaderResponse<TypeConfig>, RecordError> {
    use pb::transfer_leader_response::Outcome;
    Ok(match response.outcome.ok_or(RecordError::Unknown("transfer outcome"))? {
        Outcome::Accepted(pb::TransferAccepted {}) => Ok(()),
        Outcome::VoteChanged(changed) => Err(TransferLeaderError::VoteChanged {
            expected: required_vote(changed.expected)?,
            actual: required_vote(changed.actual)?,
        }),
        Outcome::LogNotFlushed(behind) => Err(TransferLeaderError::LogNotFlushed {
            expected: behind.expected.map(log_id_from_pb),
            actual: behind.actual.map(log_id_from_pb),
        }),
    })
}
