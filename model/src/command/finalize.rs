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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Joiner, SetMaintenance, SetNodeAddress};
    use crate::lab::{Lab, founded_at};
    use crate::{COMMAND_VERSION, Command, NodeAddresses, NodeId, OnDisconnect, Role};

    fn finalize(lab: &mut Lab, version: u32) -> Result<Reply, Rejected> {
        lab.user(Command::Finalize(Finalize { version }))
    }

    fn announce(lab: &mut Lab, max_version: u32) -> Result<Reply, Rejected> {
        let (addresses, version) = (NodeAddresses::default(), String::new());
        let set = SetNodeAddress { node: NodeId(1), addresses, version, max_version };
        lab.as_node(Command::SetNodeAddress(set))
    }

    fn join(lab: &mut Lab, max_version: u32) -> Result<Reply, Rejected> {
        let token = lab.token(Role::Node);
        let addresses = NodeAddresses::default();
        let joiner = Joiner::Node { addresses, version: String::new(), max_version };
        let redeem = lab.redeem_command(token, joiner);
        lab.as_node(Command::RedeemToken(redeem))
    }

    #[test]
    fn p22_it_takes_every_member_and_is_never_taken_back() {
        let mut lab = founded_at(1);
        join(&mut lab, 1).unwrap();
        let refused = finalize(&mut lab, 2).unwrap_err();
        assert_eq!(refused.code, Code::VersionNotSupported);
        assert!(refused.message.contains("2 (at most 1)"), "{}", refused.message);
        lab.user(Command::RemoveNode(crate::command::RemoveNode { node: NodeId(2) })).unwrap();
        finalize(&mut lab, 2).unwrap();
        finalize(&mut lab, 2).unwrap();
        assert_eq!(lab.events_of(EventKind::ClusterFinalized), 1);
        assert_eq!(finalize(&mut lab, 1).unwrap_err().code, Code::BadArgument);
        let newer = COMMAND_VERSION + 1;
        assert_eq!(finalize(&mut lab, newer).unwrap_err().code, Code::VersionNotSupported);
    }

    #[test]
    fn p22_a_program_that_is_too_old_neither_joins_nor_comes_back() {
        let mut lab = founded_at(1);
        announce(&mut lab, 1).unwrap();
        announce(&mut lab, 2).unwrap();
        finalize(&mut lab, 2).unwrap();
        assert_eq!(join(&mut lab, 1).unwrap_err().code, Code::VersionTooOld);
        assert_eq!(announce(&mut lab, 1).unwrap_err().code, Code::VersionTooOld);
        join(&mut lab, 2).unwrap();
    }

    #[test]
    fn p22_newer_commands_wait_until_it_is_finalized() {
        let mut lab = founded_at(1);
        lab.create_project("web", 5).unwrap();
        let maintenance = Command::SetMaintenance(SetMaintenance { for_ms: 1 });
        assert_eq!(lab.user(maintenance.clone()).unwrap_err().code, Code::NotFinalized);
        let mut launch = lab.launch_command("web", 1);
        launch.spec.on_disconnect = OnDisconnect::Stop;
        let launch = Command::Launch(launch);
        assert_eq!(lab.user(launch.clone()).unwrap_err().code, Code::NotFinalized);
        finalize(&mut lab, 2).unwrap();
        lab.user(maintenance).unwrap();
        lab.user(launch).unwrap();
    }

    #[test]
    fn p22_a_cluster_is_not_founded_above_its_founder() {
        let mut lab = Lab::empty();
        let Command::InitCluster(mut init) = crate::lab::init() else { panic!("not the first command") };
        init.node_max_version = 1;
        assert_eq!(lab.system(Command::InitCluster(init)).unwrap_err().code, Code::VersionTooOld);
    }
}
