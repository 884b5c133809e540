//! Ids and times: parsed with the field at fault, made from the system's randomness and clock.

use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use stratavore_model::{Epoch, EventId, IdError, Millis, Rejected};
use stratavore_proto::v1;
use uuid::Uuid;

/// Wall time now, for the entry that is about to be proposed (P4: apply keeps it monotone).
pub(crate) fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    #[cfg(debug_assertions)]
    let now = now.saturating_add_signed(wrong_clock::ahead_ms());
    Millis(now)
}

/// A machine whose clock is wrong, for tests of real processes (P4). Not part of a release build.
#[cfg(debug_assertions)]
mod wrong_clock {
    use std::sync::LazyLock;

    /// How far this process's clock is ahead, in milliseconds; negative: behind.
    const VARIABLE: &str = "STRATAVORE_TEST_CLOCK_AHEAD_MS";

    static AHEAD_MS: LazyLock<i64> = LazyLock::new(|| {
        let ahead = std::env::var(VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        if ahead != 0 {
            tracing::warn!(ahead_ms = ahead, "this process's clock is made wrong by {VARIABLE}");
        }
        ahead
    });

    pub(super) fn ahead_ms() -> i64 {
        *AHEAD_MS
    }
}

/// The operating system gave no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the system has no randomness to give: {0}")]
pub(crate) struct NoRandomness(String);

/// Random bytes of the operating system.
///
/// # Errors
/// [`NoRandomness`].
pub(crate) fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| NoRandomness(error.to_string()))?;
    Ok(bytes)
}

/// A field that must be a name or id.
///
/// # Errors
/// `bad_name` with the field.
pub(crate) fn parse<T: FromStr<Err = IdError>>(field: &str, text: &str) -> Result<T, Rejected> {
    text.parse().map_err(|error| Rejected::bad_name(field, &error))
}

/// As [`parse`]; empty means that the caller leaves the choice to the cluster.
///
/// # Errors
/// As [`parse`].
pub(crate) fn parse_optional<T: FromStr<Err = IdError>>(
    field: &str,
    text: &str,
) -> Result<Option<T>, Rejected> {
    if text.is_empty() { Ok(None) } else { parse(field, text).map(Some) }
}

/// The idempotency key of a mutation.
///
/// # Errors
/// `bad_argument` when it is missing or not a uuid.
pub(crate) fn request_id(text: &str) -> Result<Uuid, Rejected> {
    let next = "send a fresh uuid v7 per wish, and the same one again when you retry it";
    if text.is_empty() {
        return Err(Rejected::bad_argument("request_id", "request_id is missing", next));
    }
    Uuid::parse_str(text).map_err(|_| {
        let excerpt: String = text.chars().take(64).collect();
        Rejected::bad_argument("request_id", format!("request_id {excerpt:?} is not a uuid"), next)
    })
}

/// SHA-256 as bytes of a message.
///
/// # Errors
/// `bad_argument` when the length is not 32.
pub(crate) fn digest(field: &str, bytes: &[u8]) -> Result<[u8; 32], Rejected> {
    bytes.try_into().map_err(|_| {
        Rejected::bad_argument(field, format!("{field} has {} bytes, a SHA-256 has 32", bytes.len()), "")
    })
}

pub(crate) fn epoch(epoch: Epoch) -> v1::Epoch {
    v1::Epoch { incarnation: epoch.incarnation, index: epoch.index }
}

pub(crate) fn epoch_of(message: v1::Epoch) -> Epoch {
    Epoch { incarnation: message.incarnation, index: message.index }
}

pub(crate) fn event_id(id: EventId) -> v1::EventId {
    v1::EventId { incarnation: id.incarnation, index: id.index, ordinal: id.ordinal }
}

pub(crate) fn event_id_of(message: v1::EventId) -> EventId {
    EventId { incarnation: message.incarnation, index: message.index, ordinal: message.ordinal }
}

/// Milliseconds as messages carry them; beyond the year 292 million they saturate.
pub(crate) fn millis(at: Millis) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

/// As [`millis`], 0 for "not known yet".
pub(crate) fn millis_or_zero(at: Option<Millis>) -> i64 {
    at.map_or(0, millis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use stratavore_model::{Code, ProjectName};

    #[test]
    fn refusals_name_the_field() {
        let rejected = parse::<ProjectName>("project", "No Such Name").unwrap_err();
        assert_eq!((rejected.code, rejected.field.as_deref()), (Code::BadName, Some("project")));
        assert_eq!(parse_optional::<ProjectName>("project", ""), Ok(None));
        for bad in ["", "nonsense", &"x".repeat(5000)] {
            let rejected = request_id(bad).unwrap_err();
            assert_eq!(rejected.field.as_deref(), Some("request_id"));
            assert!(rejected.message.len() < 200);
        }
        assert!(request_id("01939b5e-8f3a-7c4e-9d2b-1a2b3c4d5e6f").is_ok());
        assert!(digest("secret_sha256", &[0; 31]).is_err());
    }
}
