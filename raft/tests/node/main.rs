//! One node from outside: restarts, damage, crashes.

// clippy exempts #[test] functions only, not what they call; a panic here is a failed test.
#![allow(clippy::unwrap_used)]

#[path = "../cluster/mod.rs"]
mod cluster;
mod crash;
mod damage;
mod directory;
mod full_disk;
mod restart;

use stratavore_model::{Entry, ProjectName, Reply};
use stratavore_raft::Handle;

/// Proposes and expects success.
async fn done(handle: &Handle, entry: Entry) -> Reply {
    let applied = handle.propose(entry).await.unwrap();
    assert!(applied.reply.rejected().is_none(), "{:?}", applied.reply);
    applied.reply
}

async fn create_projects(handle: &Handle, names: impl IntoIterator<Item = String>) {
    for name in names {
        done(handle, cluster::create_project(&name)).await;
    }
}

fn project_names(handle: &Handle) -> Vec<String> {
    handle.read(|state| state.projects().map(|project| project.name.to_string()).collect())
}

fn has_project(handle: &Handle, name: &str) -> bool {
    let name: ProjectName = name.parse().unwrap();
    handle.read(|state| state.project(&name).is_some())
}
