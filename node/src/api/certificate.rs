//! A user's certificate, once more for the same key, so that nobody has to log in again while the cluster still knows him.

use stratavore_certs::PublicKey;
use stratavore_model::{Actor, Rejected, SpkiHash};
use stratavore_proto::v1::RenewCertificateResponse;

use crate::api::Api;
use crate::api::status::ApiError;
use crate::link::certificate::IssueError;

impl Api {
    /// Certifies the key that a user came with.
    ///
    /// # Errors
    /// Another key, another kind of caller, or a node that is not up to date.
    pub(super) async fn renew_user(
        &self,
        actor: &Actor,
        present: SpkiHash,
        csr_der: &[u8],
    ) -> Result<RenewCertificateResponse, ApiError> {
        self.serves()?;
        if !matches!(actor, Actor::User(_)) {
            return Err(ApiError::Denied(format!("{actor} renews its certificate in another way")));
        }
        let key = PublicKey::from_csr(csr_der).ok().filter(|key| key.hash().0 == present);
        let Some(key) = key else {
            let message = "the request is not for the key of this connection";
            return Err(Rejected::bad_argument("csr_der", message, "log in with a new token instead").into());
        };
        // The registry decided in the handshake; the newest word of it counts (P17).
        self.raft.linearize().await?;
        let issued = self.issuer.issue(actor, &key, &[]).map_err(failed)?;
        tracing::info!(%actor, "certificate renewed");
        Ok(RenewCertificateResponse {
            certificate_der: issued.certificate_der.into(),
            ca_der: issued.ca_der.into(),
        })
    }
}

fn failed(error: IssueError) -> ApiError {
    match error {
        IssueError::Refused(rejected) => rejected.into(),
        IssueError::NotCommitted(error) => error.into(),
        IssueError::Stale => ApiError::HostUnavailable { message: IssueError::Stale.to_string() },
        other => ApiError::Internal(other.to_string()),
    }
}
