//! Join tokens: what a stranger needs to become a party of a cluster, once.
//!
//! Text: `svt1.ROLE.CLUSTER8.PIN.ID.SECRET`. The pin lets the joiner check the other end before it shows the secret;
//! the cluster keeps only the secret's SHA-256.

use std::fmt;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::error::Error;
use crate::identity::{CLUSTER_ID_LENGTH, ID_LENGTH};
use crate::spki::SpkiHash;
use crate::{base32, files};

const VERSION: &str = "svt1";
/// As many digits of the cluster id as a token carries: enough to name the wrong cluster in a message.
const CLUSTER_PREFIX_LENGTH: usize = 8;
/// A token has 109 bytes; the rest is room for blanks and line ends around it.
const TEXT_BYTES_MAX: u64 = 1024;

/// Why a text is no join token. The text itself is never repeated: it may be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the join token is empty; make one with: stratavore token create")]
    Empty,
    #[error("this is not a join token: it must begin with \"svt1.\"; make one with: stratavore token create")]
    Version,
    #[error("the join token is cut off or damaged: it has {found} parts instead of 6; copy it again, whole")]
    Parts { found: usize },
    #[error("the join token is damaged: its role is not node, host or user; copy it again, whole")]
    Role,
    #[error("the join token is damaged: its cluster part is not 8 digits of base32; copy it again, whole")]
    Cluster,
    #[error("the join token is damaged: its CA pin is not 52 digits of base32; copy it again, whole")]
    Pin,
    #[error("the join token is damaged: its id is not 10 digits of base32; copy it again, whole")]
    Id,
    #[error(
        "the join token is cut off or damaged: its secret is not 26 digits of base32; copy it again, whole"
    )]
    Secret,
    #[error("the join token is for another cluster ({token}..., this is {cluster})", token = ascii(.token), cluster = ascii(.cluster))]
    OtherCluster { token: [u8; 8], cluster: [u8; 8] },
}

fn ascii(bytes: &[u8; 8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a token admits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    Node,
    Host,
    User,
}

impl Role {
    /// As it stands in a token and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Host => "host",
            Self::User => "user",
        }
    }

    /// `None` for anything but `node`, `host` and `user`.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        [Self::Node, Self::Host, Self::User].into_iter().find(|role| role.as_str() == text)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// 128 random bits. Wiped when dropped, compared in constant time, never shown by `Debug`.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 16]);

impl Secret {
    /// # Errors
    /// [`Error::Random`].
    pub fn generate() -> Result<Self, Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(Error::Random)?;
        Ok(Self(bytes))
    }

    /// As it arrives in a join request; `None` unless there are 16 bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }

    /// The bytes that a join request carries, once the other end has shown the pinned CA.
    #[must_use]
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }

    /// What the cluster keeps.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0).into()
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A parsed token. It has no `Display`: its text comes from [`JoinToken::reveal`] only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    role: Role,
    cluster_prefix: String,
    pin: SpkiHash,
    id: String,
    secret: Secret,
}

impl JoinToken {
    /// A new token with a fresh id and secret.
    ///
    /// # Errors
    /// [`Error::Random`], or [`Error::Token`] when `cluster_id` is none.
    pub fn generate(role: Role, cluster_id: &str, pin: SpkiHash) -> Result<Self, Error> {
        let mut id = [0; ID_LENGTH];
        getrandom::fill(&mut id).map_err(Error::Random)?;
        let digits = base32::ALPHABET.as_bytes();
        let id = id.iter().map(|byte| char::from(digits[usize::from(byte & 31)])).collect();
        if !base32::is_id(cluster_id, CLUSTER_ID_LENGTH) {
            return Err(TokenError::Cluster.into());
        }
        let cluster_prefix = cluster_id[..CLUSTER_PREFIX_LENGTH].to_owned();
        Ok(Self { role, cluster_prefix, pin, id, secret: Secret::generate()? })
    }

    /// Blanks and line ends around the token are ignored.
    ///
    /// # Errors
    /// [`TokenError`] names the part that is wrong.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(TokenError::Empty);
        }
        // Counted without collecting, so that a long wrong text costs nothing.
        let found = text.split('.').count();
        let mut parts = text.split('.');
        if parts.next() != Some(VERSION) {
            return Err(TokenError::Version);
        }
        let (Some(role), Some(cluster), Some(pin), Some(id), Some(secret), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Parts { found });
        };
        let role = Role::from_text(role).ok_or(TokenError::Role)?;
        if !base32::is_id(cluster, CLUSTER_PREFIX_LENGTH) {
            return Err(TokenError::Cluster);
        }
        let pin = base32::decode(pin).map(SpkiHash).ok_or(TokenError::Pin)?;
        if !base32::is_id(id, ID_LENGTH) {
            return Err(TokenError::Id);
        }
        let secret = base32::decode(secret).map(Secret).ok_or(TokenError::Secret)?;
        Ok(Self { role, cluster_prefix: cluster.to_owned(), pin, id: id.to_owned(), secret })
    }

    /// Reads a token from `path`, or from standard input when that is `-`. Tokens never travel in arguments, where
    /// every user of the machine could read them.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::TooLarge`] or [`Error::Token`].
    pub fn read(path: &Path) -> Result<Self, Error> {
        let mut text = Zeroizing::new(String::new());
        if path == Path::new("-") {
            let path = Path::new("standard input");
            std::io::stdin()
                .lock()
                .take(TEXT_BYTES_MAX + 1)
                .read_to_string(&mut text)
                .map_err(|source| Error::File { action: "read", path: path.to_owned(), source })?;
            if text.len() as u64 > TEXT_BYTES_MAX {
                return Err(Error::TooLarge { path: path.to_owned(), limit: TEXT_BYTES_MAX });
            }
        } else {
            text = files::read_text(path, TEXT_BYTES_MAX)?;
        }
        Ok(Self::parse(&text)?)
    }

    /// The text with the secret in it: for the person who asked for it, never for a log.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        let secret = Zeroizing::new(base32::encode(&self.secret.0));
        Zeroizing::new(format!(
            "{VERSION}.{}.{}.{}.{}.{}",
            self.role,
            self.cluster_prefix,
            self.pin,
            self.id,
            secret.as_str()
        ))
    }

    #[must_use]
    pub const fn role(&self) -> Role {
        self.role
    }

    /// The first 8 digits of the cluster id.
    #[must_use]
    pub fn cluster_prefix(&self) -> &str {
        &self.cluster_prefix
    }

    /// The hash of the CA's key.
    #[must_use]
    pub const fn pin(&self) -> SpkiHash {
        self.pin
    }

    /// Not a secret: it may be logged and listed.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    #[must_use]
    pub const fn secret(&self) -> &Secret {
        &self.secret
    }

    /// What the cluster keeps of the secret.
    #[must_use]
    pub fn secret_hash(&self) -> [u8; 32] {
        self.secret.hash()
    }

    /// # Errors
    /// [`TokenError::OtherCluster`] when `cluster_id` does not begin as the token says.
    pub fn check_cluster(&self, cluster_id: &str) -> Result<(), TokenError> {
        if cluster_id.starts_with(&self.cluster_prefix) {
            return Ok(());
        }
        let eight = |text: &str| std::array::from_fn(|i| text.as_bytes().get(i).copied().unwrap_or(b'?'));
        Err(TokenError::OtherCluster { token: eight(&self.cluster_prefix), cluster: eight(cluster_id) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLUSTER: &str = "0123456789abcdef";

    fn token() -> JoinToken {
        JoinToken::generate(Role::Host, CLUSTER, SpkiHash([7; 32])).unwrap()
    }

    #[test]
    fn text_round_trips_with_blanks_around_it() {
        let token = token();
        let text = token.reveal();
        assert_eq!(JoinToken::parse(&text).unwrap(), token);
        assert_eq!(JoinToken::parse(&format!(" {}\r\n", *text)).unwrap(), token);
        assert_eq!(token.cluster_prefix(), "01234567");
        assert_eq!(token.id().len(), 10);
        assert!(token.check_cluster(CLUSTER).is_ok());
        assert!(matches!(token.check_cluster("9999999999999999"), Err(TokenError::OtherCluster { .. })));
    }

    #[test]
    fn each_wrong_part_is_named() {
        let text = token().reveal();
        let with = |index: usize, part: &str| {
            let mut parts: Vec<&str> = text.split('.').collect();
            parts[index] = part;
            JoinToken::parse(&parts.join("."))
        };
        assert_eq!(JoinToken::parse(" \n"), Err(TokenError::Empty));
        assert_eq!(JoinToken::parse("hello"), Err(TokenError::Version));
        assert_eq!(with(0, "svt2"), Err(TokenError::Version));
        assert_eq!(with(1, "root"), Err(TokenError::Role));
        assert_eq!(with(2, "0123456"), Err(TokenError::Cluster));
        assert_eq!(with(3, "abc"), Err(TokenError::Pin));
        assert_eq!(with(4, "0123456u89"), Err(TokenError::Id));
        assert_eq!(with(5, &text[text.len() - 25..]), Err(TokenError::Secret));
        assert_eq!(JoinToken::parse(&text[..text.len() - 27]), Err(TokenError::Parts { found: 5 }));
        assert_eq!(JoinToken::parse(&format!("{}.x", *text)), Err(TokenError::Parts { found: 7 }));
    }

    #[test]
    fn neither_debug_nor_errors_show_the_secret() {
        let token = token();
        let secret = base32::encode(token.secret().reveal());
        for shown in [format!("{token:?}"), format!("{token:#?}"), format!("{:?}", token.secret())] {
            assert!(!shown.contains(&secret), "{shown}");
            assert!(shown.contains("Secret(..)"), "{shown}");
        }
        let text = token.reveal();
        let damaged = [text.replace("svt1", "svt9"), text.replace(".host.", "."), format!("{}0", *text)];
        for error in damaged.map(|text| JoinToken::parse(&text).unwrap_err()) {
            assert!(!format!("{error} {error:?}").contains(&secret));
        }
    }

    #[test]
    fn a_token_is_read_from_a_file_of_bounded_size() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let token = token();
        std::fs::write(&path, format!("{}\n", *token.reveal())).unwrap();
        assert_eq!(JoinToken::read(&path).unwrap(), token);
        std::fs::write(&path, "x".repeat(2000)).unwrap();
        assert!(matches!(JoinToken::read(&path), Err(Error::TooLarge { .. })));
        assert!(matches!(JoinToken::read(&dir.path().join("none")), Err(Error::File { .. })));
    }

    proptest! {
        #[test]
        fn any_text_parses_or_is_refused(text in "\\PC{0,200}") {
            let _refused_or_not = JoinToken::parse(&text).is_ok();
        }

        #[test]
        fn what_parses_has_one_spelling(
            role in "(node|host|user|boss)",
            cluster in "[0-9a-z]{8}",
            pin in "[0-9a-hjkmnp-tv-z]{51}[0-9a-z]",
            id in "[0-9a-z]{10}",
            secret in "[0-9a-hjkmnp-tv-z]{25}[0-9a-z]",
        ) {
            let text = format!("svt1.{role}.{cluster}.{pin}.{id}.{secret}");
            if let Ok(token) = JoinToken::parse(&text) {
                let again = token.reveal();
                prop_assert_eq!(again.as_str(), text.as_str());
            }
        }

        #[test]
        fn a_cut_token_is_refused(cut in 0usize..109) {
            let text = token().reveal();
            prop_assert_eq!(text.len(), 109);
            prop_assert!(JoinToken::parse(&text[..cut]).is_err());
        }
    }
}
