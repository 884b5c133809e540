//! Runs the core: one task owns it, feeds it and carries out its effects.
//!
//! Nothing here decides. Files are written by the ledger in batches on a blocking thread; shims are talked to by one
//! task per runner; the link is a bounded channel that is filled only when it has room.

mod deadlines;
mod effects;
mod runner;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use stratavore_proto::v1;
use stratavore_proto::v1::agent_message::Message as Up;
use stratavore_proto::v1::node_message::Message as Down;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::clock;
use crate::dismiss::dismiss;
use crate::epoch::RunnerKey;
use crate::failure::chain;
use crate::ledger::{Done, Ledger, Op};
use crate::registry::Registry;
use crate::runner::Launcher;
use crate::supervisor::{self, Core, Effect, Finish, LinkEvent, Move, RunnerEvent};

/// Inputs that may wait for the shell. Senders wait beyond it; each runner has at most one event under way.
pub(crate) const INPUTS_MAX: usize = 1024;

/// Inputs taken before effects are carried out, so that one frame and one fdatasync serve many.
const INPUTS_PER_TURN: usize = 256;

/// How often the disk is looked at, and orders that could not be written are tried again.
const DISK_PERIOD: Duration = Duration::from_secs(5);

/// Shims told to go together, and how long all of them get: each answers within milliseconds, or its client gives up.
const REAPS_MAX: usize = 32;
const END_TIMEOUT: Duration = Duration::from_secs(15);

/// Nothing must be ordered for this long before a blank directory is made: the time in which a shim starts its command.
const RESTOCK_PAUSE: Duration = Duration::from_millis(4);

/// Longest sleep; only a bound for the timer's arithmetic.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

/// Everything that can happen to the agent.
#[derive(Debug)]
pub(crate) enum Input {
    Runner(RunnerKey, RunnerEvent),
    /// A link is being made: make its hello.
    Hello(oneshot::Sender<v1::Hello>),
    /// The gateway's welcome must be checked before it is followed.
    Check(Box<v1::Welcome>, oneshot::Sender<Result<(), String>>),
    /// Another link is proven by a renewal under the host epoch of its welcome; none if that is not the present one.
    Renewal(Option<v1::Epoch>, oneshot::Sender<Option<v1::Renewal>>),
    Up {
        session: u64,
        welcome: Box<v1::Welcome>,
        sender: mpsc::Sender<v1::AgentMessage>,
    },
    Message(u64, Down),
    Down(u64),
    /// Every node refuses this host's key.
    Revoked,
    /// Stop every runner, then end.
    Halt,
    /// The shim of an acknowledged end is gone.
    Reaped(RunnerKey),
    /// A settled directory is gone.
    Forgotten(RunnerKey),
}

/// What the shell needs besides its core.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) core: Core,
    /// Of the core's inventory: directories to go on looking at.
    pub(crate) unclear: Vec<RunnerKey>,
    pub(crate) ledger: Ledger,
    pub(crate) launcher: Launcher,
    pub(crate) registry: Arc<Registry>,
    /// Asks the link for another node.
    pub(crate) move_on: mpsc::Sender<Move>,
}

/// How the shell ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Told to leave; runners live on.
    Left,
    Finished(Finish),
}

/// The link as the shell sees it.
#[derive(Debug)]
struct Link {
    session: u64,
    sender: mpsc::Sender<v1::AgentMessage>,
}

/// Owner of the core.
#[derive(Debug)]
pub(crate) struct Shell {
    core: Core,
    unclear: Vec<RunnerKey>,
    out: Vec<Effect>,
    /// Absent while a batch runs.
    ledger: Option<Ledger>,
    batch: Option<JoinHandle<(Ledger, Done)>>,
    ops: Vec<Op>,
    again: Vec<Op>,
    hellos: Vec<oneshot::Sender<v1::Hello>>,
    context: Arc<runner::Context>,
    move_on: mpsc::Sender<Move>,
    link: Option<Link>,
    tasks: JoinSet<()>,
    disk_full: bool,
    /// When the next blank directory is made.
    restock: Option<Instant>,
    finish: Option<Finish>,
}

impl Shell {
    /// A shell and the sender of its inputs.
    pub(crate) fn new(parts: Parts) -> (Self, mpsc::Sender<Input>, mpsc::Receiver<Input>) {
        let (sender, inputs) = mpsc::channel(INPUTS_MAX);
        let context = runner::Context {
            launcher: parts.launcher,
            registry: parts.registry,
            inputs: sender.clone(),
            deadlines: deadlines::Deadlines::default(),
        };
        let shell = Self {
            core: parts.core,
            unclear: parts.unclear,
            out: Vec::new(),
            ledger: Some(parts.ledger),
            batch: None,
            ops: Vec::new(),
            again: Vec::new(),
            hellos: Vec::new(),
            context: Arc::new(context),
            move_on: parts.move_on,
            link: None,
            tasks: JoinSet::new(),
            disk_full: false,
            restock: None,
            finish: None,
        };
        (shell, sender, inputs)
    }

    /// Runs until `leave` or until nothing is left to supervise. Dropping the future at any point loses nothing that
    /// the directory does not have.
    pub(crate) async fn run(mut self, mut inputs: mpsc::Receiver<Input>, leave: CancellationToken) -> Ending {
        let unclear = std::mem::take(&mut self.unclear);
        self.watch_adopted(unclear);
        let mut disk = tokio::time::interval(DISK_PERIOD);
        disk.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let sleep = clock::until(self.core.next_tick_ns()).min(SLEEP_MAX);
            tokio::select! {
                Some(input) = inputs.recv() => self.on_inputs(input, &mut inputs),
                done = finished(&mut self.batch) => self.on_batch(done),
                alive = room(self.link.as_ref()), if self.core.has_reports() => {
                    if alive { self.report() } else { self.lose_link() }
                }
                () = tokio::time::sleep(sleep) => {
                    supervisor::on_tick(&mut self.core, clock::boottime_ns(), &mut self.out);
                }
                _ = disk.tick() => {
                    self.ops.push(Op::CheckDisk);
                    self.ops.append(&mut self.again);
                }
                () = at(self.restock) => {
                    self.restock = None;
                    self.ops.push(Op::Restock);
                }
                Some(ended) = self.tasks.join_next() => if let Err(error) = ended {
                    error!(%error, "a task of a runner failed");
                },
                () = leave.cancelled() => return self.leave().await,
            }
            self.carry_out();
            self.start_batch();
            if let Some(finish) = self.finish {
                return self.end(finish).await;
            }
        }
    }

    fn on_inputs(&mut self, first: Input, inputs: &mut mpsc::Receiver<Input>) {
        self.on_input(first);
        for _ in 1..INPUTS_PER_TURN {
            match inputs.try_recv() {
                Ok(input) => self.on_input(input),
                Err(_) => break,
            }
        }
    }

    fn on_input(&mut self, input: Input) {
        let now_ns = clock::boottime_ns();
        match input {
            Input::Runner(key, event) => supervisor::on_runner(&mut self.core, &key, event, &mut self.out),
            Input::Hello(reply) => {
                self.hellos.push(reply);
                self.ops.push(Op::NextConnection);
            }
            Input::Check(welcome, reply) => {
                let _gone = reply.send(self.core.check_welcome(&welcome));
            }
            Input::Renewal(host_epoch, reply) => {
                let renewal = self.core.renewal(now_ns);
                let _gone = reply.send(renewal.filter(|renewal| renewal.host_epoch == host_epoch));
            }
            Input::Up { session, welcome, sender } => {
                self.link = Some(Link { session, sender });
                supervisor::on_link(&mut self.core, LinkEvent::Up(welcome), now_ns, &mut self.out);
            }
            Input::Message(session, message) if self.is_current(session) => {
                supervisor::on_message(&mut self.core, message, now_ns, &mut self.out);
            }
            // Before a link is up the only message is a refusal; it concerns no link.
            Input::Message(_, refused @ Down::Refused(_)) => {
                supervisor::on_message(&mut self.core, refused, now_ns, &mut self.out);
            }
            Input::Down(session) if self.is_current(session) => self.lose_link(),
            Input::Message(..) | Input::Down(_) => {}
            Input::Revoked => supervisor::on_link(&mut self.core, LinkEvent::Revoked, now_ns, &mut self.out),
            Input::Halt => {
                supervisor::on_halt(&mut self.core, Finish::HostStopped, "host_stopped", &mut self.out)
            }
            Input::Reaped(key) => self.ops.push(Op::Acknowledge { key }),
            Input::Forgotten(key) => self.core.forget_settled(&key),
        }
    }

    /// Only this task fills the link, so the room that was there still is.
    fn report(&mut self) {
        let Some(permit) = self.link.as_ref().and_then(|link| link.sender.try_reserve().ok()) else { return };
        if let Some(observed) = self.core.take_observed() {
            permit.send(v1::AgentMessage { message: Some(Up::Observed(observed)) });
        }
    }

    fn is_current(&self, session: u64) -> bool {
        self.link.as_ref().is_some_and(|link| link.session == session)
    }

    fn lose_link(&mut self) {
        self.link = None;
        supervisor::on_link(&mut self.core, LinkEvent::Down, clock::boottime_ns(), &mut self.out);
    }

    fn start_batch(&mut self) {
        if self.ops.is_empty() {
            return;
        }
        if let Some(mut ledger) = self.ledger.take() {
            let ops = std::mem::take(&mut self.ops);
            self.batch = Some(tokio::task::spawn_blocking(move || {
                let done = ledger.run(ops);
                (ledger, done)
            }));
        }
    }

    fn on_batch(&mut self, (ledger, done): (Ledger, Done)) {
        self.ledger = Some(ledger);
        self.restock = (done.stock_low && !self.disk_full).then(|| Instant::now() + RESTOCK_PAUSE);
        self.again.extend(done.again);
        if let Some(full) = done.disk_full.filter(|full| *full != self.disk_full) {
            self.disk_full = full;
            supervisor::on_disk(&mut self.core, full, &mut self.out);
        }
        for (key, event) in done.events {
            supervisor::on_runner(&mut self.core, &key, event, &mut self.out);
        }
        match done.connection {
            Some(Ok(connection)) => {
                for reply in self.hellos.drain(..) {
                    let _gone = reply.send(self.core.hello(connection));
                }
            }
            Some(Err(error)) => {
                // Without its reply the link tries again later.
                error!(%error, "the connection counter cannot be made durable; the link waits");
                self.hellos.clear();
            }
            None => {}
        }
    }

    /// Leaves every runner to its shim; what was decided is written first.
    async fn leave(&mut self) -> Ending {
        if let Some(batch) = self.batch.take() {
            match batch.await {
                Ok((ledger, _)) => self.ledger = Some(ledger),
                Err(error) => error!(%error, "the last write failed"),
            }
        }
        if let Some(mut ledger) = self.ledger.take() {
            let ops = std::mem::take(&mut self.ops);
            if let Err(error) = tokio::task::spawn_blocking(move || ledger.run(ops)).await {
                error!(%error, "the last write failed");
            }
        }
        Ending::Left
    }

    /// Every runner has ended: their records are on disk, so the shims may go too, acknowledged or not.
    async fn end(&mut self, finish: Finish) -> Ending {
        let reaps = self.context.registry.drain().into_iter().map(|(key, client)| async move {
            if let Err(error) = dismiss(client).await {
                warn!(runner = %key, error = chain(&error), "an ended runner's shim does not go");
            }
        });
        let all = async {
            futures::stream::iter(reaps).buffer_unordered(REAPS_MAX).collect::<()>().await;
            while self.tasks.join_next().await.is_some() {}
        };
        if tokio::time::timeout(END_TIMEOUT, all).await.is_err() {
            warn!("not every shim of an ended runner has gone; `stop --runners` finds the rest");
        }
        self.leave().await;
        Ending::Finished(finish)
    }
}

async fn finished(batch: &mut Option<JoinHandle<(Ledger, Done)>>) -> (Ledger, Done) {
    let Some(handle) = batch else { return std::future::pending().await };
    let result = handle.await;
    *batch = None;
    match result {
        Ok(done) => done,
        // A panic in the ledger leaves files in an unknown state: the supervisor of the process starts it anew.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Waits for room for one frame on the link; false when the link has died.
async fn room(link: Option<&Link>) -> bool {
    match link {
        Some(link) => link.sender.reserve().await.is_ok(),
        None => std::future::pending().await,
    }
}
