//! Keeps a runner's processes together, so that all of them can be found and ended.
//!
//! | fence | finds and kills all | dies with the shim |
//! |---|---|---|
//! | `cgroup` | `cgroup.kill` on a v2 leaf, works without controllers | a guardian process writes `cgroup.kill` |
//! | `pidns` | killing the namespace's init | init has PDEATHSIG on the shim (P11) |
//! | `weak` | subreaper: every orphan of the tree becomes a child of the shim | no |
//!
//! The sweep of the subreaper works under every fence, and runs under every fence: a process may leave its cgroup.

pub mod cgroup;
pub mod descend;
pub(super) mod guardian;

use std::io;
use std::path::Path;

use super::wire::FenceOrder;
use cgroup::Leaf;

/// How a tree is fenced; the name is what observations carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Cgroup,
    PidNamespace,
    Weak,
}

impl Kind {
    /// `cgroup`, `pidns` or `weak`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
            Self::PidNamespace => "pidns",
            Self::Weak => "weak",
        }
    }
}

/// What was made for one runner before its command starts.
#[derive(Debug)]
pub struct Fence {
    pub leaf: Option<Leaf>,
    /// v1 directories of this runner, to be removed at the end.
    joined: Vec<String>,
    oom_counter: String,
}

impl Fence {
    /// Makes the leaf and the limits. A leaf that cannot be made is no error, a limit that cannot be set is: the
    /// command would run without what was asked for.
    ///
    /// # Errors
    /// The control file that refused its value, by name.
    pub fn prepare(order: &FenceOrder) -> io::Result<Self> {
        let leaf = if order.cgroup.is_empty() { None } else { Leaf::create(Path::new(&order.cgroup)).ok() };
        let named = |path: &str, error: io::Error| io::Error::new(error.kind(), format!("{path}: {error}"));
        for dir in &order.join {
            std::fs::create_dir_all(dir).map_err(|error| named(dir, error))?;
        }
        for limit in &order.limits {
            std::fs::write(&limit.path, &limit.value).map_err(|error| named(&limit.path, error))?;
        }
        Ok(Self { leaf, joined: order.join.clone(), oom_counter: order.oom_counter.clone() })
    }

    /// How often the kernel killed a process of this runner for its memory.
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        let Ok(text) = std::fs::read_to_string(&self.oom_counter) else { return 0 };
        let count = |line: &str| line.strip_prefix("oom_kill ").and_then(|value| value.trim().parse().ok());
        text.lines().find_map(count).unwrap_or(0)
    }

    /// Removes what was made; the tree must be gone.
    pub fn remove(&self) {
        if let Some(leaf) = &self.leaf {
            leaf.remove();
        }
        for dir in &self.joined {
            // A leftover process keeps it; it is named in the exit record, so the directory says nothing new.
            drop(std::fs::remove_dir(dir));
        }
    }
}
