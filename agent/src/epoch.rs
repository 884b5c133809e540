//! The name of one start: runner and epoch (P2), as directories, sockets, reports and orders carry it.

use std::fmt;
use std::str::FromStr;

use stratavore_proto::v1;

/// Length of a runner id in characters: Crockford base32, chosen by the API node.
pub const RUNNER_ID_CHARS: usize = 10;

/// Alphabet of runner ids (Crockford base32, lower case).
const ID_ALPHABET: &str = "0123456789abcdefghjkmnpqrstvwxyz";

/// (incarnation of the cluster, log index), compared lexicographically (P1). Also used for state indexes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch {
    pub incarnation: u64,
    pub index: u64,
}

impl Epoch {
    /// The position `index` of incarnation `incarnation`.
    #[must_use]
    pub const fn new(incarnation: u64, index: u64) -> Self {
        Self { incarnation, index }
    }

    /// The position just below, within the incarnation (index 0 stays 0).
    #[must_use]
    pub const fn before(self) -> Self {
        Self { incarnation: self.incarnation, index: self.index.saturating_sub(1) }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.incarnation, self.index)
    }
}

impl FromStr for Epoch {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bad = || KeyError::Epoch(text.to_owned());
        let (incarnation, index) = text.split_once('.').ok_or_else(bad)?;
        Ok(Self { incarnation: number(incarnation).ok_or_else(bad)?, index: number(index).ok_or_else(bad)? })
    }
}

/// Digits only: what `u64::from_str` would also take (`+1`, `007`) must not name a second spelling of one directory.
fn number(text: &str) -> Option<u64> {
    let canonical = text.bytes().all(|b| b.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    if canonical { text.parse().ok() } else { None }
}

impl From<Epoch> for v1::Epoch {
    fn from(epoch: Epoch) -> Self {
        Self { incarnation: epoch.incarnation, index: epoch.index }
    }
}

impl From<&v1::Epoch> for Epoch {
    fn from(epoch: &v1::Epoch) -> Self {
        Self { incarnation: epoch.incarnation, index: epoch.index }
    }
}

/// One start of one runner; its text form `<runner>-<incarnation>.<index>` names the directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunnerKey {
    runner: String,
    epoch: Epoch,
}

impl RunnerKey {
    /// A key whose runner id is checked, so that it can safely name files.
    ///
    /// # Errors
    /// [`KeyError::Runner`] unless the id is ten characters of the id alphabet.
    pub fn new(runner: &str, epoch: Epoch) -> Result<Self, KeyError> {
        let valid = runner.len() == RUNNER_ID_CHARS && runner.chars().all(|c| ID_ALPHABET.contains(c));
        if valid {
            Ok(Self { runner: runner.to_owned(), epoch })
        } else {
            Err(KeyError::Runner(runner.to_owned()))
        }
    }

    /// From wire fields; an absent epoch is refused.
    ///
    /// # Errors
    /// As [`RunnerKey::new`], and [`KeyError::Epoch`] when the epoch is absent.
    pub fn from_wire(runner: &str, epoch: Option<&v1::Epoch>) -> Result<Self, KeyError> {
        let epoch = epoch.ok_or_else(|| KeyError::Epoch(String::new()))?;
        Self::new(runner, epoch.into())
    }

    /// Id of the runner.
    #[must_use]
    pub fn runner(&self) -> &str {
        &self.runner
    }

    /// Which of its starts.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }
}

impl fmt::Display for RunnerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.runner, self.epoch)
    }
}

impl FromStr for RunnerKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (runner, epoch) = text.split_once('-').ok_or_else(|| KeyError::Runner(text.to_owned()))?;
        Self::new(runner, epoch.parse()?)
    }
}

/// Why text or wire fields do not name one start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("`{0}` is not a runner id: ten characters of 0-9 and a-z without i, l, o, u are expected")]
    Runner(String),
    #[error("`{0}` is not an epoch: INCARNATION.INDEX is expected")]
    Epoch(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_round_trips_through_its_directory_name() {
        let key = RunnerKey::new("0123456789", Epoch::new(1, 42)).unwrap();
        assert_eq!(key.to_string(), "0123456789-1.42");
        assert_eq!("0123456789-1.42".parse::<RunnerKey>().unwrap(), key);
    }

    #[test]
    fn only_one_spelling_names_a_key() {
        for bad in [
            "",
            "0123456789",
            "0123456789-1",
            "0123456789-1.042",
            "0123456789-+1.42",
            "012345678-1.42",
            "../../6789-1.1",
            "012345678u-1.1",
        ] {
            assert!(bad.parse::<RunnerKey>().is_err(), "{bad}");
        }
    }

    #[test]
    fn epochs_compare_by_incarnation_first() {
        assert!(Epoch::new(2, 1) > Epoch::new(1, 99));
        assert_eq!(Epoch::new(1, 0).before(), Epoch::new(1, 0));
    }
}
