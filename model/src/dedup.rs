//! The dedup window (P25): a retry after a lost acknowledgement gets the first answer.

use serde::Serialize;
use uuid::Uuid;

use crate::id::{HostId, ProjectName, RunnerId, TokenId};
use crate::identity::Actor;
use crate::time::{DAY_MS, Millis};

/// Age at which a row leaves the window.
pub const WINDOW_MS: u64 = DAY_MS;

/// Rows at which the oldest leave the window whatever their age.
pub const WINDOW_ROWS: usize = 1_000_000;

/// Refusal line: trimming is an explicit entry, so the rows may overshoot the window by what arrives between two of them.
pub const ROWS_MAX: usize = WINDOW_ROWS + WINDOW_ROWS / 4;

/// Runner ids kept in a row; of more runners only the number is kept, and their rows name the request.
/// 20 ids keep a row within 256 bytes.
pub const RUNNERS_KEPT: usize = 20;

/// A first answer in at most 256 bytes; [`crate::Reply`] is rebuilt from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum StoredReply {
    Done,
    Project(ProjectName),
    /// `queued`: why they wait, as the first answer said it; empty = they do not.
    Launched {
        runners: Vec<RunnerId>,
        count: u32,
        queued: String,
    },
    Stopping {
        runners: Vec<RunnerId>,
        count: u32,
    },
    Restarted(RunnerId),
    Host(HostId),
    Token(TokenId),
}

/// One remembered request. Refusals are not remembered: nothing happened, a retry may try again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DedupRecord {
    pub actor: Actor,
    pub request_id: Uuid,
    /// SHA-256 over the canonical command without what the API node made up (ids).
    pub payload: [u8; 32],
    /// State time of the first answer.
    pub at: Millis,
    pub reply: StoredReply,
}

impl DedupRecord {
    /// What the row is ordered by in the window: the later of its arrival and the time in its id, so that a row
    /// cut by age never leaves a floor above ids that are still fresh.
    #[must_use]
    pub fn ordered_by(&self) -> Millis {
        v7_time(&self.request_id).map_or(self.at, |minted| minted.max(self.at))
    }
}

/// When a uuid v7 was made; none for other versions.
#[must_use]
pub fn v7_time(id: &Uuid) -> Option<Millis> {
    (id.get_version_num() == 7).then(|| Millis((id.as_u128() >> 80) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_v7_id_is_read_and_of_others_is_not() {
        let v7 = Uuid::from_u128((1_700_000_000_123_u128 << 80) | (7 << 76) | (2 << 62));
        assert_eq!(v7_time(&v7), Some(Millis(1_700_000_000_123)));
        let v4 = Uuid::from_u128((1_700_000_000_123_u128 << 80) | (4 << 76) | (2 << 62));
        assert_eq!(v7_time(&v4), None);
    }
}
