//! `up`: a cluster on this machine, new or again.

use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::{App, OK};
use crate::args::{Output, UpArgs};
use crate::errors::{Exit, Failure, Result};
use crate::local::child::Readers;
use crate::local::foreground::Tails;
use crate::local::programs::Programs;
use crate::local::record::Record;
use crate::local::supervisor::Supervisor;
use crate::local::{CONTEXT, Layout, start, stop};
use crate::view;
use crate::view::json::{self, Object};

/// Starts what is missing and waits until it answers.
///
/// # Errors
/// A count this release cannot do, a taken port, a missing program, or what died while starting.
pub(crate) async fn run(app: &App, args: UpArgs) -> Result<ExitCode> {
    let layout = Layout::of_user()?;
    start::counts(&args, Record::load(&layout)?.as_ref())?;
    layout.create()?;
    let lock = layout.lock()?;
    let programs = Programs::find()?;
    let record = start::prepare(&app.globals, &layout, &programs, &args).await?;
    // Everything below talks to this cluster, whatever context is set elsewhere.
    let local = App::new(app.globals.with_context(CONTEXT));
    if args.foreground {
        app.handles_signals();
        return foreground(&local, &layout, &programs, record).await;
    }
    start::ensure_supervisor(&layout, &record).await?;
    start::until_ready(&local, &layout, &programs).await?;
    drop(lock);
    let record = Record::load(&layout)?.unwrap_or(record);
    start::say_ready(&record);
    match app.output() {
        Output::Json => json::print(&Object::new("LocalCluster", &record))?,
        Output::Table => {
            view::tell("next: stratavore new NAME, then stratavore NAME; stop with stratavore down")
        }
    }
    OK
}

/// Supervises in this terminal until Ctrl-C, then stops everything.
async fn foreground(app: &App, layout: &Layout, programs: &Programs, record: Record) -> Result<ExitCode> {
    if record.live_supervisor().is_some() || record.members().any(|member| member.alive().is_some()) {
        return Err(Failure::new(Exit::Conflict, "the local cluster runs already")
            .cause("its logs go to files")
            .next("stratavore down, then up --foreground"));
    }
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut tails = Tails::new(&record);
    let mut supervisor = Supervisor::new(layout.clone(), Readers::Person)?;
    let ready = async {
        // The supervisor writes the record that this looks at.
        tokio::time::sleep(Duration::from_millis(50)).await;
        start::until_ready(app, layout, programs).await?;
        start::say_ready(&record);
        view::tell("Ctrl-C stops everything");
        std::future::pending::<Result<()>>().await
    };
    let ended = tokio::select! {
        ended = supervisor.supervise() => ended.map(|_| ()),
        ended = ready => ended,
        () = tails.run() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    view::tell("stopping");
    let mut record = Record::load(layout)?.unwrap_or(record);
    let stopped = tokio::select! {
        stopped = stop::stop_all(&app.globals, layout, &mut record, std::process::id()) => stopped,
        () = tails.run() => Ok(()),
    };
    tails.show();
    ended.and(stopped)?;
    OK
}
