//! Certificates, issued from the replicated CA for keys that the registry holds.

use std::net::IpAddr;

use stratavore_certs::{Ca, PublicKey, Validity};
use stratavore_model::command::RegisterKey;
use stratavore_model::{Actor, Command, Entry, Rejected, Reply, SpkiHash};
use stratavore_proto::v1::{self, node_message};
use stratavore_raft::{Handle, ProposeError};

use crate::convert::{self, id};
use crate::link::hub::SessionHandle;

/// Why no certificate was issued.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IssueError {
    #[error("the certificate request cannot be used: {0}")]
    Request(#[source] stratavore_certs::Error),
    #[error(transparent)]
    Refused(#[from] Rejected),
    #[error(transparent)]
    NotCommitted(#[from] ProposeError),
    #[error("the cluster's CA cannot issue: {0}")]
    Ca(#[source] stratavore_certs::Error),
    #[error("this node has no cluster state yet")]
    NoCluster,
    /// P17: the registry that is known here may be old.
    #[error("this node has lost touch with the rest of the cluster")]
    Stale,
}

/// A certificate and the CA it chains to, in DER.
pub(crate) struct Issued {
    pub(crate) certificate_der: Vec<u8>,
    pub(crate) ca_der: Vec<u8>,
}

/// Issues from the applied state's CA.
#[derive(Clone)]
pub(crate) struct Issuer {
    raft: Handle,
}

impl Issuer {
    pub(crate) fn new(raft: Handle) -> Self {
        Self { raft }
    }

    /// A certificate for a key that is registered for `actor`.
    ///
    /// # Errors
    /// The CA in state does not work, which is a defect.
    pub(crate) fn issue(
        &self,
        actor: &Actor,
        key: &PublicKey,
        names: &[String],
    ) -> Result<Issued, IssueError> {
        if !self.raft.is_fresh() {
            return Err(IssueError::Stale);
        }
        let (cluster, ca_cert, ca_key) = self
            .raft
            .read(|state| {
                let cluster = state.cluster()?;
                Some((cluster.id, cluster.ca_cert_der.clone(), cluster.ca_key_der.clone()))
            })
            .ok_or(IssueError::NoCluster)?;
        let identity = convert::identity::identity(cluster, actor).ok_or(IssueError::NoCluster)?;
        let ca = Ca::from_parts(&ca_cert, ca_key.reveal()).map_err(IssueError::Ca)?;
        let validity = Validity::for_identity(&identity, id::now().0 / 1000);
        let certificate = ca.issue(key, &identity, names, validity).map_err(IssueError::Ca)?;
        Ok(Issued { certificate_der: certificate.to_vec(), ca_der: ca_cert })
    }

    /// A further key for an agent: registered first, then certified.
    async fn renew(&self, actor: Actor, present: SpkiHash, csr_der: &[u8]) -> Result<Issued, IssueError> {
        let key = PublicKey::from_csr(csr_der).map_err(IssueError::Request)?;
        let new = key.hash().0;
        if new != present {
            let command = Command::RegisterKey(RegisterKey { present, new });
            let entry = Entry { actor: actor.clone(), request_id: None, at: id::now(), term: None, command };
            self.raft.propose(entry).await?.reply.into_result().map(drop::<Reply>)?;
        }
        self.raft.linearize().await.map_err(|_| IssueError::Stale)?;
        self.issue(&actor, &key, &[])
    }

    /// Answers an agent's request for a new certificate.
    pub(crate) async fn answer(
        &self,
        session: &SessionHandle,
        present: SpkiHash,
        request: v1::CertificateRequest,
    ) {
        let host = session.host();
        let response = match self.renew(Actor::Host(host), present, &request.csr_der).await {
            Ok(issued) => v1::CertificateResponse {
                certificate_der: issued.certificate_der.into(),
                ca_der: issued.ca_der.into(),
                error: String::new(),
            },
            Err(error) => {
                tracing::warn!(%host, %error, "certificate not renewed");
                v1::CertificateResponse { error: error.to_string(), ..Default::default() }
            }
        };
        session.send(node_message::Message::Certificate(response));
    }
}

/// The names that a foreign client may check in a node's certificate: the hosts of its addresses.
pub(crate) fn server_names(advertised: &str) -> Vec<String> {
    let mut names = vec![advertised.to_owned()];
    if advertised.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()) {
        names.push("localhost".to_owned());
    }
    names
}
