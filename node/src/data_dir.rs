//! The data directory: one process at a time, one node for ever, and a clear word when it is somebody else's.
//!
//! `node.json` (who this is), `pki/` (its certificate and key), `raft-log/` and `state/` (raft's), `admin.yaml` (the
//! first user's context), `LOCK`.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stratavore_certs::Credentials;
use stratavore_model::{ClusterId, NodeId};

use crate::exit::{Code, Failure, chain};

/// Format of `node.json` that this program writes and the newest it reads.
const FORMAT: u32 = 1;

/// Name under which the node's credentials lie in `pki/`.
const PKI_NAME: &str = "node";

/// What only a node's or an agent's directory holds.
const OURS: [&str; 6] = ["node.json", "pki", "raft-log", "state", "agent.json", "runners"];

/// Present from the first to the last step of a join: what lies beside it may be begun again.
const JOINING: &str = "joining";

/// Written when this node learnt that it was removed: the next start says so at once.
const REMOVED: &str = "removed";

/// Ports as `init` took them; the configuration of `run` overrides them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ports {
    pub(crate) grpc: u16,
    pub(crate) quic: u16,
    pub(crate) raft: u16,
    pub(crate) join: u16,
    pub(crate) metrics: u16,
}

/// `node.json`: written last by `init`, so a directory that has it is complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NodeFile {
    pub(crate) format: u32,
    pub(crate) cluster_id: ClusterId,
    pub(crate) node_id: u64,
    /// P1: random, made with the cluster; only the founder's file has it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) nonce: String,
    /// Host name or address that others reach this node at.
    pub(crate) advertise: String,
    pub(crate) ports: Ports,
}

impl NodeFile {
    pub(crate) fn new(
        cluster_id: ClusterId,
        node: NodeId,
        nonce: &[u8],
        advertise: String,
        ports: Ports,
    ) -> Self {
        let nonce = data_encoding::HEXLOWER.encode(nonce);
        Self { format: FORMAT, cluster_id, node_id: node.0, nonce, advertise, ports }
    }
}

/// What an operator reads when the node was removed.
pub(crate) fn removed(node: u64, how: &str) -> Failure {
    Failure::new(
        Code::Removed,
        format!("node {node} was removed from its cluster: {how}"),
        "join again with a new token and an empty --data-dir; this one can be deleted",
    )
}

/// A locked data directory. The lock ends with the value.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the directory if it is missing and locks it for `init`.
    ///
    /// # Errors
    /// [`Code::Conflict`] when it holds a node, an agent or a half-finished `init`, or another process uses it.
    pub(crate) fn create(path: &Path) -> Result<Self, Failure> {
        stratavore_certs::files::create_private_dir(path)
            .map_err(|error| Failure::generic(&format!("cannot make {}", path.display()), &error))?;
        let data_dir = Self::lock(path)?;
        data_dir.refuse_present()?;
        if let Some(found) = OURS.iter().find(|name| path.join(name).exists()) {
            return Err(Failure::new(
                Code::Conflict,
                format!(
                    "{} is not empty: it holds {found}, of an agent or of an interrupted init",
                    path.display()
                ),
                "choose an empty directory, or remove this one if nothing in it is needed",
            ));
        }
        Ok(data_dir)
    }

    fn refuse_present(&self) -> Result<(), Failure> {
        let Some(present) = self.node_file()? else { return Ok(()) };
        let path = self.path.display();
        Err(Failure::new(
            Code::Conflict,
            format!("{path} already holds node {} of cluster {}", present.node_id, present.cluster_id),
            format!("start it with `stratavored run --data-dir {path}`, or choose an empty directory"),
        ))
    }

    /// Makes the directory if it is missing and locks it for `join`. An interrupted join is begun again with the key it
    /// had, because the token may be spent for that key already.
    ///
    /// # Errors
    /// As [`DataDir::create`].
    pub(crate) fn create_joining(path: &Path) -> Result<Self, Failure> {
        if !path.join(JOINING).exists() {
            let data_dir = Self::create(path)?;
            stratavore_certs::files::write_public(&path.join(JOINING), b"")
                .map_err(|error| Failure::generic(&format!("cannot write in {}", path.display()), &error))?;
            return Ok(data_dir);
        }
        let data_dir = Self::lock(path)?;
        data_dir.refuse_present()?;
        // Of a join that ended between the databases and node.json: they are empty.
        for name in ["raft-log", "state"] {
            match fs::remove_dir_all(path.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Failure::generic(&format!("cannot clear {}", path.display()), &error));
                }
                _ => {}
            }
        }
        fs::remove_file(path.join("high-water-mark")).ok();
        Ok(data_dir)
    }

    /// The last step of `join`.
    ///
    /// # Errors
    /// The file system refused.
    pub(crate) fn joined(&self, node: &NodeFile) -> Result<(), Failure> {
        self.write_node_file(node)?;
        // Left behind it does no harm: node.json is what counts.
        fs::remove_file(self.path.join(JOINING)).ok();
        Ok(())
    }

    /// Remembers that the cluster has removed this node.
    pub(crate) fn mark_removed(path: &Path, how: &str) {
        if let Err(error) = stratavore_certs::files::write_public(&path.join(REMOVED), how.as_bytes()) {
            tracing::warn!(%error, "the removal was not recorded; the next start will learn it from the cluster");
        }
    }

    fn refuse_removed(&self, node: &NodeFile) -> Result<(), Failure> {
        let Ok(how) = fs::read_to_string(self.path.join(REMOVED)) else { return Ok(()) };
        Err(removed(node.node_id, &how))
    }

    /// Locks a directory that `init` or `join` has completed.
    ///
    /// # Errors
    /// [`Code::Usage`] when there is no node in it; [`Code::Conflict`] when another process uses it.
    pub(crate) fn open(path: &Path) -> Result<(Self, NodeFile), Failure> {
        if !path.join("node.json").exists() {
            let what = if path.join("agent.json").exists() { "belongs to an agent" } else { "holds no node" };
            return Err(Failure::new(
                Code::Usage,
                format!("{} {what}", path.display()),
                format!(
                    "make a cluster with `stratavored init --data-dir {} --advertise HOST`, or join one with `stratavored join`",
                    path.display()
                ),
            ));
        }
        let data_dir = Self::lock(path)?;
        let Some(node) = data_dir.node_file()? else {
            return Err(Failure::new(
                Code::Generic,
                format!("{} vanished", path.join("node.json").display()),
                "",
            ));
        };
        if node.format > FORMAT {
            return Err(Failure::new(
                Code::Usage,
                format!("{} has format {}, this program knows {FORMAT}", path.display(), node.format),
                "start the newer version of stratavored",
            ));
        }
        data_dir.refuse_removed(&node)?;
        Ok((data_dir, node))
    }

    fn lock(path: &Path) -> Result<Self, Failure> {
        let file = path.join("LOCK");
        let lock = File::options().create(true).truncate(false).write(true).open(&file);
        let lock =
            lock.map_err(|error| Failure::generic(&format!("cannot open {}", file.display()), &error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Failure::new(
                Code::Conflict,
                format!("{} is in use by another stratavored", path.display()),
                "stop that process first, or give this one its own --data-dir",
            )),
            Err(TryLockError::Error(error)) => {
                Err(Failure::generic(&format!("cannot lock {}", file.display()), &error))
            }
        }
    }

    fn node_file(&self) -> Result<Option<NodeFile>, Failure> {
        let path = self.path.join("node.json");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::generic(&format!("cannot read {}", path.display()), &error)),
        };
        serde_json::from_str(&text).map(Some).map_err(|error| {
            Failure::new(
                Code::Corrupt,
                format!("{} cannot be read: {error}", path.display()),
                "restore this file from a copy; the node's identity is in it and in pki/node.crt",
            )
        })
    }

    /// The last step of `init`.
    ///
    /// # Errors
    /// The file system refused.
    pub(crate) fn write_node_file(&self, node: &NodeFile) -> Result<(), Failure> {
        let path = self.path.join("node.json");
        let text = serde_json::to_vec_pretty(node)
            .map_err(|error| Failure::generic("cannot write node.json", &error))?;
        stratavore_certs::files::write_public(&path, &text)
            .map_err(|error| Failure::generic(&format!("cannot write {}", path.display()), &error))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn save_credentials(&self, credentials: &Credentials) -> Result<(), Failure> {
        credentials
            .save(&self.path.join("pki"), PKI_NAME)
            .map_err(|error| Failure::generic("cannot store the node's certificate", &error))
    }

    /// The node's certificate and key, which must be those of `node`.
    ///
    /// # Errors
    /// [`Code::Conflict`] when they belong to another node or cluster.
    pub(crate) fn credentials(&self, node: &NodeFile) -> Result<Credentials, Failure> {
        let pki = self.path.join("pki");
        let credentials = Credentials::load(&pki, PKI_NAME).map_err(|error| {
            Failure::new(
                Code::Corrupt,
                format!("cannot use the certificate in {}: {}", pki.display(), chain(&error)),
                "restore this directory from a copy, readable by this user only; the node's identity is in it",
            )
        })?;
        let expected = format!("spiffe://{}/node/{}", node.cluster_id, node.node_id);
        let found = credentials.identity().to_string();
        if found == expected {
            return Ok(credentials);
        }
        Err(Failure::new(
            Code::Conflict,
            format!("{} holds the certificate of {found}, but node.json says {expected}", pki.display()),
            "do not mix data directories: give each node its own",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node_file() -> NodeFile {
        let ports = Ports { grpc: 1, quic: 2, raft: 3, join: 4, metrics: 5 };
        NodeFile::new("0123456789abcdef".parse().unwrap(), NodeId(1), &[7; 16], "127.0.0.1".into(), ports)
    }

    #[test]
    fn a_directory_serves_one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::create(dir.path()).unwrap();
        let second = DataDir::create(dir.path()).unwrap_err();
        assert_eq!(second.code, Code::Conflict);
        assert!(second.message.contains("in use"), "{second}");
        first.write_node_file(&node_file()).unwrap();
        drop(first);
        let (_open, read) = DataDir::open(dir.path()).unwrap();
        assert_eq!(read, node_file());
    }

    #[test]
    fn what_is_not_a_fresh_or_complete_directory_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(DataDir::open(dir.path()).unwrap_err().code, Code::Usage);
        fs::write(dir.path().join("agent.json"), "{}").unwrap();
        assert!(DataDir::open(dir.path()).unwrap_err().message.contains("agent"));
        assert_eq!(DataDir::create(dir.path()).unwrap_err().code, Code::Conflict);
        fs::remove_file(dir.path().join("agent.json")).unwrap();
        DataDir::create(dir.path()).unwrap().write_node_file(&node_file()).unwrap();
        let again = DataDir::create(dir.path()).unwrap_err();
        assert!(again.message.contains("already holds node 1"), "{again}");
    }

    #[test]
    fn a_damaged_or_newer_node_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("node.json"), "{\"format\":").unwrap();
        let damaged = DataDir::open(dir.path()).unwrap_err();
        assert_eq!(damaged.code, Code::Corrupt);
        assert!(damaged.message.contains("node.json"));
        let newer = NodeFile { format: FORMAT + 1, ..node_file() };
        fs::write(dir.path().join("node.json"), serde_json::to_vec(&newer).unwrap()).unwrap();
        assert!(DataDir::open(dir.path()).unwrap_err().message.contains("format 2"));
    }
}
