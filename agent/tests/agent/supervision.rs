//! The real agent, its shims and runners, against a gateway that says what is desired.

use rustix::process::Signal;
use stratavore_proto::frame::FrameReader;
use stratavore_proto::v1;
use stratavore_proto::v1::RunnerState::{Running, Starting, Terminated};
use stratavore_proto::v1::attach_response::Message as Shown;
use stratavore_proto::v1::host_stream_reply::Reply;
use stratavore_proto::v1::stream_header::Request;

use crate::support::{
    Agent, Control, Farm, alive, epoch, order, run_order, shims_of, stop, unique_id, until, within,
};

/// A script that says that it ran, then waits for its end.
fn counted(farm: &Farm) -> (std::path::PathBuf, String) {
    let count = farm.dir.path().join(unique_id());
    let script = format!("echo started >> {}; exec sleep 1000", count.display());
    (count, script)
}

fn starts(count: &std::path::Path) -> usize {
    std::fs::read_to_string(count).unwrap_or_default().lines().count()
}

#[tokio::test]
async fn a_runner_outlives_its_agent_and_is_started_once() {
    let farm = Farm::joined().await;
    let (count, script) = counted(&farm);
    let runner = unique_id();
    let run = run_order(&runner, 10, &script);
    let (agent, mut control) = farm.agent_with(10, vec![run.clone()]).await;
    assert_eq!(control.hello.host_id, farm.host_id);
    assert!(control.hello.runners.is_empty());
    let running = control.state_of(&runner, Running).await;
    until("the command runs", || starts(&count) == 1).await;

    agent.kill().await;
    assert!(alive(running.pid));
    let agent = farm.agent();
    let mut again = farm.gateway.accept().await;
    assert!(again.hello.connection > control.hello.connection);
    assert_eq!(again.hello.seen, Some(epoch(10)));
    assert_eq!(again.hello.runners.len(), 1, "the full list names it");
    assert_eq!((again.hello.runners[0].pid, again.hello.runners[0].state()), (running.pid, Running));
    again.welcome(10, vec![run.clone()]).await;
    again.desire(11, vec![run]).await;

    again.desire(12, vec![order(&runner, 10, v1::Want::Stop, None)]).await;
    let ended = again.state_of(&runner, Terminated).await;
    assert_eq!(ended.reason, "stopped");
    assert_eq!(starts(&count), 1);
    assert!(!alive(running.pid));

    // Not acknowledged: told again after the next crash, and then no more.
    agent.kill().await;
    let agent = farm.agent();
    let mut third = farm.gateway.accept().await;
    assert_eq!(third.hello.runners.len(), 1);
    assert_eq!((third.hello.runners[0].rev, third.hello.runners[0].state()), (ended.rev, Terminated));
    third.welcome(13, vec![]).await;
    third.acknowledge(&ended).await;
    let marker = farm.runner_dir(&runner, 10).join("acknowledged");
    until("the end is marked", || marker.exists()).await;
    agent.kill().await;
    let _agent = farm.agent();
    assert!(farm.gateway.accept().await.hello.runners.is_empty());
}

/// Reads output frames until `enough`; the bytes, and the offset behind them.
async fn read_output(
    reader: &mut FrameReader<quinn::RecvStream>,
    from: u64,
    mut enough: impl FnMut(&[u8], Option<&v1::AttachExit>) -> bool,
) -> (Vec<u8>, u64) {
    let (mut bytes, mut offset, mut exit) = (Vec::new(), from, None);
    while !enough(&bytes, exit.as_ref()) {
        let reply = within("more output", reader.next::<v1::HostStreamReply>()).await.unwrap().unwrap();
        let Some(Reply::Attach(response)) = reply.reply else { panic!("{reply:?}") };
        match response.message {
            Some(Shown::Output(output)) => {
                assert_eq!(output.offset, offset, "no gap, no repeat");
                offset += output.data.len() as u64;
                bytes.extend_from_slice(&output.data);
            }
            Some(Shown::Exit(told)) => exit = Some(told),
            _ => {}
        }
    }
    (bytes, offset)
}

fn attach(runner: &str, from: u64) -> Request {
    let open = v1::AttachOpen { observe: true, raw: true, from_offset: Some(from), ..Default::default() };
    Request::Attach(v1::AttachStream {
        runner: runner.into(),
        epoch: Some(epoch(10)),
        open: Some(open),
        viewer: "spiffe://test/user/viewer".into(),
    })
}

#[tokio::test]
async fn a_kill_under_output_loses_and_doubles_no_byte() {
    let farm = Farm::joined().await;
    let runner = unique_id();
    let run = run_order(&runner, 10, "i=0; while [ $i -lt 4000 ]; do i=$((i+1)); echo line $i; done; exit 3");
    let (agent, mut control) = farm.agent_with(10, vec![run.clone()]).await;
    control.state_of(&runner, Running).await;
    let (_viewer, mut reader) = control.stream(attach(&runner, 0)).await;
    let (mut bytes, offset) = read_output(&mut reader, 0, |bytes, _| bytes.len() > 1000).await;

    agent.kill().await;
    let _agent = farm.agent();
    let mut again = farm.gateway.accept().await;
    again.welcome(10, vec![run]).await;
    let (_viewer, mut reader) = again.stream(attach(&runner, offset)).await;
    let (rest, _) = read_output(&mut reader, offset, |_, exit| exit.is_some()).await;
    bytes.extend(rest);
    let expected: String = (1..=4000).map(|n| format!("line {n}\n")).collect();
    assert_eq!(String::from_utf8(bytes).unwrap(), expected);

    let listed = again.hello.runners.iter().find(|report| report.state() == Terminated).cloned();
    let ended = match listed {
        Some(ended) => ended,
        None => again.state_of(&runner, Terminated).await,
    };
    assert_eq!(ended.exit.unwrap().code, Some(3));
}

#[tokio::test]
async fn logs_screen_and_input_are_served_and_refused_with_a_code() {
    let farm = Farm::joined().await;
    let runner = unique_id();
    let mut run = run_order(&runner, 10, "read line; echo got $line; exec sleep 1000");
    run.start.as_mut().unwrap().tty = true;
    let (_agent, mut control) = farm.agent_with(10, vec![run]).await;
    control.state_of(&runner, Running).await;

    let epoch_10 = Some(epoch(10));
    let input = v1::InputStream {
        runner: runner.clone(),
        epoch: epoch_10,
        data: "hello\n".into(),
        ..Default::default()
    };
    assert!(matches!(ask(&control, Request::Input(input)).await, Reply::Input(_)));
    let screen = || Request::Screen(v1::ScreenStream { runner: runner.clone(), epoch: epoch_10 });
    within("the screen shows it", async {
        loop {
            let Reply::Screen(screen) = ask(&control, screen()).await else { panic!("no screen") };
            if screen.rows.iter().any(|row| row.contains("got hello")) {
                break;
            }
        }
    })
    .await;
    let logs =
        v1::LogStream { runner: runner.clone(), epoch: epoch_10, read: Some(v1::ReadLogsRequest::default()) };
    let (_send, mut reader) = control.stream(Request::Logs(logs)).await;
    let mut log = Vec::new();
    while let Some(reply) = within("the log ends", reader.next::<v1::HostStreamReply>()).await.unwrap() {
        let Some(Reply::Logs(chunk)) = reply.reply else { panic!("{reply:?}") };
        log.extend_from_slice(&chunk.data);
    }
    assert!(String::from_utf8_lossy(&log).contains("got hello"));

    let nobody = v1::ScreenStream { runner: unique_id(), epoch: epoch_10 };
    let Reply::Error(error) = ask(&control, Request::Screen(nobody)).await else { panic!("no error") };
    assert_eq!(error.code, "not_found");
    let hostile = v1::LogStream { runner: "../../../etc".into(), epoch: epoch_10, read: None };
    let Reply::Error(error) = ask(&control, Request::Logs(hostile)).await else { panic!("no error") };
    assert_eq!(error.code, "not_found");
}

async fn ask(control: &Control, request: Request) -> Reply {
    let (_send, mut reader) = control.stream(request).await;
    let reply = within("a reply", reader.next::<v1::HostStreamReply>()).await.unwrap().unwrap();
    reply.reply.unwrap()
}

#[tokio::test]
async fn a_stop_before_the_start_and_a_missing_program_are_ends_too() {
    let farm = Farm::joined().await;
    let (stopped, missing) = (unique_id(), unique_id());
    let start = v1::RunnerStart {
        command: vec!["/no/such/program".into()],
        workdir: "/".into(),
        ..Default::default()
    };
    let desired =
        vec![order(&stopped, 10, v1::Want::Stop, None), order(&missing, 11, v1::Want::Run, Some(start))];
    let (_agent, mut control) = farm.agent_with(11, desired).await;
    let (mut ended, mut failed) = (None, None);
    while ended.is_none() || failed.is_none() {
        for report in within("both are told", control.next_reports()).await {
            if report.runner == stopped {
                ended = Some(report);
            } else if report.runner == missing {
                failed = Some(report);
            }
        }
    }
    assert_eq!(ended.unwrap().state(), Terminated);
    let failed = failed.unwrap();
    assert_eq!(
        (failed.state(), failed.exit.unwrap().reason.as_str()),
        (v1::RunnerState::Failed, "program_missing")
    );
}

#[tokio::test]
async fn what_has_ended_and_been_acknowledged_is_still_shown() {
    let farm = Farm::joined().await;
    let runner = unique_id();
    let (_agent, mut control) = farm.agent_with(10, vec![run_order(&runner, 10, "echo short; exit 7")]).await;
    let ended = control.state_of(&runner, Terminated).await;
    control.acknowledge(&ended).await;
    let marker = farm.runner_dir(&runner, 10).join("acknowledged");
    until("the end is marked", || marker.exists()).await;
    until("its shim is gone", || shims_of(&runner) == 0).await;
    let (_viewer, mut reader) = control.stream(attach(&runner, 2)).await;
    let mut told = None;
    let (bytes, _) = read_output(&mut reader, 2, |_, exit| {
        told = exit.cloned();
        exit.is_some()
    })
    .await;
    assert_eq!(bytes, b"ort\n");
    assert_eq!(told.unwrap().exit.unwrap().code, Some(7));
}

#[tokio::test]
async fn a_viewer_that_is_behind_when_its_runner_ends_sees_the_rest() {
    let farm = Farm::joined().await;
    let runner = unique_id();
    // Far more than every buffer on the way holds.
    let script =
        "read go; i=0; while [ $i -lt 8 ]; do i=$((i+1)); head -c 1000000 /dev/zero | tr '\\0' x; done";
    let (_agent, mut control) = farm.agent_with(10, vec![run_order(&runner, 10, script)]).await;
    control.state_of(&runner, Running).await;
    let (_viewer, mut reader) = control.stream(attach(&runner, 0)).await;
    let epoch_10 = Some(epoch(10));
    let go = v1::InputStream {
        runner: runner.clone(),
        epoch: epoch_10,
        data: "go\n".into(),
        ..Default::default()
    };
    assert!(matches!(ask(&control, Request::Input(go)).await, Reply::Input(_)));
    // Nothing is read until the end is acknowledged and the shim has gone.
    let ended = control.state_of(&runner, Terminated).await;
    control.acknowledge(&ended).await;
    until("its shim is gone", || shims_of(&runner) == 0).await;
    let (bytes, _) = read_output(&mut reader, 0, |_, exit| exit.is_some()).await;
    assert_eq!(bytes.len(), 8_000_000);
}

#[tokio::test]
async fn sigterm_leaves_runners_alive() {
    let farm = Farm::joined().await;
    let runner = unique_id();
    let (mut agent, mut control) = farm.agent_with(10, vec![run_order(&runner, 10, "exec sleep 1000")]).await;
    let running = control.state_of(&runner, Running).await;
    agent.signal(Signal::TERM);
    assert!(agent.ended().await.success());
    agent.says("runners live on").await;
    assert!(alive(running.pid));
}

#[tokio::test]
async fn stop_runners_needs_no_node_and_no_agent() {
    let farm = Farm::joined().await;
    let (first, second) = (unique_id(), unique_id());
    let ignoring = "trap '' TERM INT HUP; while :; do sleep 1; done";
    let (mut agent, mut control) = farm.agent_with(10, vec![run_order(&first, 10, ignoring)]).await;
    let running = control.state_of(&first, Running).await;
    drop(control);
    let stopped = stop(&farm.data_dir(), &["--runners"]).await;
    assert!(stopped.status.success(), "{}", String::from_utf8_lossy(&stopped.stderr));
    assert!(agent.ended().await.success());
    assert!(!alive(running.pid));
    until("its shim is gone", || shims_of(&first) == 0).await;

    // At the next start it is told as ended, and nothing is started again.
    let (agent, mut control) = farm
        .agent_with(11, vec![run_order(&first, 10, ignoring), run_order(&second, 11, "exec sleep 1000")])
        .await;
    assert_eq!(control.hello.runners[0].reason, "host_stopped");
    let running = control.state_of(&second, Running).await;
    agent.kill().await;
    let stopped = stop(&farm.data_dir(), &["--runners"]).await;
    assert!(stopped.status.success(), "{}", String::from_utf8_lossy(&stopped.stderr));
    assert!(!alive(running.pid));
    until("its shim is gone", || shims_of(&second) == 0).await;
    let _agent = farm.agent();
    let third = farm.gateway.accept().await;
    let reasons: Vec<_> = third.hello.runners.iter().map(|report| report.reason.as_str()).collect();
    assert_eq!(reasons, ["host_stopped", "host_stopped"]);
}

#[tokio::test]
async fn an_intent_without_a_shim_is_carried_out_after_a_restart() {
    let farm = Farm::joined().await;
    let (count, script) = counted(&farm);
    let runner = unique_id();
    // What `kill -9` leaves between the directory and the shim.
    std::fs::create_dir(farm.runner_dir(&runner, 10)).unwrap();
    let _agent = farm.agent();
    let mut control = farm.gateway.accept().await;
    assert_eq!((control.hello.runners[0].rev, control.hello.runners[0].state()), (0, Starting));
    control.welcome(10, vec![run_order(&runner, 10, &script)]).await;
    control.state_of(&runner, Running).await;
    until("the command runs", || starts(&count) == 1).await;
}

#[tokio::test]
async fn two_agents_on_one_directory_are_refused() {
    let farm = Farm::joined().await;
    let _first = farm.agent();
    let _control = farm.gateway.accept().await;
    let mut second = farm.agent();
    assert_eq!(second.ended().await.code(), Some(5));
    second.says("an agent runs on this data directory already").await;
}

#[tokio::test]
async fn a_copy_of_the_data_directory_is_turned_away_before_it_touches_anything() {
    let farm = Farm::joined().await;
    let runner = unique_id();
    let (_agent, mut control) = farm.agent_with(10, vec![run_order(&runner, 10, "exec sleep 1000")]).await;
    let running = control.state_of(&runner, Running).await;
    let copy = farm.dir.path().join("copy");
    let copied = std::process::Command::new("cp").arg("-r").arg(farm.data_dir()).arg(&copy).status().unwrap();
    assert!(copied.success());
    let mut second = Agent::run(&copy);
    assert_eq!(second.ended().await.code(), Some(5));
    second.says("another agent of this same host").await;
    assert!(alive(running.pid));
}

#[tokio::test]
async fn an_idle_agent_is_small() {
    let farm = Farm::joined().await;
    let (agent, mut control) = farm.agent_with(10, vec![]).await;
    while control.loads.is_empty() {
        within("a load report", control.next_reports()).await;
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    eprintln!("agent_idle_rss {kib} KiB");
    // An unoptimised build maps more; the bound for release is 20 MiB.
    assert!(kib < 40 * 1024, "{kib} KiB");
}
