//! `stratavored run`: until a signal asks it to stop, or it cannot go on.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use crate::exit::Failure;
use crate::server::{Options, Server};

/// Runs a node until SIGTERM or SIGINT.
///
/// # Errors
/// It could not start, or had to stop by itself.
pub async fn run(options: Options) -> Result<(), Failure> {
    raise_file_limit();
    let stop = |kind| signal(kind).map_err(|error| Failure::generic("cannot watch for signals", &error));
    let (mut terminate, mut interrupt) = (stop(SignalKind::terminate())?, stop(SignalKind::interrupt())?);
    let mut server = Server::start(options).await?;
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        // No drain: what failed may be the storage, and a crash is as safe.
        failure = server.failed() => return Err(failure),
    }
    server.drain().await;
    Ok(())
}

/// Each agent, client and table file takes a descriptor; the usual soft limit of 1024 is for `select`.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).ok();
}
