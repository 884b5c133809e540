//! The event log: history, live, resumed, filtered.

use stratavore_proto::v1;

use crate::client::Client;
use crate::harness::{Node, soon};

async fn collect(client: &mut Client, request: v1::SubscribeEventsRequest) -> Vec<v1::Event> {
    let mut stream = client.events.subscribe_events(request).await.unwrap().into_inner();
    let mut events = Vec::new();
    while let Some(message) = soon("history", stream.message()).await.unwrap() {
        assert!(message.gap.is_none());
        events.extend(message.events);
    }
    events
}

fn position(event: &v1::Event) -> (u64, u64, u32) {
    let id = event.id.unwrap();
    (id.incarnation, id.index, id.ordinal)
}

#[tokio::test(flavor = "multi_thread")]
async fn history_is_whole_ordered_and_can_be_resumed_anywhere() {
    let node = Node::start().await;
    let mut client = Client::admin(&node).await;
    client.project("one").await;
    client.project("two").await;
    client.launch("one", 3).await;
    let all = collect(&mut client, v1::SubscribeEventsRequest::default()).await;
    assert_eq!(all[0].r#type, "cluster.initialized");
    assert!(all.windows(2).all(|pair| position(&pair[0]) < position(&pair[1])));
    assert_eq!(all.iter().filter(|event| event.r#type == "runner.launched").count(), 3);
    for at in 0..all.len() {
        let request = v1::SubscribeEventsRequest { after: all[at].id, ..Default::default() };
        assert_eq!(collect(&mut client, request).await, all[at + 1..]);
    }
    let request = v1::SubscribeEventsRequest { project: "two".into(), ..Default::default() };
    assert!(collect(&mut client, request).await.iter().all(|event| event.project == "two"));
    let request = v1::SubscribeEventsRequest { types: vec!["project.*".into()], ..Default::default() };
    assert_eq!(collect(&mut client, request).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_sees_what_comes_and_survives_a_restart_by_its_cursor() {
    let mut node = Node::start().await;
    let mut client = Client::admin(&node).await;
    client.project("one").await;
    let follow = v1::SubscribeEventsRequest { follow: true, ..Default::default() };
    let mut live = client.events.subscribe_events(follow).await.unwrap().into_inner();
    client.launch("one", 1).await;
    let first = soon("a live event", live.message()).await.unwrap().unwrap().events[0].clone();
    assert_eq!(first.r#type, "runner.launched");

    node.stop().await;
    node.start_again().await;
    let mut client = Client::admin(&node).await;
    let resume = v1::SubscribeEventsRequest { follow: true, after: first.id, ..Default::default() };
    let mut live = client.events.subscribe_events(resume).await.unwrap().into_inner();
    client.launch("one", 1).await;
    let mut launched = 0;
    while launched < 1 {
        let message = soon("an event after the restart", live.message()).await.unwrap().unwrap();
        assert!(message.gap.is_none());
        assert!(message.events.iter().all(|event| position(event) > position(&first)));
        launched += message.events.iter().filter(|event| event.r#type == "runner.launched").count();
    }
    assert_eq!(launched, 1);
}
