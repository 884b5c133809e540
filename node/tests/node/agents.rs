//! What an agent sees: orders, acknowledgements, grants, and its removal.

use stratavore_certs::{KeyPair, PublicKey};
use stratavore_proto::v1::{self, agent_message, node_message};

use crate::client::{Client, reason, request_id};
use crate::fake_agent::{Host, exited, observation};
use crate::harness::{Node, eventually, soon};

fn grant(message: node_message::Message) -> Option<v1::Grant> {
    if let node_message::Message::Grant(grant) = message { Some(grant) } else { None }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launch_reaches_the_agent_and_its_reports_reach_the_api() {
    let node = Node::start().await;
    let host = Host::join(&node, "h1").await;
    let mut agent = host.connect(&node).await;
    let welcome = agent.welcome.clone().unwrap();
    assert!(welcome.desired.unwrap().full);
    assert_eq!((welcome.renew_ms, welcome.lease_ms), (2_000, 15_000));
    assert_eq!(welcome.trusted.len(), 1);

    let mut client = Client::admin(&node).await;
    client.project("demo").await;
    let id = client.launch("demo", 1).await.runners[0].id.clone();
    let order = agent.order(&id, v1::Want::Run).await;
    let start = order.start.clone().unwrap();
    assert_eq!(start.command, ["sleep", "1000"]);
    assert_eq!((start.project.as_str(), start.workdir.as_str()), ("demo", "/tmp"));
    assert_eq!(start.host_epoch, agent.host_epoch);

    agent.report(vec![observation(&order, 1, v1::RunnerState::Running)]).await;
    let keys = agent.acknowledged().await;
    assert_eq!((keys[0].runner.as_str(), keys[0].rev), (id.as_str(), 1));
    let runner = client.runner(&id).await;
    assert_eq!((runner.state(), runner.pid, runner.host.as_str()), (v1::RunnerState::Running, 4242, "h1"));
    assert_eq!(runner.fence, "cgroup");

    // An old report is acknowledged too, and changes nothing.
    agent.report(vec![observation(&order, 1, v1::RunnerState::Paused)]).await;
    assert_eq!(agent.acknowledged().await.len(), 1);
    assert_eq!(client.runner(&id).await.state(), v1::RunnerState::Running);

    let kill =
        v1::KillRunnersRequest { request_id: request_id(), runners: vec![id.clone()], ..Default::default() };
    client.runners.kill_runners(kill).await.unwrap();
    let stop = agent.order(&id, v1::Want::Stop).await;
    assert!(stop.start.is_none() && !stop.force);
    assert_eq!(client.runner(&id).await.state(), v1::RunnerState::Stopping);
    agent.report(vec![exited(&order, 2)]).await;
    agent.acknowledged().await;
    let runner = client.runner(&id).await;
    assert_eq!(runner.state(), v1::RunnerState::Terminated);
    assert_eq!(runner.exit.unwrap().code, Some(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_launches_arrive_each_once_and_in_order_of_index() {
    let node = Node::start().await;
    let host = Host::join(&node, "h1").await;
    let mut agent = host.connect(&node).await;
    let mut client = Client::admin(&node).await;
    client.project("demo").await;
    let launches: Vec<_> = (0..40)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { client.launch("demo", 1).await })
        })
        .collect();
    let (mut seen, mut index) = (std::collections::BTreeSet::new(), 0);
    while seen.len() < 40 {
        let desired = agent.orders().await;
        let at = desired.index.unwrap().index;
        assert!(at >= index);
        index = at;
        for line in desired.runners.iter().filter(|_| !desired.full) {
            assert!(line.epoch.unwrap().index <= at);
            assert!(line.start.is_some());
            assert!(seen.insert(line.runner.clone()), "{} came twice", line.runner);
        }
    }
    for launch in launches {
        assert!(seen.contains(&launch.await.unwrap().runners[0].id));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_connection_brings_the_full_set_and_replaces_the_old_one() {
    let node = Node::start().await;
    let host = Host::join(&node, "h1").await;
    let mut old = host.connect(&node).await;
    let mut client = Client::admin(&node).await;
    client.project("demo").await;
    let id = client.launch("demo", 1).await.runners[0].id.clone();
    let order = old.order(&id, v1::Want::Run).await;

    // The agent crashed before it could begin: the start order comes again.
    let mut new = host.connect(&node).await;
    let desired = new.welcome.clone().unwrap().desired.unwrap();
    assert_eq!((desired.runners[0].runner.as_str(), desired.runners[0].epoch), (id.as_str(), order.epoch));
    assert!(desired.runners[0].start.is_some());
    assert_eq!(new.host_epoch, old.host_epoch, "a reconnect keeps the host epoch (P3)");
    soon("the end of the old connection", old.quic.closed()).await;

    // It lists the runner now: it needs no order for it.
    let listed = v1::Hello {
        runners: vec![observation(&order, 1, v1::RunnerState::Running)],
        seen: desired.index,
        ..host.hello()
    };
    let again = host.connect_as(&node, listed).await;
    let desired = again.welcome.clone().unwrap().desired.unwrap();
    assert!(desired.runners[0].start.is_none());
    assert_eq!(client.runner(&id).await.state(), v1::RunnerState::Running);
    soon("the end of the second connection", new.quic.closed()).await;
    assert!(new.reader.next::<v1::NodeMessage>().await.is_ok() || new.quic.close_reason().is_some());

    // A connection that is older than the present one gets no place.
    let stale = v1::Hello { connection: 1, ..host.hello() };
    let mut late = host.greet(&node, stale).await;
    let refused =
        late.wait_for(|message| {
            if let node_message::Message::Refused(refused) = message { Some(refused) } else { None }
        })
        .await;
    assert_eq!(refused.code, "stale_connection");
    assert!(again.quic.close_reason().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn renewals_are_granted_as_they_were_sent_and_wrong_ones_are_not() {
    let node = Node::start().await;
    let host = Host::join(&node, "h1").await;
    let mut agent = host.connect(&node).await;
    let renewal = agent.renewal();
    agent.say(agent_message::Message::Renewal(renewal.clone())).await;
    let granted = agent.wait_for(grant).await;
    assert_eq!(granted.renewal, Some(renewal.clone()));
    assert!(granted.unbounded, "the only host of a cluster (P13)");

    Host::join(&node, "h2").await;
    agent.say(agent_message::Message::Renewal(renewal.clone())).await;
    assert!(!agent.wait_for(grant).await.unbounded);
    let listed = Client::admin(&node).await.hosts.list_hosts(v1::ListHostsRequest::default()).await;
    let hosts = listed.unwrap().into_inner().hosts;
    let left = hosts.iter().find(|host| host.name == "h1").unwrap().lease_ms_left.unwrap();
    assert!((0..=15_000).contains(&left), "{left}");

    for wrong in [
        v1::Renewal { host_epoch: None, ..renewal.clone() },
        v1::Renewal { host_epoch: Some(v1::Epoch { incarnation: 1, index: 1 }), ..renewal.clone() },
        v1::Renewal { boot_id: "another".into(), ..renewal },
    ] {
        agent.say(agent_message::Message::Renewal(wrong)).await;
        let code = agent
            .wait_for(|message| match message {
                node_message::Message::Refused(refused) => Some(refused.code),
                node_message::Message::Grant(grant) => panic!("granted: {grant:?}"),
                _ => None,
            })
            .await;
        assert_eq!(code, "fenced");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_host_becomes_unreachable_and_returns_with_a_renewal() {
    let node = Node::start_with(|config| {
        config.lease.ttl_ms = 1_000;
        config.lease.renew_ms = 300;
    })
    .await;
    let host = Host::join(&node, "h1").await;
    let mut agent = host.connect(&node).await;
    let state = || async {
        let mut client = Client::admin(&node).await;
        let listed = client.hosts.list_hosts(v1::ListHostsRequest::default()).await.unwrap().into_inner();
        listed.hosts[0].state()
    };
    assert_eq!(state().await, v1::HostState::Ready);
    eventually("the loss", || async { (state().await == v1::HostState::Unreachable).then_some(()) }).await;
    let renewal = agent.renewal();
    agent.say(agent_message::Message::Renewal(renewal)).await;
    agent.wait_for(grant).await;
    assert_eq!(state().await, v1::HostState::Ready);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_host_is_told_and_cut_and_stays_out() {
    let node = Node::start().await;
    let host = Host::join(&node, "h1").await;
    let mut agent = host.connect(&node).await;
    let mut client = Client::admin(&node).await;
    client.project("demo").await;
    let id = client.launch("demo", 1).await.runners[0].id.clone();
    agent.order(&id, v1::Want::Run).await;
    let remove = |force| v1::RemoveHostRequest { request_id: request_id(), host: "h1".into(), force };
    let status = client.hosts.remove_host(remove(false)).await.unwrap_err();
    assert_eq!(reason(&status), "host_has_runners");
    let began = std::time::Instant::now();
    client.hosts.remove_host(remove(true)).await.unwrap();
    agent
        .wait_for(
            |message| {
                if let node_message::Message::Removed(removed) = message { Some(removed) } else { None }
            },
        )
        .await;
    soon("the end of the connection", agent.quic.closed()).await;
    assert!(began.elapsed().as_secs() < 20, "took {:?}", began.elapsed());
    let runner = client.runner(&id).await;
    assert_eq!((runner.state(), runner.reason.as_str()), (v1::RunnerState::Failed, "lost_with_host"));
    // Alert 44 in the handshake, or right behind it.
    match soon("the refusal", host.quic(node.at.quic)).await {
        Err(error) => assert!(error.to_string().contains("44"), "{error}"),
        Ok(quic) => {
            let closed = soon("the refusal", quic.closed()).await;
            assert!(closed.to_string().contains("44"), "{closed}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hellos_that_do_not_fit_are_refused_with_a_code() {
    let node = Node::start().await;
    let host = Host::join(&node, "h1").await;
    let base = host.hello();
    let newer = Some(v1::Epoch { incarnation: 9, index: 1 });
    for (hello, code) in [
        (v1::Hello { host_id: "zzzzzzzzzz".into(), ..base.clone() }, "identity"),
        (v1::Hello { cluster_id: "zzzzzzzzzzzzzzzz".into(), ..base.clone() }, "foreign_cluster"),
        (v1::Hello { protocol_min: 7, protocol_max: 9, ..base.clone() }, "protocol"),
        (v1::Hello { boot_id: "x".repeat(10_000), ..base.clone() }, "protocol"),
        (v1::Hello { seen: newer, ..base.clone() }, "older_incarnation"),
    ] {
        let mut agent = host.greet(&node, hello).await;
        match agent.next().await {
            node_message::Message::Refused(refused) => assert_eq!(refused.code, code),
            other => panic!("{code}: {other:?}"),
        }
        soon("the end", agent.quic.closed()).await;
    }
    host.connect(&node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_over_the_live_connection() {
    let node = Node::start().await;
    let mut host = Host::join(&node, "h1").await;
    let mut agent = host.connect(&node).await;
    let key = KeyPair::generate().unwrap();
    let ask =
        |csr: Vec<u8>| agent_message::Message::Certificate(v1::CertificateRequest { csr_der: csr.into() });
    let answer = |message| match message {
        node_message::Message::Certificate(response) => Some(response),
        _ => None,
    };
    agent.say(ask(vec![1, 2, 3])).await;
    assert!(!agent.wait_for(answer).await.error.is_empty());
    agent.say(ask(key.csr_der().unwrap())).await;
    let response = agent.wait_for(answer).await;
    assert_eq!(response.error, "");
    assert_eq!(PublicKey::from_csr(&key.csr_der().unwrap()).unwrap().hash(), key.public().hash());
    host.credentials =
        stratavore_certs::Credentials::new(&response.ca_der, &response.certificate_der, key).unwrap();
    host.connect(&node).await;
}
