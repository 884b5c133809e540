//! `trust.json`: the nodes whose keys were registered when this node joined. It decides who may speak to a node that has
//! no replicated state yet; as soon as it has some, the registry in it decides.

use std::path::Path;

use serde::{Deserialize, Serialize};
use stratavore_proto::v1;

use crate::exit::{Code, Failure};

const FILE: &str = "trust.json";

/// One registered key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TrustedKey {
    node: u64,
    spki_sha256: String,
}

/// What the join answered. Empty for the node that founded the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Trust {
    keys: Vec<TrustedKey>,
}

impl Trust {
    /// From the answer to a join; keys of another length cannot be any node's.
    pub(crate) fn of_join(trusted: &[v1::TrustedNode]) -> Self {
        let key = |node: &v1::TrustedNode| TrustedKey {
            node: node.id,
            spki_sha256: data_encoding::HEXLOWER.encode(&node.spki_sha256),
        };
        Self { keys: trusted.iter().map(key).collect() }
    }

    /// Whether `node` had this key.
    pub(crate) fn holds(&self, node: u64, spki: &[u8; 32]) -> bool {
        let spki = data_encoding::HEXLOWER.encode(spki);
        self.keys.iter().any(|key| key.node == node && key.spki_sha256 == spki)
    }

    /// The highest node id in it, 0 for none. Ids are counted up and never used again.
    pub(crate) fn highest(&self) -> u64 {
        self.keys.iter().map(|key| key.node).max().unwrap_or(0)
    }

    /// # Errors
    /// The file system refused.
    pub(crate) fn save(&self, data_dir: &Path) -> Result<(), Failure> {
        let path = data_dir.join(FILE);
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| Failure::generic("cannot write trust.json", &error))?;
        stratavore_certs::files::write_public(&path, &text)
            .map_err(|error| Failure::generic(&format!("cannot write {}", path.display()), &error))
    }

    /// # Errors
    /// [`Code::Corrupt`] when it cannot be read. A missing file is an empty list: the founder has none.
    pub(crate) fn load(data_dir: &Path) -> Result<Self, Failure> {
        let path = data_dir.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Failure::generic(&format!("cannot read {}", path.display()), &error)),
        };
        serde_json::from_str(&text).map_err(|error| {
            Failure::new(
                Code::Corrupt,
                format!("{} cannot be read: {error}", path.display()),
                "restore this file from a copy, or join again with an empty directory",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_survives_the_disk_and_knows_only_its_keys() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Trust::load(dir.path()).unwrap(), Trust::default());
        let joined = [v1::TrustedNode { id: 3, spki_sha256: vec![7; 32].into() }];
        Trust::of_join(&joined).save(dir.path()).unwrap();
        let trust = Trust::load(dir.path()).unwrap();
        assert!(trust.holds(3, &[7; 32]));
        assert!(!trust.holds(3, &[8; 32]) && !trust.holds(4, &[7; 32]));
        assert_eq!(trust.highest(), 3);
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(Trust::load(dir.path()).unwrap_err().code, Code::Corrupt);
    }
}
