//! Identifiers: validated on the way in, ordered, cheap to copy.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Crockford base32 in lowercase: no `i`, `l`, `o`, `u`, so that an id read aloud survives.
pub const ID_ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Names travel as DNS labels, AMQP routing words, metric labels and path parts: 63 bytes fits all of them.
pub const NAME_BYTES_MAX: usize = 63;

/// Why a text is not the identifier it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not a name: see [`NAME_BYTES_MAX`] and the rule in the message.
    #[error("{what} {text:?} is not valid: 1 to 63 of a-z, 0-9 and '-', not starting with '-'")]
    Name { what: &'static str, text: String },
    /// Not an id of the fixed length over [`ID_ALPHABET`].
    #[error("{what} {text:?} is not valid: {length} characters of 0-9 and a-z without i, l, o, u")]
    Id { what: &'static str, text: String, length: usize },
    /// Not numbers separated by dots.
    #[error("{what} {text:?} is not valid: expected {expected}")]
    Number { what: &'static str, text: String, expected: &'static str },
}

/// Ids are fixed-size text; a bounded excerpt of a wrong one is enough for the message.
fn excerpt(text: &str) -> String {
    text.chars().take(80).collect()
}

fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= NAME_BYTES_MAX
        && bytes[0] != b'-'
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

macro_rules! text_serde {
    ($type:ident) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    };
}

macro_rules! fixed_id {
    ($(#[$doc:meta])* $type:ident, $length:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type([u8; $length]);

        impl $type {
            /// Characters of the text form.
            pub const LENGTH: usize = $length;

            /// Made from random bytes: the low five bits of each become one character.
            #[must_use]
            pub fn from_random(random: [u8; $length]) -> Self {
                Self(random.map(|byte| ID_ALPHABET[usize::from(byte & 31)]))
            }

            /// The text form.
            #[must_use]
            pub fn as_str(&self) -> &str {
                // Only characters of the ASCII alphabet ever get in.
                std::str::from_utf8(&self.0).unwrap_or_default()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $type {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let wrong = || IdError::Id { what: $what, text: excerpt(text), length: $length };
                let bytes: [u8; $length] = text.as_bytes().try_into().map_err(|_| wrong())?;
                if bytes.iter().all(|byte| ID_ALPHABET.contains(byte)) { Ok(Self(bytes)) } else { Err(wrong()) }
            }
        }

        text_serde!($type);
    };
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// The text form.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $type {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                if is_name(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(IdError::Name { what: $what, text: excerpt(text) })
                }
            }
        }

        text_serde!($type);
    };
}

fixed_id!(
    /// A cluster, for its whole life.
    ClusterId, 16, "cluster id"
);
fixed_id!(
    /// A runner, through all its epochs.
    RunnerId, 10, "runner id"
);
fixed_id!(
    /// A host, from its join to its removal.
    HostId, 10, "host id"
);
fixed_id!(
    /// A join token (not its secret).
    TokenId, 10, "token id"
);
name!(
    /// A project; its name is its identity.
    ProjectName, "project name"
);
name!(
    /// A user; the name is the identity.
    UserName, "user name"
);
name!(
    /// What people call a host; unique among hosts that are not removed.
    HostName, "host name"
);
name!(
    /// What people call a runner; unique among live runners.
    RunnerName, "runner name"
);

/// A control-plane node. Never reused, the first is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for NodeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError::Number { what: "node id", text: excerpt(text), expected: "a number above 0" };
        text.parse().ok().filter(|n| *n > 0).map(Self).ok_or_else(wrong)
    }
}

/// P1: raised by restore and forced recovery only; equal `n` with another nonce is a foreign cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incarnation {
    /// Counts from 1.
    pub n: u64,
    /// Random, tells two clusters with the same `n` apart.
    pub nonce: [u8; 16],
}

fn dotted<const N: usize>(text: &str) -> Option<[u64; N]> {
    let mut numbers = [0; N];
    let mut parts = text.split('.');
    for number in &mut numbers {
        let part = parts.next()?;
        // `parse` alone would also take "+1".
        *number = part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok())??;
    }
    parts.next().is_none().then_some(numbers)
}

/// P2: one placement of a runner, or one readiness of a host (P3), or a state index with its incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch {
    /// The cluster's incarnation when the entry was applied.
    pub incarnation: u64,
    /// The log index of that entry.
    pub index: u64,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.incarnation, self.index)
    }
}

impl FromStr for Epoch {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let [incarnation, index] = dotted(text).ok_or_else(|| IdError::Number {
            what: "epoch",
            text: excerpt(text),
            expected: "INCARNATION.INDEX",
        })?;
        Ok(Self { incarnation, index })
    }
}

text_serde!(Epoch);

/// The place of an event in the event log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId {
    /// The cluster's incarnation when the entry was applied.
    pub incarnation: u64,
    /// The log index of the entry that emitted it.
    pub index: u64,
    /// Counts from 0 within the entry.
    pub ordinal: u32,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.incarnation, self.index, self.ordinal)
    }
}

impl FromStr for EventId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError::Number {
            what: "event id",
            text: excerpt(text),
            expected: "INCARNATION.INDEX.ORDINAL",
        };
        let [incarnation, index, ordinal] = dotted(text).ok_or_else(wrong)?;
        let ordinal = u32::try_from(ordinal).map_err(|_| wrong())?;
        Ok(Self { incarnation, index, ordinal })
    }
}

text_serde!(EventId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule() {
        for good in ["a", "0", "a-b", "web-1-", &"x".repeat(63)] {
            assert_eq!(good.parse::<ProjectName>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "A", "a.b", "a_b", "a b", "ä", &"x".repeat(64)] {
            assert!(bad.parse::<ProjectName>().is_err(), "{bad:?} passed");
        }
    }

    #[test]
    fn ids_have_one_length_and_alphabet() {
        let id = RunnerId::from_random([0, 1, 31, 32, 255, 9, 10, 17, 18, 20]);
        assert_eq!(id.to_string(), "01z0z9ahjm");
        assert_eq!(id.to_string().parse::<RunnerId>().unwrap(), id);
        for bad in ["", "01z0z9ahj", "01z0z9ahjmm", "01z0z9ahju", "01Z0z9ahjm", "01z0z9ahé"] {
            assert!(bad.parse::<RunnerId>().is_err(), "{bad:?} passed");
        }
    }

    #[test]
    fn epochs_order_by_incarnation_first() {
        let epoch = |text: &str| text.parse::<Epoch>().unwrap();
        assert!(epoch("1.900") < epoch("2.3"));
        assert!(epoch("2.3") < epoch("2.20"));
        assert_eq!(epoch("1.42").to_string(), "1.42");
        for bad in ["", "1", "1.", ".1", "1.2.3", "+1.2", "1.-2", "a.b", "1.99999999999999999999"] {
            assert!(bad.parse::<Epoch>().is_err(), "{bad:?} passed");
        }
    }

    #[test]
    fn event_ids_round_trip() {
        let id: EventId = "1.42.7".parse().unwrap();
        assert_eq!((id.incarnation, id.index, id.ordinal), (1, 42, 7));
        assert_eq!(id.to_string(), "1.42.7");
        assert!("1.42.4294967296".parse::<EventId>().is_err());
        assert!("1.42".parse::<EventId>().is_err());
    }
}
