//! `stratavore cluster finalize` (P22).

use serde::Serialize;

use crate::cluster::ClusterRecord;
use crate::command::{Success, Verdict};
use crate::event::EventKind;
use crate::reply::{Code, Rejected, Reply};
use crate::row::Row;
use crate::tx::Tx;

/// Raises the cluster version, after which no older program may open this state again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finalize {
    pub version: u32,
}

impl Finalize {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        let Some(cluster) = tx.state().cluster().cloned() else {
            return Err(Rejected::new(Code::NotInitialized, "there is no cluster here yet", ""));
        };
        let (present, wanted) = (cluster.version, self.version);
        if wanted < present {
            let message = format!("the cluster is at version {present} already, and {wanted} is older");
            return Err(Rejected::bad_argument(
                "version",
                message,
                "a finalized version is never taken back",
            ));
        }
        self.check_members(tx)?;
        if wanted > present {
            tx.event(EventKind::ClusterFinalized, &format!("version {present} -> {wanted}"));
            tx.put(Row::Cluster(Box::new(ClusterRecord { version: wanted, ..cluster })));
        }
        Ok(Success::done(Reply::Done))
    }

    /// All members, learners too: each of them applies every entry. That this program is among those that can, says
    /// its own row.
    fn check_members(&self, tx: &Tx<'_>) -> Result<(), Rejected> {
        let lacking = tx.state().nodes().filter(|node| !node.removed && node.max_version < self.version);
        let lacking: Vec<_> =
            lacking.map(|node| format!("{} (at most {})", node.id, node.max_version)).collect();
        if lacking.is_empty() {
            return Ok(());
        }
        let message =
            format!("version {} is more than these nodes know: {}", self.version, lacking.join(", "));
        let next = "update and restart them, or remove them with `stratavore cluster remove`";
        Err(Rejected::new(Code::VersionNotSupported, message, next).field("version"))
    }
}

/// A member that cannot apply what the cluster does would stop at the next entry. Compares rows only: what this program
/// knows must not decide, since another one's apply would decide otherwise.
pub(super) fn check_new_enough(version: u32, max_version: u32) -> Result<(), Rejected> {
    if max_version >= version {
        return Ok(());
    }
    let message = format!("the cluster is at version {version}, and the node knows at most {max_version}");
    Err(Rejected::new(Code::VersionTooOld, message, "install the program that the other nodes run"))
}
