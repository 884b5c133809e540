//! Join tokens: single use, short-lived; the secret itself is never replicated.

use serde::Serialize;

use crate::host::Labels;
use crate::id::TokenId;
use crate::identity::{Actor, Role, SpkiHash};
use crate::time::Millis;

/// Lifetime of a token whose creator named none.
pub const TTL_MS_DEFAULT: u64 = 300_000;

/// A join token is for now: whoever needs it next week makes one next week.
pub const TTL_MS_MAX: u64 = 7 * crate::time::DAY_MS;

/// What became of a token. Expiry is not stored: see [`TokenRecord::shown_state`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum TokenState {
    Unused,
    /// By which key and which identity that became.
    Used {
        spki: SpkiHash,
        identity: Actor,
        at: Millis,
    },
    Revoked {
        at: Millis,
    },
}

/// A join token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenRecord {
    pub id: TokenId,
    pub role: Role,
    pub secret_sha256: [u8; 32],
    /// Given to the host that joins with it.
    pub labels: Labels,
    pub created_at: Millis,
    pub expires_at: Millis,
    pub created_by: Actor,
    pub state: TokenState,
}

impl TokenRecord {
    /// `unused`, `used`, `revoked` or `expired`, at state time `now`.
    #[must_use]
    pub fn shown_state(&self, now: Millis) -> &'static str {
        match self.state {
            TokenState::Used { .. } => "used",
            TokenState::Revoked { .. } => "revoked",
            TokenState::Unused if now >= self.expires_at => "expired",
            TokenState::Unused => "unused",
        }
    }
}
