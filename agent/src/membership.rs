//! Which cluster this host belongs to, and how to reach it.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use stratavore_certs::{SpkiHash, files};
use stratavore_proto::v1;

use crate::data_dir::DataDir;
use crate::link::spread;

/// `agent.json`: written once, as the last act of a join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Membership {
    pub(crate) host_id: String,
    pub(crate) name: String,
    pub(crate) cluster_id: String,
    pub(crate) incarnation: u64,
    pub(crate) slots: u32,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) nodes: Vec<Gateway>,
}

/// One node that serves agents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Gateway {
    pub(crate) id: u64,
    /// HOST:PORT, UDP.
    pub(crate) quic: String,
}

/// `trust.json`: the last bundle that a gateway gave (P18). Losing it falls back to any node of the cluster's CA.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Trust {
    pub(crate) nodes: Vec<Gateway>,
    /// Key hashes of registered nodes, in base32.
    pub(crate) trusted: Vec<String>,
    /// P1: number and nonce of the incarnation that was followed last; 0 and empty before the first.
    #[serde(default)]
    pub(crate) incarnation: u64,
    #[serde(default)]
    pub(crate) nonce: String,
}

/// The next step on a data directory that cannot be used.
pub(crate) const JOIN_FIRST: &str = "check --data-dir, or make it one with `stratavore-agent join --data-dir DIR --server HOST:50054 --token-file F`";

/// Why a file of the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MembershipError {
    #[error("{dir} belongs to no cluster yet")]
    Missing { dir: String },
    #[error("{path} is not what this agent writes: {source}")]
    Malformed { path: String, source: serde_json::Error },
    #[error("cannot use {path}")]
    Io { path: String, source: io::Error },
    #[error(transparent)]
    Write(#[from] stratavore_certs::Error),
}

impl Gateway {
    /// Those of `nodes` that serve agents.
    pub(crate) fn of_nodes(nodes: &[v1::NodeAddress]) -> Vec<Self> {
        let serving = nodes.iter().filter(|node| !node.quic.is_empty());
        serving.map(|node| Self { id: node.id, quic: node.quic.clone() }).collect()
    }
}

impl Membership {
    /// `None` while the host belongs to no cluster.
    pub(crate) fn find(dir: &DataDir) -> Result<Option<Self>, MembershipError> {
        read_json(&dir.agent_json())
    }

    pub(crate) fn load(dir: &DataDir) -> Result<Self, MembershipError> {
        Self::find(dir)?.ok_or_else(|| MembershipError::Missing { dir: dir.root().display().to_string() })
    }

    pub(crate) fn save(&self, dir: &DataDir) -> Result<(), MembershipError> {
        write_json(&dir.agent_json(), self)
    }
}

impl Trust {
    /// The stored bundle, else what the join gave.
    pub(crate) fn load(dir: &DataDir, membership: &Membership) -> Result<Self, MembershipError> {
        let stored = read_json(&dir.trust_json())?;
        Ok(stored.unwrap_or_else(|| Self::first(membership)))
    }

    /// What the join gave: any order, so the hosts spread by themselves until a welcome says theirs.
    pub(crate) fn first(membership: &Membership) -> Self {
        Self { nodes: spread(&membership.host_id, &membership.nodes), ..Self::default() }
    }

    /// What a welcome or an update says; empty lists leave what was known.
    pub(crate) fn updated(&self, nodes: &[v1::NodeAddress], trusted: &[v1::TrustedNode]) -> Self {
        let nodes = Gateway::of_nodes(nodes);
        let trusted: Vec<String> =
            trusted.iter().filter_map(|node| spki(&node.spki_sha256)).map(|hash| hash.to_string()).collect();
        Self {
            nodes: if nodes.is_empty() { self.nodes.clone() } else { nodes },
            trusted: if trusted.is_empty() { self.trusted.clone() } else { trusted },
            ..self.clone()
        }
    }

    /// What a welcome that is followed says.
    pub(crate) fn welcomed(&self, welcome: &v1::Welcome) -> Self {
        let nonce = data_encoding::HEXLOWER.encode(&welcome.incarnation_nonce);
        Self { incarnation: welcome.incarnation, nonce, ..self.updated(&welcome.nodes, &welcome.trusted) }
    }

    /// P1: two restores of one backup have the same number; only one of them is the cluster that this host follows.
    ///
    /// # Errors
    /// Says that the node is of the other one.
    pub(crate) fn check_incarnation(&self, welcome: &v1::Welcome) -> Result<(), String> {
        let nonce = data_encoding::HEXLOWER.encode(&welcome.incarnation_nonce);
        if welcome.incarnation != self.incarnation || self.nonce.is_empty() || nonce == self.nonce {
            return Ok(());
        }
        Err(format!(
            "the node is of another incarnation {} than the one that this host follows: the same backup was restored \
             twice; stop one of the two, or run `stratavore-agent trust` to change to this one",
            welcome.incarnation
        ))
    }

    pub(crate) fn save(&self, dir: &DataDir) -> Result<(), MembershipError> {
        write_json(&dir.trust_json(), self)
    }

    /// `None` until a gateway has given a bundle.
    pub(crate) fn keys(&self) -> Option<Vec<SpkiHash>> {
        let keys: Vec<SpkiHash> = self.trusted.iter().filter_map(|text| text.parse().ok()).collect();
        (!keys.is_empty()).then_some(keys)
    }
}

fn spki(bytes: &[u8]) -> Option<SpkiHash> {
    <[u8; 32]>::try_from(bytes).ok().map(SpkiHash)
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, MembershipError> {
    let name = || path.display().to_string();
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| MembershipError::Malformed { path: name(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(MembershipError::Io { path: name(), source }),
    }
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), MembershipError> {
    let text = serde_json::to_vec_pretty(value)
        .map_err(|source| MembershipError::Malformed { path: path.display().to_string(), source })?;
    Ok(files::write_private(path, &text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_membership_belongs_to_no_cluster() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::new(temp.path()).unwrap();
        dir.create().unwrap();
        let error = Membership::load(&dir).unwrap_err();
        assert!(error.to_string().contains("belongs to no cluster"), "{error}");
    }

    #[test]
    fn a_welcome_without_lists_keeps_the_bundle() {
        let old = Trust {
            nodes: vec![Gateway { id: 1, quic: "a:1".into() }],
            trusted: vec![SpkiHash([7; 32]).to_string()],
            ..Trust::default()
        };
        assert_eq!(old.updated(&[], &[]), old);
        let new = old.updated(&[], &[v1::TrustedNode { id: 2, spki_sha256: vec![9; 32].into() }]);
        assert_eq!(new.keys(), Some(vec![SpkiHash([9; 32])]));
    }

    #[test]
    fn p1_an_equal_incarnation_with_another_nonce_is_a_foreign_cluster() {
        let welcome = |incarnation, nonce: u8| v1::Welcome {
            incarnation,
            incarnation_nonce: vec![nonce; 16].into(),
            ..Default::default()
        };
        let followed = Trust::default().welcomed(&welcome(2, 7));
        assert_eq!(followed.check_incarnation(&welcome(2, 7)), Ok(()));
        assert_eq!(followed.check_incarnation(&welcome(3, 8)), Ok(()), "a later one has its own");
        let refused = followed.check_incarnation(&welcome(2, 8)).unwrap_err();
        assert!(refused.contains("restored twice"), "{refused}");
        assert_eq!(Trust::default().check_incarnation(&welcome(2, 8)), Ok(()), "the first one is believed");
    }
}
