//! `WatchRunners`: the runners as they are, then each again whenever it changes.

use std::collections::BTreeSet;

use stratavore_model::query::{ResolvedFilter, RunnerFilter};
use stratavore_model::{Rejected, RunnerId, State};
use stratavore_proto::v1::WatchRunnersResponse;
use stratavore_raft::{AppliedBatch, Handle};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::api::{Api, STREAM_QUEUE};
use crate::convert::runner;
use crate::tasks::TaskKind;

/// Runners per message of the first state.
const PAGE: usize = 500;

/// Batches drained into one message while the reader is slow.
const BATCHES_MAX: usize = 256;

type Item = Result<WatchRunnersResponse, Status>;

/// Starts a watch; names in the filter are looked up once, now.
///
/// # Errors
/// As [`RunnerFilter::resolve`].
pub(super) fn start(api: &Api, filter: &RunnerFilter) -> Result<ReceiverStream<Item>, Rejected> {
    let raft = api.raft.clone();
    let filter = raft.read(|state| filter.resolve(state))?;
    let (out, stream) = mpsc::channel(STREAM_QUEUE);
    // Subscribed before the first read, so that no change falls between.
    let watch = Watch { changes: raft.changes(), raft, filter, shown: BTreeSet::new(), out: out.clone() };
    api.fill(TaskKind::Subscription, out, watch.run());
    Ok(ReceiverStream::new(stream))
}

struct Watch {
    raft: Handle,
    changes: broadcast::Receiver<std::sync::Arc<AppliedBatch>>,
    filter: ResolvedFilter,
    /// What the watcher was shown and not told to forget.
    shown: BTreeSet<RunnerId>,
    out: mpsc::Sender<Item>,
}

impl Watch {
    async fn run(mut self) {
        if self.everything().await.is_none() {
            return;
        }
        loop {
            let touched = match self.changes.recv().await {
                Ok(first) => self.drain(&first),
                Err(RecvError::Lagged(_)) => None,
                Err(RecvError::Closed) => return,
            };
            let sent = match touched {
                Some((index, runners)) => self.changed(index, &runners).await,
                None => self.everything().await,
            };
            if sent.is_none() {
                return;
            }
        }
    }

    /// What this batch and those queued behind it touched; `None` when that cannot be told.
    fn drain(&mut self, first: &AppliedBatch) -> Option<(u64, BTreeSet<RunnerId>)> {
        let mut index = first.index;
        let mut runners: BTreeSet<RunnerId> = first.runners.iter().copied().collect();
        let mut jumped = first.jumped;
        for _ in 0..BATCHES_MAX {
            match self.changes.try_recv() {
                Ok(batch) => {
                    index = batch.index;
                    runners.extend(batch.runners.iter().copied());
                    jumped |= batch.jumped;
                }
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                Err(TryRecvError::Lagged(_)) => jumped = true,
            }
        }
        (!jumped).then_some((index, runners))
    }

    /// The whole state, in pages; `None` when the watcher is gone.
    async fn everything(&mut self) -> Option<()> {
        let before = std::mem::take(&mut self.shown);
        let mut after = None;
        loop {
            let (page, index) = self.page(after);
            let last = page.runners.len() < PAGE;
            after = page.runners.last().and_then(|runner| runner.id.parse().ok());
            self.shown.extend(page.runners.iter().filter_map(|runner| runner.id.parse::<RunnerId>().ok()));
            let mut message = WatchRunnersResponse { applied_index: index, snapshot_end: last, ..page };
            if last {
                message.removed = before.difference(&self.shown).map(ToString::to_string).collect();
            }
            self.out.send(Ok(message)).await.ok()?;
            if last {
                return Some(());
            }
        }
    }

    fn page(&self, after: Option<RunnerId>) -> (WatchRunnersResponse, u64) {
        let (index, runners) = self.raft.read_at(|state| {
            let records = self.filter.page(state, after, PAGE);
            records.into_iter().map(|record| runner::to_proto(record, state)).collect()
        });
        (WatchRunnersResponse { runners, ..Default::default() }, index)
    }

    async fn changed(&mut self, applied_index: u64, touched: &BTreeSet<RunnerId>) -> Option<()> {
        let raft = self.raft.clone();
        let (runners, removed) = raft.read(|state| self.difference(state, touched));
        if runners.is_empty() && removed.is_empty() {
            return Some(());
        }
        let message = WatchRunnersResponse { runners, removed, applied_index, snapshot_end: false };
        self.out.send(Ok(message)).await.ok()
    }

    /// A runner that no longer matches is shown once more, so that the watcher sees what became of it.
    fn difference(
        &mut self,
        state: &State,
        touched: &BTreeSet<RunnerId>,
    ) -> (Vec<stratavore_proto::v1::Runner>, Vec<String>) {
        let (mut runners, mut removed) = (Vec::new(), Vec::new());
        for id in touched {
            match state.runner(*id) {
                Some(record) if self.filter.matches(record) => {
                    self.shown.insert(*id);
                    runners.push(runner::to_proto(record, state));
                }
                Some(record) if self.shown.contains(id) => runners.push(runner::to_proto(record, state)),
                Some(_) => {}
                None if self.shown.remove(id) => removed.push(id.to_string()),
                None => {}
            }
        }
        (runners, removed)
    }
}
