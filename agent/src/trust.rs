//! `trust`: the operator of this host says where the cluster is now, and that whoever the CA certifies there is to be
//! believed once. For a cluster that was restored from a backup so old that this host does not know its node, or at
//! another address.

use crate::args;
use crate::data_dir::LockError;
use crate::failure::{Failure, exit};
use crate::join::data_dir;
use crate::membership::{Gateway, JOIN_FIRST, Membership, Trust};

/// Replaces the trust bundle; the first welcome brings a new one.
pub(crate) fn trust(args: &args::Trust) -> Result<String, Failure> {
    let dir = data_dir(&args.data_dir)?;
    let membership = Membership::load(&dir).map_err(|error| Failure::of(exit::USAGE, &error, JOIN_FIRST))?;
    let _lock = dir.lock().map_err(|error| match error {
        LockError::Held { .. } => Failure::new(
            exit::CONFLICT,
            "the agent runs, and would not notice",
            format!("it holds {}", dir.root().display()),
            format!(
                "stop it first with `stratavore-agent stop --data-dir {}`; its runners live on",
                args.data_dir.display()
            ),
        ),
        other => Failure::of(exit::GENERIC, &other, "check the permissions of the data directory"),
    })?;
    let nodes = (0..).zip(&args.node).map(|(id, quic)| Gateway { id, quic: quic.clone() }).collect();
    Trust { nodes, ..Trust::default() }
        .save(&dir)
        .map_err(|error| Failure::of(exit::GENERIC, &error, "check that the disk has room"))?;
    Ok(format!(
        "host {} will follow the node of cluster {} that answers at {}\nrun: stratavore-agent run --data-dir {}",
        membership.name,
        membership.cluster_id,
        args.node.join(" or "),
        args.data_dir.display()
    ))
}
