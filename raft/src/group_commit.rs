//! The one thread that syncs the log. Everything written since the last sync shares the next one.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use openraft::storage::IOFlushed;
use rocksdb::DB;
use tokio::sync::oneshot;

use crate::db::to_io;
use crate::fatal::Fatal;
use crate::mark::{MarkKeeper, Step};
use crate::metrics::Counters;
use crate::sync_point;
use crate::types::TypeConfig;

/// Writes waiting for a sync. openraft batches proposals below this; a full queue makes the core wait for
/// the disk, which is the back-pressure wanted.
const QUEUE_MAX: usize = 16_384;

/// Who waits for a sync.
pub(crate) enum Waiter {
    /// openraft's callback of an append.
    Append(IOFlushed<TypeConfig>),
    /// A vote or a truncation, awaited in place.
    Inline(oneshot::Sender<io::Result<()>>),
    /// Nobody: the write only has to be in order.
    Nobody,
}

/// A write that has reached the database and waits for the next sync.
pub(crate) struct Job {
    pub(crate) steps: Vec<Step>,
    pub(crate) waiter: Waiter,
}

/// The queue of the sync thread.
#[derive(Clone)]
pub(crate) struct GroupCommit {
    queue: SyncSender<Job>,
}

/// Joins the thread when the log store closes.
pub(crate) struct CommitThread {
    thread: Option<JoinHandle<()>>,
}

impl GroupCommit {
    pub(crate) fn start(
        db: Arc<DB>,
        mark: MarkKeeper,
        counters: Arc<Counters>,
        fatal: Fatal,
    ) -> io::Result<(Self, CommitThread)> {
        let (queue, jobs) = sync_channel(QUEUE_MAX);
        let worker = Worker { db, mark, counters, fatal, failed: None };
        let thread =
            std::thread::Builder::new().name("raft-log-sync".into()).spawn(move || worker.run(&jobs))?;
        Ok((Self { queue }, CommitThread { thread: Some(thread) }))
    }

    /// Enqueues a completed write.
    pub(crate) fn submit(&self, job: Job) -> io::Result<()> {
        self.queue.send(job).map_err(|_| io::Error::other("the log's sync thread has ended"))
    }

    /// Enqueues a completed write and waits until it is on disk.
    pub(crate) async fn synced(&self, steps: Vec<Step>) -> io::Result<()> {
        let (done, wait) = oneshot::channel();
        self.submit(Job { steps, waiter: Waiter::Inline(done) })?;
        wait.await.map_err(|_| io::Error::other("the log's sync thread has ended"))?
    }
}

impl Drop for CommitThread {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // The thread reports its failures through `Fatal`; a panic has already been printed.
            drop(thread.join());
        }
    }
}

struct Worker {
    db: Arc<DB>,
    mark: MarkKeeper,
    counters: Arc<Counters>,
    fatal: Fatal,
    /// A failed sync is never retried: the kernel may have dropped the pages it could not write.
    failed: Option<(io::ErrorKind, String)>,
}

impl Worker {
    fn run(mut self, jobs: &Receiver<Job>) {
        let mut batch = Vec::new();
        while let Ok(first) = jobs.recv() {
            batch.push(first);
            batch.extend(jobs.try_iter().take(QUEUE_MAX));
            self.sync(&mut batch);
        }
    }

    fn sync(&mut self, batch: &mut Vec<Job>) {
        if self.failed.is_none() {
            let started = Instant::now();
            sync_point::reached();
            if let Err(error) = self.db.flush_wal(true).map_err(to_io) {
                self.fatal.storage("syncing the log", &error);
                self.failed = Some((error.kind(), error.to_string()));
            }
            sync_point::reached();
            self.counters.sync.observe(started.elapsed());
            Counters::add(&self.counters.synced_jobs, batch.len() as u64);
        }
        if self.failed.is_none() {
            self.mark.advance(batch.iter_mut().flat_map(|job| std::mem::take(&mut job.steps)));
        }
        for job in batch.drain(..) {
            let result = match &self.failed {
                None => Ok(()),
                Some((kind, message)) => Err(io::Error::new(*kind, message.clone())),
            };
            match job.waiter {
                Waiter::Append(done) => done.io_completed(result),
                // The waiter may have been cancelled with its node; the write stands.
                Waiter::Inline(done) => drop(done.send(result)),
                Waiter::Nobody => {}
            }
        }
    }
}
