//! The certificate of a context is certified again when two thirds of its life are over, over the connection that a
//! command has open anyway. Nobody waits for it, and nobody is told unless he asks with --debug.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stratavore_certs::{Credentials, KeyPair};
use stratavore_proto::v1::RenewCertificateRequest;
use stratavore_settings::context::Contexts;

use super::App;
use crate::client::{self, Client};
use crate::context::{Target, chain};
use crate::view;

/// The command has done its work; a cluster that is slow now is asked again at the next one.
const PATIENCE: Duration = Duration::from_secs(2);

/// Renews what the command used, if it is due.
pub(crate) async fn if_due(app: &App) {
    let Some((target, client)) = app.used() else { return };
    let Some(present) = due(target) else { return };
    let outcome = renewed(client, &present).await.and_then(|renewed| store(target, &renewed));
    if app.globals.debug {
        let text = match outcome {
            Ok(()) => format!("the certificate of context {} was renewed", target.name),
            Err(why) => format!("the certificate of context {} was not renewed: {why}", target.name),
        };
        view::tell(&format!("debug: {}", crate::filter::one_line(&text)));
    }
}

/// The credentials of the target, when they have lived long enough, and still live.
fn due(target: &Target) -> Option<Credentials> {
    let credentials = target.credentials().ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let validity = credentials.validity().ok()?;
    (validity.renewal_due(now) && now <= validity.not_after_unix_s).then_some(credentials)
}

async fn renewed(client: &Client, present: &Credentials) -> Result<Credentials, String> {
    let csr_der = present.key().csr_der().map_err(|error| chain(&error))?;
    let answer = client
        .read_within(PATIENCE, "renew the certificate", async |channel| {
            let request = RenewCertificateRequest { csr_der: csr_der.clone().into() };
            client::cluster(channel).renew_certificate(request).await
        })
        .await
        .map_err(|failure| failure.render().trim_end().to_owned())?;
    let key = KeyPair::from_pkcs8_der(present.key().pkcs8_der()).map_err(|error| chain(&error))?;
    let renewed = Credentials::new(&answer.ca_der, &answer.certificate_der, key);
    // Who answers could only be the cluster; what it sent must be for us all the same.
    renewed.map_err(|error| chain(&error)).and_then(|renewed| {
        if renewed.identity() == present.identity() {
            Ok(renewed)
        } else {
            Err("it is for somebody else".into())
        }
    })
}

/// Into the context that was read, unless somebody has changed it since.
fn store(target: &Target, renewed: &Credentials) -> Result<(), String> {
    Contexts::edit(&target.file, |contexts| {
        let context = contexts.contexts.get_mut(&target.name);
        if let Some(context) = context.filter(|context| context.certificate == target.context.certificate) {
            context.certificate = renewed.certificate_pem();
            context.ca = renewed.ca_pem();
        }
        Ok(())
    })
    .map_err(|error| chain(&error))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use stratavore_certs::{Ca, Identity, Validity};
    use stratavore_settings::context::Context;

    use super::*;

    const CLUSTER: &str = "0123456789abcdef";
    const DAY_S: u64 = 86_400;

    fn now() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
    }

    fn issued(ca: &Ca, days_ago: u64) -> Credentials {
        let identity = Identity::User { cluster: CLUSTER.to_owned(), name: "u".to_owned() };
        let key = KeyPair::generate().unwrap();
        let validity = Validity::for_identity(&identity, now() - days_ago * DAY_S);
        let certificate = ca.issue(&key.public(), &identity, &[], validity).unwrap();
        Credentials::new(ca.certificate_der(), &certificate, key).unwrap()
    }

    fn target(dir: &Path, credentials: &Credentials) -> Target {
        let file = dir.join("contexts.yaml");
        let context = Context {
            cluster_id: CLUSTER.to_owned(),
            user: "u".to_owned(),
            endpoints: vec!["127.0.0.1:1".to_owned()],
            ca: credentials.ca_pem(),
            certificate: credentials.certificate_pem(),
            key: credentials.key_pem().to_string(),
        };
        Contexts::edit(&file, |contexts| contexts.put("c", context.clone(), true)).unwrap();
        Target::new("c".to_owned(), file, context)
    }

    fn stored(target: &Target) -> String {
        Contexts::load(&target.file).unwrap().contexts["c"].certificate.clone()
    }

    #[test]
    fn it_is_due_after_two_thirds_of_a_year_and_not_once_it_has_expired() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::generate(CLUSTER, now() - 500 * DAY_S).unwrap();
        for (days_ago, is_due) in [(0, false), (240, false), (250, true), (360, true), (370, false)] {
            let target = target(dir.path(), &issued(&ca, days_ago));
            assert_eq!(due(&target).is_some(), is_due, "{days_ago} days old");
        }
    }

    #[test]
    fn a_context_that_somebody_has_changed_meanwhile_stays() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::generate(CLUSTER, now() - 500 * DAY_S).unwrap();
        let (old, fresh) = (issued(&ca, 300), issued(&ca, 0));
        let before = target(dir.path(), &old);
        store(&before, &fresh).unwrap();
        assert_eq!(stored(&before), fresh.certificate_pem());
        let other = issued(&ca, 1);
        target(dir.path(), &other);
        store(&before, &fresh).unwrap();
        assert_eq!(stored(&before), other.certificate_pem());
    }
}
