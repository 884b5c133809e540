//! Projects, launches, retries, explanations: what people ask a node that has no host yet.

use stratavore_proto::v1;
use tonic::Code;

use crate::client::{Client, launch, reason, request_id};
use crate::harness::{Node, soon};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_cluster_answers_status_and_leads() {
    let node = Node::start().await;
    let status = Client::admin(&node).await.status().await;
    assert!(status.quorum);
    assert_eq!((status.incarnation, status.answered_by), (1, 1));
    assert_eq!(status.whoami, "user/admin");
    assert_eq!(status.nodes.len(), 1);
    assert_eq!(status.nodes[0].role, "leader");
    assert_eq!(status.digest.len(), 64);
    assert!(status.alarms.is_empty(), "{:?}", status.alarms);
    assert_eq!(status.cluster_id, node.admin_context().cluster_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_host_a_launch_waits_and_explain_says_why() {
    let node = Node::start().await;
    let mut client = Client::admin(&node).await;
    client.project("demo").await;
    let launched = client.launch("demo", 2).await;
    assert_eq!(launched.runners.len(), 2);
    assert!(launched.runners.iter().all(|runner| runner.state() == v1::RunnerState::Pending));
    let id = launched.runners[0].id.clone();
    let explained = client
        .runners
        .explain_runner(v1::ExplainRunnerRequest { runner: id.clone() })
        .await
        .unwrap()
        .into_inner();
    assert!(explained.summary.contains("host"), "{}", explained.summary);
    assert_eq!(explained.queue_position, 1);

    let refused = v1::LaunchRunnersRequest { no_queue: true, ..launch("demo", 1) };
    let status = client.runners.launch_runners(refused).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "no_host"));

    let found = client.runners.get_runner(v1::GetRunnerRequest { runner: id[..6].into(), read: None }).await;
    let found = found.unwrap().into_inner();
    assert_eq!(found.runner.unwrap().id, id);
    assert!(found.events.iter().any(|event| event.r#type == "runner.launched"), "{:?}", found.events);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_id_makes_one_runner_and_another_payload_is_refused() {
    let node = Node::start().await;
    let mut client = Client::admin(&node).await;
    client.project("demo").await;
    let request = launch("demo", 1);
    let first = client.runners.launch_runners(request.clone()).await.unwrap().into_inner();
    let again = client.runners.launch_runners(request.clone()).await.unwrap().into_inner();
    assert_eq!(first.runners[0].id, again.runners[0].id);
    let listed = client.runners.list_runners(v1::ListRunnersRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.runners.len(), 1);
    let other = v1::LaunchRunnersRequest { count: 2, ..request };
    let status = client.runners.launch_runners(other).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Aborted, "request_id_conflict"));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_name_what_is_wrong() {
    let node = Node::start().await;
    let mut client = Client::admin(&node).await;
    client.project("demo").await;
    let mut refused = Vec::new();
    let base = launch("demo", 1);
    for request in [
        launch("nope", 1),
        launch("Not A Name", 1),
        launch("demo", 100_000),
        v1::LaunchRunnersRequest { request_id: String::new(), ..base.clone() },
        v1::LaunchRunnersRequest { request_id: "x".into(), ..base.clone() },
        with_spec(&base, |spec| spec.restart = 99),
        with_spec(&base, |spec| spec.host = "nowhere".into()),
        with_spec(&base, |spec| spec.command = vec!["x".repeat(60_000)]),
    ] {
        let status = client.runners.launch_runners(request).await.unwrap_err();
        refused.push((status.code(), reason(&status)));
    }
    let expected = [
        (Code::NotFound, "project_not_found"),
        (Code::InvalidArgument, "bad_name"),
        (Code::InvalidArgument, "bad_argument"),
        (Code::InvalidArgument, "bad_argument"),
        (Code::InvalidArgument, "bad_argument"),
        (Code::InvalidArgument, "bad_argument"),
        (Code::NotFound, "host_not_found"),
        (Code::InvalidArgument, "bad_argument"),
    ];
    let expected: Vec<_> = expected.iter().map(|(code, reason)| (*code, (*reason).to_owned())).collect();
    assert_eq!(refused, expected);

    let twice =
        v1::CreateProjectRequest { request_id: request_id(), name: "demo".into(), ..Default::default() };
    let status = client.projects.create_project(twice).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::AlreadyExists, "project_exists"));
    let get = v1::GetRunnerRequest { runner: "zzzz".into(), read: None };
    let status = client.runners.get_runner(get).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "runner_not_found"));
}

fn with_spec(
    request: &v1::LaunchRunnersRequest,
    change: impl FnOnce(&mut v1::RunnerSpec),
) -> v1::LaunchRunnersRequest {
    let mut request = v1::LaunchRunnersRequest { request_id: request_id(), ..request.clone() };
    change(request.spec.as_mut().unwrap());
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn over_quota_waits_with_the_reason_or_is_refused() {
    let node = Node::start().await;
    let mut client = Client::admin(&node).await;
    client.project("demo").await;
    let quota = v1::SetQuotaRequest { request_id: request_id(), project: "demo".into(), max_runners: 1 };
    let project = client.projects.set_quota(quota).await.unwrap().into_inner().project.unwrap();
    assert_eq!(project.max_runners, 1);
    client.launch("demo", 1).await;
    let second = client.launch("demo", 1).await;
    assert_eq!(second.queued_reason, "quota_reached");
    let refused = v1::LaunchRunnersRequest { no_queue: true, ..launch("demo", 1) };
    let status = client.runners.launch_runners(refused).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "quota_reached"));
    // The terminal of a runner that waits for quota cannot be waited for.
    let screen = v1::GetScreenRequest { runner: second.runners[0].id.clone() };
    let status = soon("the refusal", client.terminal.get_screen(screen)).await.unwrap_err();
    assert_eq!(reason(&status), "no_terminal");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages_and_miss_nothing() {
    let node = Node::start().await;
    let mut client = Client::admin(&node).await;
    client.project("demo").await;
    client.launch("demo", 7).await;
    let mut seen = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListRunnersRequest { page_size: 3, page_token, ..Default::default() };
        let page = client.runners.list_runners(request).await.unwrap().into_inner();
        assert!(page.runners.len() <= 3);
        seen.extend(page.runners.into_iter().map(|runner| runner.id));
        if page.next_page_token.is_empty() {
            break;
        }
        page_token = page.next_page_token;
    }
    let distinct: std::collections::BTreeSet<_> = seen.iter().collect();
    assert_eq!((seen.len(), distinct.len()), (7, 7));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_begins_with_the_state_and_goes_on_with_changes() {
    let node = Node::start().await;
    let mut client = Client::admin(&node).await;
    client.project("demo").await;
    let first = client.launch("demo", 1).await.runners[0].id.clone();
    let mut watch =
        client.runners.watch_runners(v1::WatchRunnersRequest::default()).await.unwrap().into_inner();
    let snapshot = soon("the snapshot", watch.message()).await.unwrap().unwrap();
    assert!(snapshot.snapshot_end);
    assert_eq!(snapshot.runners[0].id, first);
    let second = client.launch("demo", 1).await.runners[0].id.clone();
    let changed = soon("the change", watch.message()).await.unwrap().unwrap();
    assert_eq!(changed.runners[0].id, second);
    let kill = v1::KillRunnersRequest {
        request_id: request_id(),
        runners: vec![second.clone()],
        ..Default::default()
    };
    let stopped = client.runners.kill_runners(kill).await.unwrap().into_inner();
    assert_eq!(stopped.runners[0].state(), v1::RunnerState::Terminated);
    loop {
        let changed = soon("the end", watch.message()).await.unwrap().unwrap();
        if changed.runners.iter().any(|r| r.id == second && r.state() == v1::RunnerState::Terminated) {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_launches_at_once_are_all_durable_and_distinct() {
    let node = Node::start().await;
    let mut client = Client::admin(&node).await;
    client.project("demo").await;
    let launches = (0..200).map(|_| {
        let mut client = client.clone();
        tokio::spawn(async move { client.launch("demo", 1).await.runners[0].id.clone() })
    });
    let mut ids = std::collections::BTreeSet::new();
    for launch in launches.collect::<Vec<_>>() {
        ids.insert(launch.await.unwrap());
    }
    assert_eq!(ids.len(), 200);
}
