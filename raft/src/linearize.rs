//! Linearizable reads on any node, and how fresh a node's state is known to be (P17).

use std::sync::Weak;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use openraft::async_runtime::watch::WatchReceiver;

use crate::core::leads_alone;
use crate::error::ReadError;
use crate::forward::Answer;
use crate::handle::{Handle, Shared};
use crate::propose::LEADER_PATIENCE;

/// How long a read waits for a quorum and for the own apply.
const READ_TIMEOUT: Duration = Duration::from_secs(6);

/// Pause between two looks for a leader.
const READ_RETRY: Duration = Duration::from_millis(20);

/// P17: a node whose state was not confirmed for this long serves no secret, opens no attach, pushes no desired state.
pub const FRESH: Duration = Duration::from_secs(2);

/// How often freshness is renewed in the background: four chances within [`FRESH`], one message each.
const CONFIRM_PERIOD: Duration = Duration::from_millis(500);

/// P17: after so many of the longest election timeouts without confirmation a node sends its agents away.
const CONTACT_TIMEOUTS: u32 = 3;

/// When this node's state was last known to be current. Instants are kept as microseconds since the start.
#[derive(Debug)]
pub(crate) struct Confirmed {
    opened: Instant,
    /// 0 = never; else one more than the microseconds.
    newest: AtomicU64,
    election_max: Duration,
}

impl Confirmed {
    pub(crate) fn new(election_max: Duration) -> Self {
        Self { opened: Instant::now(), newest: AtomicU64::new(0), election_max }
    }

    fn advance(&self, began: Instant) {
        let micros = began.saturating_duration_since(self.opened).as_micros();
        self.newest.fetch_max(u64::try_from(micros).unwrap_or(u64::MAX).saturating_add(1), Ordering::SeqCst);
    }

    fn get(&self) -> Option<Instant> {
        let micros = self.newest.load(Ordering::SeqCst).checked_sub(1)?;
        Some(self.opened + Duration::from_micros(micros))
    }
}

impl Handle {
    /// Confirms with the leader and its quorum what is committed, then waits until that is applied here: a
    /// [`Self::read`] after it is linearizable. Works on every node; requests that wait together share a round,
    /// and none joins a round that began before it. Returns the index that was waited for.
    ///
    /// # Errors
    /// When no leader is found, or no quorum answers within seconds.
    pub async fn linearize(&self) -> Result<u64, ReadError> {
        let began = Instant::now();
        let index = match tokio::time::timeout(READ_TIMEOUT, self.confirm()).await {
            Ok(result) => result?,
            Err(_) => {
                let waited = READ_TIMEOUT.as_secs();
                return Err(ReadError::Unavailable(format!("no answer within {waited} s")));
            }
        };
        self.shared.confirmed.advance(began);
        Ok(index)
    }

    async fn confirm(&self) -> Result<u64, ReadError> {
        let core = &self.shared.core;
        let give_up = Instant::now() + LEADER_PATIENCE;
        let mut hint = None;
        loop {
            let Some(leader) = self.leader_within(hint.take(), false, give_up).await else {
                return Err(match self.fatal_reason() {
                    Some(reason) => ReadError::Stopped(reason),
                    None => ReadError::NotLeader { leader: None },
                });
            };
            let error = if leader == core.id() {
                match core.confirm().await {
                    Ok(index) => return Ok(index),
                    Err(error) => error,
                }
            } else {
                match self.ask_leader(leader).await {
                    Ok(index) => return self.applied_at(index).await,
                    Err(error) => error,
                }
            };
            match error {
                stopped @ ReadError::Stopped(_) => return Err(stopped),
                error if Instant::now() >= give_up => return Err(error),
                ReadError::NotLeader { leader: named } => hint = named.filter(|named| *named != leader),
                ReadError::Unavailable(_) => {}
            }
            self.leadership_moves(READ_RETRY).await;
        }
    }

    /// A read changes nothing, so whatever went wrong may be tried again.
    async fn ask_leader(&self, leader: stratavore_model::NodeId) -> Result<u64, ReadError> {
        let Some(member) = self.member(leader) else {
            return Err(ReadError::NotLeader { leader: None });
        };
        match self.shared.forwarder.read(leader, &member).await {
            Answer::Read { index, member } => {
                if !member {
                    self.shared.removed.send_replace(true);
                }
                Ok(index)
            }
            Answer::NotLeader { leader } => Err(ReadError::NotLeader { leader }),
            Answer::NotSent(reason)
            | Answer::Unknown(reason)
            | Answer::Refused(reason)
            | Answer::Unavailable(reason) => Err(ReadError::Unavailable(reason)),
            Answer::Applied { .. } => Err(ReadError::Unavailable("a read was answered as a proposal".into())),
        }
    }

    /// Waits until this node has applied `index`.
    async fn applied_at(&self, index: u64) -> Result<u64, ReadError> {
        let mut applied = self.applied();
        match applied.wait_for(|applied| *applied >= index).await {
            Ok(_) => Ok(index),
            Err(_) => Err(ReadError::Stopped("the state is closing".into())),
        }
    }

    /// When the newest round began after which this node had applied everything that the leader had committed
    /// (P17); none before the first. Renewed twice a second in the background; a node without others is current.
    #[must_use]
    pub fn confirmed(&self) -> Option<Instant> {
        if self.shared.core.leads_alone() {
            return Some(Instant::now());
        }
        self.shared.confirmed.get()
    }

    /// P17: this node's state was confirmed within [`FRESH`].
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.confirmed().is_some_and(|confirmed| confirmed.elapsed() < FRESH)
    }

    /// P17: nothing was confirmed for three of the longest election timeouts, counted from the start at most.
    #[must_use]
    pub fn out_of_contact(&self) -> bool {
        let since = self.confirmed().unwrap_or(self.shared.confirmed.opened);
        since.elapsed() > CONTACT_TIMEOUTS * self.shared.confirmed.election_max
    }
}

/// Keeps [`Handle::confirmed`] fresh while there are other nodes. Rests while this node leads alone: an idle cluster
/// of one would wake up for nothing.
pub(crate) async fn keep_fresh(shared: Weak<Shared>) {
    let Some(raft) = shared.upgrade().map(|shared| shared.core.raft.clone()) else { return };
    let mut metrics = raft.metrics();
    loop {
        let alone = leads_alone(&metrics.borrow_watched());
        if alone {
            if metrics.changed().await.is_err() {
                return;
            }
            continue;
        }
        tokio::time::sleep(CONFIRM_PERIOD).await;
        let Some(shared) = shared.upgrade() else { return };
        confirm_if_due(Handle::of(shared)).await;
    }
}

async fn confirm_if_due(handle: Handle) {
    let due = handle.shared.confirmed.get().is_none_or(|confirmed| confirmed.elapsed() >= CONFIRM_PERIOD);
    if due && let Err(error) = handle.linearize().await {
        tracing::debug!(%error, "this node's state was not confirmed");
    }
}
