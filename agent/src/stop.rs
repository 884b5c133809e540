//! `stop`: ends a running agent, and with `--runners` everything on this host, with or without agent and nodes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use stratavore_proto::v1;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

use crate::adopt::{Found, adopt_all, look};
use crate::args;
use crate::control::{self, Request};
use crate::data_dir::{DataDir, Lock, LockError, lock_host};
use crate::dismiss::dismiss;
use crate::epoch::RunnerKey;
use crate::failure::{Failure, chain, exit};
use crate::join::data_dir;
use crate::membership::{JOIN_FIRST, Membership};
use crate::registry::Registry;
use crate::run::launcher;
use crate::runner::{Client, ClientError, Launcher};
use crate::seen::Seen;

/// Reason recorded for each runner.
const REASON: &str = "host_stopped";

/// Between two looks at the lock of an agent that is ending.
const LOCK_POLL: Duration = Duration::from_millis(20);

/// Between two looks at a directory whose shim is starting.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// Ends the agent of `args.data_dir`; says what was done.
pub(crate) async fn stop(args: args::Stop) -> Result<String, Failure> {
    let dir = data_dir(&args.data_dir)?;
    let membership = Membership::load(&dir).map_err(|error| Failure::of(exit::USAGE, &error, JOIN_FIRST))?;
    let deadline = Instant::now() + args.timeout;
    let sockets = sockets(&membership)?;
    let request = if args.runners { Request::StopRunners } else { Request::Leave };
    let asked = timeout_at(deadline, control::ask(&sockets, request)).await.map_err(|_| late(&args))?;
    match asked {
        Ok(true) => info!("the agent has taken the order"),
        Ok(false) => info!("no agent answers"),
        Err(error) => warn!(%error, "the agent cannot be asked"),
    }
    let late = |failure: Option<Failure>| failure.unwrap_or_else(|| late(&args));
    let _lock = wait_for(deadline, || dir.lock()).await.map_err(late)?;
    let _host_lock = wait_for(deadline, || lock_host(&sockets)).await.map_err(late)?;
    if !args.runners {
        return Ok("the agent has ended; its runners live on".into());
    }
    // Whatever the agent did not end, or left when it died, ends here.
    let ended =
        timeout_at(deadline, stop_left(&dir, &membership, sockets)).await.map_err(|_| late(None))??;
    Ok(match ended {
        0 => "the agent and its runners have ended".into(),
        ended => format!("the agent had died; {ended} of its runners were stopped"),
    })
}

fn late(args: &args::Stop) -> Failure {
    let cause = format!("not done within {}", humantime::format_duration(args.timeout));
    let next = "run it again with a longer --timeout; what was asked to stop goes on stopping";
    Failure::new(exit::TIMEOUT, "the agent or a runner has not ended yet", cause, next)
}

pub(crate) fn sockets(membership: &Membership) -> Result<PathBuf, Failure> {
    use stratavore_settings::dirs;
    dirs::socket_dir(&dirs::host_scope(&membership.host_id)).map_err(|error| {
        Failure::of(exit::GENERIC, &error, "check XDG_RUNTIME_DIR, or the permissions of /run and /tmp")
    })
}

/// `Err(None)` when the deadline passed.
async fn wait_for(
    deadline: Instant,
    lock: impl Fn() -> Result<Lock, LockError>,
) -> Result<Lock, Option<Failure>> {
    loop {
        match lock() {
            Ok(lock) => return Ok(lock),
            Err(LockError::Io { path, source }) => {
                let what = format!("cannot lock {}", path.display());
                return Err(Some(Failure::new(
                    exit::GENERIC,
                    what,
                    source.to_string(),
                    "check its permissions",
                )));
            }
            Err(_) if Instant::now() < deadline => tokio::time::sleep(LOCK_POLL).await,
            Err(_) => return Err(None),
        }
    }
}

/// Stops every living shim of a data directory whose lock we hold; how many there were.
async fn stop_left(dir: &DataDir, membership: &Membership, sockets: PathBuf) -> Result<usize, Failure> {
    let launcher = launcher(membership, sockets);
    let registry = Arc::new(Registry::new(dir.clone()));
    let inventory = adopt_all(&launcher, &registry, Seen::default())
        .await
        .map_err(|error| Failure::of(exit::GENERIC, &error, "check the data directory"))?;
    let mut tasks = JoinSet::new();
    let clients = registry.drain();
    let living = clients.len() + inventory.unclear.len();
    for (key, client) in clients {
        tasks.spawn(end(launcher.clone(), dir.clone(), key, Some(client)));
    }
    for key in inventory.unclear {
        tasks.spawn(end(launcher.clone(), dir.clone(), key, None));
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            warn!(%error, "a runner could not be stopped");
        }
    }
    Ok(living)
}

/// Runs one stop ladder to its end. The record stays for the cluster; the shim does not.
async fn end(launcher: Launcher, dir: DataDir, key: RunnerKey, mut client: Option<Client>) {
    loop {
        if let Some(client) = client.take() {
            match run_ladder(client).await {
                Ok(()) | Err(ClientError::Gone) => {}
                Err(error) => warn!(runner = %key, error = chain(&error), "the shim does not answer"),
            }
        }
        // A dead shim's leftovers are killed by looking.
        match look(&launcher, &dir, &key).await {
            Ok(Found::Live(again, _)) => client = Some(again),
            Ok(Found::Ended(_) | Found::Intent) => return,
            Err(error) => {
                warn!(runner = %key, error, "the runner's directory cannot be judged yet");
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        }
    }
}

async fn run_ladder(client: Client) -> Result<(), ClientError> {
    let mut watch = client.watch();
    if !is_over(&watch.borrow_and_update().clone()) {
        client.stop(false, REASON).await?;
    }
    while !is_over(&watch.borrow_and_update().clone()) {
        watch.changed().await.map_err(|_| ClientError::Gone)?;
    }
    dismiss(client).await
}

fn is_over(report: &v1::Observation) -> bool {
    matches!(report.state(), v1::RunnerState::Terminated | v1::RunnerState::Failed)
}
