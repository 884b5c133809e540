//! A node from a backup, and what a program that is too old or a directory that is in use says.

use std::path::Path;

use stratavore_model::command::{Finalize, RemoveHost, SetNodeAddress};
use stratavore_model::{Actor, COMMAND_VERSION, Command, Entry, HostState, Millis, NodeId, Reply};
use stratavore_node::exit::{Code, Failure};
use stratavore_node::restore::{self, Request, Restored};
use stratavore_node::server::Server;

use crate::client::Client;
use crate::fake_agent::Host;
use crate::harness::{Node, eventually, options};

fn entry(command: Command) -> Entry {
    let at = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let at = Millis(u64::try_from(at.as_millis()).unwrap());
    Entry { actor: Actor::System, request_id: None, at, term: None, command }
}

async fn proposed(node: &Node, command: Command) -> Reply {
    node.raft().propose(entry(command)).await.unwrap().reply
}

async fn restored(node: &Node, file: &Path, dir: &Path, removed: Option<&Path>) -> Result<Restored, Failure> {
    let request = Request {
        file: file.to_owned(),
        advertise: None,
        removed_keys: removed.map(Path::to_owned),
        incarnation_min: 0,
    };
    restore::restore(dir, request, &node.config).await
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_p30_a_restored_node_is_another_one_and_what_was_removed_later_stays_removed() {
    let mut node = Node::start().await;
    let (old_admin, scratch) = (node.admin(), tempfile::tempdir().unwrap());
    let (kept, gone) = (Host::join(&node, "h1").await, Host::join(&node, "h2").await);
    drop(kept);
    Client::admin(&node).await.project("demo").await;
    let file = scratch.path().join("backup");
    node.raft().snapshot_to_file(&file, None).await.unwrap();
    proposed(&node, Command::RemoveHost(RemoveHost { host: "h2".into(), force: true })).await;
    let list = node.dir.path().join("removed-keys");
    let id = gone.id.clone();
    eventually("the removed key to be written down", || async {
        std::fs::read_to_string(&list).ok().filter(|text| text.contains(&id))
    })
    .await;
    node.stop().await;

    let fresh = tempfile::tempdir().unwrap();
    let made = restored(&node, &file, fresh.path(), Some(&list)).await.unwrap();
    assert_eq!((made.node_id, made.incarnation, made.known_to_agents), (2, 2, false));
    assert_eq!(made.addresses.grpc, node.at.grpc.to_string(), "in the place of the node that made it");
    let again = restored(&node, &file, fresh.path(), None).await.unwrap_err();
    assert_eq!(again.code, Code::Conflict);
    assert!(again.message.contains("already holds node 2"), "{again}");

    node.dir = fresh;
    node.start_again().await;
    let status = Client::with(&node, &old_admin).await.status().await;
    assert_eq!((status.incarnation, status.projects, status.whoami.as_str()), (2, 1, "user/admin"));
    assert_eq!(status.nodes.iter().map(|node| node.id).collect::<Vec<_>>(), [2]);
    let whoami = Client::admin(&node).await.status().await.whoami;
    assert_eq!(whoami, "user/admin-2", "whoever restored it is an admin, too");
    let states = node.raft().read(|state| {
        let state_of = |name: &str| state.hosts().find(|host| host.name.as_str() == name).unwrap().state;
        (state_of("h1"), state_of("h2"))
    });
    assert_eq!(states, (HostState::Joined, HostState::Removed));
    let copied = std::fs::read_to_string(node.dir.path().join("removed-keys")).unwrap();
    assert!(copied.contains(&gone.id), "the next restore must have it too: {copied}");
}

/// Announces and finalizes a version that this program does not know, in one entry.
async fn finalized_beyond(node: &Node) {
    let beyond = COMMAND_VERSION + 96;
    let addresses = node.raft().read(|state| state.node(NodeId(1)).unwrap().addresses.clone());
    let set = SetNodeAddress { node: NodeId(1), addresses, version: "9.0.0".into(), max_version: beyond };
    let entries =
        [Command::SetNodeAddress(set), Command::Finalize(Finalize { version: beyond })].map(entry).to_vec();
    let reply = proposed(node, Command::Batch(entries)).await;
    let Reply::Batch(replies) = &reply else { panic!("{reply:?}") };
    assert!(replies.iter().all(|reply| reply.rejected().is_none()), "{replies:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p22_after_finalize_an_older_program_opens_nothing_and_restores_nothing() {
    let mut node = Node::start().await;
    finalized_beyond(&node).await;
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("backup");
    node.raft().snapshot_to_file(&file, None).await.unwrap();
    node.halt().await;
    let refused = eventually("the refusal", || async {
        match Server::start(options(node.dir.path(), &node.config)).await {
            // The UDP socket is closed a moment after the end.
            Err(Failure { code: Code::Conflict, .. }) => None,
            Err(failure) => Some(failure),
            Ok(_) => panic!("a node opened what it cannot apply"),
        }
    })
    .await;
    assert_eq!(refused.code, Code::Usage);
    assert!(
        refused.message.contains("cluster finalize") && refused.message.contains("version 99"),
        "{refused}"
    );
    let fresh = tempfile::tempdir().unwrap();
    let refused = restored(&node, &file, fresh.path(), None).await.unwrap_err();
    assert_eq!(refused.code, Code::Usage);
    assert!(refused.message.contains("newer version"), "{refused}");
    assert_eq!(std::fs::read_dir(fresh.path()).unwrap().count(), 0, "a refused restore leaves nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_removed_keys_that_is_none_is_refused_before_anything_is_made() {
    let node = Node::start().await;
    let scratch = tempfile::tempdir().unwrap();
    let (file, list) = (scratch.path().join("backup"), scratch.path().join("list"));
    node.raft().snapshot_to_file(&file, None).await.unwrap();
    std::fs::write(&list, "no key at all\n").unwrap();
    let dir = scratch.path().join("fresh");
    let refused = restored(&node, &file, &dir, Some(&list)).await.unwrap_err();
    assert!(refused.message.contains("line 1") && !dir.exists(), "{refused}");
}
