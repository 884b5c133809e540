//! `run`: the wiring of one agent, from its data directory to its end.

use std::path::PathBuf;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use stratavore_certs::{Credentials, Identity as CertificateIdentity};
use stratavore_settings::dirs;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::adopt::adopt_all;
use crate::config::AgentConfig;
use crate::control::Control;
use crate::data_dir::{DataDir, lock_host};
use crate::failure::{Failure, chain, exit};
use crate::ledger::Ledger;
use crate::link::{self, Link};
use crate::membership::{JOIN_FIRST, Membership, Trust};
use crate::registry::Registry;
use crate::runner::{Host, Launcher};
use crate::shell::{self, Ending, Shell};
use crate::stop::sockets;
use crate::supervisor::{Core, Finish, Identity, Move};
use crate::{host, retention, systemd};

/// Open files wanted: one for each runner, some for viewers; the usual soft limit of 1024 would end at 1000 runners.
const OPEN_FILES: u64 = 65_536;

/// Requests for another node that may wait: one says it all.
const MOVE_ON_MAX: usize = 1;

/// Runs the agent of `dir` until a signal, an order or the cluster ends it.
pub(crate) async fn run(dir: DataDir, config: AgentConfig) -> Result<(), Failure> {
    let membership = Membership::load(&dir).map_err(|error| Failure::of(exit::USAGE, &error, JOIN_FIRST))?;
    let _lock = dir.lock().map_err(|error| Failure::of(exit::CONFLICT, &error, ""))?;
    let credentials = credentials(&dir, &membership)?;
    raise_open_files();
    let leave = CancellationToken::new();
    watch_signals(leave.clone())?;
    tokio::task::spawn_blocking(systemd::warn_about_kill_mode);

    let sockets = sockets(&membership)?;
    let _host_lock = lock_host(&sockets).map_err(|error| Failure::of(exit::CONFLICT, &error, ""))?;
    let control = Control::bind(&sockets)
        .map_err(|error| Failure::of(exit::GENERIC, &error, format!("check {}", sockets.display())))?;
    let (move_on, moves) = mpsc::channel(MOVE_ON_MAX);
    let parts = supervise(&dir, &membership, sockets, move_on).await?;
    let registry = Arc::clone(&parts.registry);
    let trust = Trust::load(&dir, &membership).unwrap_or_else(|error| {
        warn!(
            error = chain(&error),
            "the trust bundle is unusable; any node of the cluster's CA is accepted until a new one comes"
        );
        Trust::first(&membership)
    });
    let (shell, inputs, receiver) = Shell::new(parts);
    let link = Link::new(link::Parts {
        dir: dir.clone(),
        credentials: Arc::new(credentials),
        trust,
        gso: config.agent.udp_gso,
        inputs: inputs.clone(),
        registry,
        move_on: moves,
    });
    tokio::spawn(control.run(inputs.clone(), leave.clone()));
    tokio::spawn(retention::run(dir.clone(), retention::Bounds::of(&config.agent), inputs.clone()));
    let quit_link = CancellationToken::new();
    let linked = tokio::spawn(link.run(quit_link.clone()));
    info!(host = membership.name, cluster = membership.cluster_id, dir = %dir.root().display(), "agent is up");

    let ending = shell.run(receiver, leave).await;
    quit_link.cancel();
    if linked.await.is_err() {
        warn!("the link ended badly");
    }
    conclude(ending, &membership)
}

fn conclude(ending: Ending, membership: &Membership) -> Result<(), Failure> {
    match ending {
        Ending::Left => info!("leaving; runners live on and are adopted at the next start"),
        Ending::Finished(Finish::HostStopped) => info!("every runner is stopped; leaving"),
        Ending::Finished(Finish::Removed) => {
            let cause = format!(
                "host {} was removed from cluster {}; its runners are stopped",
                membership.name, membership.cluster_id
            );
            let next = "to use this machine again, join with a new token and another --data-dir";
            return Err(Failure::new(
                exit::REMOVED,
                "this host no longer belongs to the cluster",
                cause,
                next,
            ));
        }
    }
    Ok(())
}

fn credentials(dir: &DataDir, membership: &Membership) -> Result<Credentials, Failure> {
    let next = "restore the files of pki/ or join again with a new token and another --data-dir";
    let credentials =
        Credentials::load(&dir.pki(), "host").map_err(|error| Failure::of(exit::GENERIC, &error, next))?;
    let expected =
        CertificateIdentity::Host { cluster: membership.cluster_id.clone(), id: membership.host_id.clone() };
    if *credentials.identity() == expected {
        Ok(credentials)
    } else {
        let cause = format!("the certificate is for {}, agent.json says {expected}", credentials.identity());
        Err(Failure::new(exit::CONFLICT, "the data directory mixes two identities", cause, next))
    }
}

/// Adopts what runs here and readies the core over it, before anything is dialled.
async fn supervise(
    dir: &DataDir,
    membership: &Membership,
    sockets: PathBuf,
    move_on: mpsc::Sender<Move>,
) -> Result<shell::Parts, Failure> {
    let unusable = |error: std::io::Error| {
        Failure::of(exit::GENERIC, &error, format!("check {} and the disk it is on", dir.root().display()))
    };
    let ledger = Ledger::open(dir.clone()).map_err(unusable)?;
    let host = Host::prepare(&dirs::host_scope(&membership.host_id));
    let facts = host::facts(membership.slots, host.features(), host.fence());
    let launcher = Launcher::new(host, sockets);
    launcher.warm_up().await;
    let registry = Arc::new(Registry::new(dir.clone()));
    let inventory = adopt_all(&launcher, &registry, ledger.seen()).await.map_err(unusable)?;
    let mut instance = [0_u8; 16];
    getrandom::fill(&mut instance).map_err(|error| unusable(std::io::Error::other(error.to_string())))?;
    let identity = Identity {
        host_id: membership.host_id.clone(),
        cluster_id: membership.cluster_id.clone(),
        boot_id: host::boot_id(),
        instance: bytes::Bytes::copy_from_slice(&instance),
        facts,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    Ok(shell::Parts {
        unclear: inventory.unclear.clone(),
        core: Core::new(identity, inventory),
        ledger,
        launcher,
        registry,
        move_on,
    })
}

/// Starts and adopts shims of this host.
pub(crate) fn launcher(membership: &Membership, sockets: PathBuf) -> Launcher {
    Launcher::new(Host::prepare(&dirs::host_scope(&membership.host_id)), sockets)
}

fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(OPEN_FILES, |maximum| maximum.min(OPEN_FILES));
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            warn!(%error, limit = limit.current, "the limit of open files cannot be raised");
        }
    }
}

/// SIGTERM and SIGINT mean: leave, and leave runners alive.
fn watch_signals(leave: CancellationToken) -> Result<(), Failure> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind).map_err(|error| Failure::of(exit::GENERIC, &error, ""))?;
        let leave = leave.clone();
        tokio::spawn(async move {
            if signals.recv().await.is_some() {
                leave.cancel();
            }
        });
    }
    Ok(())
}
