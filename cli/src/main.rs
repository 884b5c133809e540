//! `stratavore`: the command line of a Stratavore cluster.
//!
//! `main` parses, runs one command on a runtime of one thread, and turns its failure into three lines on stderr and
//! an exit code. Everything is lazy: a command that needs no cluster reads no context and dials nobody.

mod args;
mod client;
mod cmd;
mod context;
mod errors;
mod filter;
mod keys;
mod local;
mod program;
mod readable;
mod term;
mod view;

use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::errors::{Exit, Failure, Result};

/// What a shell reports for a program ended by SIGTERM and SIGHUP.
const EXIT_TERMINATED: u8 = 128 + 15;
const EXIT_HANGUP: u8 = 128 + 1;

fn main() -> ExitCode {
    clap_complete::CompleteEnv::with_factory(cmd::complete::with_projects).complete();
    let line: Vec<std::ffi::OsString> = std::env::args_os().collect();
    if let Some(word) = line.first().and_then(|word| word.to_str()) {
        program::set(word);
    }
    let invocation = match args::parse(line) {
        Ok(invocation) => invocation,
        Err(error) => return refused(&error),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&Failure::new(Exit::Generic, "cannot start").cause(error.to_string())),
    };
    let app = cmd::App::new(invocation.globals);
    let result = runtime.block_on(interruptible(&app, cmd::run(&app, invocation.action)));
    // A thread that still reads stdin must not hold up the end.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(failure) => failed(&failure),
    }
}

/// Runs a command until it ends or a signal ends it; either way what it borrowed (the terminal) is given back,
/// because its future is dropped.
async fn interruptible(app: &cmd::App, command: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let (mut interrupt, mut terminate, mut hangup) = match signals() {
        Ok(signals) => signals,
        Err(error) => {
            return Err(Failure::new(Exit::Generic, "cannot listen for signals").cause(error.to_string()));
        }
    };
    tokio::pin!(command);
    loop {
        let ended = tokio::select! {
            result = &mut command => return result,
            _ = interrupt.recv() => Err(Failure::interrupted()),
            _ = terminate.recv() => Ok(ExitCode::from(EXIT_TERMINATED)),
            _ = hangup.recv() => Ok(ExitCode::from(EXIT_HANGUP)),
        };
        if !app.leaves_signals() {
            return ended;
        }
    }
}

fn signals() -> std::io::Result<(Signal, Signal, Signal)> {
    Ok((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?))
}

fn failed(failure: &Failure) -> ExitCode {
    failure.print();
    failure.exit().into()
}

/// Help and version are answers; everything else clap says is a wrong command line.
fn refused(error: &clap::Error) -> ExitCode {
    match args::usage::failure(error) {
        Some(failure) => failed(&failure),
        None => {
            // With the reader of the help gone there is nobody to tell.
            error.print().ok();
            if error.use_stderr() { Exit::Usage.into() } else { ExitCode::SUCCESS }
        }
    }
}
