//! Keeps one link to any node of the cluster: dials, follows, renews, moves. Runners do not depend on it.

mod backoff;
mod certificate;
mod choose;
mod dial;
mod session;

use std::sync::Arc;

use stratavore_certs::Credentials;
use stratavore_certs::tls::Refusal;
use stratavore_proto::v1;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::data_dir::DataDir;
use crate::failure::chain;
use crate::membership::Trust;
use crate::registry::Registry;
use crate::shell::Input;
use crate::supervisor::Move;
use backoff::{Backoff, GOOD_AFTER};
use dial::DialError;
use session::{End, Session};

/// What the link needs.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) dir: DataDir,
    pub(crate) host_id: String,
    pub(crate) credentials: Credentials,
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
    /// The node of the link that was lost last.
    avoid: Option<u64>,
}

impl Link {
    pub(crate) fn new(parts: Parts) -> Self {
        Self { parts, backoff: Backoff::default(), current: None, avoid: None }
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
            if matches!(step, Err(Removed)) {
                error!("this host's key was removed from the cluster (P18); every runner is stopped");
                let _ended = self.parts.inputs.send(Input::Revoked).await;
                return;
            }
        }
    }

    /// One round over all nodes, then a pause.
    async fn establish(&mut self) -> Result<(), Removed> {
        self.current = self.dial_any(self.avoid, true).await?;
        if self.current.is_none() {
            tokio::time::sleep(self.backoff.next()).await;
        }
        Ok(())
    }

    /// Stays with the session until it ends, or until another has taken its place.
    async fn keep(&mut self) -> Result<(), Removed> {
        let mut renewal = tokio::time::interval(certificate::CHECK_PERIOD);
        while let Some(session) = &mut self.current {
            tokio::select! {
                end = session.ended() => return self.on_end(end).await,
                Some(wish) = self.parts.move_on.recv() => {
                    let node = session.node;
                    info!(reason = wish.reason, "another link is tried; the present one stays until that is welcomed");
                    if let Some(next) = self.dial_any(Some(node), wish.same_node_too).await? {
                        self.current = Some(next);
                        return Ok(());
                    }
                }
                _ = renewal.tick() => if let Some(request) = certificate::request_if_due(&self.parts.credentials) {
                    let _full = session.outbox.try_send(request);
                },
                Some(response) = session.certificates.recv() => self.on_certificate(&response),
            }
        }
        Ok(())
    }

    async fn on_end(&mut self, end: End) -> Result<(), Removed> {
        let Some(session) = self.current.take() else { return Ok(()) };
        let _ended = self.parts.inputs.send(Input::Down(session.id)).await;
        self.avoid = Some(session.node);
        if session.since.elapsed() >= GOOD_AFTER {
            self.backoff.reset();
        }
        let End::Broken(reason) = end else { return Err(Removed) };
        warn!(node = session.node, reason, "the link is lost; runners go on");
        // Not at once even when another node is there: a node that closes many links closes them together.
        tokio::time::sleep(self.backoff.next()).await;
        Ok(())
    }

    /// Tries every node once, the one to avoid last, or not at all.
    async fn dial_any(&mut self, avoid: Option<u64>, avoided_too: bool) -> Result<Option<Session>, Removed> {
        let mut order = choose::preference(&self.parts.host_id, &self.parts.trust.nodes, avoid);
        order.retain(|node| avoided_too || avoid != Some(node.id));
        if order.is_empty() && avoided_too {
            error!("no node is known that serves agents; join again with a new token and another --data-dir");
        }
        for node in order {
            let parts = &self.parts;
            let dialled =
                dial::dial(&node, &parts.credentials, parts.trust.keys(), parts.gso, &parts.inputs).await;
            match dialled {
                Ok(welcomed) => {
                    info!(node = node.id, address = node.quic, "welcomed");
                    self.remember(&welcomed.welcome);
                    let registry = Arc::clone(&self.parts.registry);
                    return Ok(Some(
                        Session::start(welcomed, node.id, self.parts.inputs.clone(), registry).await,
                    ));
                }
                Err(DialError::Refused(Refusal::Revoked)) => return Err(Removed),
                Err(error) => warn!(node = node.id, address = node.quic, error = chain(&error), "no link"),
            }
        }
        Ok(None)
    }

    fn remember(&mut self, welcome: &v1::Welcome) {
        let trust = self.parts.trust.updated(welcome);
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
            self.parts.credentials = renewed;
        }
    }
}

/// The cluster removed this host.
struct Removed;
