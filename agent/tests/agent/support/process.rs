//! The real program.

use std::path::{Path, PathBuf};
use std::process::{Command as StdCommand, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

use super::{until, within};

const PROGRAM: &str = env!("CARGO_BIN_EXE_stratavore-agent");

/// A running agent; killed when dropped, its runners are not.
pub(crate) struct Agent {
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Agent {
    pub(crate) fn run(data_dir: &Path) -> Self {
        let mut child = Command::new(PROGRAM)
            .args(["run", "--log-format", "human", "--data-dir"])
            .arg(data_dir)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let sink = Arc::clone(&log);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                eprintln!("agent: {line}");
                let mut log = sink.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        Self { child, log }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.pid()).unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// `kill -9`, and gone.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        within("the agent ends", self.child.wait()).await.unwrap()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) async fn says(&self, what: &str) {
        until(&format!("the log says {what:?}"), || self.log().contains(what)).await;
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }
}

/// The program with `arguments`, to be awaited.
pub(crate) fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).env_remove("STRATAVORE_TOKEN").stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// `join` with the token on stdin.
pub(crate) async fn join(data_dir: &Path, server: &str, token: &str, more: &[&str]) -> Output {
    let mut child = Command::new(PROGRAM)
        .args(["join", "--server", server, "--token-file", "-", "--data-dir"])
        .arg(data_dir)
        .args(more)
        .env_remove("STRATAVORE_TOKEN")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(token.as_bytes()).await.unwrap();
    drop(stdin);
    within("join answers", child.wait_with_output()).await.unwrap()
}

pub(crate) async fn stop(data_dir: &Path, more: &[&str]) -> Output {
    let output = Command::new(PROGRAM).args(["stop", "--data-dir"]).arg(data_dir).args(more).output();
    within("stop ends", output).await.unwrap()
}

/// For the end of a test: no runner stays, nor what belongs to it below the directory of sockets.
pub(crate) fn stop_everything(data_dir: &Path) {
    let membership = std::fs::read_to_string(data_dir.join("agent.json")).unwrap_or_default();
    if membership.is_empty() {
        return;
    }
    let stopped = StdCommand::new(PROGRAM)
        .args(["stop", "--runners", "--timeout", "30s", "--data-dir"])
        .arg(data_dir)
        .output();
    if let Some(sockets) = sockets(&membership) {
        let _absent = std::fs::remove_dir_all(sockets);
    }
    if !std::thread::panicking() {
        let stopped = stopped.unwrap();
        assert!(stopped.status.success(), "{}", String::from_utf8_lossy(&stopped.stderr));
    }
}

fn sockets(membership: &str) -> Option<PathBuf> {
    let json: serde_json::Value = serde_json::from_str(membership).ok()?;
    let scope = stratavore_settings::dirs::host_scope(json["host_id"].as_str()?);
    stratavore_settings::dirs::socket_dir(&scope).ok()
}
