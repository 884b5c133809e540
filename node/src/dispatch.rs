//! Desired state, from this node's own applied state down to its own agents (P16). Level-triggered: what an agent was
//! sent is remembered per connection, and only what differs goes down; every new connection begins with the full set.
//!
//! One task owns all of it, so the frames of a connection are in the order of the state indexes they were read at, and
//! a frame at index S covers every change of its host up to S.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use stratavore_model::query::{self, DesiredRunner};
use stratavore_model::{Epoch, HostId, ObservedKey, RunnerId, State};
use stratavore_proto::v1::{self, node_message};
use stratavore_raft::{AppliedBatch, Handle};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::convert::agent;
use crate::link::hub::SessionHandle;
use crate::welcome::{self, Periods};

/// Arrivals and departures of agents that wait for the dispatcher, which does each in microseconds.
const REQUEST_QUEUE: usize = 256;

/// How soon after contact is back what was held back goes out.
const STALE_LOOK: Duration = Duration::from_millis(100);

/// A session whose hello is committed.
pub(crate) struct Connected {
    pub(crate) session: SessionHandle,
    pub(crate) host_epoch: Epoch,
    /// Runners that the hello listed: the host has their start orders.
    pub(crate) known: BTreeSet<(RunnerId, Epoch)>,
    /// Observations of the hello that are committed now.
    pub(crate) acknowledged: Vec<ObservedKey>,
}

enum Request {
    Connected { connected: Connected, welcomed: oneshot::Sender<()> },
    Disconnected { host: HostId, serial: u64 },
}

/// Tells the dispatcher about sessions.
#[derive(Debug, Clone)]
pub(crate) struct DispatchHandle {
    requests: mpsc::Sender<Request>,
}

impl DispatchHandle {
    /// Returns when the welcome is queued, so that whatever is sent next comes after it.
    pub(crate) async fn connected(&self, connected: Connected) {
        let (welcomed, done) = oneshot::channel();
        if self.requests.send(Request::Connected { connected, welcomed }).await.is_ok() {
            // An error means that the dispatcher stopped, and the session with it.
            done.await.ok();
        }
    }

    pub(crate) async fn disconnected(&self, session: &SessionHandle) {
        let gone = Request::Disconnected { host: session.host(), serial: session.serial() };
        self.requests.send(gone).await.ok();
    }
}

/// What the agent of one connection was told.
struct Told {
    session: SessionHandle,
    host_epoch: Epoch,
    /// Changes up to this index are covered by what was sent.
    covered: u64,
    sent: BTreeMap<RunnerId, DesiredRunner>,
}

/// The dispatcher of one node.
pub(crate) struct Dispatch {
    raft: Handle,
    periods: Periods,
    requests: mpsc::Receiver<Request>,
    hosts: BTreeMap<HostId, Told>,
    /// Where each runner was last sent, so that a runner that leaves a host is looked up there too.
    sent_to: BTreeMap<RunnerId, HostId>,
    /// P17: something was not pushed because what is applied here may be old; all of it is due.
    stale: bool,
}

impl Dispatch {
    /// No agents yet.
    pub(crate) fn new(raft: Handle, periods: Periods) -> (Self, DispatchHandle) {
        let (sender, requests) = mpsc::channel(REQUEST_QUEUE);
        let dispatch =
            Self { raft, periods, requests, hosts: BTreeMap::new(), sent_to: BTreeMap::new(), stale: false };
        (dispatch, DispatchHandle { requests: sender })
    }

    /// Runs until cancelled, or until raft stops.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        let mut changes = self.raft.changes();
        let mut resync = tokio::time::interval(self.periods.resync);
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(request) = self.requests.recv() => self.request(request),
                changed = changes.recv() => match changed {
                    Ok(first) => self.changed(first, &mut changes),
                    Err(RecvError::Lagged(_)) => self.everything(),
                    Err(RecvError::Closed) => return Ok(()),
                },
                _ = resync.tick() => self.everything(),
                () = tokio::time::sleep(STALE_LOOK), if self.stale => self.everything(),
            }
        }
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Connected { connected, welcomed } => {
                self.welcome(connected);
                welcomed.send(()).ok();
            }
            Request::Disconnected { host, serial } => {
                if self.hosts.get(&host).is_some_and(|told| told.session.serial() == serial) {
                    self.hosts.remove(&host);
                    self.sent_to.retain(|_, at| *at != host);
                }
            }
        }
    }

    /// The first frames of a connection.
    fn welcome(&mut self, connected: Connected) {
        let Connected { session, host_epoch, known, acknowledged } = connected;
        let host = session.host();
        let needs_start = |line: &DesiredRunner| !known.contains(&(line.runner, line.epoch));
        let (index, (mut welcome, set)) = self.raft.read_at(|state| {
            (
                welcome::message(state, host, host_epoch, self.periods),
                FullSet::of(state, host, host_epoch, needs_start),
            )
        });
        let (mut frames, sent) = set.at(index);
        welcome.desired = Some(frames.remove(0));
        session.send(node_message::Message::Welcome(welcome));
        send_all(&session, frames);
        if !acknowledged.is_empty() {
            session.send(node_message::Message::ObservedAck(agent::observed_ack(acknowledged)));
        }
        self.sent_to.extend(sent.keys().map(|runner| (*runner, host)));
        self.hosts.insert(host, Told { session, host_epoch, covered: index, sent });
    }

    /// One applied batch and those that queued up behind it.
    fn changed(&mut self, first: Arc<AppliedBatch>, changes: &mut broadcast::Receiver<Arc<AppliedBatch>>) {
        let mut touched = Touched::default();
        touched.add(&first);
        loop {
            match changes.try_recv() {
                Ok(batch) => touched.add(&batch),
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                Err(TryRecvError::Lagged(_)) => touched.jumped = true,
            }
        }
        if touched.jumped || self.stale || !self.raft.is_fresh() {
            self.everything();
        } else {
            self.delta(&touched);
        }
    }

    /// Sends each host what changed for it. A frame carries the index of the newest batch looked at, not that of the
    /// state it was read from: whatever happened above it comes with its own batch.
    fn delta(&mut self, touched: &Touched) {
        let raft = self.raft.clone();
        let (incarnation, lines) = raft.read(|state| {
            let mut lines: BTreeMap<HostId, Vec<v1::DesiredRunner>> = BTreeMap::new();
            for runner in &touched.runners {
                if let Some((host, line)) = self.delta_of(state, *runner, touched.index) {
                    lines.entry(host).or_default().push(line);
                }
            }
            (state.incarnation(), lines)
        });
        for (host, lines) in lines {
            let Some(told) = self.hosts.get_mut(&host) else { continue };
            told.covered = told.covered.max(touched.index);
            let index = Epoch { incarnation, index: told.covered };
            send_all(&told.session, welcome::chunks(lines, index, false));
        }
    }

    /// What the host of `runner` has to be told about it, if that differs from what it was told.
    fn delta_of(
        &mut self,
        state: &State,
        runner: RunnerId,
        index: u64,
    ) -> Option<(HostId, v1::DesiredRunner)> {
        let desired = query::desired_of(state, runner);
        let before = self.sent_to.get(&runner).copied();
        if let Some(before) = before
            && desired.as_ref().is_none_or(|(host, _)| *host != before)
        {
            // Its end is known there, so nothing is left to order.
            self.sent_to.remove(&runner);
            if let Some(told) = self.hosts.get_mut(&before) {
                told.sent.remove(&runner);
            }
        }
        let (host, line) = desired?;
        let told = self.hosts.get_mut(&host)?;
        let sent = told.sent.get(&runner);
        if sent == Some(&line) || line.epoch.index > index.max(told.covered) {
            return None;
        }
        let new_epoch = sent.is_none_or(|sent| sent.epoch != line.epoch);
        let message = welcome::line(state, &line, told.host_epoch, new_epoch);
        self.sent_to.insert(runner, host);
        told.sent.insert(runner, line);
        Some((host, message))
    }

    /// The full set to everybody: after a jump of the applied index, after lagging behind, and now and then.
    fn everything(&mut self) {
        self.stale = !self.raft.is_fresh();
        if self.stale {
            return;
        }
        for (host, told) in &mut self.hosts {
            let needs_start = |line: &DesiredRunner| {
                told.sent.get(&line.runner).is_none_or(|sent| sent.epoch != line.epoch)
            };
            let (index, set) =
                self.raft.read_at(|state| FullSet::of(state, *host, told.host_epoch, needs_start));
            let (frames, sent) = set.at(index);
            send_all(&told.session, frames);
            told.covered = index;
            told.sent = sent;
        }
        let sent_to =
            self.hosts.iter().flat_map(|(host, told)| told.sent.keys().map(|runner| (*runner, *host)));
        self.sent_to = sent_to.collect();
    }
}

/// The full set of a host, read in one look at the state.
struct FullSet {
    incarnation: u64,
    lines: Vec<v1::DesiredRunner>,
    desired: Vec<DesiredRunner>,
}

impl FullSet {
    fn of(
        state: &State,
        host: HostId,
        host_epoch: Epoch,
        needs_start: impl Fn(&DesiredRunner) -> bool,
    ) -> Self {
        let desired = query::desired(state, host);
        let lines =
            desired.iter().map(|line| welcome::line(state, line, host_epoch, needs_start(line))).collect();
        Self { incarnation: state.incarnation(), lines, desired }
    }

    /// As at least one frame, and as what is remembered of it.
    fn at(self, index: u64) -> (Vec<v1::Desired>, BTreeMap<RunnerId, DesiredRunner>) {
        let index = Epoch { incarnation: self.incarnation, index };
        let sent = self.desired.into_iter().map(|line| (line.runner, line)).collect();
        (welcome::chunks(self.lines, index, true), sent)
    }
}

fn send_all(session: &SessionHandle, frames: Vec<v1::Desired>) {
    frames.into_iter().for_each(|desired| session.send(node_message::Message::Desired(desired)));
}

/// What a run of applied batches touched.
#[derive(Default)]
struct Touched {
    index: u64,
    runners: BTreeSet<RunnerId>,
    jumped: bool,
}

impl Touched {
    fn add(&mut self, batch: &AppliedBatch) {
        self.index = self.index.max(batch.index);
        self.runners.extend(batch.runners.iter().copied());
        self.jumped |= batch.jumped;
    }
}
