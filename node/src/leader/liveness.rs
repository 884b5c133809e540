//! Host liveness (P5, P7): one task on the leader owns renewals. A renewal is granted after a quorum round that began
//! after it arrived; one round serves all that arrived meanwhile. A host without renewal for 1.01 leases, by this
//! leader's own clock in its own term, is unreachable until it renews.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::{Duration, Instant};

use stratavore_model::command::{HostReachable, HostUnreachable};
use stratavore_model::{Command, Epoch, HostId, HostState, State};
use stratavore_proto::v1::{self, node_message};
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use crate::convert::id;
use crate::leader::Term;
use crate::link::hub::SessionHandle;

/// Renewals that wait for one quorum round: those of every agent of a node, twice over.
const QUEUE: usize = 2 * crate::link::SESSIONS_MAX;

/// Renewals served by one round.
const BATCH_MAX: usize = 4096;

/// The leader's clock and the agents' may differ by this much in rate.
const DRIFT_PERCENT: u64 = 101;

/// Looks at the clocks per lease: an expiry is noticed a twentieth of a lease late at most.
const LOOKS_PER_LEASE: u32 = 20;

/// One renewal on its way to a grant.
struct Request {
    session: SessionHandle,
    renewal: v1::Renewal,
    received: Instant,
}

/// Takes renewals from sessions.
#[derive(Clone)]
pub(crate) struct RenewalHandle {
    requests: mpsc::Sender<Request>,
}

impl RenewalHandle {
    /// Queues a renewal. A full queue drops it: the agent sends the next one in two seconds.
    pub(crate) fn submit(&self, session: &SessionHandle, renewal: v1::Renewal) {
        let request = Request { session: session.clone(), renewal, received: Instant::now() };
        self.requests.try_send(request).ok();
    }
}

/// What liveness knows, for whoever shows it, and the queue that its loop takes from.
#[derive(Clone)]
pub(crate) struct Renewals {
    /// When each host's clock began, in this leader's term.
    clocks: Arc<StdMutex<BTreeMap<HostId, Instant>>>,
    requests: Arc<Mutex<mpsc::Receiver<Request>>>,
    handle: RenewalHandle,
}

impl Renewals {
    pub(crate) fn new() -> Self {
        let (sender, requests) = mpsc::channel(QUEUE);
        let handle = RenewalHandle { requests: sender };
        Self { clocks: Arc::default(), requests: Arc::new(Mutex::new(requests)), handle }
    }

    /// Where sessions put renewals.
    pub(crate) fn handle(&self) -> RenewalHandle {
        self.handle.clone()
    }

    /// The table dies with the term (P7).
    pub(crate) fn forget(&self) {
        self.clocks(BTreeMap::clear);
    }

    /// How long ago the host's clock began; `None` when this node does not lead or does not know the host.
    pub(crate) fn age(&self, host: HostId) -> Option<Duration> {
        self.clocks(|clocks| clocks.get(&host).map(Instant::elapsed))
    }

    fn clocks<R>(&self, f: impl FnOnce(&mut BTreeMap<HostId, Instant>) -> R) -> R {
        f(&mut self.clocks.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The loop of one term.
pub(crate) struct Liveness {
    term: Term,
    renewals: Renewals,
    lease: Duration,
}

impl Liveness {
    pub(crate) fn new(term: Term, renewals: Renewals) -> Self {
        let lease_ms =
            term.raft.read(|state| state.cluster().map(|cluster| cluster.lease).unwrap_or_default().ttl_ms);
        Self { term, renewals, lease: Duration::from_millis(lease_ms) }
    }

    /// Runs until the term ends.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let requests = self.renewals.requests.clone();
        let mut requests = requests.lock().await;
        let pause = self.lease / LOOKS_PER_LEASE;
        let mut batch = Vec::new();
        let mut looked = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                received = requests.recv_many(&mut batch, BATCH_MAX) => {
                    if received == 0 {
                        return;
                    }
                    self.grant(&mut batch).await;
                }
                () = tokio::time::sleep(pause.saturating_sub(looked.elapsed())) => {}
            }
            if looked.elapsed() >= pause {
                self.look(looked.elapsed()).await;
                looked = Instant::now();
            }
        }
    }

    /// Grants a batch after one quorum round that began when all of it had arrived (P5).
    async fn grant(&self, batch: &mut Vec<Request>) {
        if let Err(error) = self.term.raft.linearize().await {
            tracing::debug!(%error, renewals = batch.len(), "renewals not granted");
            batch.clear();
            return;
        }
        let unbounded = self.term.raft.read(|state| state.hosts_present() <= 1);
        for Request { session, renewal, received } in batch.drain(..) {
            let host = session.host();
            match self.term.raft.read(|state| judge(state, host, &renewal)) {
                Judgement::Fenced => session.send(node_message::Message::Refused(fenced())),
                Judgement::Granted { unreachable } => {
                    if let Some(host_epoch) = unreachable {
                        self.reachable(host, host_epoch).await;
                    }
                    self.renewals.clocks(|clocks| {
                        let clock = clocks.entry(host).or_insert(received);
                        *clock = received.max(*clock);
                    });
                    let grant = v1::Grant { renewal: Some(renewal), unbounded };
                    session.send(node_message::Message::Grant(grant));
                }
            }
        }
    }

    async fn reachable(&self, host: HostId, host_epoch: Epoch) {
        tracing::info!(%host, "host renews again");
        if let Err(error) =
            self.term.propose(Command::HostReachable(HostReachable { host, host_epoch })).await
        {
            tracing::info!(%host, %error, "return of the host was not committed");
        }
    }

    /// Looks at every clock; `gap` is how long ago that was done before.
    async fn look(&self, gap: Duration) {
        let ready = self.term.raft.read(ready_hosts);
        let now = Instant::now();
        // P13: a leader that was away (stopped, starved) has no right to judge by what it did not hear.
        let restart = gap > self.lease / 2;
        if restart {
            tracing::warn!(gap_ms = gap.as_millis(), "this leader was away, all lease clocks start again");
        }
        let limit = self.lease * u32::try_from(DRIFT_PERCENT).unwrap_or(u32::MAX) / 100;
        let expired: Vec<(HostId, Epoch)> = self.renewals.clocks(|clocks| {
            clocks.retain(|host, _| ready.contains_key(host));
            let is_expired = |(host, host_epoch): (&HostId, &Epoch)| {
                let clock = clocks.entry(*host).or_insert(now);
                if restart {
                    *clock = now;
                }
                (now.duration_since(*clock) > limit).then_some((*host, *host_epoch))
            };
            ready.iter().filter_map(is_expired).collect()
        });
        for (host, host_epoch) in expired {
            tracing::warn!(%host, "no renewal for 1.01 leases: unreachable");
            let command = Command::HostUnreachable(HostUnreachable { host, host_epoch });
            if let Err(error) = self.term.propose(command).await {
                tracing::info!(%host, %error, "loss of the host was not committed");
            }
        }
    }
}

/// The answer to a renewal.
enum Judgement {
    /// The host epoch is not the present one: never granted (P3).
    Fenced,
    Granted {
        /// The host was taken for unreachable, under this epoch.
        unreachable: Option<Epoch>,
    },
}

fn judge(state: &State, host: HostId, renewal: &v1::Renewal) -> Judgement {
    let Some(record) = state.host(host) else { return Judgement::Fenced };
    let named = renewal.host_epoch.map(id::epoch_of);
    if named.is_none() || named != record.host_epoch || renewal.boot_id != record.boot_id {
        return Judgement::Fenced;
    }
    match record.state {
        HostState::Ready => Judgement::Granted { unreachable: None },
        HostState::Unreachable => Judgement::Granted { unreachable: named },
        HostState::Joined | HostState::Removed => Judgement::Fenced,
    }
}

fn ready_hosts(state: &State) -> BTreeMap<HostId, Epoch> {
    let ready = state.hosts().filter(|host| host.state == HostState::Ready);
    ready.filter_map(|host| Some((host.id, host.host_epoch?))).collect()
}

fn fenced() -> v1::Refused {
    let message = "the host epoch has ended: connect again for a new one".to_owned();
    v1::Refused { code: "fenced".to_owned(), message }
}
