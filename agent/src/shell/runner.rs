//! One task per runner: starts or re-adopts its shim, then relays what the shim says until the end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use stratavore_proto::v1;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::Input;
use super::deadlines::{self, Deadlines};
use crate::adopt::{Found, look};
use crate::disk::is_no_space;
use crate::dismiss::dismiss;
use crate::epoch::RunnerKey;
use crate::failure::chain;
use crate::registry::Registry;
use crate::runner::{Client, ClientError, FencePreference, Launcher, StartError, StartSpec};
use crate::shim::wire;
use crate::supervisor::{Deadline, RunnerEvent};

/// Pause before a directory that could not be read, or a shim that did not take an order, is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Between the steps of a stop ladder where the order does not say.
const KILL_GRACE: Duration = Duration::from_secs(3);

/// What the tasks of all runners share.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) launcher: Launcher,
    pub(super) registry: Arc<Registry>,
    pub(super) inputs: mpsc::Sender<Input>,
    pub(super) deadlines: Deadlines,
}

impl Context {
    pub(super) async fn tell(&self, key: &RunnerKey, event: RunnerEvent) {
        // The shell is gone only when the process ends.
        let _ended = self.inputs.send(Input::Runner(key.clone(), event)).await;
    }
}

/// Starts the shim and follows it. A directory that already has one is adopted instead: starting is idempotent.
pub(super) async fn start(context: Arc<Context>, key: RunnerKey, start: v1::RunnerStart, deadline: Deadline) {
    let lease = wire::Lease { deadline_ns: deadline.to_wire(), keep: start.keep, hold_ms: start.hold_ms };
    let kill_grace = match start.kill_grace_ms {
        0 => KILL_GRACE,
        ms => Duration::from_millis(ms),
    };
    let spec = StartSpec {
        runner: key.runner().to_owned(),
        epoch: key.epoch().into(),
        start,
        size: None,
        kill_grace,
        fence: FencePreference::Auto,
        lease,
    };
    let dir = context.registry.dir().runner(&key);
    let before = Instant::now();
    match context.launcher.start(&dir, spec).await {
        Ok(client) => {
            let ready_us = u64::try_from(before.elapsed().as_micros()).unwrap_or(u64::MAX);
            info!(runner = %key, pid = client.observation().pid, ready_us, "started");
            context.registry.insert(key.clone(), client.clone());
            follow(context, key, client).await;
        }
        Err(StartError::Failed(report)) => context.tell(&key, RunnerEvent::Observed(*report)).await,
        // Something may run: the directory says what.
        Err(StartError::Exists | StartError::Mute | StartError::Connect(_)) => readopt(context, key).await,
        Err(error) => context.tell(&key, RunnerEvent::StartDeferred { cause: cause_of(&error) }).await,
    }
}

fn cause_of(error: &StartError) -> String {
    let no_space = match error {
        StartError::Spawn(error) => is_no_space(error),
        // The shim's own words.
        StartError::Shim(text) => text.contains("os error 28"),
        _ => false,
    };
    if no_space { format!("disk_full: {}", chain(error)) } else { chain(error) }
}

/// Relays every change of a living shim that is in the registry.
pub(super) async fn follow(context: Arc<Context>, key: RunnerKey, client: Client) {
    let mut watch = client.watch();
    let held = deadlines::held(client.lease());
    drop(client);
    let mut told = false;
    loop {
        let report = watch.borrow_and_update().clone();
        let ended = matches!(report.state(), v1::RunnerState::Terminated | v1::RunnerState::Failed);
        context.tell(&key, RunnerEvent::Observed(report)).await;
        if ended {
            return;
        }
        if !std::mem::replace(&mut told, true) {
            context.tell(&key, RunnerEvent::Leased(Some(held))).await;
        }
        if watch.changed().await.is_err() {
            break;
        }
    }
    warn!(runner = %key, "the shim no longer answers; its directory is read");
    context.registry.remove(&key);
    Box::pin(readopt(context, key)).await;
}

/// Reads the directory until it says something.
pub(super) async fn readopt(context: Arc<Context>, key: RunnerKey) {
    loop {
        match look(&context.launcher, context.registry.dir(), &key).await {
            Ok(Found::Live(client, report)) => {
                context.registry.insert(key.clone(), client.clone());
                context.tell(&key, RunnerEvent::Readopted(report)).await;
                return follow(context, key, client).await;
            }
            Ok(Found::Ended(report)) => return context.tell(&key, RunnerEvent::Observed(report)).await,
            Ok(Found::Intent) => {
                let cause = "the shim left no trace".to_owned();
                return context.tell(&key, RunnerEvent::StartDeferred { cause }).await;
            }
            Err(error) => {
                warn!(runner = %key, error, "the runner's directory cannot be read yet");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// Passes a stop on until the shim has taken it or is gone; its end is told by [`follow`].
pub(super) async fn stop(context: Arc<Context>, key: RunnerKey, force: bool, reason: String) {
    loop {
        let Some(client) = context.registry.client(&key) else { return };
        match client.stop(force, &reason).await {
            Ok(()) | Err(ClientError::Gone) => return,
            Err(error) => {
                warn!(runner = %key, error = chain(&error), "the shim did not take the order to stop");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// Lets the shim of an acknowledged end go. The directory is marked only after that: a mark without it would leave a
/// shim that nobody looks at.
pub(super) async fn reap(context: Arc<Context>, key: RunnerKey) {
    let client = match context.registry.remove(&key) {
        Some(client) => Some(client),
        // None was reached so far; one that lives must still not stay behind.
        None => match look(&context.launcher, context.registry.dir(), &key).await {
            Ok(Found::Live(client, _)) => Some(client),
            Ok(Found::Ended(_) | Found::Intent) => None,
            Err(error) => {
                return warn!(runner = %key, error, "the directory of an ended runner cannot be read");
            }
        },
    };
    if let Some(client) = client
        && let Err(error) = dismiss(client).await
    {
        return warn!(runner = %key, error = chain(&error), "an ended runner's shim does not go");
    }
    // The shell is gone only when the process ends; then the end is told and acknowledged once more.
    let _ended = context.inputs.send(Input::Reaped(key)).await;
}

/// Reads the record of an acknowledged end again.
pub(super) async fn recall(context: Arc<Context>, key: RunnerKey) {
    match look(&context.launcher, context.registry.dir(), &key).await {
        Ok(Found::Ended(report)) => context.tell(&key, RunnerEvent::Recalled(report)).await,
        Ok(Found::Live(..) | Found::Intent) => warn!(runner = %key, "an acknowledged end has no record"),
        Err(error) => warn!(runner = %key, error, "the record of an acknowledged end cannot be read"),
    }
}
