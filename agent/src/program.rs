//! The program: arguments, log, runtime, exit code.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use stratavore_settings::Sources;
use stratavore_settings::log::{self, LogFormat, LogOptions};

use crate::args::{Arguments, Command, Run};
use crate::config::AgentConfig;
use crate::failure::{Failure, exit};
use crate::{join, run, stop, trust};

/// An agent waits; two threads keep a slow one from delaying the other, and more would only cost memory.
const WORKERS: usize = 2;

/// Threads for files: batches are serial, adoption and logs are few.
const BLOCKING_THREADS_MAX: usize = 16;

/// Runs the program with the process's arguments. `shim` is not among its commands: see [`crate::shim`].
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _closed = error.print();
            return if error.use_stderr() { ExitCode::from(exit::USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match execute(arguments) {
        Ok(said) => {
            if !said.is_empty() {
                let _closed = writeln!(std::io::stdout(), "{said}");
            }
            ExitCode::SUCCESS
        }
        Err(failure) => {
            let _closed = writeln!(std::io::stderr(), "{failure}");
            ExitCode::from(failure.code)
        }
    }
}

fn execute(arguments: Arguments) -> Result<String, Failure> {
    let format = arguments.log_format;
    match arguments.command {
        Command::Version => Ok(format!("stratavore-agent {}", env!("CARGO_PKG_VERSION"))),
        Command::Join(args) => {
            log_briefly(format)?;
            block_on(join::join(args))
        }
        Command::Stop(args) => {
            log_briefly(format)?;
            block_on(stop::stop(args))
        }
        Command::Trust(args) => {
            log_briefly(format)?;
            trust::trust(&args)
        }
        Command::Run(args) => {
            let dir = join::data_dir(&args.data_dir)?;
            let config = configure(&args, format)?;
            block_on(run::run(dir, config)).map(|()| String::new())
        }
    }
}

/// Commands that a person waits for log only what went wrong.
fn log_briefly(format: Option<LogFormat>) -> Result<(), Failure> {
    let options = LogOptions { format: format.unwrap_or_default(), level: "warn".into() };
    log::init(&options).map_err(|error| Failure::of(exit::USAGE, &error, ""))
}

fn configure(args: &Run, format: Option<LogFormat>) -> Result<AgentConfig, Failure> {
    let sources = Sources::new(args.config.clone()).flag("--log-format", "log.format", format);
    let loaded = stratavore_settings::load::<AgentConfig>(sources).map_err(|error| {
        Failure::of(exit::USAGE, &error, "correct the configuration, or leave it out: defaults suffice")
    })?;
    log::init(&loaded.value.log).map_err(|error| Failure::of(exit::USAGE, &error, "correct log.level"))?;
    Ok(loaded.value)
}

fn block_on<T>(task: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .enable_all()
        .build()
        .map_err(|error| Failure::of(exit::GENERIC, &error, "raise the limit of threads and open files"))?;
    let result = runtime.block_on(task);
    // A blocking call into a hung disk must not keep the process.
    runtime.shutdown_background();
    result
}
