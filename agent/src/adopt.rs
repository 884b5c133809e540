//! What the data directory says about each epoch, read at start and whenever a shim falls silent.

use std::io;
use std::sync::Arc;

use futures::StreamExt;
use stratavore_proto::v1;
use tracing::{info, warn};

use crate::data_dir::DataDir;
use crate::epoch::RunnerKey;
use crate::failure::chain;
use crate::ledger::unstarted;
use crate::registry::Registry;
use crate::runner::{Adoption, Client, Launcher};
use crate::seen::Seen;
use crate::supervisor::Inventory;

/// Directories looked at together: each may wait for a mute shim, and a thousand must not take minutes.
const ADOPTIONS_MAX: usize = 32;

/// What is behind one directory.
pub(crate) enum Found {
    Live(Client, v1::Observation),
    Ended(v1::Observation),
    /// Nothing ever ran.
    Intent,
}

/// Reads one directory. Kills what a dead or mute shim left behind.
pub(crate) async fn look(launcher: &Launcher, dir: &DataDir, key: &RunnerKey) -> Result<Found, String> {
    if let Some(report) = unstarted(dir, key) {
        return Ok(Found::Ended(report));
    }
    match launcher.adopt(&dir.runner(key)).await {
        Ok(Adoption::Live(client)) => {
            let report = client.observation();
            Ok(Found::Live(client, report))
        }
        Ok(Adoption::Exited(report) | Adoption::ShimLost(report)) => Ok(Found::Ended(report)),
        Ok(Adoption::Empty) => Ok(Found::Intent),
        Err(error) => Err(chain(&error)),
    }
}

/// Adopts everything below `runners/`, many at a time. Living shims go into the registry.
///
/// # Errors
/// When the directory itself cannot be listed. A single one that cannot be read counts as unclear.
pub(crate) async fn adopt_all(
    launcher: &Launcher,
    registry: &Arc<Registry>,
    seen: Seen,
) -> io::Result<Inventory> {
    let mut inventory = Inventory { seen: seen.index, ..Inventory::default() };
    let mut open = Vec::new();
    for key in keys(registry.dir())? {
        if registry.dir().acknowledged(&key).exists() {
            inventory.settled.push(key);
        } else {
            open.push(key);
        }
    }
    let mut found = futures::stream::iter(open)
        .map(|key| async move {
            let found = look(launcher, registry.dir(), &key).await;
            (key, found)
        })
        .buffer_unordered(ADOPTIONS_MAX);
    let mut live = 0_usize;
    while let Some((key, found)) = found.next().await {
        match found {
            Ok(Found::Live(client, report)) => {
                live += 1;
                inventory.observed.push(report);
                registry.insert(key, client);
            }
            Ok(Found::Ended(report)) => inventory.observed.push(report),
            Ok(Found::Intent) => inventory.intended.push(key),
            Err(error) => {
                warn!(runner = %key, error, "a runner's directory cannot be judged yet");
                inventory.unclear.push(key);
            }
        }
    }
    let ended = inventory.observed.len() - live;
    info!(live, ended, settled = inventory.settled.len(), intended = inventory.intended.len(), "adopted");
    Ok(inventory)
}

/// Names below `runners/` that are epochs; others are none of ours.
pub(crate) fn keys(dir: &DataDir) -> io::Result<Vec<RunnerKey>> {
    let mut keys = Vec::new();
    for entry in std::fs::read_dir(dir.runners())? {
        let name = entry?.file_name();
        match name.to_string_lossy().parse::<RunnerKey>() {
            Ok(key) => keys.push(key),
            Err(error) => warn!(%error, "ignored in {}", dir.runners().display()),
        }
    }
    Ok(keys)
}
