//! The link: who is followed, who is refused, and what survives both.

use stratavore_certs::tls::Verdict;
use stratavore_certs::{Identity, PublicKey, Validity};
use stratavore_proto::v1;
use stratavore_proto::v1::RunnerState::Running;
use stratavore_proto::v1::node_message::Message as Down;

use crate::support::{Authority, CLUSTER, Farm, Gateway, alive, now_s, run_order, unique_id, until, within};

#[tokio::test]
async fn a_removed_host_stops_everything_and_says_so() {
    let farm = Farm::joined().await;
    let runner = unique_id();
    let (mut agent, mut control) = farm.agent_with(10, vec![run_order(&runner, 10, "exec sleep 1000")]).await;
    let running = control.state_of(&runner, Running).await;
    control.send(Down::Removed(v1::Removed { reason: "hosts remove".into() })).await;
    assert_eq!(agent.ended().await.code(), Some(20));
    assert!(!alive(running.pid));
    agent.says("no longer belongs to the cluster").await;
}

#[tokio::test]
async fn a_key_that_the_nodes_revoke_ends_it_too() {
    let farm = Farm::joined().await;
    let runner = unique_id();
    let (mut agent, mut control) = farm.agent_with(10, vec![run_order(&runner, 10, "exec sleep 1000")]).await;
    let running = control.state_of(&runner, Running).await;
    farm.gateway.judge(Verdict::Revoked);
    farm.gateway.serve_nobody();
    control.connection.close(1u32.into(), b"removed");
    assert_eq!(agent.ended().await.code(), Some(20));
    assert!(!alive(running.pid));
}

#[tokio::test]
async fn a_foreign_cluster_and_an_unknown_key_stop_nothing() {
    let farm = Farm::joined().await;
    let runner = unique_id();
    let (mut agent, mut control) = farm.agent_with(10, vec![run_order(&runner, 10, "exec sleep 1000")]).await;
    let running = control.state_of(&runner, Running).await;
    farm.gateway.judge(Verdict::Unknown);
    farm.gateway.serve_nobody();
    control.connection.close(0u32.into(), b"restarting");
    agent.says("does not know our key").await;
    assert!(agent.is_running() && alive(running.pid));
}

#[tokio::test]
async fn a_node_of_another_ca_is_not_spoken_to() {
    let farm = Farm::joined().await;
    let foreign = Authority::new();
    let other = Gateway::start(&foreign.node);
    other.serve_nobody();
    let membership = farm.data_dir().join("agent.json");
    let text = std::fs::read_to_string(&membership).unwrap();
    let moved = text.replace(&farm.gateway.address().to_string(), &other.address().to_string());
    assert_ne!(text, moved);
    std::fs::write(&membership, moved).unwrap();
    let mut agent = farm.agent();
    agent.says("no link").await;
    assert!(agent.is_running());
    assert!(!agent.log().contains("welcomed"));
}

#[tokio::test]
async fn what_is_no_frame_closes_the_connection_and_nothing_else() {
    let farm = Farm::joined().await;
    let runner = unique_id();
    let run = run_order(&runner, 10, "exec sleep 1000");
    let (mut agent, mut control) = farm.agent_with(10, vec![run.clone()]).await;
    let running = control.state_of(&runner, Running).await;
    // A length of 2 MiB.
    control.send_raw(&[0x80, 0x80, 0x80, 0x01]).await;
    within("the agent closes", control.connection.closed()).await;
    agent.says("exceeds the bound").await;

    let mut control = farm.gateway.accept().await;
    control.welcome(10, vec![run.clone()]).await;
    // Half a frame.
    control.send_raw(&[0x20, 0x0a]).await;
    control.finish();
    within("the agent closes", control.connection.closed()).await;
    agent.says("inside a frame").await;

    let mut control = farm.gateway.accept().await;
    control.welcome(10, vec![run]).await;
    assert_eq!(control.hello.runners[0].pid, running.pid);
    assert!(agent.is_running());
}

#[tokio::test]
async fn a_silent_node_is_dialled_again_and_kept_until_the_new_link_answers() {
    let farm = Farm::joined().await;
    let (_agent, old) = farm.agent_with(10, vec![]).await;
    // Nobody grants a renewal here.
    let mut new = farm.gateway.accept().await;
    assert!(new.hello.connection > old.hello.connection);
    assert!(old.connection.close_reason().is_none());
    new.welcome(11, vec![]).await;
    new.serve_until("the old link ends", async { drop(old.connection.closed().await) }).await;
}

#[tokio::test]
async fn a_fenced_host_epoch_is_given_up() {
    let farm = Farm::joined().await;
    let (_agent, mut control) = farm.agent_with(10, vec![]).await;
    let refused = v1::Refused {
        code: "fenced".into(),
        message: "the host epoch has ended".into(),
        ..Default::default()
    };
    control.send(Down::Refused(refused)).await;
    let again = farm.gateway.accept().await;
    assert_eq!(again.hello.host_epoch, None);
}

#[tokio::test]
async fn a_certificate_at_two_thirds_of_its_life_is_renewed_with_the_same_key() {
    let authority = Authority::new();
    let old = Validity::lasting(now_s() - 80 * 86_400, 90 * 86_400);
    let farm = Farm::join(&authority, tempfile::tempdir().unwrap(), Some(old)).await;
    let stored = farm.data_dir().join("pki/host.crt");
    let before = std::fs::read_to_string(&stored).unwrap();
    let (agent, mut control) = farm.agent_with(10, vec![]).await;
    while control.certificates.is_empty() {
        within("the renewal is asked for", control.next_reports()).await;
    }
    let key = PublicKey::from_csr(&control.certificates[0].csr_der).unwrap();
    let identity = Identity::Host { cluster: CLUSTER.into(), id: farm.host_id.clone() };
    let validity = Validity::for_identity(&identity, now_s());
    let certificate = authority.ca.issue(&key, &identity, &[], validity).unwrap();
    let response =
        v1::CertificateResponse { certificate_der: certificate.to_vec().into(), ..Default::default() };
    control.send(Down::Certificate(response)).await;
    until("it is stored", || std::fs::read_to_string(&stored).is_ok_and(|now| now != before)).await;
    agent.kill().await;
    let _agent = farm.agent();
    farm.gateway.accept().await;
}

#[tokio::test]
async fn p1_an_older_incarnation_is_not_followed() {
    let farm = Farm::joined().await;
    let agent = farm.agent();
    let mut control = farm.gateway.accept().await;
    let newer = v1::Epoch { incarnation: 2, index: 5 };
    let desired = v1::Desired { index: Some(newer), full: true, ..Default::default() };
    let welcome = v1::Welcome { protocol: 1, incarnation: 2, desired: Some(desired), ..Default::default() };
    control.send(Down::Welcome(welcome)).await;
    until("it is seen", || {
        std::fs::read_to_string(farm.data_dir().join("seen.json"))
            .is_ok_and(|text| text.contains("\"incarnation\":2"))
    })
    .await;
    control.connection.close(0u32.into(), b"");
    let mut control = farm.gateway.accept().await;
    control.welcome(99, vec![]).await;
    agent.says("an older state of the cluster is not followed").await;
}
