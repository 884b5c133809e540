//! `watch`: runners as they change, by a stream from the node and not by asking again and again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use stratavore_proto::v1::{Runner, RunnerFilter, WatchRunnersRequest, WatchRunnersResponse};
use tonic::Streaming;

use super::App;
use crate::args::{Output, WatchArgs};
use crate::client::{self, Once};
use crate::errors::{Failure, Result};
use crate::view::runner::RunnerJson;
use crate::view::{self, json};

/// Pause before a lost stream is opened again.
const REOPEN_PAUSE: Duration = Duration::from_millis(200);

/// Ages move on even when nothing happens.
const REDRAW_INTERVAL: Duration = Duration::from_secs(1);

/// Shows the runners until interrupted.
///
/// # Errors
/// The cluster's refusal.
pub(crate) async fn run(app: &App, args: WatchArgs) -> Result<ExitCode> {
    let project = args.project.or(args.only).unwrap_or_default();
    let filter = RunnerFilter { project, ..Default::default() };
    let mut changes = Changes::new(app, RunnerFilter { include_ended: true, ..filter });
    if app.output() == Output::Table && std::io::stdout().is_terminal() {
        return redraw(&mut changes).await;
    }
    loop {
        let change = changes.next().await?;
        for runner in &change.runners {
            if app.output() == Output::Json {
                json::print_line(&RunnerJson::from(runner))?;
            } else {
                view::print(&line(runner))?;
            }
        }
    }
}

fn line(runner: &Runner) -> String {
    let state = view::runner::state_word(runner.state());
    let why = runner.exit.as_ref().map_or_else(|| runner.reason.clone(), view::runner::exit_text);
    let text = format!("{}  {}  {}  {state}  {}  {why}", runner.id, runner.name, runner.project, runner.host);
    crate::filter::one_line(&text) + "\n"
}

/// One table, drawn in place; what ended stays until the next one of its name.
async fn redraw(changes: &mut Changes<'_>) -> Result<ExitCode> {
    let mut shown = Shown::default();
    let mut lines_drawn = 0;
    loop {
        match tokio::time::timeout(REDRAW_INTERVAL, changes.next()).await {
            Ok(change) => shown.take(change?),
            Err(_) if !shown.complete => continue,
            Err(_) => {}
        }
        if !shown.complete {
            continue;
        }
        let text = view::runner::table(&shown.rows(), false).render(view::table::stdout_columns());
        let mut frame = String::new();
        if lines_drawn > 0 {
            // Writing into a String cannot fail.
            write!(frame, "\x1b[{lines_drawn}A").ok();
        }
        frame.push('\r');
        for row in text.lines() {
            frame.push_str(row);
            frame.push_str("\x1b[K\n");
        }
        frame.push_str("\x1b[J");
        lines_drawn = text.lines().count();
        view::print(&frame)?;
    }
}

#[derive(Debug, Default)]
struct Shown {
    runners: BTreeMap<String, Runner>,
    /// The state at subscription has come in whole; what ended before it is not shown.
    complete: bool,
}

impl Shown {
    fn take(&mut self, change: WatchRunnersResponse) {
        for runner in change.runners {
            if self.complete || !view::runner::is_ended(&runner) {
                self.runners.insert(runner.id.clone(), runner);
            }
        }
        for id in change.removed {
            self.runners.remove(&id);
        }
        self.complete |= change.snapshot_end;
    }

    /// As many as fit a terminal, the newest last.
    fn rows(&self) -> Vec<Runner> {
        let mut rows: Vec<Runner> = self.runners.values().cloned().collect();
        rows.sort_by_key(|runner| (runner.created_at_unix_ms, runner.id.clone()));
        let fit =
            crate::term::raw::window_size().map_or(usize::MAX, |size| (size.rows as usize).saturating_sub(2));
        rows.split_off(rows.len().saturating_sub(fit.max(1)))
    }
}

/// The changes of some runners. A lost stream is opened again, and begins with their present state, so nothing is
/// missed.
#[derive(Debug)]
pub(crate) struct Changes<'a> {
    app: &'a App,
    filter: RunnerFilter,
    stream: Option<Streaming<WatchRunnersResponse>>,
    opened: bool,
}

impl<'a> Changes<'a> {
    /// Nothing is asked before the first [`Self::next`].
    pub(crate) fn new(app: &'a App, filter: RunnerFilter) -> Self {
        Self { app, filter, stream: None, opened: false }
    }

    /// The next change. Cancel-safe, but for a stream that is just being opened.
    ///
    /// # Errors
    /// The cluster's refusal, or exit 7 when no node replies any more.
    pub(crate) async fn next(&mut self) -> Result<WatchRunnersResponse> {
        loop {
            let stream = match &mut self.stream {
                Some(stream) => stream,
                None => {
                    let filter = &self.filter;
                    let opened = self
                        .app
                        .client()?
                        .open("watch the runners", self.opened, async |channel| {
                            let request = WatchRunnersRequest { filter: Some(filter.clone()) };
                            client::runners(channel).watch_runners(request).await
                        })
                        .await?;
                    self.opened = true;
                    self.stream.insert(opened)
                }
            };
            let status = match stream.message().await {
                Ok(Some(change)) => return Ok(change),
                Ok(None) => tonic::Status::unavailable("the node ended the stream"),
                Err(status) => status,
            };
            self.stream = None;
            match self.app.client()?.failed(status) {
                Once::Refused(status) if status.code() != tonic::Code::Unavailable => {
                    return Err(Failure::from_status(&status, "watch the runners"));
                }
                Once::Fatal(failure) => return Err(failure),
                _ => tokio::time::sleep(REOPEN_PAUSE).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use stratavore_proto::v1::RunnerState;

    use super::*;

    fn runner(id: &str, state: RunnerState) -> Runner {
        Runner { id: id.to_owned(), state: state.into(), ..Default::default() }
    }

    #[test]
    fn what_ended_before_is_not_shown_and_what_ends_now_is() {
        let mut shown = Shown::default();
        shown.take(WatchRunnersResponse {
            runners: vec![runner("old", RunnerState::Terminated), runner("live", RunnerState::Running)],
            snapshot_end: true,
            ..Default::default()
        });
        shown.take(WatchRunnersResponse {
            runners: vec![runner("live", RunnerState::Failed)],
            ..Default::default()
        });
        assert_eq!(shown.rows().iter().map(|r| r.id.as_str()).collect::<Vec<_>>(), ["live"]);
        shown.take(WatchRunnersResponse { removed: vec!["live".to_owned()], ..Default::default() });
        assert!(shown.rows().is_empty());
    }
}
