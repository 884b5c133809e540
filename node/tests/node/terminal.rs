//! Terminals through the node: bytes pass both ways, refusals keep their reason, and ends arrive.

use stratavore_proto::frame::{self, FrameReader};
use stratavore_proto::v1::{
    self, HostStreamReply, StreamHeader, agent_message, attach_request, attach_response, host_stream_reply,
    stream_header,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::client::{Client, reason, request_id};
use crate::fake_agent::{Agent, Host, exited, observation};
use crate::harness::{Node, eventually, soon};

/// A node, a host and a running runner.
struct Scene {
    node: Node,
    agent: Agent,
    client: Client,
    order: v1::DesiredRunner,
}

impl Scene {
    async fn new() -> Self {
        let node = Node::start().await;
        let host = Host::join(&node, "h1").await;
        let mut agent = host.connect(&node).await;
        let mut client = Client::admin(&node).await;
        client.project("demo").await;
        let id = client.launch("demo", 1).await.runners[0].id.clone();
        let order = agent.order(&id, v1::Want::Run).await;
        Self { node, agent, client, order }
    }

    async fn running() -> Self {
        let mut scene = Self::new().await;
        scene.agent.report(vec![observation(&scene.order, 1, v1::RunnerState::Running)]).await;
        scene.agent.acknowledged().await;
        scene
    }
}

/// One stream as the agent sees it.
pub(crate) struct HostStream {
    pub(crate) send: quinn::SendStream,
    pub(crate) reader: FrameReader<quinn::RecvStream>,
    pub(crate) header: stream_header::Request,
}

impl HostStream {
    pub(crate) async fn accept(quic: &quinn::Connection) -> Self {
        let (send, recv) = soon("a stream of the gateway", quic.accept_bi()).await.unwrap();
        let mut reader = FrameReader::new(recv);
        let header: StreamHeader = soon("its header", reader.next()).await.unwrap().unwrap();
        Self { send, reader, header: header.request.unwrap() }
    }

    pub(crate) async fn reply(&mut self, reply: host_stream_reply::Reply) {
        frame::write(&mut self.send, &HostStreamReply { reply: Some(reply) }).await.unwrap();
    }

    pub(crate) async fn attached(&mut self, message: attach_response::Message) {
        self.reply(host_stream_reply::Reply::Attach(v1::AttachResponse { message: Some(message) })).await;
    }

    pub(crate) async fn refuse(&mut self, code: &str) {
        let error = v1::StreamError { code: code.into(), message: format!("said the host: {code}") };
        self.reply(host_stream_reply::Reply::Error(error)).await;
    }
}

pub(crate) fn open(runner: &str) -> v1::AttachRequest {
    let open = v1::AttachOpen { runner: runner.into(), ..Default::default() };
    v1::AttachRequest { message: Some(attach_request::Message::Open(open)) }
}

pub(crate) fn input(bytes: &[u8]) -> v1::AttachRequest {
    v1::AttachRequest { message: Some(attach_request::Message::Input(bytes.to_vec().into())) }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attach_carries_bytes_both_ways_and_ends_with_the_exit() {
    let mut scene = Scene::running().await;
    let quic = scene.agent.quic.clone();
    let runner = scene.order.runner.clone();
    let host = tokio::spawn(async move {
        let mut stream = HostStream::accept(&quic).await;
        let stream_header::Request::Attach(header) = stream.header.clone() else { panic!("no attach") };
        assert_eq!((header.viewer.as_str(), header.runner.len()), ("user/admin", 10));
        assert!(header.epoch.is_some());
        stream
            .attached(attach_response::Message::Ready(v1::AttachReady { driver: true, ..Default::default() }))
            .await;
        let typed: v1::AttachRequest = soon("typing", stream.reader.next()).await.unwrap().unwrap();
        assert_eq!(typed, input(b"ls\n"));
        // More than every window and queue on the way holds.
        for n in 0..200u64 {
            let data = vec![u8::try_from(n % 256).unwrap(); 32 * 1024];
            let output = v1::AttachOutput { data: data.into(), offset: n * 32 * 1024, stderr: false };
            stream.attached(attach_response::Message::Output(output)).await;
        }
        let exit = v1::AttachExit { exit: Some(v1::Exit { code: Some(3), ..Default::default() }) };
        stream.attached(attach_response::Message::Exit(exit)).await;
        stream.send.finish().unwrap();
        soon("the end", stream.send.stopped()).await.ok();
    });
    let (up, requests) = mpsc::channel(4);
    up.send(open(&runner)).await.unwrap();
    let mut down = scene.client.terminal.attach(ReceiverStream::new(requests)).await.unwrap().into_inner();
    let ready = soon("ready", down.message()).await.unwrap().unwrap().message.unwrap();
    assert!(matches!(ready, attach_response::Message::Ready(ready) if ready.driver));
    up.send(input(b"ls\n")).await.unwrap();
    let (mut next, mut code) = (0, None);
    while let Some(message) = soon("output", down.message()).await.unwrap() {
        match message.message.unwrap() {
            attach_response::Message::Output(output) => {
                assert_eq!(output.offset, next);
                next += u64::try_from(output.data.len()).unwrap();
            }
            attach_response::Message::Exit(exit) => code = exit.exit.unwrap().code,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((next, code), (200 * 32 * 1024, Some(3)));
    host.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_that_goes_away_ends_its_stream_at_the_host() {
    let mut scene = Scene::running().await;
    let (up, requests) = mpsc::channel(4);
    up.send(open(&scene.order.runner)).await.unwrap();
    let down = scene.client.terminal.attach(ReceiverStream::new(requests)).await.unwrap();
    let mut stream = HostStream::accept(&scene.agent.quic).await;
    drop((up, down));
    soon("STOP_SENDING", stream.send.stopped()).await.unwrap();
    let rest = soon("the end of the typing", stream.reader.next::<v1::AttachRequest>()).await;
    assert!(!matches!(rest, Ok(Some(_))), "{rest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attach_waits_for_a_start_that_is_under_way() {
    let mut scene = Scene::new().await;
    let (up, requests) = mpsc::channel(4);
    up.send(open(&scene.order.runner)).await.unwrap();
    let mut terminal = scene.client.terminal.clone();
    let attaching = tokio::spawn(async move { terminal.attach(ReceiverStream::new(requests)).await });
    scene.agent.report(vec![observation(&scene.order, 1, v1::RunnerState::Running)]).await;
    let stream = HostStream::accept(&scene.agent.quic).await;
    assert!(matches!(stream.header, stream_header::Request::Attach(_)));
    soon("the attach", attaching).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_the_host_keep_their_reason() {
    let mut scene = Scene::running().await;
    for (code, expected, status_code) in [
        ("driver_taken", "driver_taken", Code::FailedPrecondition),
        ("ended", "runner_ended", Code::FailedPrecondition),
        ("no_terminal", "no_terminal", Code::FailedPrecondition),
        ("not_found", "runner_not_found", Code::NotFound),
        ("internal", "host_disconnected", Code::Unavailable),
    ] {
        let quic = scene.agent.quic.clone();
        let host = tokio::spawn(async move { HostStream::accept(&quic).await.refuse(code).await });
        let request = v1::SendInputRequest {
            runner: scene.order.runner.clone(),
            data: b"x".to_vec().into(),
            steal: false,
        };
        let status = scene.client.terminal.send_input(request).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (status_code, expected));
        host.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn screens_input_and_logs_are_asked_of_the_host() {
    let mut scene = Scene::running().await;
    let runner = scene.order.runner.clone();
    let quic = scene.agent.quic.clone();
    let host = tokio::spawn(async move {
        let mut stream = HostStream::accept(&quic).await;
        let screen = v1::GetScreenResponse { rows: vec!["hello".into()], ..Default::default() };
        stream.reply(host_stream_reply::Reply::Screen(screen)).await;
        let mut stream = HostStream::accept(&quic).await;
        let stream_header::Request::Input(header) = stream.header.clone() else { panic!("no input") };
        assert_eq!(header.data.as_ref(), b"typed");
        stream.reply(host_stream_reply::Reply::Input(v1::SendInputResponse {})).await;
        let mut stream = HostStream::accept(&quic).await;
        let stream_header::Request::Logs(header) = stream.header.clone() else { panic!("no logs") };
        assert_eq!(header.read.unwrap().tail_lines, Some(2));
        for n in 0..3 {
            let chunk =
                v1::ReadLogsResponse { data: vec![b'x'; 10].into(), offset: n * 10, ..Default::default() };
            stream.reply(host_stream_reply::Reply::Logs(chunk)).await;
        }
        stream.send.finish().unwrap();
        soon("the end", stream.send.stopped()).await.ok();
    });
    let terminal = &mut scene.client.terminal;
    let screen =
        terminal.get_screen(v1::GetScreenRequest { runner: runner.clone() }).await.unwrap().into_inner();
    assert_eq!(screen.rows, ["hello"]);
    let typed = v1::SendInputRequest { runner: runner.clone(), data: b"typed".to_vec().into(), steal: true };
    terminal.send_input(typed).await.unwrap();
    let read = v1::ReadLogsRequest { runner: runner.clone(), tail_lines: Some(2), ..Default::default() };
    let mut logs = terminal.read_logs(read).await.unwrap().into_inner();
    let mut bytes = 0;
    while let Some(chunk) = soon("a chunk", logs.message()).await.unwrap() {
        bytes += chunk.data.len();
    }
    assert_eq!(bytes, 30);
    host.await.unwrap();
    let much = v1::SendInputRequest { runner, data: vec![0; 100_000].into(), steal: false };
    let status = terminal.send_input(much).await.unwrap_err();
    assert_eq!(reason(&status), "bad_argument");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_attached_says_why_at_once() {
    let mut scene = Scene::running().await;
    let screen = |runner: &str| v1::GetScreenRequest { runner: runner.into() };
    let status = scene.client.terminal.get_screen(screen("nobody")).await.unwrap_err();
    assert_eq!(reason(&status), "runner_not_found");
    // Killed while it waits: it never had a terminal.
    let quota = v1::SetQuotaRequest { request_id: request_id(), project: "demo".into(), max_runners: 1 };
    scene.client.projects.set_quota(quota).await.unwrap();
    let waiting = scene.client.launch("demo", 1).await.runners[0].id.clone();
    let kill = v1::KillRunnersRequest {
        request_id: request_id(),
        runners: vec![waiting.clone()],
        ..Default::default()
    };
    scene.client.runners.kill_runners(kill).await.unwrap();
    let status = scene.client.terminal.get_screen(screen(&waiting)).await.unwrap_err();
    assert_eq!(reason(&status), "runner_ended");
    // Its host is away.
    scene.agent.quic.close(0u32.into(), b"");
    let runner = scene.order.runner.clone();
    let status = eventually("the absence of the host", || async {
        let mut terminal = scene.client.terminal.clone();
        let status = terminal.get_screen(screen(&runner)).await.unwrap_err();
        (reason(&status) == "host_disconnected").then_some(status)
    })
    .await;
    assert!(status.message().contains("h1"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_does_not_wait_for_viewers() {
    let mut scene = Scene::running().await;
    let (up, requests) = mpsc::channel(4);
    up.send(open(&scene.order.runner)).await.unwrap();
    let mut down = scene.client.terminal.attach(ReceiverStream::new(requests)).await.unwrap().into_inner();
    let _stream = HostStream::accept(&scene.agent.quic).await;
    soon("the drain", scene.node.stop()).await;
    let end = soon("the end of the attach", down.message()).await;
    assert!(!matches!(end, Ok(Some(_))), "{end:?}");
    soon("the end of the agent's connection", scene.agent.quic.closed()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_of_a_host_is_an_alarm() {
    let mut scene = Scene::running().await;
    let load = v1::LoadReport { disk_full: true, last_rtt_us: 900, ..Default::default() };
    scene.agent.say(agent_message::Message::Load(load)).await;
    let alarm = eventually("the alarm", || async {
        scene.client.clone().status().await.alarms.into_iter().find(|alarm| alarm.contains("h1"))
    })
    .await;
    assert!(alarm.contains("disk is full"), "{alarm}");
    scene.agent.report(vec![exited(&scene.order, 2)]).await;
    scene.agent.acknowledged().await;
}
