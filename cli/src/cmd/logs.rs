//! `logs`: what a runner wrote, filtered so that it can do nothing to a terminal.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use stratavore_proto::v1::{Epoch, ReadLogsRequest, ReadLogsResponse, RunnerState};
use tonic::Streaming;

use super::again::{self, After};
use super::{App, OK, describe};
use crate::args::LogsArgs;
use crate::client::{self, Once};
use crate::errors::{Exit, Failure, Result};
use crate::filter::LogFilter;
use crate::term::raw;
use crate::view;

/// Pause before a lost stream is opened again.
const REOPEN_PAUSE: Duration = Duration::from_millis(200);

/// How much earlier than the last chunk a continued read begins: clocks of chunks are coarse, offsets decide.
const OVERLAP_MS: i64 = 2_000;

/// Prints the log of the newest start; with `--follow` of every start that comes after it, with `--previous` of the one
/// before.
///
/// # Errors
/// An unknown runner, or the cluster's refusal.
pub(crate) async fn run(app: &App, args: LogsArgs) -> Result<ExitCode> {
    let name = args.runner.clone().or_else(|| args.runner_flag.clone()).unwrap_or_default();
    let mut printer = Printer::new()?;
    let mut epoch = if args.previous { Some(previous(app, &name).await?) } else { None };
    if args.follow {
        let runner = describe::get(app, &name).await?.runner.unwrap_or_default();
        // While it waits for its next start, the last one is what there is to read.
        let last = runner.last_start.as_ref().and_then(|last| last.epoch);
        epoch = if runner.state() == RunnerState::Pending { last } else { runner.epoch };
    }
    let mut args = args;
    loop {
        one_start(app, &name, &args, epoch, &mut printer).await?;
        if !args.follow || !goes_on(app, &name, &mut epoch).await? {
            break;
        }
        args.tail = None;
    }
    printer.finish()?;
    OK
}

/// Moves `epoch` to the start that follows it; false when none will.
async fn goes_on(app: &App, name: &str, epoch: &mut Option<Epoch>) -> Result<bool> {
    let runner = describe::get(app, name).await?.runner.unwrap_or_default();
    if runner.epoch.is_some() && runner.epoch != *epoch {
        *epoch = runner.epoch;
        return Ok(true);
    }
    if view::runner::is_ended(&runner) {
        return Ok(false);
    }
    match again::after(app, &runner.id, *epoch).await? {
        After::Over(_) => Ok(false),
        After::Started(next) => {
            *epoch = next.epoch;
            Ok(true)
        }
    }
}

/// The start before the present one.
async fn previous(app: &App, name: &str) -> Result<Epoch> {
    let runner = describe::get(app, name).await?.runner.unwrap_or_default();
    runner.last_start.and_then(|last| last.epoch).ok_or_else(|| {
        Failure::new(Exit::NotFound, format!("{name} has no previous start"))
            .cause("only what a --restart policy has started again has one")
            .next(format!("stratavore logs {name}"))
    })
}

/// Prints what one start wrote, over as many connections as it takes.
async fn one_start(
    app: &App,
    runner: &str,
    args: &LogsArgs,
    epoch: Option<Epoch>,
    printer: &mut Printer,
) -> Result<()> {
    let mut position = Position::default();
    loop {
        let mut stream = open(app, runner, args, epoch, &position).await?;
        match copy(&mut stream, &mut position, printer).await? {
            None => return Ok(()),
            Some(status) => match app.client()?.failed(status) {
                Once::Refused(status) if status.code() != tonic::Code::Unavailable => {
                    printer.finish()?;
                    return Err(Failure::from_status(&status, &format!("read the log of {runner}")));
                }
                Once::Fatal(failure) => return Err(failure),
                _ => tokio::time::sleep(REOPEN_PAUSE).await,
            },
        }
    }
}

/// Prints the whole log as it is.
///
/// # Errors
/// As [`run`].
pub(crate) async fn print_all(app: &App, runner: &str) -> Result<ExitCode> {
    let args = LogsArgs {
        runner: Some(runner.to_owned()),
        runner_flag: None,
        follow: false,
        tail: None,
        previous: false,
        since: None,
    };
    run(app, args).await
}

async fn open(
    app: &App,
    runner: &str,
    args: &LogsArgs,
    epoch: Option<Epoch>,
    position: &Position,
) -> Result<Streaming<ReadLogsResponse>> {
    let resumed = position.next.is_some();
    let request = ReadLogsRequest {
        runner: runner.to_owned(),
        epoch,
        follow: args.follow,
        tail_lines: if resumed { None } else { args.tail },
        since_unix_ms: if resumed { Some(position.time_unix_ms - OVERLAP_MS) } else { args.since },
    };
    app.client()?
        .open(&format!("read the log of {runner}"), resumed, async |channel| {
            client::terminal(channel).read_logs(request.clone()).await
        })
        .await
}

/// Copies until the end (`None`) or a failure of the stream.
async fn copy(
    stream: &mut Streaming<ReadLogsResponse>,
    position: &mut Position,
    printer: &mut Printer,
) -> Result<Option<tonic::Status>> {
    loop {
        match stream.message().await {
            Ok(Some(chunk)) => {
                if chunk.dropped_bytes > 0 && position.next.is_none_or(|next| chunk.offset > next) {
                    view::tell(&format!(
                        "{} bytes are no longer (or were never) in the log",
                        chunk.dropped_bytes
                    ));
                }
                printer.print(position.fresh(&chunk), chunk.stderr)?;
            }
            Ok(None) => return Ok(None),
            Err(status) => return Ok(Some(status)),
        }
    }
}

/// Where in the output we are, so that a continued read prints nothing twice.
#[derive(Debug, Default)]
struct Position {
    next: Option<u64>,
    time_unix_ms: i64,
}

impl Position {
    /// The part of a chunk that has not been printed.
    fn fresh<'a>(&mut self, chunk: &'a ReadLogsResponse) -> &'a [u8] {
        let end = chunk.offset.saturating_add(chunk.data.len() as u64);
        let known =
            self.next.map_or(0, |next| next.saturating_sub(chunk.offset).min(chunk.data.len() as u64));
        if self.next.is_none_or(|next| end > next) {
            self.next = Some(end);
            self.time_unix_ms = chunk.time_unix_ms;
        }
        &chunk.data[usize::try_from(known).unwrap_or(usize::MAX)..]
    }
}

/// Stdout and stderr, each with a filter of its own.
struct Printer {
    streams: VecDeque<(File, LogFilter)>,
}

impl Printer {
    fn new() -> Result<Self> {
        let colour =
            |is_terminal: bool| is_terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let stdout = (raw::stdout()?, LogFilter::new(colour(std::io::stdout().is_terminal())));
        let stderr = (raw::stderr()?, LogFilter::new(colour(std::io::stderr().is_terminal())));
        Ok(Self { streams: VecDeque::from([stdout, stderr]) })
    }

    fn print(&mut self, data: &[u8], stderr: bool) -> Result<()> {
        let (file, filter) = &mut self.streams[usize::from(stderr)];
        let mut out = Vec::with_capacity(data.len());
        filter.push(data, &mut out);
        Ok(file.write_all(&out)?)
    }

    fn finish(&mut self) -> Result<()> {
        for (file, filter) in &mut self.streams {
            let mut out = Vec::new();
            filter.finish(&mut out);
            file.write_all(&out)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(offset: u64, data: &'static str, time_unix_ms: i64) -> ReadLogsResponse {
        ReadLogsResponse { offset, data: data.into(), time_unix_ms, ..Default::default() }
    }

    #[test]
    fn what_was_printed_is_not_printed_again() {
        let mut position = Position::default();
        assert_eq!(position.fresh(&chunk(10, "abc", 1)), b"abc");
        assert_eq!(position.fresh(&chunk(0, "0123456789ab", 0)), b"");
        assert_eq!(position.fresh(&chunk(11, "bcde", 2)), b"de");
        assert_eq!((position.next, position.time_unix_ms), (Some(15), 2));
        assert_eq!(position.fresh(&chunk(20, "x", 3)), b"x");
    }
}
