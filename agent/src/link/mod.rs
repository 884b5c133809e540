//! Keeps one link to any node of the cluster: dials, follows, renews, moves. Runners do not depend on it.

mod backoff;
mod certificate;
mod choose;
mod dial;
mod pulse;
mod search;
mod session;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use stratavore_certs::Credentials;
use stratavore_proto::v1;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::data_dir::DataDir;
use crate::failure::chain;
use crate::membership::Trust;
use crate::registry::Registry;
use crate::shell::Input;
use crate::supervisor::{Move, MoveKind};
use backoff::{Backoff, GOOD_AFTER};
pub(crate) use choose::spread;
use dial::{Dialer, Revoked, Welcomed};
use pulse::Pulse;
use search::Search;
use session::{End, Session};

/// A search that was under way when the link ended is waited for this long before all nodes are dialled anew: it may
/// have left out the very node that is back.
const SEARCH_PATIENCE: Duration = Duration::from_secs(2);

/// What the link needs.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) dir: DataDir,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) trust: Trust,
    pub(crate) gso: bool,
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) registry: Arc<Registry>,
    /// Wishes for another link while the present one stays.
    pub(crate) move_on: mpsc::Receiver<Move>,
}

/// Owner of the connection.
#[derive(Debug)]
pub(crate) struct Link {
    parts: Parts,
    backoff: Backoff,
    current: Option<Session>,
    /// On the way to another node.
    search: Option<Search>,
    /// The node of the link that was lost last.
    avoid: Option<u64>,
}

/// What happened on a link that is up.
enum News {
    Ended(End),
    Move(Move),
    Found(Option<Result<Box<Welcomed>, Revoked>>),
    Granted,
    CertificateDue,
    Certificate(v1::CertificateResponse),
    Trust(v1::TrustUpdate),
}

impl Link {
    pub(crate) fn new(parts: Parts) -> Self {
        Self { parts, backoff: Backoff::default(), current: None, search: None, avoid: None }
    }

    /// Runs until `leave`, or until the cluster has removed this host.
    pub(crate) async fn run(mut self, leave: CancellationToken) {
        tokio::select! {
            () = leave.cancelled() => {}
            () = self.follow() => {}
        }
        if let Some(session) = self.current.take() {
            session.close().await;
        }
    }

    async fn follow(&mut self) {
        loop {
            let step = if self.current.is_some() { self.keep().await } else { self.establish().await };
            if matches!(step, Err(Revoked)) {
                error!("this host's key was removed from the cluster (P18); every runner is stopped");
                let _ended = self.parts.inputs.send(Input::Revoked).await;
                return;
            }
        }
    }

    /// What a search has found already, else one round over all nodes, then a pause.
    async fn establish(&mut self) -> Result<(), Revoked> {
        let found = match &mut self.search {
            Some(search) => {
                let found = tokio::time::timeout(SEARCH_PATIENCE, search.found()).await;
                found.ok().flatten().transpose()?
            }
            None => {
                if self.parts.trust.nodes.is_empty() {
                    error!(
                        "no node is known that serves agents; join again with a new token and another --data-dir"
                    );
                }
                let order = choose::order(&self.parts.trust.nodes, self.avoid);
                self.dialer().round(order, &AtomicBool::new(false)).await?.map(Box::new)
            }
        };
        let searched = self.search.take().is_some();
        match found {
            Some(welcomed) => self.follow_to(*welcomed).await,
            None if searched => {}
            None => tokio::time::sleep(self.backoff.next()).await,
        }
        Ok(())
    }

    fn dialer(&self) -> Dialer {
        let Parts { credentials, trust, gso, inputs, .. } = &self.parts;
        Dialer {
            credentials: Arc::clone(credentials),
            trust: trust.clone(),
            gso: *gso,
            inputs: inputs.clone(),
        }
    }

    /// Stays with the session until it ends, or until another has taken its place.
    async fn keep(&mut self) -> Result<(), Revoked> {
        let mut certificate = tokio::time::interval(certificate::CHECK_PERIOD);
        let Some(mut pulse) = self.current.as_ref().map(Session::pulse) else { return Ok(()) };
        loop {
            match self.news(&mut pulse, &mut certificate).await {
                News::Ended(end) => return self.on_end(end).await,
                News::Move(wish) => self.look_for_another(&wish),
                News::Granted => {
                    if self.search.as_ref().is_some_and(Search::is_pointless) {
                        info!("the present node answers again; the link stays");
                        self.search = None;
                    }
                }
                News::Found(found) => {
                    self.search = None;
                    if let Some(welcomed) = found.transpose()? {
                        self.follow_to(*welcomed).await;
                        return Ok(());
                    }
                }
                News::CertificateDue => {
                    if let Some((session, request)) =
                        self.current.as_ref().zip(certificate::request_if_due(&self.parts.credentials))
                    {
                        let _full = session.outbox.try_send(request);
                    }
                }
                News::Certificate(response) => self.on_certificate(&response),
                News::Trust(update) => {
                    self.remember(self.parts.trust.updated(&update.nodes, &update.trusted));
                }
            }
        }
    }

    async fn news(&mut self, pulse: &mut Pulse, certificate: &mut tokio::time::Interval) -> News {
        let Self { current, search, parts, .. } = self;
        let Some(session) = current else { return std::future::pending().await };
        let found = async {
            match search {
                Some(search) => search.found().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            end = session.ended() => News::Ended(end),
            Some(wish) = parts.move_on.recv() => News::Move(wish),
            () = pulse.lost() => {
                News::Move(Move { reason: "the node gives no sign of life".into(), kind: MoveKind::Silent })
            }
            found = found => News::Found(found),
            Ok(()) = session.granted.changed() => News::Granted,
            _ = certificate.tick() => News::CertificateDue,
            Some(response) = session.certificates.recv() => News::Certificate(response),
            Some(update) = session.trust.recv() => News::Trust(update),
        }
    }

    /// P17: the present link stays until the other one has answered.
    fn look_for_another(&mut self, wish: &Move) {
        let Some(present) = self.current.as_ref().map(|session| session.node) else { return };
        // A search that was only advised leaves the present node out; when that falls silent, it may be back there.
        if self.search.as_ref().is_some_and(|search| !search.is_outdone_by(wish.kind)) {
            return;
        }
        info!(reason = wish.reason, "another link is tried; the present one stays until that answers");
        let greeted = self.search.take().is_some_and(|search| search.has_greeted());
        self.search = Some(Search::start(self.dialer(), present, wish.kind, greeted));
    }

    async fn follow_to(&mut self, welcomed: Welcomed) {
        self.remember(self.parts.trust.welcomed(&welcomed.welcome));
        let registry = Arc::clone(&self.parts.registry);
        // The one before is closed when it is dropped: the shell has heard of the new one by then.
        self.current = Some(Session::start(welcomed, self.parts.inputs.clone(), registry).await);
    }

    async fn on_end(&mut self, end: End) -> Result<(), Revoked> {
        let Some(session) = self.current.take() else { return Ok(()) };
        let _ended = self.parts.inputs.send(Input::Down(session.id)).await;
        self.avoid = Some(session.node);
        if session.since.elapsed() >= GOOD_AFTER {
            self.backoff.reset();
        }
        let End::Broken(reason) = end else { return Err(Revoked) };
        warn!(node = session.node, reason, "the link is lost; runners go on");
        if self.search.is_none() {
            // Not at once even when another node is there: a node that closes many links closes them together.
            tokio::time::sleep(self.backoff.next()).await;
        }
        Ok(())
    }

    fn remember(&mut self, trust: Trust) {
        if trust != self.parts.trust {
            if let Err(error) = trust.save(&self.parts.dir) {
                warn!(
                    error = chain(&error),
                    "the trust bundle cannot be stored; it counts until the agent ends"
                );
            }
            self.parts.trust = trust;
        }
    }

    fn on_certificate(&mut self, response: &v1::CertificateResponse) {
        if let Some(renewed) = certificate::accept(&self.parts.dir, &self.parts.credentials, response) {
            self.parts.credentials = Arc::new(renewed);
        }
    }
}
