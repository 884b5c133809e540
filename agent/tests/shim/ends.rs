//! How commands start and end: streams, codes, signals, what is missing.

use stratavore_agent::runner::{Adoption, StartError, read_logs};
use stratavore_proto::v1::attach_request::Message as Ask;
use stratavore_proto::v1::{self, RunnerState};

use super::support::*;

#[tokio::test]
async fn a_terminal_echoes_and_the_exit_comes_after_the_last_output() {
    let place = Place::new();
    let client = place.start(shell("stty -echo; read line; echo got:$line; exit 7", true)).await;
    let mut viewer = Viewer::open(&client, sized(24, 80)).await;
    assert!(viewer.ready.driver && viewer.ready.tty);
    viewer.type_in("hello\n").await;
    let exit = viewer.until_exit().await;
    assert!(viewer.text().contains("got:hello"), "{:?}", viewer.text());
    assert_eq!((exit.code, exit.signal, exit.reason.as_str()), (Some(7), None, "exited"));
    let last = end(&client).await;
    assert_eq!(last.state(), RunnerState::Terminated);
    assert_eq!(Some(last.log_end), viewer.next, "nothing comes after the exit");
    client.reap().await.unwrap();
    until("the shim goes away", || {
        stratavore_agent::shim::fence::descend::Stat::read(place.identity().pid)
            .is_none_or(|stat| !stat.alive())
    })
    .await;
    match place.launcher.adopt(&place.dir()).await.unwrap() {
        Adoption::Exited(observation) => assert_eq!(observation.exit.unwrap().code, Some(7)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn pipes_keep_the_streams_apart_and_stdin_can_be_closed() {
    let place = Place::new();
    let client = place.start(shell("echo out; echo err >&2; cat; echo eof", false)).await;
    let mut viewer =
        Viewer::open(&client, v1::AttachOpen { from_offset: Some(0), ..Default::default() }).await;
    assert!(!viewer.ready.tty && viewer.ready.driver);
    viewer.type_in("typed\n").await;
    viewer.until_text("typed").await;
    viewer.send(Ask::CloseInput(true)).await;
    let exit = viewer.until_exit().await;
    assert_eq!(exit.code, Some(0));
    assert_eq!(viewer.text(), "out\ntyped\neof\n");
    assert_eq!(String::from_utf8_lossy(&viewer.stderr), "err\n");
    assert_eq!(viewer.jumps, 0);
    let mut chunks = read_logs(&place.dir(), v1::ReadLogsRequest::default(), None);
    let mut recorded = Vec::new();
    while let Some(chunk) = within(chunks.recv()).await {
        let chunk = chunk.unwrap();
        recorded.push((chunk.stderr, String::from_utf8_lossy(&chunk.data).into_owned()));
    }
    assert!(recorded.contains(&(true, "err\n".into())), "{recorded:?}");
}

#[tokio::test]
async fn signals_are_told_apart_from_codes() {
    let place = Place::new();
    let client = place.start(shell("kill -SEGV $$", false)).await;
    let exit = end(&client).await.exit.unwrap();
    assert_eq!((exit.code, exit.signal, exit.reason.as_str()), (None, Some(11), "signaled"));
}

#[tokio::test]
async fn what_is_missing_is_named_and_durable() {
    let missing = [
        (command(&["no-such-program-here"], true), "program_missing"),
        (command(&["/etc/passwd"], true), "program_missing"),
        (v1::RunnerStart { workdir: "/no/such/dir".into(), ..command(&["true"], true) }, "workdir_missing"),
    ];
    for (start, reason) in missing {
        let place = Place::new();
        let Err(StartError::Failed(observation)) = place.try_start(start.clone()).await else {
            panic!("it started")
        };
        assert_eq!((observation.state(), observation.reason.as_str()), (RunnerState::Failed, reason));
        match place.launcher.adopt(&place.dir()).await.unwrap() {
            Adoption::Exited(again) => assert_eq!(again, *observation),
            other => panic!("{other:?}"),
        }
        assert!(matches!(place.try_start(start).await, Err(StartError::Exists)), "an epoch starts once");
    }
}

#[tokio::test]
async fn the_environment_is_the_base_and_what_was_asked_for() {
    let place = Place::new();
    let env = vec![v1::EnvVar { name: "ASKED".into(), value: "yes".into() }];
    let start = v1::RunnerStart { env, ..command(&["env"], false) };
    let client = place.start(start).await;
    let mut viewer = Viewer::open(&client, raw_from(0)).await;
    viewer.until_exit().await;
    let text = viewer.text();
    let names: Vec<&str> = text.lines().filter_map(|line| line.split('=').next()).collect();
    let expected = [
        "ASKED",
        "HOME",
        "LANG",
        "PATH",
        "SHELL",
        "STRATAVORE_EPOCH",
        "STRATAVORE_PROJECT",
        "STRATAVORE_RUNNER_ID",
        "TERM",
        "USER",
    ];
    assert_eq!(names, expected);
    assert!(text.contains("STRATAVORE_EPOCH=1.42\n"));
    let shim = std::fs::read(format!("/proc/{}/cmdline", place.identity().pid)).unwrap();
    assert!(!String::from_utf8_lossy(&shim).contains("ASKED"), "secrets are not in argv");
}

#[tokio::test]
async fn a_script_without_an_interpreter_line_runs_in_a_shell() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let script = place.path().join("script");
    std::fs::write(&script, "echo plain $1\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let client = place.start(command(&[script.to_str().unwrap(), "argument"], false)).await;
    let mut viewer = Viewer::open(&client, raw_from(0)).await;
    viewer.until_exit().await;
    assert_eq!(viewer.text(), "plain argument\n");
}

#[tokio::test]
async fn nothing_of_the_shim_is_inherited() {
    let place = Place::new();
    let client = place
        .start(shell("ls /proc/self/fd | tr '\\n' ' '; grep -E 'Sig(Blk|Ign)' /proc/self/status", false))
        .await;
    let mut viewer = Viewer::open(&client, raw_from(0)).await;
    viewer.until_exit().await;
    let text = viewer.text();
    assert!(text.starts_with("0 1 2 3 "), "the fourth is ls reading the directory: {text}");
    assert!(!text.starts_with("0 1 2 3 4"), "{text}");
    for line in text.lines().filter(|line| line.contains("Sig")) {
        assert!(line.ends_with("0000000000000000"), "{line}");
    }
}

#[tokio::test]
async fn two_starts_of_one_epoch_make_one_runner() {
    let place = Place::new();
    let start = || shell("sleep 1000", false);
    let (first, second) = tokio::join!(place.try_start(start()), place.try_start(start()));
    let started = [&first, &second].iter().filter(|result| result.is_ok()).count();
    assert_eq!(started, 1, "{first:?} {second:?}");
    let client = first.or(second).unwrap();
    client.stop(true, "").await.unwrap();
    end(&client).await;
}
