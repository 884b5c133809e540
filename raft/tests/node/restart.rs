//! What a running node promises, and that a restart keeps it.

use std::path::Path;

use futures::future::join_all;
use stratavore_model::command::{EventRetention, Launch, Trim};
use stratavore_model::{
    Actor, Code, Command, Entry, EventId, EventKind, NodeId, Reply, RunnerId, RunnerSpec,
};
use stratavore_raft::{ENTRY_BYTES_MAX, EventError, OpenError, ProposeError, Role};

use crate::cluster::{self, NODE, create_project, founded, open, open_params, set_quota};
use crate::{create_projects, directory, done, has_project, project_names};

fn launch(id: RunnerId) -> Entry {
    let spec = RunnerSpec { command: vec!["/bin/true".into()], ..RunnerSpec::default() };
    Entry {
        actor: Actor::User("admin".parse().unwrap()),
        request_id: None,
        at: cluster::now(),
        term: None,
        command: Command::Launch(Launch {
            project: "p0".parse().unwrap(),
            ids: vec![id],
            name: None,
            spec,
            no_queue: false,
        }),
    }
}

fn names(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|n| format!("p{n}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_acknowledged_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let handle = founded(dir.path()).await;
    create_projects(&handle, names(20)).await;
    let runner = RunnerId::from_random([5; 10]);
    done(&handle, launch(runner)).await;
    let before = (
        handle.digest().1,
        project_names(&handle),
        handle.events_after(None, 1000).unwrap(),
        handle.runner_events(runner, 10).unwrap(),
    );
    assert!(before.2.iter().any(|event| event.kind == EventKind::RunnerLaunched));
    let (term, index) = (handle.metrics().term, handle.digest().0);
    handle.shutdown().await;

    let (handle, server) = open(dir.path()).await.unwrap();
    let after = (
        handle.digest().1,
        project_names(&handle),
        handle.events_after(None, 1000).unwrap(),
        handle.runner_events(runner, 10).unwrap(),
    );
    assert_eq!(before, after);
    // A new process is a new leader: what it decided before died with it (P7).
    assert!(handle.metrics().term > term);
    assert!(*handle.applied().borrow() > index, "the new leader's first entry was applied");
    drop(server);
    handle.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applying_the_log_again_gives_the_same_state() {
    let dir = tempfile::tempdir().unwrap();
    let node = dir.path().join("node");
    let old = dir.path().join("old");
    let handle = founded(&node).await;
    create_projects(&handle, names(5)).await;
    handle.shutdown().await;
    directory::copy(&node, &old);

    let (handle, server) = open(&node).await.unwrap();
    create_projects(&handle, (5..30).map(|n| format!("p{n}"))).await;
    done(&handle, launch(RunnerId::from_random([6; 10]))).await;
    let before = (handle.digest().1, handle.events_after(None, 1000).unwrap());
    drop(server);
    handle.shutdown().await;

    // As after a power loss: the state database is behind the log, and behind events it had written.
    directory::restore("state", &old, &node);
    let (handle, _server) = open(&node).await.unwrap();
    assert_eq!(before, (handle.digest().1, handle.events_after(None, 1000).unwrap()));
    assert!(has_project(&handle, "p29"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p19_concurrent_proposals_share_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let handle = founded(dir.path()).await;
    done(&handle, create_project("p0")).await;
    let syncs = |handle: &stratavore_raft::Handle| handle.metrics().sync_latency.count;
    let before = syncs(&handle);
    let all = join_all((0..500).map(|n| handle.propose(set_quota("p0", 1 + n % 50)))).await;
    let mut indexes: Vec<u64> = all.into_iter().map(|applied| applied.unwrap().index).collect();
    indexes.sort_unstable();
    indexes.dedup();
    assert_eq!(indexes.len(), 500, "every proposal has an entry of its own");
    let used = syncs(&handle) - before;
    assert!(used < 250, "{used} syncs for 500 concurrent proposals");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_see_what_a_batch_touched() {
    let dir = tempfile::tempdir().unwrap();
    let handle = founded(dir.path()).await;
    let leadership = *handle.leadership().borrow();
    assert_eq!((leadership.leader, leadership.me), (Some(NODE), true));
    assert_eq!(handle.metrics().role, Role::Leader);
    done(&handle, create_project("p0")).await;

    let mut changes = handle.changes();
    let runner = RunnerId::from_random([7; 10]);
    let applied = handle.propose(launch(runner)).await.unwrap();
    let batch = loop {
        let batch = changes.recv().await.unwrap();
        if batch.index >= applied.index {
            break batch;
        }
    };
    assert_eq!(batch.runners, [runner]);
    assert!(!batch.jumped);
    assert!(batch.events.iter().all(|event| event.id.index == applied.index));
    assert!(*handle.applied().borrow() >= applied.index);
    assert!(handle.linearize().await.unwrap() >= applied.index);

    // Paging: each page goes on behind the last, nothing is missing or doubled.
    let all = handle.events_after(None, 1000).unwrap();
    let mut paged = Vec::new();
    while let Some(page) =
        Some(handle.events_after(paged.last().copied(), 2).unwrap()).filter(|p| !p.is_empty())
    {
        paged.extend(page.into_iter().map(|event| event.id));
    }
    assert_eq!(paged, all.iter().map(|event| event.id).collect::<Vec<_>>());
    assert_eq!(handle.oldest_event().unwrap(), all.first().map(|event| event.id));
    assert_eq!(handle.newest_event().unwrap(), all.last().map(|event| event.id));
    let newest = handle.runner_events(runner, 1).unwrap();
    assert_eq!(newest.len(), 1);
    assert_eq!(newest[0].runner, Some(runner));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_answers_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let handle = founded(dir.path()).await;
    let digest = handle.digest().1;
    let refused = handle.propose(set_quota("absent", 3)).await.unwrap();
    assert_eq!(refused.reply.rejected().unwrap().code, Code::ProjectNotFound);
    let stale = Entry { actor: Actor::System, term: Some(9999), ..create_project("p0") };
    let refused = handle.propose(stale).await.unwrap();
    assert_eq!(refused.reply.rejected().unwrap().code, Code::StaleTerm);
    assert_eq!(handle.digest().1, digest);

    let large = Entry { command: Command::Batch(vec![create_project("p0"); 30_000]), ..create_project("p0") };
    match handle.propose(large).await {
        Err(ProposeError::TooLarge { bytes, max }) => assert!(bytes > max && max == ENTRY_BYTES_MAX),
        other => panic!("{other:?}"),
    }
    assert!(matches!(done(&handle, create_project("p0")).await, Reply::Project(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_in_use_or_of_another_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let node = dir.path().join("node");
    assert!(matches!(open(&node).await, Err(OpenError::NotInitialized { .. })));
    let handle = founded(&node).await;
    assert!(matches!(open(&node).await, Err(OpenError::Locked { .. })));
    let again = stratavore_raft::bootstrap(&node, cluster::bootstrap_params()).await;
    assert!(matches!(again, Err(OpenError::AlreadyInitialized { .. })));
    handle.shutdown().await;

    let mut other = open_params(&node);
    other.node_id = NodeId(2);
    assert!(matches!(stratavore_raft::open(other).await, Err(OpenError::Foreign { .. })));
    let mut other = open_params(&node);
    other.cluster_id = "zzzzzzzzzzzzzzzz".parse().unwrap();
    let error = stratavore_raft::open(other).await.unwrap_err();
    assert!(error.to_string().contains("zzzzzzzzzzzzzzzz"), "{error}");
    open(&node).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_first_entry_leaves_an_empty_directory() {
    let dir = tempfile::tempdir().unwrap();
    let mut params = cluster::bootstrap_params();
    params.first = create_project("p0");
    let error = stratavore_raft::bootstrap(dir.path(), params).await.unwrap_err();
    assert!(matches!(error, OpenError::Core(_)), "{error}");
    assert!(is_empty(dir.path()));
    founded(dir.path()).await;
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().next().is_none()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p16_trimmed_events_are_gone_and_a_late_reader_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let handle = founded(dir.path()).await;
    done(&handle, create_project("p0")).await;
    let runner = RunnerId::from_random([8; 10]);
    done(&handle, launch(runner)).await;
    // Events are cut in whole segments of 1024.
    join_all((0..2500).map(|n| handle.propose(set_quota("p0", 1 + n % 50)))).await;
    let first = handle.oldest_event().unwrap().unwrap();
    let count = all_events(&handle).len();
    let trim = Trim { elapsed_ms: 0, events: EventRetention { age_ms: 0, count: 1000, bytes: 0 } };
    let entry = Entry { actor: Actor::System, command: Command::Trim(trim), ..create_project("p0") };
    done(&handle, entry).await;

    let oldest = handle.oldest_event().unwrap().unwrap();
    assert!(oldest > first);
    match handle.events_after(Some(first), 10) {
        Err(EventError::Trimmed { oldest: told }) => assert_eq!(told, oldest),
        other => panic!("{other:?}"),
    }
    let left = all_events(&handle);
    assert!(left.len() < count - 1000 && left[0] == oldest, "{} of {count} left", left.len());
    assert!(handle.runner_events(runner, 10).unwrap().is_empty(), "its index went with it");
    handle.shutdown().await;
    let (handle, _server) = open(dir.path()).await.unwrap();
    assert_eq!(all_events(&handle), left);
}

fn all_events(handle: &stratavore_raft::Handle) -> Vec<EventId> {
    let mut all = Vec::new();
    loop {
        let page = handle.events_after(all.last().copied(), usize::MAX).unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page.into_iter().map(|event| event.id));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p22_a_program_older_than_the_finalized_version_opens_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let newer = stratavore_model::COMMAND_VERSION + 1;
    let mut params = cluster::bootstrap_params();
    let Command::InitCluster(init) = &mut params.first.command else { panic!("not the first entry") };
    (init.version, init.node_max_version) = (newer, newer);
    stratavore_raft::bootstrap(dir.path(), params).await.unwrap();
    let refused = open(dir.path()).await.unwrap_err();
    assert!(matches!(refused, OpenError::NewerCluster { found, .. } if found == newer), "{refused}");
    assert!(refused.to_string().contains("run the newer version"), "{refused}");
}
