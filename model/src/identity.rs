//! Who acts: the registry of keys is the authority on identities, certificates are only transport.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::id::{HostId, IdError, NodeId, TokenId, UserName};
use crate::time::Millis;

/// SHA-256 over a SubjectPublicKeyInfo.
pub type SpkiHash = [u8; 32];

/// Whose wish an entry is. Text form: `system`, `node/1`, `host/ID`, `user/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Actor {
    /// A leader loop, or the bootstrap and recovery commands.
    System,
    Node(NodeId),
    Host(HostId),
    User(UserName),
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("system"),
            Self::Node(id) => write!(f, "node/{id}"),
            Self::Host(id) => write!(f, "host/{id}"),
            Self::User(name) => write!(f, "user/{name}"),
        }
    }
}

impl FromStr for Actor {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        match text.split_once('/') {
            None if text == "system" => Ok(Self::System),
            Some(("node", id)) => id.parse().map(Self::Node),
            Some(("host", id)) => id.parse().map(Self::Host),
            Some(("user", name)) => name.parse().map(Self::User),
            _ => Err(IdError::Number {
                what: "identity",
                text: text.chars().take(80).collect(),
                expected: "system, node/N, host/ID or user/NAME",
            }),
        }
    }
}

/// What a join token admits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Role {
    Node,
    Host,
    User,
}

impl Role {
    /// As it stands in tokens and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Host => "host",
            Self::User => "user",
        }
    }
}

/// One registered public key. Removed ones are kept: a key that was cut stays cut, restores included (P30).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyRecord {
    pub spki: SpkiHash,
    /// Never [`Actor::System`].
    pub identity: Actor,
    pub registered_at: Millis,
    /// The token that admitted it; none for the first node and admin, and for renewed keys.
    pub token: Option<TokenId>,
    pub removed: bool,
}

/// A person or a program that may call the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UserRecord {
    pub name: UserName,
    pub created_at: Millis,
    pub removed: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actors_round_trip_as_text() {
        for text in ["system", "node/3", "host/0123456789", "user/alice"] {
            assert_eq!(text.parse::<Actor>().unwrap().to_string(), text);
        }
        for bad in ["", "root", "node/x", "node/0", "host/short", "user/", "user/A"] {
            assert!(bad.parse::<Actor>().is_err(), "{bad:?} passed");
        }
    }
}
