//! The shell around [`Leases`]: one task on the leader owns renewals and fences (P5, P7). A renewal is granted after a
//! quorum round that began after it arrived; one round serves all that arrived meanwhile.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::{Duration, Instant};

use stratavore_model::command::HostReachable;
use stratavore_model::query::{self, Coverable, GrantTerms};
use stratavore_model::{Command, Epoch, HostId, HostState, LeaseNumbers, State};
use stratavore_proto::v1;
use stratavore_raft::Handle;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use crate::convert::id;
use crate::leader::Term;
use crate::leader::lease::{Answer, HostView, Leases, Moment, Renewal, World};
use crate::peer::renewals::ReplyTo;

/// Renewals that wait for one quorum round: those of every agent of a node, twice over.
const QUEUE: usize = 2 * crate::link::SESSIONS_MAX;

/// Renewals served by one round.
const BATCH_MAX: usize = 4096;

/// Looks at the clocks per lease: an expiry is noticed a twentieth of a lease late at most.
const LOOKS_PER_LEASE: u32 = 20;

/// A renewal at the leader, on its way to an answer.
pub(crate) struct Request {
    pub(crate) host: HostId,
    pub(crate) renewal: v1::Renewal,
    pub(crate) received: Instant,
    pub(crate) reply: ReplyTo,
}

/// What liveness knows, for whoever shows it, and the queue that its loop takes from.
#[derive(Clone)]
pub(crate) struct Renewals {
    /// When each host's clock began, in this leader's term.
    clocks: Arc<StdMutex<BTreeMap<HostId, Instant>>>,
    requests: Arc<Mutex<mpsc::Receiver<Request>>>,
    sender: mpsc::Sender<Request>,
}

impl Renewals {
    pub(crate) fn new() -> Self {
        let (sender, requests) = mpsc::channel(QUEUE);
        Self { clocks: Arc::default(), requests: Arc::new(Mutex::new(requests)), sender }
    }

    /// Queues a renewal for this node's own judgement, if it leads. A full queue drops it: the agent sends the next one
    /// in two seconds.
    pub(crate) fn judge(&self, request: Request) {
        self.sender.try_send(request).ok();
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
    origin: Instant,
    leases: Leases,
}

impl Liveness {
    pub(crate) fn new(term: Term, renewals: Renewals) -> Self {
        let lease = Duration::from_millis(term.raft.read(|state| numbers(state).ttl_ms));
        Self { term, renewals, lease, origin: Instant::now(), leases: Leases::new(Moment::ZERO) }
    }

    fn now(&self) -> Moment {
        self.origin.elapsed()
    }

    /// Runs until the term ends.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let requests = self.renewals.requests.clone();
        let mut requests = requests.lock().await;
        // P7: the clocks of this term begin with its own first commit, which a confirmed read implies.
        while let Err(error) = self.term.raft.linearize().await {
            tracing::debug!(%error, "the term has not begun yet");
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.lease / LOOKS_PER_LEASE) => {}
            }
        }
        self.leases = Leases::new(self.now());
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
                    self.answer(&mut batch).await;
                }
                () = tokio::time::sleep(pause.saturating_sub(looked.elapsed())) => {}
            }
            if looked.elapsed() >= pause {
                self.look().await;
                looked = Instant::now();
            }
        }
    }

    /// Answers a batch after one quorum round that began when all of it had arrived (P5).
    async fn answer(&mut self, batch: &mut Vec<Request>) {
        if let Err(error) = self.term.raft.linearize().await {
            tracing::debug!(%error, renewals = batch.len(), "renewals not granted");
            batch.clear();
            return;
        }
        for Request { host, renewal, received, reply } in batch.drain(..) {
            let (terms, unreachable) = self.term.raft.read(|state| terms_of(state, host, &renewal));
            let Some(named) = renewal.host_epoch.map(id::epoch_of) else {
                reply.refuse(self.term.raft.read(|state| fenced(state, host)));
                continue;
            };
            let judged = Renewal {
                host,
                host_epoch: named,
                b0_ns: renewal.b0_ns,
                bounded: renewal.bounded,
                received: received.saturating_duration_since(self.origin),
                terms,
            };
            let (answer, due) = self.leases.on_renewal(&judged);
            if matches!(answer, Answer::Grant { .. }) {
                if unreachable {
                    self.reachable(host, named).await;
                }
                self.show(host, named);
            }
            match answer {
                Answer::Grant { unbounded, bounding, widen_ms } => {
                    reply.grant(v1::Grant { renewal: Some(renewal), unbounded, bounding, widen_ms });
                }
                Answer::Fenced => reply.refuse(self.term.raft.read(|state| fenced(state, host))),
                Answer::Silence => {}
            }
            if let Some(command) = due {
                self.propose(command).await;
            }
        }
    }

    /// For `hosts`: since when this host's lease runs.
    fn show(&self, host: HostId, host_epoch: Epoch) {
        let Some(since) = self.leases.since(host, host_epoch) else { return };
        let since = self.origin + since;
        self.renewals.clocks(|clocks| clocks.insert(host, since));
    }

    async fn reachable(&self, host: HostId, host_epoch: Epoch) {
        tracing::info!(%host, "host renews again");
        let command = Command::HostReachable(HostReachable { host, host_epoch });
        if let Err(error) = self.term.propose(command).await {
            tracing::info!(%host, %error, "return of the host was not committed");
        }
    }

    async fn look(&mut self) {
        let now = self.now();
        let due = self.leases.on_tick(now, &Applied(&self.term.raft));
        for command in due {
            self.propose(command).await;
        }
        self.refresh_shown();
    }

    /// Hosts that are gone are not shown; those that never renewed in this term are shown since its beginning.
    fn refresh_shown(&self) {
        let live = self.term.raft.read(|state| {
            let live = state.hosts().filter_map(|host| Some((host.id, host.host_epoch?)));
            live.collect::<Vec<_>>()
        });
        let since = |(host, host_epoch): (HostId, Epoch)| {
            Some((host, self.origin + self.leases.since(host, host_epoch)?))
        };
        let shown: BTreeMap<HostId, Instant> = live.into_iter().filter_map(since).collect();
        self.renewals.clocks(|clocks| *clocks = shown);
    }

    async fn propose(&mut self, command: Command) {
        let name = command.name();
        match &command {
            Command::HostUnreachable(at) => {
                tracing::warn!(host = %at.host, "no renewal for 1.01 leases: unreachable");
            }
            Command::FenceHost(fence) => {
                let (runners, waited_ms) = (fence.runners.len(), fence.waited_ms);
                tracing::warn!(host = %fence.host, runners, waited_ms, "holds have passed: the host is fenced");
            }
            _ => tracing::info!(command = name, "due"),
        }
        let proposed = self.term.propose(command.clone()).await;
        self.leases.on_proposed(&command, proposed.is_ok());
        match proposed.map(|applied| applied.reply.into_result()) {
            Ok(Ok(_)) => {}
            Ok(Err(rejected)) => tracing::info!(command = name, %rejected, "refused by apply"),
            // P7: unknown, not no.
            Err(error) => tracing::info!(command = name, %error, "was not committed as far as is known"),
        }
    }
}

fn numbers(state: &State) -> LeaseNumbers {
    state.cluster().map(|cluster| cluster.lease).unwrap_or_default()
}

/// What the applied state says about the renewal's host epoch, and whether the host is shown as unreachable.
fn terms_of(state: &State, host: HostId, renewal: &v1::Renewal) -> (Option<GrantTerms>, bool) {
    let Some(record) = state.host(host) else { return (None, false) };
    let named = renewal.host_epoch.map(id::epoch_of);
    if named.is_none() || named != record.host_epoch || renewal.boot_id != record.boot_id {
        return (None, false);
    }
    match record.state {
        HostState::Ready => (query::grant_terms(state, host), false),
        HostState::Unreachable => (query::grant_terms(state, host), true),
        HostState::Joined | HostState::Removed => (None, false),
    }
}

/// P3: what the agent must show dead before its host gets a new epoch.
pub(crate) fn fenced(state: &State, host: HostId) -> v1::Refused {
    let covered = state.host(host).map(|record| record.covered.clone()).unwrap_or_default();
    let line = |(runner, epoch): (stratavore_model::RunnerId, Epoch)| v1::RunnerEpoch {
        runner: runner.to_string(),
        epoch: Some(id::epoch(epoch)),
    };
    v1::Refused {
        code: "fenced".to_owned(),
        message: "the host epoch has ended: end what a fence covers, then connect again".to_owned(),
        covered: covered.into_iter().map(line).collect(),
    }
}

/// The applied state, as the core reads it.
struct Applied<'a>(&'a Handle);

impl World for Applied<'_> {
    fn hosts(&self) -> Vec<HostView> {
        self.0.read(|state| {
            let view = |host: &stratavore_model::HostRecord| HostView {
                host: host.id,
                live: host.host_epoch,
                ready: host.state == HostState::Ready,
                fenced: host.fenced,
                rebooted: host.rebooted.map(|reboot| reboot.old),
                unlisted: host.unlisted,
                ttl_ms: host.lease.ttl_ms,
            };
            state.hosts().map(view).collect()
        })
    }

    fn coverable(&self, host: HostId) -> Vec<Coverable> {
        self.0.read(|state| query::coverable(state, host))
    }

    fn reboot_waiting(&self, host: HostId) -> Vec<Coverable> {
        self.0.read(|state| query::reboot_waiting(state, host))
    }

    fn hold_max_ms(&self) -> u64 {
        self.0.read(|state| numbers(state).hold_max_ms)
    }
}
