//! SIGKILL while proposing: everything acknowledged is there afterwards (I13, without the power loss).

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::cluster::{self, create_project, open};
use crate::{done, has_project, project_names};

/// Names the directory for [`proposes_until_it_dies`].
pub(crate) const DIR: &str = "STRATAVORE_TEST_CRASH_DIR";

/// The command line of a child that runs [`proposes_until_it_dies`].
pub(crate) fn child_arguments() -> (PathBuf, [&'static str; 4]) {
    let program = std::env::current_exe().unwrap();
    (program, ["--exact", "crash::proposes_until_it_dies", "--nocapture", "--test-threads=1"])
}

/// Not a test by itself: the child of the tests that kill it. Prints every acknowledged name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proposes_until_it_dies() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let (handle, _server) = open(Path::new(&dir)).await.unwrap();
    let first = project_names(&handle).len();
    let fatal = handle.fatal();
    let proposing = async {
        for n in first.. {
            let mut entry = create_project(&format!("p{n}"));
            if let stratavore_model::Command::CreateProject(create) = &mut entry.command {
                create.path = format!("/{}", "x".repeat(2000));
            }
            match handle.propose(entry).await {
                Ok(applied) if applied.reply.rejected().is_none() => say(&format!("acked p{n}")),
                Ok(applied) => say(&format!("refused {:?}", applied.reply)),
                Err(error) => {
                    say(&format!("error {error}"));
                    std::future::pending::<()>().await;
                }
            }
        }
    };
    tokio::select! {
        () = proposing => {}
        reason = fatal => say(&format!("fatal {reason}")),
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

/// Lines of a child that say `word`, without the word. libtest may print in front of the first one.
pub(crate) fn said<'a>(lines: &'a [String], word: &str) -> Vec<&'a str> {
    lines.iter().filter_map(|line| line.split_once(&format!("{word} "))).map(|(_, rest)| rest).collect()
}

fn spawn(dir: &Path) -> Child {
    let (program, arguments) = child_arguments();
    Command::new(program).args(arguments).env(DIR, dir).stdout(Stdio::piped()).spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_acknowledged_survives_sigkill() {
    let dir = tempfile::tempdir().unwrap();
    cluster::founded(dir.path()).await.shutdown().await;
    let mut acknowledged = Vec::new();
    for round in 1..=3 {
        let mut child = spawn(dir.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut read = Vec::new();
        while said(&read, "acked").len() < 40 * round {
            read.push(lines.next().expect("the child goes on"));
        }
        child.kill().unwrap();
        read.extend(lines);
        child.wait().unwrap();
        acknowledged.extend(said(&read, "acked").into_iter().map(str::to_owned));

        let (handle, server) = open(dir.path()).await.unwrap();
        for name in &acknowledged {
            assert!(has_project(&handle, name), "{name} was acknowledged in round {round} or before");
        }
        let names = project_names(&handle).len();
        assert!(names <= acknowledged.len() + round, "at most one unacknowledged proposal a round");
        assert_eq!(handle.digest().1, handle.read(stratavore_model::State::recomputed_digest));
        drop(server);
        handle.shutdown().await;
    }
    // The name of the next project was free every time.
    let (handle, _server) = open(dir.path()).await.unwrap();
    done(&handle, create_project("afterwards")).await;
}
