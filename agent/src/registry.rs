//! The shims that answer: written by the shell, read by every stream.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::data_dir::DataDir;
use crate::epoch::RunnerKey;
use crate::runner::Client;

/// Clients of living shims by epoch.
#[derive(Debug)]
pub(crate) struct Registry {
    dir: DataDir,
    clients: Mutex<BTreeMap<RunnerKey, Client>>,
}

impl Registry {
    pub(crate) fn new(dir: DataDir) -> Self {
        Self { dir, clients: Mutex::new(BTreeMap::new()) }
    }

    pub(crate) fn dir(&self) -> &DataDir {
        &self.dir
    }

    pub(crate) fn insert(&self, key: RunnerKey, client: Client) {
        self.lock().insert(key, client);
    }

    pub(crate) fn remove(&self, key: &RunnerKey) -> Option<Client> {
        self.lock().remove(key)
    }

    pub(crate) fn client(&self, key: &RunnerKey) -> Option<Client> {
        self.lock().get(key).cloned()
    }

    pub(crate) fn all(&self) -> Vec<(RunnerKey, Client)> {
        self.lock().iter().map(|(key, client)| (key.clone(), client.clone())).collect()
    }

    /// Every client, leaving none.
    pub(crate) fn drain(&self) -> Vec<(RunnerKey, Client)> {
        std::mem::take(&mut *self.lock()).into_iter().collect()
    }

    /// Nothing panics while it is held, and a map of handles is never half changed.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<RunnerKey, Client>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
