//! How long certificates live. The registry is the authority, so lifetimes are a second line of defence.

use rustls_pki_types::CertificateDer;

use crate::error::Error;
use crate::identity::{self, Identity};

const DAY_S: u64 = 86_400;

/// Node and host certificates: long enough for a quarter without contact, renewed long before.
pub const LEAF_LIFETIME_S: u64 = 90 * DAY_S;
/// The command line renews it while it is used; whoever stays away for a third of a year logs in again.
pub const USER_LIFETIME_S: u64 = 365 * DAY_S;
/// The root outlives the machines.
pub const CA_LIFETIME_S: u64 = 3_650 * DAY_S;
/// How far a peer's clock may lie behind that of the issuer before it refuses a fresh certificate.
pub const BACKDATE_S: u64 = DAY_S;
/// 9999-12-31T23:59:59Z, the last second that X.509 can write.
const LAST_SECOND: u64 = 253_402_300_799;

/// A period in seconds since 1970, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub not_before_unix_s: u64,
    pub not_after_unix_s: u64,
}

impl Validity {
    /// From a day before `now_unix_s` until `lifetime_s` after it.
    #[must_use]
    pub const fn lasting(now_unix_s: u64, lifetime_s: u64) -> Self {
        Self {
            not_before_unix_s: now_unix_s.saturating_sub(BACKDATE_S),
            not_after_unix_s: now_unix_s.saturating_add(lifetime_s),
        }
    }

    /// What a certificate for `identity` issued now gets.
    #[must_use]
    pub const fn for_identity(identity: &Identity, now_unix_s: u64) -> Self {
        match identity {
            Identity::User { .. } => Self::lasting(now_unix_s, USER_LIFETIME_S),
            Identity::Node { .. } | Identity::Host { .. } => Self::lasting(now_unix_s, LEAF_LIFETIME_S),
        }
    }

    /// As written in a certificate.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self, Error> {
        let parsed = identity::parse(certificate)?;
        let validity = parsed.validity();
        let seconds = |timestamp: i64| u64::try_from(timestamp).unwrap_or(0);
        Ok(Self {
            not_before_unix_s: seconds(validity.not_before.timestamp()),
            not_after_unix_s: seconds(validity.not_after.timestamp()),
        })
    }

    /// True once two thirds of the life after issuing are over: time to ask for a new certificate.
    #[must_use]
    pub const fn renewal_due(&self, now_unix_s: u64) -> bool {
        let issued = self.not_before_unix_s.saturating_add(BACKDATE_S);
        let life = self.not_after_unix_s.saturating_sub(issued);
        now_unix_s >= issued.saturating_add(life / 3 * 2)
    }

    pub(crate) const fn checked(self) -> Result<Self, Error> {
        if self.not_before_unix_s >= self.not_after_unix_s || self.not_after_unix_s > LAST_SECOND {
            return Err(Error::Validity {
                not_before: self.not_before_unix_s,
                not_after: self.not_after_unix_s,
            });
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_due_after_two_thirds() {
        let now = 1_800_000_000;
        let validity = Validity::lasting(now, LEAF_LIFETIME_S);
        assert!(!validity.renewal_due(now));
        assert!(!validity.renewal_due(now + 60 * DAY_S - 1));
        assert!(validity.renewal_due(now + 60 * DAY_S));
    }

    #[test]
    fn impossible_periods_are_refused() {
        assert!(Validity { not_before_unix_s: 5, not_after_unix_s: 5 }.checked().is_err());
        assert!(Validity::lasting(u64::MAX, 1).checked().is_err());
        assert!(Validity::lasting(LAST_SECOND, 1).checked().is_err());
        assert!(Validity::lasting(LAST_SECOND - 1, 1).checked().is_ok());
    }
}
