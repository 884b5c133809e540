//! This node's own certificate: the same key, certified again by the replicated CA before two thirds of its life are
//! over, stored, and handed to the listeners. New connections use it; open ones go on.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use stratavore_certs::tls;
use stratavore_certs::{Credentials, KeyPair};
use stratavore_model::{Actor, NodeId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::admission::{NodeRegistry, Registry};
use crate::convert::id;
use crate::exit::Failure;
use crate::link::certificate::{Issuer, server_names};

/// Days are what certificates are measured in.
const LOOK: Duration = Duration::from_secs(6 * 3600);

/// The TLS configurations of all ports, each behind a watch.
pub(crate) struct TlsPorts {
    grpc: watch::Sender<Arc<ServerConfig>>,
    raft: watch::Sender<Arc<ServerConfig>>,
    quic: watch::Sender<Arc<ServerConfig>>,
    join: watch::Sender<Arc<ServerConfig>>,
    own: watch::Sender<Arc<Credentials>>,
    registry: Arc<Registry>,
}

/// One configuration per port.
struct Configs {
    grpc: Arc<ServerConfig>,
    raft: Arc<ServerConfig>,
    quic: Arc<ServerConfig>,
    join: Arc<ServerConfig>,
}

impl Configs {
    fn of(own: &Credentials, registry: &Arc<Registry>) -> Result<Self, stratavore_certs::Error> {
        Ok(Self {
            grpc: tls::grpc_server(own, registry.clone())?,
            raft: tls::raft_server(own, Arc::new(NodeRegistry(registry.clone())))?,
            quic: tls::quic_server(own, registry.clone())?,
            join: tls::join_server(own)?,
        })
    }
}

impl TlsPorts {
    /// # Errors
    /// The credentials cannot be used.
    pub(crate) fn new(own: &Arc<Credentials>, registry: Arc<Registry>) -> Result<Self, Failure> {
        let configs = Configs::of(own, &registry)
            .map_err(|error| Failure::generic("cannot use the node's certificate", &error))?;
        let Configs { grpc, raft, quic, join } = configs;
        Ok(Self {
            grpc: watch::Sender::new(grpc),
            raft: watch::Sender::new(raft),
            quic: watch::Sender::new(quic),
            join: watch::Sender::new(join),
            own: watch::Sender::new(own.clone()),
            registry,
        })
    }

    pub(crate) fn grpc(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.grpc.subscribe()
    }

    pub(crate) fn raft(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.raft.subscribe()
    }

    pub(crate) fn quic(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.quic.subscribe()
    }

    pub(crate) fn join(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.join.subscribe()
    }

    /// The certificate to dial with.
    pub(crate) fn own(&self) -> watch::Receiver<Arc<Credentials>> {
        self.own.subscribe()
    }

    fn replace(&self, own: &Arc<Credentials>) -> Result<(), stratavore_certs::Error> {
        let configs = Configs::of(own, &self.registry)?;
        self.grpc.send_replace(configs.grpc);
        self.raft.send_replace(configs.raft);
        self.quic.send_replace(configs.quic);
        self.join.send_replace(configs.join);
        self.own.send_replace(own.clone());
        Ok(())
    }
}

/// Keeps the certificate fresh.
pub(crate) struct OwnCertificate {
    pub(crate) node: NodeId,
    pub(crate) advertised: String,
    pub(crate) pki: PathBuf,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) issuer: Issuer,
    pub(crate) ports: TlsPorts,
}

impl OwnCertificate {
    /// Runs until cancelled.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        loop {
            let due =
                self.credentials.validity().is_ok_and(|validity| validity.renewal_due(id::now().0 / 1000));
            if due {
                match self.renew() {
                    Ok(()) => tracing::info!("this node's certificate was renewed"),
                    Err(error) => tracing::error!(%error, "this node's certificate was not renewed"),
                }
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    fn renew(&mut self) -> Result<(), Failure> {
        let failed = |error: &(dyn std::error::Error + 'static)| Failure::generic("cannot renew", error);
        let key = self.credentials.key();
        let names = server_names(&self.advertised);
        let issued =
            self.issuer.issue(&Actor::Node(self.node), &key.public(), &names).map_err(|e| failed(&e))?;
        let key = KeyPair::from_pkcs8_der(key.pkcs8_der()).map_err(|e| failed(&e))?;
        let renewed =
            Credentials::new(&issued.ca_der, &issued.certificate_der, key).map_err(|e| failed(&e))?;
        renewed.save(&self.pki, "node").map_err(|e| failed(&e))?;
        let renewed = Arc::new(renewed);
        self.ports.replace(&renewed).map_err(|e| failed(&e))?;
        self.credentials = renewed;
        Ok(())
    }
}
