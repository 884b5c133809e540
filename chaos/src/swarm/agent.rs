//! One simulated agent: keeps a link, renews, and reports what it was told to start.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use quinn::Endpoint;
use stratavore_proto::v1;
use stratavore_proto::v1::agent_message::Message as Up;
use stratavore_proto::v1::node_message::Message as Down;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::link::{Host, Link, ended, running};
use super::{Behaviour, Counters, Moved, Wish};

/// Waits after a try that failed, doubling with full jitter: as the real agent's, see `agent/src/link/backoff.rs`.
const WAIT_MIN: Duration = Duration::from_millis(200);
const WAIT_MAX: Duration = Duration::from_secs(15);

/// For the first grant of another node.
const TRIAL: Duration = Duration::from_secs(4);

/// A random share of `whole`.
fn share(whole: Duration) -> Duration {
    let word = u32::try_from(uuid::Uuid::new_v4().as_u128() & 0xffff).unwrap_or(0);
    whole.mul_f64(f64::from(word) / f64::from(0x1_0000_u32))
}

/// One agent.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) host: Host,
    pub(super) endpoint: Endpoint,
    pub(super) nodes: Vec<SocketAddr>,
    pub(super) home: usize,
    pub(super) behaviour: Behaviour,
    pub(super) counters: Arc<Counters>,
}

/// What is on the host.
#[derive(Debug, Default)]
struct Known {
    /// A lease was granted once.
    granted: bool,
    /// Highest state index seen (P14).
    seen: Option<v1::Epoch>,
    runners: BTreeMap<(String, u64), v1::Observation>,
}

impl Agent {
    /// For ever.
    pub(super) async fn run(self, mut wishes: watch::Receiver<Wish>) {
        let mut known = Known::default();
        loop {
            let wish = *wishes.borrow_and_update();
            let (link, _) = self.dial(self.node(wish), &known).await;
            if self.keep(link, wish, &mut wishes, &mut known).await.is_err() {
                Counters::add(&self.counters.lost);
            }
        }
    }

    fn node(&self, wish: Wish) -> usize {
        wish.node.unwrap_or(self.home)
    }

    /// Until the node has welcomed.
    async fn dial(&self, node: usize, known: &Known) -> (Link, Duration) {
        let mut ceiling = WAIT_MIN;
        loop {
            let runners = known.runners.values().cloned().collect();
            match Link::open(&self.endpoint, self.nodes[node], &self.host, runners, known.seen).await {
                Ok(link) => {
                    Counters::add(&self.counters.welcomed);
                    let handshake = link.handshake;
                    return (link, handshake);
                }
                Err(_) => {
                    Counters::add(&self.counters.refused);
                    sleep(WAIT_MIN + share(ceiling - WAIT_MIN)).await;
                    ceiling = (ceiling * 2).min(WAIT_MAX);
                }
            }
        }
    }

    /// Until the link breaks.
    async fn keep(
        &self,
        mut link: Link,
        mut wish: Wish,
        wishes: &mut watch::Receiver<Wish>,
        known: &mut Known,
    ) -> anyhow::Result<()> {
        let mut due = Instant::now() + share(wish.renew.min(Duration::from_secs(1)));
        if let Some(first) = link.first.take() {
            self.ordered(&mut link, first, known).await?;
        }
        loop {
            tokio::select! {
                message = link.next() => self.take(&mut link, message?, known).await?,
                () = sleep_until(due) => {
                    due += wish.renew;
                    Counters::add(&self.counters.renewals);
                    link.renew().await?;
                }
                Ok(()) = wishes.changed() => {
                    let new = *wishes.borrow_and_update();
                    if self.node(new) != self.node(wish) {
                        let other = self.to_another(self.node(new), known).await;
                        std::mem::replace(&mut link, other).close();
                        if let Some(first) = link.first.take() {
                            self.ordered(&mut link, first, known).await?;
                        }
                    }
                    // Spread over the period, as agents are that did not begin together.
                    due = Instant::now() + share(new.renew);
                    wish = new;
                }
            }
        }
    }

    /// P17: a link to another node that has answered a renewal. The present one stays meanwhile.
    async fn to_another(&self, node: usize, known: &Known) -> Link {
        let began = Instant::now();
        let (link, handshake) = loop {
            let (mut link, handshake) = self.dial(node, known).await;
            if let Ok(Ok(())) = timeout(TRIAL, granted(&mut link)).await {
                break (link, handshake);
            }
            Counters::add(&self.counters.refused);
        };
        let moved = Moved { whole: began.elapsed(), handshake };
        self.counters.moves.lock().unwrap_or_else(PoisonError::into_inner).push(moved);
        Counters::add(&self.counters.moved);
        link
    }

    async fn take(&self, link: &mut Link, message: Down, known: &mut Known) -> anyhow::Result<()> {
        match message {
            Down::Grant(_) => {
                Counters::add(&self.counters.grants);
                if !std::mem::replace(&mut known.granted, true) {
                    Counters::add(&self.counters.ready);
                }
            }
            Down::Desired(desired) => return self.ordered(link, desired, known).await,
            Down::ObservedAck(ack) => known.acknowledged(ack),
            Down::Refused(refused) => anyhow::bail!("refused: {}", refused.code),
            Down::Removed(_) => anyhow::bail!("removed"),
            _ => {}
        }
        Ok(())
    }

    /// Answers every start order with one report.
    async fn ordered(&self, link: &mut Link, desired: v1::Desired, known: &mut Known) -> anyhow::Result<()> {
        let starts = desired.runners.iter().filter(|line| line.start.is_some());
        let mut reports = Vec::new();
        for line in starts {
            Counters::add(&self.counters.starts);
            let report = match self.behaviour {
                Behaviour::Runs => running(line, 1),
                Behaviour::Ends => ended(line),
            };
            known.runners.insert(key(&line.runner, line.epoch), report.clone());
            reports.push(report);
        }
        known.seen = known.seen.max_by(desired.index);
        if reports.is_empty() {
            return Ok(());
        }
        link.say(Up::Observed(v1::Observed { runners: reports, full: false, seen: known.seen })).await
    }
}

/// Renews and waits for the grant.
async fn granted(link: &mut Link) -> anyhow::Result<()> {
    link.renew().await?;
    loop {
        match link.next().await? {
            Down::Grant(_) => return Ok(()),
            Down::Refused(refused) => anyhow::bail!("refused: {}", refused.code),
            _ => {}
        }
    }
}

fn key(runner: &str, epoch: Option<v1::Epoch>) -> (String, u64) {
    (runner.to_owned(), epoch.map_or(0, |epoch| epoch.index))
}

impl Known {
    /// What has ended and is recorded need not be remembered.
    fn acknowledged(&mut self, ack: v1::ObservedAck) {
        for one in ack.runners {
            let key = key(&one.runner, one.epoch);
            if self.runners.get(&key).is_some_and(|report| report.exit.is_some()) {
                self.runners.remove(&key);
            }
        }
    }
}

/// The later of two positions.
trait Later {
    fn max_by(self, other: Self) -> Self;
}

impl Later for Option<v1::Epoch> {
    fn max_by(self, other: Self) -> Self {
        let order = |epoch: &Option<v1::Epoch>| epoch.map(|epoch| (epoch.incarnation, epoch.index));
        if order(&other) > order(&self) { other } else { self }
    }
}
