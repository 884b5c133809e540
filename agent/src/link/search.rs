//! The way to another node while the present link stays (P17): dial, be welcomed, have a renewal answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use stratavore_proto::frame;
use stratavore_proto::v1;
use stratavore_proto::v1::agent_message::Message as Up;
use stratavore_proto::v1::node_message::Message as Down;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{info, warn};

use super::backoff::Backoff;
use super::choose;
use super::dial::{Dialer, Revoked, Welcomed, ask};
use crate::shell::Input;
use crate::supervisor::MoveKind;

/// Periods of renewal that a welcomed node has for its first grant; as long as the present one had.
const TRIAL_PERIODS: u32 = 2;

/// The shortest trial: two periods of the default.
const TRIAL_MIN: Duration = Duration::from_secs(4);

/// Messages that may come before that grant.
const EARLY_MAX: usize = 256;

/// One search, aborted when dropped.
#[derive(Debug)]
pub(super) struct Search {
    task: JoinSet<Result<Box<Welcomed>, Revoked>>,
    kind: MoveKind,
    greeted: Arc<AtomicBool>,
}

impl Search {
    /// Looks for another node than `present` until one is found. `greeted`: some node had a hello after the present one.
    pub(super) fn start(dialer: Dialer, present: u64, kind: MoveKind, greeted: bool) -> Self {
        let greeted = Arc::new(AtomicBool::new(greeted));
        let mut task = JoinSet::new();
        task.spawn(find(dialer, present, kind, Arc::clone(&greeted)));
        Self { task, kind, greeted }
    }

    /// The link that was found. Cancel-safe.
    pub(super) async fn found(&mut self) -> Option<Result<Box<Welcomed>, Revoked>> {
        self.task.join_next().await.and_then(Result::ok)
    }

    /// Whether a wish of that kind looks where this search does not.
    pub(super) fn is_outdone_by(&self, kind: MoveKind) -> bool {
        self.kind != MoveKind::Silent && kind == MoveKind::Silent
    }

    /// The present link has answered a renewal. True when that makes the search pointless: it was silent and is no
    /// more. Once another node has had a hello, the number of the present connection is no longer the newest (P14), and
    /// the other one is followed if it answers.
    pub(super) fn is_pointless(&self) -> bool {
        self.kind == MoveKind::Silent && !self.has_greeted()
    }

    /// Whether another node has had a hello since the present link.
    pub(super) fn has_greeted(&self) -> bool {
        self.greeted.load(Ordering::Relaxed)
    }
}

async fn find(
    dialer: Dialer,
    present: u64,
    kind: MoveKind,
    greeted: Arc<AtomicBool>,
) -> Result<Box<Welcomed>, Revoked> {
    let mut backoff = Backoff::default();
    loop {
        let mut order = choose::order(&dialer.trust.nodes, Some(present));
        // A node that says it has no leader has none on a new connection either.
        order.retain(|node| kind == MoveKind::Silent || node.id != present);
        if let Some(welcomed) = dialer.round(order, &greeted).await? {
            if kind == MoveKind::Leaving {
                return Ok(Box::new(welcomed));
            }
            if let Some(proven) = prove(&dialer, welcomed).await {
                return Ok(Box::new(proven));
            }
        }
        tokio::time::sleep(backoff.next()).await;
    }
}

/// Has the new node answer a renewal; what else it says meanwhile is kept for later.
async fn prove(dialer: &Dialer, mut welcomed: Welcomed) -> Option<Welcomed> {
    let host_epoch = welcomed.welcome.host_epoch;
    let renewal = ask(&dialer.inputs, |reply| Input::Renewal(host_epoch, reply)).await?;
    // Under another host epoch there is nothing to renew yet; that one was committed is proof enough.
    let Some(renewal) = renewal else { return Some(welcomed) };
    let period = Duration::from_millis(welcomed.welcome.renew_ms);
    let limit = period.saturating_mul(TRIAL_PERIODS).max(TRIAL_MIN);
    match timeout(limit, granted(&mut welcomed, renewal)).await {
        Ok(true) => {
            info!(node = welcomed.node, "the other node answers; the link moves");
            Some(welcomed)
        }
        Ok(false) => None,
        Err(_) => {
            warn!(node = welcomed.node, "the other node does not answer a renewal either");
            None
        }
    }
}

async fn granted(welcomed: &mut Welcomed, renewal: v1::Renewal) -> bool {
    let message = v1::AgentMessage { message: Some(Up::Renewal(renewal)) };
    if frame::write(&mut welcomed.send, &message).await.is_err() {
        return false;
    }
    while welcomed.early.len() < EARLY_MAX {
        let Ok(Some(message)) = welcomed.reader.next::<v1::NodeMessage>().await else { return false };
        let Some(message) = message.message else { continue };
        let over = matches!(message, Down::Refused(_) | Down::Removed(_) | Down::GoAway(_));
        let granted = matches!(message, Down::Grant(_));
        welcomed.early.push(message);
        if over || granted {
            return granted;
        }
    }
    false
}
